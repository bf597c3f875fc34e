"""Fit one family to one data set, in a run directory that can be resumed."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import nn

from genloom.core import registry
from genloom.core.capabilities import ClosedForm, Likelihood, need
from genloom.core.card import Card, Family
from genloom.core.errors import ConfigError, DataError, Diverged, Interrupted, RunError, complaint, nearest
from genloom.core.events import Event, describe
from genloom.core.objective import Stage
from genloom.core.randomness import SampleNoise, key
from genloom.modalities.base import Dataset, Split, View
from genloom.modalities.datasets import DataOptions, open_data
from genloom.recipes.runs import FORMAT, Run, open_run, versions, view_for, view_named
from genloom.report.card import model_card
from genloom.tasks import sampling, scoring
from genloom.train import loop, ranks
from genloom.train.checkpoint import write_atomically
from genloom.train.config import TrainConfig
from genloom.train.log import MetricLog
from genloom.train.progress import Watcher, watcher
from genloom.train.signals import Stop, stop_on_signal
from genloom.train.state import State
from genloom.train.stream import Stream

FIT_SECONDS = 60.0
"""The budget of a fit that sets none."""

VALIDATION_ITEMS = 256
PREVIEW_ITEMS = 64


def _nothing(*_: object) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class FitConfig:
    """All that decides a fit, apart from where it is kept."""

    family: str
    source: str
    model: Mapping[str, Any] = field(default_factory=dict)
    train: TrainConfig = field(default_factory=TrainConfig)
    data: DataOptions = field(default_factory=DataOptions)
    view: str | None = None
    conditional: Literal["auto", "yes", "no"] = "auto"
    seed: int = 0


def fit(
    config: FitConfig,
    out: Path,
    *,
    dataset: Dataset | None = None,
    resume: Literal["auto", "never"] = "auto",
    previews: bool = True,
    progress: bool = True,
    command: str = "",
    say: Callable[[str], None] = _nothing,
) -> Run:
    """Train a family and leave the model in ``out``.

    Args:
        dataset: the data, if already open; else ``config.source`` is opened.
        resume: ``auto`` continues what ``out`` holds if it is the same fit; ``never`` refuses.
        previews: draw a fixed-noise grid at every validation.
        say: receives one-line notices.

    Returns:
        The finished run.

    Raises:
        ConfigError, DataError: something asked for does not exist or does not fit.
        Interrupted: a signal came; the same call goes on where it stopped.
        Diverged: the training became NaN; ``run.json`` says so.
    """
    family = registry.load(config.family)
    opened = dataset is None
    dataset = dataset or open_data(config.source, config.data)
    with ranks.process_group(), stop_on_signal() as stop:
        run = _open(lambda: _prepare(family, config, dataset, out, resume, command), out)
        if opened:
            announce(dataset, say)
        if run.facts["state"] == "finished":
            say(f"{out} is finished already; nothing to do")
            return run
        run.update(state="running", why="")
        try:
            _train(run, family.card, config, dataset, stop, previews, progress, say)
        except Interrupted:
            run.update(state="interrupted")
            raise
        except Diverged as error:
            run.update(state="failed", why=str(error))
            raise
    return run


def announce(dataset: Dataset, say: Callable[[str], None]) -> None:
    """Say what the data are, and what was done to them."""
    for text in (dataset.description, *dataset.notes):
        say(f"data: {text}")


def default_out(config: FitConfig) -> Path:
    """Return ``runs/FAMILY-DATA-SEED``."""
    return Path("runs") / f"{config.family}-{Path(config.source).stem or 'data'}-{config.seed}"


def resolve(family: Family, event: Event, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the family's preset for an event with the user's settings on top, validated.

    Raises:
        ConfigError: a setting is unknown or out of range.
    """
    preset = family.config.preset(event).model_dump()
    for name in overrides:
        if name not in preset:
            raise ConfigError(f"{family.card.name} has no setting {name!r}{nearest(name, preset)}")
    try:
        return family.config(**{**preset, **overrides}).model_dump()
    except ValidationError as error:
        raise ConfigError(f"{family.card.name}: {complaint(error.errors())}") from error


def choose_view(card: Card, dataset: Dataset, name: str | None) -> View:
    """Return the view to train on.

    Raises:
        DataError: the family accepts none of the data's views, or not the one asked for.
    """
    if name is None:
        view = view_for(card, dataset.modality)
        if view is None:
            offered = "; ".join(describe(v.event) for v in dataset.modality.views())
            raise DataError(f"{card.name} does not take {dataset.name} data (offered: {offered})")
        return view
    view = view_named(dataset.modality, name)
    if not any(accepts(view.event) for accepts in card.events):
        raise DataError(f"{card.name} does not take the view {name!r}: {describe(view.event)}")
    return view


def condition_classes(card: Card, dataset: Dataset, choice: str) -> tuple[str, ...]:
    """Return the classes to condition on, none for an unconditional fit.

    Raises:
        ConfigError: conditions were asked for and cannot be had.
    """
    possible = card.conditions == "class" and dataset.train.labels is not None and len(dataset.classes) > 1
    if choice == "yes" and not possible:
        reason = "takes no condition" if card.conditions == "none" else "has no labels in this data to go by"
        raise ConfigError(f"{card.name} {reason}: drop --conditional yes")
    return dataset.classes if possible and choice != "no" else ()


def _open(prepare: Callable[[], Run], out: Path) -> Run:
    """Prepare the run on rank 0; the other ranks read what it wrote."""
    run = prepare() if ranks.rank() == 0 else None
    ranks.barrier()
    return run or open_run(out)


def _prepare(
    family: Family, config: FitConfig, dataset: Dataset, out: Path, resume: str, command: str
) -> Run:
    """Return the run that ``out`` holds already, or a new one."""
    view = choose_view(family.card, dataset, config.view)
    classes = condition_classes(family.card, dataset, config.conditional)
    identity = {
        "family": config.family,
        "config": resolve(family, view.event, config.model),
        "train": config.train.model_dump(),
        "view": view.name,
        "conditional_on": list(classes),
        "seed": config.seed,
        "data": {
            "source": config.source,
            "options": config.data.model_dump(),
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "description": dataset.description,
        },
    }
    identity = json.loads(json.dumps(identity))
    if (out / "run.json").exists():
        return _same(open_run(out), identity, resume)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} exists and is not a run directory: choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    facts = {
        "format": FORMAT,
        "state": "running",
        "why": "",
        **identity,
        "modality": dataset.modality.describe(),
        "label_counts": _label_counts(dataset.train, len(dataset.classes)),
        "sample_batch": sampling.MICRO_BATCH,
        "versions": versions(),
        "command": command,
    }
    run = Run(out, facts)
    run.update()
    return run


def _same(run: Run, identity: Mapping[str, Any], resume: str) -> Run:
    if resume == "never":
        raise RunError(f"{run.folder} holds a run already: choose another --out, or --resume auto to go on")
    for name, value in identity.items():
        if run.facts.get(name) != value:
            raise RunError(
                f"{run.folder} holds a run with another {name} ({_short(run.facts.get(name))}, "
                f"not {_short(value)}): choose another --out"
            )
    return run


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 60 else text[:57] + "…"


def _label_counts(split: Split, classes: int) -> list[int]:
    return [] if split.labels is None else torch.bincount(split.labels, minlength=classes).tolist()


def _train(
    run: Run,
    card: Card,
    config: FitConfig,
    dataset: Dataset,
    stop: Stop,
    previews: bool,
    progress: bool,
    say: Callable[[str], None],
) -> None:
    """Run every stage, then keep the weights."""
    began = time.perf_counter()
    model = run.build()
    if config.train.compile:
        for child in model.children():
            child.compile()
    stages = registry.load(config.family).config(**run.facts["config"]).stages(model)
    for stage in stages:
        if stage.objective is None:
            figures = _fit_closed_form(model, run, dataset, config.seed)
            run.update(plan={}, steps=1, train_seconds=time.perf_counter() - began, figures=figures)
            weights = model.state_dict()
        else:
            watch = watcher(card.name) if progress and ranks.rank() == 0 else None
            weights = _run_stage(run, card, config, dataset, model, stage, stop, previews, watch, say)
    if ranks.rank() == 0:
        run.keep(weights)
        run.update(state="finished", parameters=sum(w.numel() for w in weights.values()))
        write_atomically(run.folder / "CARD.md", model_card(card_facts(card), run.facts).encode())


def _fit_closed_form(model: nn.Module, run: Run, dataset: Dataset, seed: int) -> dict[str, float]:
    view = run.view
    values = []
    for number, split in enumerate((dataset.train, dataset.valid)):
        index = torch.arange(len(split))
        values.append(view.perturb(view.encode(split.items), SampleNoise(key(seed, "closed", number), index)))
    noise = SampleNoise(key(seed, "fit"), torch.zeros(1, dtype=torch.int64))
    labels = dataset.train.labels if run.classes else None
    return need(model, ClosedForm, "fit").fit(values[0], values[1], noise, labels)


def _run_stage(
    run: Run,
    card: Card,
    config: FitConfig,
    dataset: Dataset,
    model: nn.Module,
    stage: Stage,
    stop: Stop,
    previews: bool,
    watch: Any,
    say: Callable[[str], None],
) -> dict[str, torch.Tensor]:
    """Train one stage from scratch or from its newest checkpoint; return the weights to keep."""
    assert stage.objective is not None
    began = time.perf_counter()
    view = run.view
    labels = dataset.train.labels if run.classes else None
    stream = Stream(view.encode(dataset.train.items), labels, view.perturb)
    rhythm = loop.make_rhythm(stage, stream, config.train, config.seed, card.autocast, total=0)
    state = State.fresh(model, stage.objective)
    hooks = loop.Hooks(
        validate=_validator(run, dataset.valid),
        preview=_previewer(run) if previews else _nothing,
    )
    folder = run.folder / "checkpoints" / stage.name
    resumed = loop.resume(state, folder)
    if resumed is None and run.facts.get("plan"):
        plan = loop.Plan(**run.facts["plan"])
    elif resumed is None:
        plan = loop.make_plan(state, rhythm, config.train, stage.budget_share, hooks)
        state.seconds = time.perf_counter() - began
        run.update(plan=vars(plan), bf16=rhythm.bf16)
    else:
        plan, warnings = resumed
        for text in warnings:
            say(text)
        say(f"resumed at step {state.step:,} of {plan.steps:,}")
    log = MetricLog(run.folder, state.step, config.train.tensorboard)
    rhythm = loop.make_rhythm(stage, stream, config.train, config.seed, card.autocast, plan.steps)
    try:
        if watch is None:
            loop.run(state, rhythm, plan, folder, log, hooks, stop)
        else:
            with watch:
                loop.run(state, rhythm, plan, folder, log, _watched(hooks, watch), stop)
    finally:
        log.close()
    run.update(steps=state.step, train_seconds=state.seconds, best=_best(state))
    return state.result()


def _watched(hooks: loop.Hooks, watch: Watcher) -> loop.Hooks:
    return loop.Hooks(hooks.validate, hooks.preview, watch)


def _best(state: State) -> dict[str, float | int | None]:
    """Return the best validation value and its step, None where nothing was validated."""
    seen = state.best.step >= 0
    return {"value": state.best.value if seen else None, "step": state.best.step if seen else None}


def _validator(run: Run, valid: Split) -> loop.Validate:
    """Return a function that scores a model on a fixed part of the validation split."""
    view = run.view
    part = valid.some(VALIDATION_ITEMS)
    noise = SampleNoise(key(run.facts["seed"], "valid"), torch.arange(len(part)))
    x = view.perturb(view.encode(part.items), noise)
    labels = part.labels if run.classes else None

    def validate(model: nn.Module) -> Mapping[str, float]:
        if not isinstance(model, Likelihood) or len(part) == 0:
            return {}
        scored = view.to_data(scoring.log_prob(model, x, labels), x)
        return {"loss": -float(scored.value.mean())}

    return validate


def _previewer(run: Run) -> Callable[[nn.Module, int | None], None]:
    """Return a function that draws the same noise at every call into ``samples/``, unless without a step."""
    view, modality = run.view, run.modality
    labels = sampling.balanced_labels(PREVIEW_ITEMS, len(run.classes)) if run.classes else None

    def preview(model: nn.Module, step: int | None) -> None:
        if ranks.rank() == 0:
            items = view.decode(sampling.sample(model, PREVIEW_ITEMS, seed=0, cond=labels))
            if step is None:
                return
            media, picture = modality.draw(items)
            folder = run.folder / "samples"
            folder.mkdir(exist_ok=True)
            suffix = "svg" if "svg" in media else "png"
            write_atomically(folder / f"{step:08d}.{suffix}", picture)

    return preview


def card_facts(card: Card) -> dict[str, Any]:
    """Return a card as JSON."""
    return {
        "name": card.name,
        "title": card.title,
        "summary": card.summary,
        "references": [str(r) for r in card.references],
        "good_at": list(card.good_at),
        "bad_at": list(card.bad_at),
        "likelihood": card.likelihood.value if card.likelihood else None,
        "conditions": card.conditions,
    }
