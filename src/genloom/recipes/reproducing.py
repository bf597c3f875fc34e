"""Reproduce a published result: train by a recipe, score, and set what was reached beside the target."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from genloom.core.errors import ConfigError, nearest
from genloom.core.serial import to_json
from genloom.metrics import Figure, likelihood_figure
from genloom.modalities.datasets import Dataset, open_data
from genloom.recipes.evaluating import MAX_ITEMS, check_same_data, evaluate, likelihood, score_seen
from genloom.recipes.features import features_for
from genloom.recipes.fitting import fit
from genloom.recipes.runs import Run, versions
from genloom.recipes.targets import RECIPES, Recipe
from genloom.recipes.translating import measured
from genloom.train.checkpoint import write_atomically


@dataclass(frozen=True)
class Reproduction:
    """What a recipe reached."""

    name: str
    recipe: Recipe
    figure: Figure
    seconds: float

    @property
    def met(self) -> bool:
        """Whether the target was reached."""
        return self.recipe.target.met(self.figure.value)

    def __str__(self) -> str:
        figure, recipe, verdict = self.figure, self.recipe, "met" if self.met else "not met"
        kind = f"{figure.kind}, " if recipe.figure.startswith("nats") else ""
        return (
            f"{self.name}: reached {figure.value:.4f} {recipe.figure} ({kind}95% {figure.lo:.4g} to "
            f"{figure.hi:.4g}) in {self.seconds:.0f} s of training, target {recipe.target}: {verdict}\n"
            f"    {recipe.protocol}; published: {recipe.published}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return what was reached against what was to be reached."""
        return {
            "name": self.name,
            "family": self.recipe.fit.family,
            "data": self.recipe.fit.source,
            "protocol": self.recipe.protocol,
            "reached": self.figure.to_json(),
            "target": str(self.recipe.target),
            "met": self.met,
            "published": self.recipe.published,
            "training_seconds": round(self.seconds, 1),
            "versions": versions(),
        }


def named(names: Sequence[str]) -> dict[str, Recipe]:
    """Return recipes by name.

    Raises:
        ConfigError: there is no such recipe; the nearest is offered.
    """
    for name in names:
        if name not in RECIPES:
            raise ConfigError(
                f"no recipe is called {name!r}{nearest(name, RECIPES)}  (genloom reproduce --list)"
            )
    return {name: RECIPES[name] for name in names}


def reproduce(
    name: str, out: Path, *, progress: bool = True, command: str = "", say: Callable[[str], None] = print
) -> Reproduction:
    """Train by a recipe, or go on with what ``out`` holds, and score the whole test split.

    Writes ``reproduction.json`` into ``out``.

    Raises:
        ConfigError: there is no such recipe.
        DataError: its data are not here and cannot be had.
    """
    recipe = named([name])[name]
    dataset = open_data(recipe.fit.source, recipe.fit.data)
    run = fit(recipe.fit, out, dataset=dataset, progress=progress, command=command, say=say)
    check_same_data(run, dataset)
    say(f"{name}: scoring {len(dataset.test):,} test items")
    figure = _figure(run.with_settings(recipe.scoring), recipe, dataset)
    found = Reproduction(name, recipe, figure, run.facts["train_seconds"])
    write_atomically(out / "reproduction.json", to_json(found.to_json()).encode())
    return found


def _figure(run: Run, recipe: Recipe, dataset: Dataset) -> Figure:
    """Return what the recipe wants of the test split."""
    count = len(dataset.test)
    if recipe.figure.startswith("bleu"):
        return measured(run, dataset, count)[recipe.figure]
    if recipe.figure in ("frechet", "class_accuracy", "caption_accuracy"):
        limit = min(count, MAX_ITEMS)
        return evaluate(run, dataset, features_for(dataset), limit=limit, scored=0).figures[recipe.figure]
    if recipe.figure == "nats a unit":
        bits = likelihood(run.load(), run, dataset, count)["bits_per_dim"]
        value, lo, hi = (bound * math.log(2) for bound in (bits.value, bits.lo, bits.hi))
        return replace(bits, name="nats_per_unit", value=value, lo=lo, hi=hi)
    if recipe.space == "data":
        return likelihood(run.load(), run, dataset, count)["nll"]
    scored, _ = score_seen(run.load(), run, dataset.test.some(count))
    return likelihood_figure(scored, data=f"{dataset.fingerprint}:test[{count}]", preprocessing=run.view.name)
