"""Train every family that suits the data at one budget, measure all alike, and report."""

import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

import torch

from genloom.core import registry
from genloom.core.capabilities import Sampler
from genloom.core.card import Card
from genloom.core.errors import ConfigError, DataError, Diverged, Interrupted, RunError, Unsupported
from genloom.core.serial import digest, to_json
from genloom.metrics import Figure
from genloom.modalities.base import Dataset
from genloom.modalities.datasets import DataOptions, open_data
from genloom.recipes.evaluating import (
    MAX_ITEMS,
    Measured,
    check_measurable,
    check_same_data,
    copies_among,
    copying_figure,
    evaluate,
    held_out,
    reference_items,
    sample_figures,
)
from genloom.recipes.features import Features, export, features_for
from genloom.recipes.fitting import FitConfig, announce, condition_classes, fit, resolve, unfit
from genloom.recipes.runs import Run, condition_event, open_run, versions, view_for
from genloom.recipes.tables import COLUMNS, RANK_BY, merge_seeds, rank_rows, remarks
from genloom.report.html import render
from genloom.report.schema import Results
from genloom.train import ranks
from genloom.train.checkpoint import write_atomically
from genloom.train.config import TrainConfig
from genloom.train.log import read
from genloom.train.signals import stop_on_signal

DEFAULT_SECONDS = 15.0
RUNS_OUT = Path("runs/comparison")
MARK = "comparison.json"
SHOWN, ACROSS = 36, 6
PER_CLASS = 8
Pictures = dict[str, tuple[str, bytes]]


@dataclass(frozen=True)
class CompareConfig:
    """All that decides a comparison, apart from where it is kept."""

    source: str
    families: tuple[str, ...] = ()
    train: TrainConfig = field(default_factory=lambda: TrainConfig(budget=DEFAULT_SECONDS))
    data: DataOptions = field(default_factory=DataOptions)
    conditional: Literal["auto", "yes", "no"] = "auto"
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seeds: int = 1
    seed: int = 0
    limit: int = MAX_ITEMS


@dataclass(frozen=True)
class Plan:
    """Which families take part, which do not and why, and about how long it will take."""

    families: tuple[str, ...]
    skipped: Mapping[str, str]
    seconds: float | None


def make_plan(config: CompareConfig, dataset: Dataset) -> Plan:
    """Choose the families that accept a view of the data, and say why others do not take part.

    Raises:
        ConfigError: a family or a setting was named that does not exist, or has no use here.
        DataError: no family is left.
    """
    chosen, skipped, trained = list[str](), dict[str, str](), 0
    for name in chosen_names(config.families):
        family = registry.load(name)
        view = view_for(family.card, dataset.modality)
        if view is None:
            skipped[name] = f"takes no view of {dataset.modality.name} data"
        elif reason := unfit(family.card, view):
            skipped[name] = reason
        else:
            settings = family.config(**resolve(family, view.event, config.models.get(name, {})))
            classes = condition_classes(family.card, dataset, view, _condition(config, family.card))
            model = settings.build(view.event, condition_event(view, classes))
            if isinstance(model, Sampler):
                trained += any(stage.objective for stage in settings.stages(model))
                chosen.append(name)
            else:
                skipped[name] = "draws no samples to compare: fit and evaluate it by itself"
    if not config.families:
        others = [name for name in registry.names() if name not in registry.shown()]
        skipped |= dict.fromkeys(others, "not shown unless named, or with --families all")
    check_measurable(dataset, config.limit)
    if not chosen:
        reasons = "; ".join(f"{name} {reason}" for name, reason in skipped.items())
        raise DataError(f"none of the families asked for can be compared on {dataset.name} data: {reasons}")
    if unused := sorted(set(config.models) - set(chosen)):
        raise ConfigError(f"there are settings for {', '.join(unused)}, which takes no part here: drop them")
    budget = config.train.budget
    seconds = None if budget is None else (trained * budget + 3.0 * len(chosen)) * config.seeds + 15
    return Plan(tuple(chosen), skipped, seconds)


def chosen_names(asked: Sequence[str]) -> list[str]:
    """Return the families that take part: those asked for, all of them, or those shown by default."""
    if list(asked) == ["all"]:
        return registry.names()
    return list(dict.fromkeys(asked)) or registry.shown()


def compare(
    config: CompareConfig,
    out: Path,
    *,
    resume: Literal["auto", "never"] = "auto",
    command: str = "",
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> Results:
    """Fit and measure every suitable family, and write ``results.json`` and ``report.html`` into ``out``.

    Interrupted, the same call goes on where it stopped.

    Args:
        resume: ``auto`` goes on with what ``out`` holds; ``never`` refuses.

    Returns:
        The results mapping of ``genloom.report.schema``.

    Raises:
        RunError: ``out`` holds a comparison and ``resume`` is ``never``.
        ConfigError: models would learn from the validation items, which stand for new real data.
    """
    began = time.perf_counter()
    if config.train.refit:
        raise ConfigError("a comparison needs validation items that no model learns from: leave --refit out")
    _check_out(out, resume)
    dataset = open_data(config.source, config.data)
    plan = make_plan(config, dataset)
    _claim(out, plan.families)
    announce(dataset, say)
    features = features_for(dataset)
    export(dataset, out)
    say(_features_line(features))
    runs = _fit_all(config, plan, out, dataset, progress, say)
    rows, pictures = _rows(runs, dataset, features, config.limit, say)
    budget, seeds = _budget(config.train), list(_seeds(config))
    results = _results(budget, seeds, dataset, plan.skipped, rows, command, time.perf_counter() - began)
    _write(out, results, pictures)
    return results


def compare_runs(
    folders: Sequence[Path], out: Path, *, command: str = "", say: Callable[[str], None] = print
) -> Results:
    """Measure finished runs side by side; they must have been trained on the same data.

    Raises:
        RunError: one is not finished.
        ConfigError: one is named twice, or learnt from the validation items.
        DataError: the runs' data differ, or have changed since.
    """
    began = time.perf_counter()
    if not folders:
        raise ConfigError("there are no runs to compare: name their folders")
    if len({Path(folder).resolve() for folder in folders}) < len(folders):
        raise ConfigError("a run is named twice: name each once")
    _check_out(out, "auto")
    runs = [open_run(folder) for folder in folders]
    for run in runs:
        run.load()
        if run.facts["train"].get("refit"):
            raise ConfigError(f"{run.folder} learnt from the validation items (--refit): leave it out")
    data = [run.facts["data"] for run in runs]
    for run, other in zip(runs, data, strict=True):
        if other["fingerprint"] != data[0]["fingerprint"]:
            raise DataError(
                f"{run.folder} was trained on {other['name']} ({other['fingerprint']}), {runs[0].folder} on "
                f"{data[0]['name']} ({data[0]['fingerprint']}): only runs on the same data compare"
            )
    options = DataOptions(**data[0]["options"])
    dataset = open_data(data[0]["source"], options)
    check_same_data(runs[0], dataset)
    features = features_for(dataset)
    named: dict[str, list[Run | str]] = {}
    for run in runs:
        name = run.family if run.family not in named else f"{run.family} ({run.folder})"
        named[name] = [run]
    _claim(out, tuple(named))
    rows, pictures = _rows(named, dataset, features, MAX_ITEMS, say)
    seeds = sorted({int(run.facts["seed"]) for run in runs})
    results = _results(_common_budget(runs), seeds, dataset, {}, rows, command, time.perf_counter() - began)
    _write(out, results, pictures)
    return results


def _check_out(out: Path, resume: str) -> None:
    """Refuse a folder that holds something else, or with ``never`` a comparison.

    Raises:
        RunError: why it is refused.
    """
    if ranks.launched() > 1:
        raise ConfigError("compare works in one process: start it without torchrun")
    if (out / MARK).exists():
        if resume == "never":
            raise RunError(
                f"{out} holds a comparison already: choose another --out, or --resume auto to go on"
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} holds something that is no comparison: choose another --out")


def _claim(out: Path, names: Sequence[str]) -> None:
    """Mark a folder as a comparison's."""
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / MARK, to_json({"genloom": versions()["genloom"], "rows": list(names)}).encode())


def _common_budget(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the budget that all runs had, or say that it differs."""
    budgets = [_budget(TrainConfig(**run.facts["train"])) for run in runs]
    if all(budget == budgets[0] for budget in budgets):
        return budgets[0]
    return {"kind": "mixed", "value": None, "text": "different for each run, as it was trained"}


def default_out(source: str) -> Path:
    """Return ``runs/compare-DATA``."""
    return Path("runs") / f"compare-{Path(source).stem}"


def _condition(config: CompareConfig, card: Card) -> Literal["auto", "yes", "no"]:
    """Return what a family is asked to do with classes: nothing where it cannot take them."""
    return config.conditional if card.conditions != "none" else "no"


def _seeds(config: CompareConfig) -> range:
    return range(config.seed, config.seed + config.seeds)


def _features_line(features: Features) -> str:
    if features.accuracy is None:
        return f"features: {features.name}"
    return f"features: {features.name}, {features.accuracy:.1%} right on validation"


def _fit_all(
    config: CompareConfig,
    plan: Plan,
    out: Path,
    dataset: Dataset,
    progress: bool,
    say: Callable[[str], None],
) -> dict[str, list[Run | str]]:
    """Fit every family with every seed; a signal that came too late to stop a fit stops before the next."""
    runs: dict[str, list[Run | str]] = {name: [] for name in plan.families}
    with stop_on_signal() as stop:
        for name in plan.families:
            for seed in _seeds(config):
                runs[name].append(_fit_one(config, name, seed, out, dataset, progress, say))
                if stop.requested:
                    raise Interrupted(f"stopped after {name}; the same command goes on from there")
    return runs


def _fit_one(
    config: CompareConfig,
    name: str,
    seed: int,
    out: Path,
    dataset: Dataset,
    progress: bool,
    say: Callable[[str], None],
) -> Run | str:
    """Return the finished run, or why it failed."""
    wanted = _condition(config, registry.load(name).card)
    one = FitConfig(
        name, config.source, config.models.get(name, {}), config.train, config.data, None, wanted, seed
    )
    try:
        return fit(
            one, out / "runs" / f"{name}-{seed}", dataset=dataset, previews=False, progress=progress, say=say
        )
    except (Diverged, DataError, Unsupported, ArithmeticError, RuntimeError, MemoryError) as error:
        say(f"{name}: {error}")
        return str(error) or type(error).__name__


def _rows(
    runs: Mapping[str, Sequence[Run | str]],
    dataset: Dataset,
    features: Features,
    limit: int,
    say: Callable[[str], None],
) -> tuple[list[dict[str, Any]], Pictures]:
    pictures: Pictures = {}
    rows = [
        _reference_row(n, i, dataset, features, limit, pictures)
        for n, i in reference_items(dataset, limit).items()
    ]
    for name, attempts in runs.items():
        say(f"measuring {name}")
        runs_of_it = [a for a in attempts if isinstance(a, Run)]
        found = [_evaluated(run, dataset, features, limit, name, pictures) for run in runs_of_it]
        failures = [f for f in (*attempts, *found) if isinstance(f, str)]
        measured = [f for f in found if not isinstance(f, str)]
        rows.append(_model_row(name, runs_of_it, measured, failures))
    rank_rows(rows)
    return rows, pictures


def _reference_row(
    name: str, items: torch.Tensor, dataset: Dataset, features: Features, limit: int, pictures: Pictures
) -> dict[str, Any]:
    """Measure real or planted items as if a model had made them."""
    figures = sample_figures(items, dataset, features, held_out(dataset, limit))
    report = copies_among(items, dataset)
    figures["copying"] = copying_figure(report, dataset)
    pictures[name] = dataset.modality.draw(items[:SHOWN], columns=ACROSS)
    titles = {
        "real": "Real data, not trained on: the floor",
        "copies": "Planted copies of training data",
    }
    return {
        "name": name,
        "title": titles[name],
        "role": "reference",
        "status": "reference",
        "why": "flagged as copying, as it must be" if report.flagged else "",
        "rank": None,
        "figures": {k: f.to_json() | {"fingerprint": _mark(f)} for k, f in figures.items()},
    }


def _mark(figure: Figure) -> dict[str, Any]:
    return {**vars(figure.fingerprint), "digest": figure.fingerprint.digest}


def _kept(path: Path) -> dict[str, Any]:
    """Return an evaluation kept before, nothing if it is missing, damaged or lacks its pictures."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    whole = isinstance(found, dict) and RANK_BY in found.get("figures", {})
    return found if whole and (path.parent / "pictures").is_dir() else {}


def _evaluated(
    run: Run, dataset: Dataset, features: Features, limit: int, name: str, pictures: Pictures
) -> dict[str, Any] | str:
    """Return a run's evaluation as JSON, from its folder if it was measured the same way before, or why its
    samples cannot be measured."""
    path = run.folder / "measured.json"
    asked = {
        "features": features.name,
        "limit": limit,
        "weights": digest(run.weights),
        "genloom": versions()["genloom"],
    }
    if _kept(path).get("asked") != asked:
        try:
            measured = evaluate(run, dataset, features, limit=limit)
        except (DataError, Unsupported) as error:
            return f"its samples cannot be measured: {error}"
        _draw(run, measured, dataset)
        write_atomically(path, to_json({"asked": asked, **_as_json(measured)}).encode())
    for file in sorted((run.folder / "pictures").iterdir()):
        media = "image/svg+xml" if file.suffix == ".svg" else "image/png"
        pictures.setdefault(name + (":classes" if file.stem == "classes" else ""), (media, file.read_bytes()))
    return dict(json.loads(path.read_text()))


def _as_json(measured: Measured) -> dict[str, Any]:
    return {
        "figures": {k: f.to_json() | {"fingerprint": _mark(f)} for k, f in measured.figures.items()},
        "flagged": measured.copies.flagged,
        "sample_seconds_per_1000": measured.sample_seconds_per_1000,
    }


def _draw(run: Run, measured: Measured, dataset: Dataset) -> None:
    """Keep a grid of samples, and one with a row for each class if the model is conditional."""
    folder = run.folder / "pictures"
    folder.mkdir(exist_ok=True)
    drawn = {"samples": dataset.modality.draw(measured.items[:SHOWN], columns=ACROSS)}
    if run.classes and len(run.classes) <= 20:
        labels = torch.arange(len(run.classes)).repeat_interleave(PER_CLASS)
        items = run.sample(run.load(), len(labels), seed=2, cond=labels)
        drawn["classes"] = dataset.modality.draw(items, columns=PER_CLASS)
    for name, (media, data) in drawn.items():
        write_atomically(folder / f"{name}.{'svg' if 'svg' in media else 'png'}", data)


def _model_row(
    name: str, runs: Sequence[Run], measured: Sequence[dict[str, Any]], failures: Sequence[str]
) -> dict[str, Any]:
    """Return a leaderboard row from the seeds of one family."""
    family = runs[0].family if runs else name
    card = registry.load(family).card
    flagged = any(m["flagged"] for m in measured)
    status = "failed" if failures else "copying" if flagged else "ok"
    whys = {
        "failed": failures[0] if failures else "",
        "copying": "its samples sit closer to training items than new data do",
    }
    row: dict[str, Any] = {
        "name": name,
        "title": card.title,
        "role": "model",
        "status": status,
        "why": whys.get(status, ""),
        "rank": None,
        "figures": merge_seeds([m["figures"] for m in measured]) if measured else {},
        "per_seed": _per_seed(measured),
        "references": [str(r) for r in card.references],
        "cost": {},
        "curves": [],
    }
    return row | (_of_run(runs[0], measured) if runs else {})


def _per_seed(measured: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    if len(measured) < 2:
        return {}
    return {k: [m["figures"][k]["value"] for m in measured] for k in measured[0]["figures"]}


def _of_run(run: Run, measured: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a row shows of its first seed's run: cost, curve and view."""
    curve, label = _curve(run)
    return {
        "cost": {
            "parameters": run.facts.get("parameters"),
            "train_seconds": run.facts.get("train_seconds"),
            "steps": run.facts.get("steps"),
            "sample_seconds_per_1000": measured[0]["sample_seconds_per_1000"] if measured else None,
            "flops_per_step": _flops_per_step(run),
        },
        "curves": curve,
        "curve_label": label,
        "run": str(run.folder),
        "view": run.facts["view"],
    }


def _flops_per_step(run: Run) -> float | None:
    """Return what the last stage's steps were counted to cost, None where they were not."""
    stages = list(run.facts.get("stages", {}).values())
    return stages[-1].get("plan", {}).get("flops_per_step") if stages else None


def _curve(run: Run) -> tuple[list[dict[str, Any]], str]:
    """Return validation nats over time where the model has a likelihood, else its training loss."""
    logged = read(run.folder)
    records = [r for r in logged if r["stage"] == logged[-1]["stage"]]
    validated = [r for r in records if "valid/loss" in r]
    if validated:
        points = [_point(r) | {"valid": float(r["valid/loss"])} for r in validated]
        return points, f"nats an item{' given its class' if run.classes else ''}, validation"
    totals = [k for k in (records[0] if records else {}) if k.endswith("/total")]
    if not totals:
        return [], ""
    points = [_point(r) | {"train": float(r[totals[0]])} for r in records]
    return points, f"{totals[0].split('/')[0]} loss, training"


def _point(record: Mapping[str, Any]) -> dict[str, Any]:
    return {"step": record["step"], "seconds": record["seconds"]}


def _results(
    budget: dict[str, Any],
    seeds: list[int],
    dataset: Dataset,
    skipped: Mapping[str, str],
    rows: list[dict[str, Any]],
    command: str,
    seconds: float,
) -> Results:
    results = {
        "version": 1,
        "data": _data_facts(dataset),
        "budget": budget,
        "seeds": seeds,
        "machine": machine(),
        "command": command,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "columns": [c for c in COLUMNS if any(c["key"] in r["figures"] for r in rows)],
        "rank_by": RANK_BY,
        "rows": rows,
        "skipped": [{"name": n, "reason": r} for n, r in skipped.items()],
    }
    return cast("Results", results | {"remarks": remarks(results)})


def _budget(train: TrainConfig) -> dict[str, Any]:
    if train.budget is not None:
        text = (
            f"{train.budget:g} s of wall-clock time for each fit, compilation and validation included "
            "(closed-form baselines take what they need)"
        )
        return {"kind": "seconds", "value": train.budget, "text": text}
    if train.flops is not None:
        return {
            "kind": "flops",
            "value": train.flops,
            "text": f"{train.flops:.2g} training operations for each fit",
        }
    assert train.steps is not None
    return {"kind": "steps", "value": train.steps, "text": f"{train.steps:,} training steps for each fit"}


def _data_facts(dataset: Dataset) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "description": dataset.description,
        "fingerprint": dataset.fingerprint,
        "sizes": {"train": len(dataset.train), "valid": len(dataset.valid), "test": len(dataset.test)},
        "units": dataset.modality.units,
        "units_per_item": float(dataset.modality.count_units(dataset.test.items).double().mean()),
        "classes": list(dataset.classes),
        "notes": list(dataset.notes),
    }


def machine() -> dict[str, Any]:
    """Return what figures of time depend on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(pages / 2**30, 1),
        **versions(),
    }


def _write(out: Path, results: Results, pictures: Pictures) -> None:
    write_atomically(out / "results.json", to_json(results).encode())
    write_atomically(out / "report.html", render(results, pictures).encode())
