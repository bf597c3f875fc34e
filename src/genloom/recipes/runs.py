"""Run directories: what a fit leaves behind, and how a model is read back."""

import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, PositiveInt, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from genloom.core import registry
from genloom.core.card import Card, Config
from genloom.core.errors import ConfigError, RunError, complaint, nearest
from genloom.core.events import Categorical, Event, Leaf, Value
from genloom.core.randomness import key
from genloom.core.serial import digest, to_json
from genloom.modalities.base import Dataset, Modality, Split, View
from genloom.modalities.datasets import DataOptions, from_json
from genloom.modalities.images import Images
from genloom.modalities.prompts import MOST_BYTES
from genloom.nn.pipelines import facts_of, holds_pipeline
from genloom.tasks import sampling
from genloom.train import ranks
from genloom.train.checkpoint import write_atomically
from genloom.train.config import TrainConfig

try:
    import fcntl
except ImportError:  # not on Windows, where runs are not locked
    fcntl = None  # type: ignore[assignment]

FORMAT = 1


class DataFacts(BaseModel):
    """What ``run.json`` says of the data."""

    source: str
    options: DataOptions
    name: str
    fingerprint: str


class RunFacts(BaseModel):
    """What every ``run.json`` says; it may say more."""

    state: Literal["running", "interrupted", "failed", "finished"]
    family: str
    config: dict[str, Any]
    train: TrainConfig
    view: str
    conditional_on: list[str]
    seed: int
    data: DataFacts
    modality: dict[str, Any]
    label_counts: list[int]
    sample_batch: PositiveInt
    stages: dict[str, dict[str, Any]] = {}


@dataclass(frozen=True)
class Run:
    """A run directory and its facts (``run.json``)."""

    folder: Path
    facts: dict[str, Any]

    @property
    def family(self) -> str:
        """The registry name."""
        return str(self.facts["family"])

    @property
    def card(self) -> Card:
        """The family's card."""
        return registry.load(self.family).card

    @property
    def modality(self) -> Modality:
        """The modality with its fitted codecs."""
        return from_json(self.facts["modality"])

    @property
    def view(self) -> View:
        """The view of the data that the model was trained on."""
        return view_named(self.modality, self.facts["view"])

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes the model is conditional on; none if it is unconditional."""
        return tuple(self.facts["conditional_on"])

    def conditions(self, split: Split) -> Value | None:
        """Return what the model is given with the items of a split: labels, columns, or nothing."""
        return split.labels if self.classes else self.view.conditions(split)

    def trained_on(self, dataset: Dataset) -> Split:
        """Return the items of its data that the run learns from: in a refit, those for validation as well."""
        refit = self.facts["train"].get("refit", False)
        return dataset.train.joined(dataset.valid) if refit else dataset.train

    @property
    def label_counts(self) -> Tensor:
        """How often each class occurs in the training split, (classes,)."""
        return torch.tensor(self.facts["label_counts"], dtype=torch.float64)

    def update(self, **facts: Any) -> None:
        """Change facts and, on rank 0, write them to disk."""
        self.facts.update(facts)
        if ranks.rank() == 0:
            write_atomically(self.folder / "run.json", to_json(self.facts).encode())

    def stage(self, name: str) -> dict[str, Any]:
        """Return what is known of a stage: its plan from the start, and what came of it at the end."""
        return dict(self.facts.get("stages", {}).get(name, {}))

    def keep_stage(self, name: str, **facts: Any) -> None:
        """Add to what is known of a stage, and keep it."""
        stages = self.facts.get("stages", {})
        self.update(stages={**stages, name: {**stages.get(name, {}), **facts}})

    @property
    def config(self) -> Config:
        """The family's settings.

        Raises:
            RunError: this version of the family does not take them.
        """
        try:
            return registry.load(self.family).config(**self.facts["config"])
        except ValidationError as error:
            raise RunError(
                f"{self.folder} does not fit this version of {self.family}: {complaint(error.errors())}"
            ) from error

    def with_settings(self, settings: Mapping[str, Any]) -> "Run":
        """Return the run with other settings of how its model draws and scores; its facts name them.

        Raises:
            ConfigError: the family has no such settings, or its weights depend on them.
            RunError: this version of the family does not take those that the run has.
        """
        if not settings:
            return self
        config = type(self.config)
        fixed = sorted(set(settings) - set(config.free()))
        if fixed:
            free = ", ".join(config.free()) or "none"
            raise ConfigError(
                f"{fixed[0]} of {self.family} cannot be set for a trained model; what can: {free}"
            )
        changed = {**self.facts["config"], **settings}
        try:
            made = config.model_validate(changed, context={"asked": set(settings)})
        except ValidationError as error:
            raise ConfigError(f"{self.family}: {complaint(error.errors())}") from error
        held, learnt = self.config, set(config.model_fields) - set(config.free())
        if other := [name for name in sorted(learnt) if getattr(made, name) != getattr(held, name)]:
            raise ConfigError(f"{', '.join(settings)} would change {other[0]}, which this run learnt with")
        return replace(self, facts={**self.facts, "config": changed, "set_anew": dict(settings)})

    def build(self) -> nn.Module:
        """Return the model, untrained: its weights follow from the run's seed alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key(self.facts["seed"], "initialise"))
            return self.config.build(self.view.event, condition_event(self.view, self.classes))

    @property
    def untrained(self) -> bool:
        """Whether the weights stay where the model was found, and nothing was trained."""
        return bool(self.facts.get("untrained"))

    @property
    def weights(self) -> Path:
        """The file of trained weights.

        Raises:
            RunError: the run is not finished.
        """
        path = self.folder / "model.safetensors"
        if not path.is_file():
            raise RunError(
                f"{self.folder} holds no model.safetensors, its state is {self.facts['state']!r}: "
                "finish it with the command that began it"
            )
        return path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for the block, so that no other process trains in its folder.

        Raises:
            RunError: another process holds it.
        """
        if ranks.rank() != 0 or fcntl is None:
            yield
            return
        with (self.folder / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RunError(f"another process trains in {self.folder}: wait for it") from error
            yield

    def sample(self, model: nn.Module, n: int, *, seed: int, cond: Value | None) -> Tensor:
        """Draw n items of the data's own form; item i of a seed is the same whatever n."""
        size = self.facts["sample_batch"]
        drawn = sampling.sample(model, n, seed=seed, cond=cond, micro_batch=size)
        return self.view.join(self.view.decode(drawn), None if self.classes else cond)

    def keep(self, weights: Mapping[str, Tensor]) -> None:
        """Write ``model.safetensors``, on rank 0."""
        if ranks.rank() == 0:
            tensors = {k: v.contiguous() for k, v in weights.items()}
            write_atomically(self.folder / "model.safetensors", save(tensors))

    def load(self) -> nn.Module:
        """Return the trained model, ready to sample and score.

        Raises:
            RunError: the weights are missing or do not fit.
        """
        if self.untrained:
            return self.build().eval().requires_grad_(False)
        path, model = self.weights, self.build()
        expected = self.facts.get("weights_sha256")
        if expected and digest(path) != expected:
            raise RunError(f"{path} does not match the hash in its run.json")
        try:
            model.load_state_dict(load_file(path))
        except (RuntimeError, SafetensorError, OSError) as error:
            raise RunError(
                f"{path} does not fit its run.json: {' '.join(str(error).split())[:160]}"
            ) from error
        return model.eval().requires_grad_(False)


def open_run(folder: str | Path) -> Run:
    """Read a run directory.

    Raises:
        RunError: it is not one, or belongs to another version of genloom.
    """
    folder = Path(folder)
    path = folder / "run.json"
    if holds_pipeline(folder):
        return pipeline_run(folder)
    if not path.is_file():
        beside = [str(p.parent) for p in folder.parent.glob("*/run.json")] if folder.parent.is_dir() else []
        raise RunError(f"{folder} is not a run directory (no run.json){nearest(str(folder), beside)}")
    try:
        facts = json.loads(path.read_text())
    except ValueError as error:
        raise RunError(f"{path} is not valid JSON ({error}): restore it or fit again") from error
    if not isinstance(facts, dict):
        raise RunError(f"{path} is not a JSON object: restore it or fit again")
    if facts.get("format") != FORMAT:
        raise RunError(
            f"{folder} was written in run format {facts.get('format')!r}, this genloom reads {FORMAT}: "
            "use the genloom that wrote it, or fit again"
        )
    try:
        RunFacts.model_validate(facts)
    except ValidationError as error:
        raise RunError(f"{path}: {complaint(error.errors())}: restore it or fit again") from error
    return Run(folder, facts)


def pipeline_run(folder: Path) -> Run:
    """Return a pipeline of the package diffusers as a run that nothing was trained in.

    What is drawn by it goes below ``runs``.

    Raises:
        RunError: it is not of the class of Stable Diffusion.
    """
    try:
        found = facts_of(folder)
        family = registry.load("diffusion.latent")
        modality = Images((3, found.side, found.side), longest_prompt=MOST_BYTES)
        view = view_for(family.card, modality)
        assert view is not None
        preset = family.config.preset(view.event).model_dump()
        config = family.config.model_validate({**preset, "start": str(folder.resolve())})
    except ValueError as error:
        raise RunError(str(error)) from error
    options = DataOptions(size=found.side)
    data = DataFacts(source="", options=options, name=folder.name, fingerprint="")
    facts = RunFacts(
        state="finished",
        family="diffusion.latent",
        config=config.model_dump(),
        train=TrainConfig(),
        view=view.name,
        conditional_on=[],
        seed=0,
        data=data,
        modality=modality.describe(),
        label_counts=[],
        sample_batch=sampling.rows_together(view.event),
    )
    return Run(
        Path("runs") / f"{folder.resolve().name}-{config.model_dump()['start_sha256'][:8]}",
        {**facts.model_dump(), "untrained": True},
    )


def view_named(modality: Modality, name: str) -> View:
    """Return a modality's view.

    Raises:
        ConfigError: it has no such view.
    """
    views = {v.name: v for v in modality.views()}
    if name in views:
        return views[name]
    raise ConfigError(
        f"{modality.name} data have no view {name!r}{nearest(name, views)}  (there are {', '.join(views)})"
    )


def view_for(card: Card, modality: Modality) -> View | None:
    """Return the view whose event the family likes best, None if it accepts none."""
    views = modality.views()
    for accepts in card.events:
        for view in views:
            if accepts(view.event):
                return view
    return None


def labels_for(run: Run, label: str | int | None, n: int, seed: int) -> Tensor | None:
    """Return (n,) labels: one class by name or number, ``each`` in turn, or drawn as in the training data.

    Returns:
        None for a run that is not conditional.

    Raises:
        ConfigError: a label was asked for, and the run is not conditional or has no such class.
    """
    if label is None:
        return sampling.drawn_labels(n, run.label_counts, seed) if run.classes else None
    if not run.classes:
        raise ConfigError(f"{run.folder} is not conditional on classes: leave the label out")
    if label == "each":
        return sampling.balanced_labels(n, len(run.classes))
    numbers = {str(i): i for i in range(len(run.classes))}
    known = numbers if isinstance(label, int) else numbers | {c: i for i, c in enumerate(run.classes)}
    if str(label) in known:
        return torch.full((n,), known[str(label)])
    raise ConfigError(
        f"no class {label!r}{nearest(str(label), run.classes)}  (there are {', '.join(run.classes)})"
    )


def condition_event(view: View, classes: tuple[str, ...]) -> Event | None:
    """Return the condition event: class labels, the columns that the view gives, or None."""
    return Leaf((), Categorical(len(classes))) if classes else view.given


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    return {"genloom": version("genloom"), "torch": torch.__version__, "python": platform.python_version()}
