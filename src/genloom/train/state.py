"""All that changes while a model trains, as one flat mapping of tensors."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from genloom.core.errors import RunError
from genloom.core.objective import Average, Objective, Optimiser

Tensors = dict[str, Tensor]


@dataclass
class Best:
    """The weights with the best validation value so far (lower is better)."""

    value: float = float("inf")
    step: int = -1
    weights: Tensors = field(default_factory=dict)


@dataclass
class State:
    """A model in training: weights, optimisers, average, objective state, and the step.

    ``tracked`` are averages of the trained parameters by their horizons, kept to choose another afterwards.
    """

    model: nn.Module
    objective: Objective
    optimisers: dict[str, torch.optim.Optimizer]
    average: nn.Module | None
    tracked: Mapping[float, list[Tensor]] = field(default_factory=dict)
    best: Best = field(default_factory=Best)
    step: int = 0
    seconds: float = 0.0

    @classmethod
    def fresh(cls, model: nn.Module, objective: Objective, horizons: Sequence[float] = ()) -> "State":
        """Return the state before the first step, with averages of these horizons to be kept."""
        optimisers = {
            name: make_optimiser(list(g.module.parameters()), g.optimiser)
            for name, g in objective.groups.items()
        }
        average = copy.deepcopy(model).requires_grad_(False) if objective.average else None
        state = cls(model, objective, optimisers, average)
        tracked = {h: [p.detach().clone() for p in state.trained.values()] for h in horizons}
        return replace(state, tracked=tracked)

    def parameters(self, group: str) -> list[Tensor]:
        """Return what a group's optimiser moves."""
        return [p for part in self.optimisers[group].param_groups for p in part["params"]]

    def outside(self, groups: Sequence[str]) -> list[Tensor]:
        """Return the model's parameters that belong to none of the groups."""
        inside = {id(p) for name in groups for p in self.parameters(name)}
        return [p for p in self._every_parameter if id(p) not in inside]

    @cached_property
    def trained(self) -> dict[str, nn.Parameter]:
        """The model's parameters that some optimiser moves, by name."""
        inside = {id(p) for name in self.optimisers for p in self.parameters(name)}
        named = self.model.named_parameters()
        return {name: p for name, p in named if id(p) in inside and p.requires_grad}

    @cached_property
    def _every_parameter(self) -> list[Tensor]:
        return list(self.model.parameters())

    @cached_property
    def _averages(self) -> list[Tensor]:
        return [] if self.average is None else list(self.average.parameters())

    @torch.no_grad()
    def update_average(self) -> None:
        """Move the average, if there is one, and those that are tracked towards the model after a step."""
        for horizon, parameters in self.tracked.items():
            share = min(1.0, 1 / (horizon * self.step))
            torch._foreach_lerp_(parameters, list(self.trained.values()), share)
        if self.average is None or self.objective.average is None:
            return
        if self._averages:
            share = 1 - decay(self.objective.average, self.step)
            torch._foreach_lerp_(self._averages, self._every_parameter, share)
        for mine, other in zip(self.average.buffers(), self.model.buffers(), strict=True):
            mine.copy_(other)

    @property
    def scored(self) -> nn.Module:
        """The module to sample from and score: the average where there is one."""
        return self.average if self.average is not None else self.model

    def tensors(self) -> Tensors:
        """Return copies of every tensor, under prefixed names."""
        found = {f"model/{k}": v for k, v in self.model.state_dict().items()}
        if self.average is not None:
            found |= {f"average/{k}": v for k, v in self.average.state_dict().items()}
        for name, optimiser in self.optimisers.items():
            for index, slots in optimiser.state_dict()["state"].items():
                found |= {
                    f"optimiser/{name}/{index}/{k}": v for k, v in slots.items() if isinstance(v, Tensor)
                }
        found |= {f"state/{k}": v for k, v in self.objective.state.items()}
        for horizon, parameters in self.tracked.items():
            found |= {f"tracked/{horizon}/{i}": v for i, v in enumerate(parameters)}
        found |= {f"best/{k}": v for k, v in self.best.weights.items()}
        return {k: v.detach().clone().contiguous() for k, v in found.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Set every tensor from ``tensors()``.

        Raises:
            RunError: names or shapes do not fit this model.
        """
        try:
            self.model.load_state_dict(section(tensors, "model/"))
            if self.average is not None:
                self.average.load_state_dict(section(tensors, "average/"))
        except RuntimeError as error:
            line = " ".join(str(error).split())
            raise RunError(f"the checkpoint does not fit this model: {line[:200]}") from error
        for name, optimiser in self.optimisers.items():
            _load_optimiser(optimiser, section(tensors, f"optimiser/{name}/"))
        for name, value in section(tensors, "state/").items():
            self.objective.state[name].copy_(value)
        for horizon, parameters in self.tracked.items():
            for i, parameter in enumerate(parameters):
                parameter.copy_(tensors[f"tracked/{horizon}/{i}"])
        self.best.weights = section(tensors, "best/")

    def tracked_by_name(self) -> Tensors:
        """Return the tracked averages in half precision, each parameter below its average's horizon."""
        return {
            f"{horizon}/{name}": value.half()
            for horizon, parameters in self.tracked.items()
            for name, value in zip(self.trained, parameters, strict=True)
        }

    def usable(self) -> bool:
        """Tell whether what a fit ends with is all finite."""
        return all(bool(w.isfinite().all()) for w in self.result().values() if w.is_floating_point())

    def result(self) -> Tensors:
        """Return the weights a fit ends with: the best validated ones, else those of ``scored``."""
        return self.best.weights or {k: v.detach().clone() for k, v in self.scored.state_dict().items()}


def section(tensors: Mapping[str, Tensor], prefix: str) -> Tensors:
    """Return the entries below a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def make_optimiser(parameters: list[nn.Parameter], spec: Optimiser) -> torch.optim.Optimizer:
    """Return the torch optimiser that a spec describes."""
    if spec.name == "sgd":
        return torch.optim.SGD(
            parameters, spec.lr, momentum=spec.betas[0], weight_decay=spec.weight_decay, foreach=True
        )
    if spec.name == "muon":
        return torch.optim.Muon(
            parameters,
            spec.lr,
            weight_decay=spec.weight_decay,
            momentum=spec.betas[0],
            adjust_lr_fn="match_rms_adamw",
        )
    kind = torch.optim.AdamW if spec.name == "adamw" else torch.optim.Adam
    return kind(parameters, spec.lr, betas=spec.betas, weight_decay=spec.weight_decay, fused=True)


def _load_optimiser(optimiser: torch.optim.Optimizer, tensors: Tensors) -> None:
    slots: dict[int, Tensors] = {}
    for path, value in tensors.items():
        index, _, name = path.partition("/")
        slots.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": slots, "param_groups": optimiser.state_dict()["param_groups"]})


def learning_rate(spec: Optimiser, progress: float) -> float:
    """Return the rate at a fraction of the budget: linear warm-up, then the schedule down to zero."""
    if progress < spec.warmup:
        return spec.lr * progress / spec.warmup
    rest = (progress - spec.warmup) / max(1 - spec.warmup, 1e-12)
    if spec.schedule == "linear":
        return spec.lr * (1 - rest)
    if spec.schedule == "cosine":
        return spec.lr * 0.5 * (1 + float(torch.cos(torch.tensor(rest * torch.pi))))
    return spec.lr


def decay(profile: Average, step: int) -> float:
    """Return the share of the average that stays after step number ``step`` (from 1)."""
    return min(max(0.0, 1 - 1 / max(profile.horizon * step, 1e-12)), profile.limit)
