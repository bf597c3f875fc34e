"""The stages of a fit, one after another, each from its newest checkpoint if it has one."""

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from genloom.core.capabilities import ClosedForm, Latent, LatentVariable, Likelihood, need
from genloom.core.errors import ConfigError, Unsupported
from genloom.core.events import Value, rows
from genloom.core.objective import Stage
from genloom.core.randomness import SampleNoise, key
from genloom.core.watching import shown_by
from genloom.modalities.base import Dataset
from genloom.nn.compiling import need_compiler
from genloom.nn.gaussian_vae import active_units
from genloom.recipes.evaluating import reconstructed
from genloom.recipes.runs import Run
from genloom.tasks import latents, sampling, scoring
from genloom.train import loop, ranks, snapshots
from genloom.train.checkpoint import write_atomically
from genloom.train.config import TrainConfig
from genloom.train.log import MetricLog
from genloom.train.memory import kept_memory
from genloom.train.progress import silent, watcher
from genloom.train.signals import Stop
from genloom.train.state import State, Tensors
from genloom.train.step import Rhythm
from genloom.train.stream import Stream

VALIDATION_ITEMS = 256
PREVIEW_ITEMS = 64


@dataclass(frozen=True)
class Job:
    """A fit under way: where it is kept, what it learns from, and what is wanted along the way.

    ``validate`` scores the model in place of the likelihood of validation items.
    """

    run: Run
    dataset: Dataset
    stop: Stop
    previews: bool
    progress: bool
    say: Callable[[str], None]
    validate: loop.Validate | None = None

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.run.facts["seed"])

    @property
    def config(self) -> TrainConfig:
        """The run's settings of the engine."""
        return TrainConfig(**self.run.facts["train"])


@shown_by(None)
def train(job: Job) -> Tensors:
    """Run every stage on the weights that the one before left; return the last one's.

    Raises:
        Interrupted: a signal came; the same call goes on where it stopped.
        Diverged: the training became NaN.
    """
    model = job.run.build()
    if job.config.compile:
        compile_parts(model)
    with kept_memory():
        return _run_stages(job, model)


def _run_stages(job: Job, model: nn.Module) -> Tensors:
    """Run every stage on a model."""
    for stage in job.run.config.stages(model):
        closed = stage.objective is None
        model.load_state_dict(_fit_closed_form(job, model, stage) if closed else run_stage(job, model, stage))
    if isinstance(model, LatentVariable) and isinstance(model, Latent):
        _count_active_units(job, model)
    return {name: weight.detach() for name, weight in model.state_dict().items()}


def _count_active_units(job: Job, model: nn.Module) -> None:
    """Keep how many latent units depend on the item, and say so if none does."""
    codes = latents.encode(model, *_validation(job))
    active = int(active_units(codes.flatten(1)))
    job.run.update(active_units=active)
    if not active and len(codes):
        job.say(
            "warning: the posterior has collapsed, as no latent unit depends on the item: "
            "lower beta, lengthen warmup, or leave units some free_bits"
        )


def compile_parts(model: nn.Module) -> None:
    """Compile what the model calls: its children, and those of containers, which are not called themselves.

    Raises:
        ConfigError: it has none, as its parameters are its own; or there is no compiler.
    """
    if not any(True for _ in model.children()):
        raise ConfigError("this family has no networks to compile: leave --compile out")
    need_compiler()
    for child in model.children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            if len(child):
                compile_parts(child)
        else:
            child.compile()


def _fit_closed_form(job: Job, model: nn.Module, stage: Stage) -> Tensors:
    """Fit in one go; as there is nothing to save on the way, a signal ends it at once.

    It may choose by the validation items, and so a refit does not train on them.
    """
    if job.config.refit:
        job.say(f"{stage.name} is fitted without the validation items, as it may choose by them")
    began = time.perf_counter()
    view, values = job.run.view, []
    with job.stop.at_once():
        for number, split in enumerate((job.dataset.train, job.dataset.valid)):
            noise = SampleNoise(key(job.seed, "closed", number), torch.arange(len(split)))
            values.append(view.perturb(view.encode(split.items), noise))
        noise = SampleNoise(key(job.seed, "fit"), torch.zeros(1, dtype=torch.int64))
        figures = need(model, ClosedForm, "fit").fit(
            values[0], values[1], noise, job.run.conditions(job.dataset.train)
        )
    job.run.keep_stage(stage.name, steps=1, seconds=time.perf_counter() - began, figures=figures)
    return dict(model.state_dict())


def run_stage(job: Job, model: nn.Module, stage: Stage) -> Tensors:
    """Train one stage from its start or from its newest checkpoint; return the weights to keep."""
    assert stage.objective is not None
    run, folder = job.run, job.run.folder / "checkpoints" / stage.name
    began = time.perf_counter()
    learnt = run.trained_on(job.dataset)
    encoded = run.view.stretch(run.view.encode(learnt.items))
    stream = Stream(encoded, run.conditions(learnt), run.view.perturb)
    wanted = job.config.snapshots and stage.objective.average is not None
    state = State.fresh(model, stage.objective, snapshots.HORIZONS if wanted else ())
    hooks = loop.Hooks(
        job.validate or _validator(job),
        _previewer(job, stage.name) if job.previews else _no_preview,
        keep=lambda state: snapshots.keep(state, run.folder / snapshots.FOLDER / stage.name),
    )
    resumed = loop.resume(state, folder)
    if "plan" not in run.stage(stage.name):
        bf16 = bool(ranks.agree(loop.wants_bf16(job.config, run.card.autocast)))
        rhythm = loop.make_rhythm(stage, stream, job.config, job.seed, bf16, total=0)
        plan = loop.make_plan(state, rhythm, job.config, stage.budget_share, hooks, job.stop)
        state.seconds = time.perf_counter() - began
        run.keep_stage(stage.name, plan=vars(plan), bf16=bf16)
    plan = loop.Plan(**run.stage(stage.name)["plan"])
    if resumed is not None:
        for text in resumed:
            job.say(text)
        job.say(f"resumed at step {state.step:,} of {plan.steps:,}")
    bf16 = run.stage(stage.name)["bf16"]
    rhythm = loop.make_rhythm(stage, stream, job.config, job.seed, bf16, plan.steps)
    _watched_run(job, stage, state, rhythm, plan, hooks)
    run.keep_stage(stage.name, steps=state.step, seconds=state.seconds, best=_best(state))
    return state.result()


def _watched_run(
    job: Job, stage: Stage, state: State, rhythm: Rhythm, plan: loop.Plan, hooks: loop.Hooks
) -> None:
    """Train to the plan's end with a log and, where wanted, a progress bar."""
    folder = job.run.folder
    log = MetricLog(folder, stage.name, state.step, job.config.tensorboard)
    shown = watcher(job.run.family) if job.progress and ranks.rank() == 0 else nullcontext(silent)
    try:
        with shown as watch:
            watched = replace(hooks, watch=watch)
            loop.run(state, rhythm, plan, folder / "checkpoints" / stage.name, log, watched, job.stop)
    finally:
        log.close()


def _best(state: State) -> dict[str, float | int | None]:
    """Return the best validation value and its step, None where nothing was validated."""
    seen = state.best.step >= 0
    return {"value": state.best.value if seen else None, "step": state.best.step if seen else None}


def _validator(job: Job) -> loop.Validate:
    """Return a function that scores a model on a fixed part of the validation split."""
    x, given = _validation(job)
    unseen = rows(x) > 0 and not job.config.refit

    def validate(model: nn.Module) -> Mapping[str, float]:
        if not isinstance(model, Likelihood) or not unseen:
            return {}
        scored = job.run.view.to_data(scoring.log_prob(model, x, given), x)
        return {"loss": -float(scored.value.mean())}

    return validate


def _validation(job: Job) -> tuple[Value, Value | None]:
    """Return a fixed part of the validation split as the model sees it, and what the items are given."""
    view, part = job.run.view, job.dataset.valid.some(VALIDATION_ITEMS)
    noise = SampleNoise(key(job.seed, "valid"), torch.arange(len(part)))
    return view.perturb(view.encode(part.items), noise), job.run.conditions(part)


def _no_preview(model: nn.Module, step: int | None) -> None:
    """Draw nothing."""


def _previewer(job: Job, stage: str) -> Callable[[nn.Module, int | None], None]:
    """Return a function that keeps a picture in ``samples/`` at every call with a step.

    It shows samples of the same noise, or reconstructions of the same validation items where the model draws
    none, or not before a later stage.
    """
    run, count = job.run, min(PREVIEW_ITEMS, 2 * job.run.facts["sample_batch"])
    part = job.dataset.valid.some(count)
    labels = sampling.balanced_labels(count, len(run.classes)) if run.classes else None
    seen = job.dataset.train.take(torch.arange(count) % len(job.dataset.train))
    cond = run.view.conditions(seen) if labels is None else labels

    def pictured(model: nn.Module) -> tuple[str, bytes]:
        try:
            return run.modality.draw(run.sample(model, count, seed=0, cond=cond))
        except Unsupported:
            return run.modality.draw(reconstructed(model, run, part)[0], reference=part.items)

    def preview(model: nn.Module, step: int | None) -> None:
        if ranks.rank() == 0:
            picture = pictured(model)
            if step is not None:
                _keep_picture(run.folder / "samples", f"{stage}-{step:08d}", *picture)

    return preview


def _keep_picture(folder: Path, name: str, media: str, picture: bytes) -> None:
    folder.mkdir(exist_ok=True)
    write_atomically(folder / f"{name}.{'svg' if 'svg' in media else 'png'}", picture)
