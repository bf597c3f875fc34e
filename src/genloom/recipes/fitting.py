"""Fit one family to one data set, in a run directory that can be resumed."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError

from genloom.core import registry
from genloom.core.card import Card, Family, symbol_sequence, takes
from genloom.core.errors import (
    ConfigError,
    DataError,
    GenloomError,
    Interrupted,
    RunError,
    complaint,
    nearest,
)
from genloom.core.events import Event, describe
from genloom.core.objective import Stage
from genloom.core.serial import digest
from genloom.modalities.base import Dataset, Split, View
from genloom.modalities.datasets import DataOptions, located, open_data
from genloom.modalities.prompts import PromptedView
from genloom.recipes.runs import FORMAT, Run, open_run, versions, view_for, view_named
from genloom.recipes.stages import Job, train
from genloom.report.card import model_card
from genloom.tasks import sampling
from genloom.train import ranks
from genloom.train.checkpoint import write_atomically
from genloom.train.config import TrainConfig
from genloom.train.signals import stop_on_signal
from genloom.train.state import Tensors

FIT_SECONDS = 60.0
"""The budget of a fit that sets none."""


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
        GenloomError: the training failed, for one because it became NaN; ``run.json`` says so.
    """
    family = registry.load(config.family)
    opened = dataset is None
    dataset = dataset or open_data(config.source, config.data)
    with ranks.process_group(), stop_on_signal() as stop:
        run = _open(lambda: _prepare(family, config, dataset, out, resume, command), out)
        if opened:
            announce(dataset, say)
        if run.facts["state"] == "finished":
            if damage := _damage(run):
                say(f"{damage}: made again from the last checkpoint")
            else:
                say(f"{out} is finished already; nothing to do")
                return run
        job = Job(run, dataset, stop, previews, progress, say)
        complete(run, lambda: train(job))
    return run


def complete(run: Run, work: Callable[[], Tensors]) -> None:
    """Do the work of a run, and keep the weights that come of it or how it ended.

    Raises:
        GenloomError: as the work does; ``run.json`` says so.
        RunError: the run is being trained by another process.
    """
    with run.locked():
        run.update(state="running", why="")
        try:
            _finish(run, run.card, work())
        except (Interrupted, KeyboardInterrupt):
            run.update(state="interrupted")
            raise
        except GenloomError as error:
            run.update(state="failed", why=str(error))
            raise


def _damage(run: Run) -> str:
    """Say what is wrong with a finished run's weights; nothing if they are whole."""
    try:
        run.load()
    except RunError as error:
        return str(error)
    return ""


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
        asked = {"asked": set(overrides)}
        return family.config.model_validate({**preset, **overrides}, context=asked).model_dump()
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
            raise DataError(
                f"{card.name} does not take {dataset.name} data (offered: {offered}): "
                "genloom compare SOURCE --families all --dry-run lists what does"
            )
        return view
    view = view_named(dataset.modality, name)
    if not any(accepts(view.event) for accepts in card.events):
        raise DataError(f"{card.name} does not take the view {name!r}: {describe(view.event)}")
    return view


def unfit(card: Card, view: View) -> str:
    """Say why a family cannot be given what a view gives; nothing if it can."""
    if view.given is None:
        return "turns texts into others: it needs pairs" if card.conditions == "sequence" else ""
    if takes(card, view.given):
        return ""
    if isinstance(view, PromptedView):
        return "cannot be given captions: leave --data.captions out, or fit one of diffusion"
    if symbol_sequence(view.given):
        return "cannot be given texts: fit one of seq2seq"
    return "cannot be given columns: leave --data.given out, or fit a flow"


def condition_classes(card: Card, dataset: Dataset, view: View, choice: str) -> tuple[str, ...]:
    """Return the classes to condition on, none for a fit that is unconditional or given a part of items.

    Raises:
        ConfigError: conditions were asked for and cannot be had.
    """
    if reason := unfit(card, view):
        raise ConfigError(f"{card.name} {reason}")
    if isinstance(view, PromptedView) and choice == "no":
        raise ConfigError("captions are what images are given: leave --data.captions or --conditional out")
    if view.given is not None:
        return ()
    possible = card.conditions != "none" and dataset.train.labels is not None and len(dataset.classes) > 1
    if choice == "yes" and not possible:
        reason = "takes no condition" if card.conditions == "none" else "has no labels in this data to go by"
        raise ConfigError(f"{card.name} {reason}: drop --conditional yes")
    return dataset.classes if possible and choice != "no" else ()


def _open(prepare: Callable[[], Run], out: Path) -> Run:
    """Prepare the run on rank 0; the other ranks read what it wrote, or stop where it did."""
    run, failure = None, None
    if ranks.rank() == 0:
        try:
            run = prepare()
        except GenloomError as error:
            failure = error
    if ranks.any_rank(failure is not None):
        raise failure or RunError("the first process could not begin, and says why")
    return run or open_run(out)


def _prepare(
    family: Family, config: FitConfig, dataset: Dataset, out: Path, resume: str, command: str
) -> Run:
    """Return the run that ``out`` holds already, or a new one."""
    view = choose_view(family.card, dataset, config.view)
    classes = condition_classes(family.card, dataset, view, config.conditional)
    identity = {
        "family": config.family,
        "config": resolve(family, view.event, config.model),
        "train": config.train.model_dump(),
        "view": view.name,
        "conditional_on": list(classes),
        "seed": config.seed,
        "data": {
            "source": located(config.source),
            "options": config.data.model_dump(),
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "description": dataset.description,
        },
    }
    identity = json.loads(json.dumps(identity))
    if (out / "run.json").exists():
        return same_run(open_run(out), identity, resume)
    facts = {
        "format": FORMAT,
        "state": "running",
        "why": "",
        **identity,
        "modality": dataset.modality.describe(),
        "notes": list(dataset.notes),
        "label_counts": _label_counts(dataset.train, len(dataset.classes)),
        "sample_batch": sampling.rows_together(view.event),
        "versions": versions(),
        "command": command,
    }
    run = Run(out, facts)
    stages = run.config.stages(run.build())
    for stage in stages:
        _check_batches(stage, config.train)
    last = stages[-1].objective
    if config.train.snapshots and (last is None or last.average is None):
        raise ConfigError(f"{config.family} averages no weights: leave --snapshots out")
    make_folder(out)
    run.update()
    return run


def _check_batches(stage: Stage, train: TrainConfig) -> None:
    """Refuse to split batches whose rows depend on one another.

    Raises:
        ConfigError: that is asked for.
    """
    coupled = stage.objective is not None and stage.objective.couples
    if coupled and (train.accumulate > 1 or ranks.world() > 1):
        raise ConfigError(f"the rows of a batch of {stage.name} depend on one another: it cannot be split")


def make_folder(out: Path) -> None:
    """Make the folder of a new run.

    Raises:
        RunError: it holds something else.
    """
    check_free(out)
    out.mkdir(parents=True, exist_ok=True)


def check_free(out: Path) -> None:
    """Refuse a folder that holds something.

    Raises:
        RunError: it does.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} exists and is not a run directory: choose another --out")


def same_run(run: Run, identity: Mapping[str, Any], resume: str = "auto") -> Run:
    """Return a run that is what is asked for.

    Raises:
        RunError: it differs in what decides it, or is not to be gone on with.
    """
    if resume == "never":
        raise RunError(f"{run.folder} holds a run already: choose another --out, or --resume auto to go on")
    for name, value in identity.items():
        held = run.facts.get(name)
        if held != value:
            raise RunError(
                f"{run.folder} holds a run with another {name} ({_difference(held, value)}): "
                "choose another --out"
            )
    return run


def _difference(held: Any, asked: Any) -> str:
    """Return what differs, of mappings only the entries that do."""
    if not (isinstance(held, dict) and isinstance(asked, dict)):
        return f"{_short(held)}, not {_short(asked)}"
    names = [name for name in {**held, **asked} if held.get(name) != asked.get(name)]
    return "; ".join(f"{name} {_short(held.get(name))}, not {_short(asked.get(name))}" for name in names)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 60 else text[:57] + "…"


def _label_counts(split: Split, classes: int) -> list[int]:
    return [] if split.labels is None else torch.bincount(split.labels, minlength=classes).tolist()


def _finish(run: Run, card: Card, weights: Tensors) -> None:
    """Keep the weights, what the stages took together, and the card."""
    stages = list(run.facts["stages"].values())
    run.keep(weights)
    run.update(
        state="finished",
        steps=sum(s["steps"] for s in stages),
        train_seconds=sum(s["seconds"] for s in stages),
        best=stages[-1].get("best", {}),
        parameters=sum(w.numel() for w in weights.values()),
        weights_sha256=digest(run.folder / "model.safetensors") if ranks.rank() == 0 else "",
    )
    if ranks.rank() == 0:
        write_atomically(run.folder / "CARD.md", model_card(card_facts(card), run.facts).encode())


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
