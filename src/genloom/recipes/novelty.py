"""Tell foreign data from a model's own by its likelihood, in several ways."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genloom.core.capabilities import Likelihood, need
from genloom.core.errors import ConfigError
from genloom.core.serial import to_csv, to_json
from genloom.metrics import auroc
from genloom.modalities.base import Dataset, Split
from genloom.modalities.datasets import DataOptions, open_data
from genloom.recipes.drawing import check_folder, write_picture
from genloom.recipes.evaluating import check_form, data_of, score
from genloom.recipes.fitting import FitConfig, fit
from genloom.recipes.runs import Run, open_run, versions
from genloom.tasks import novelty as tasks
from genloom.train.checkpoint import write_atomically

SHOWN = 64
MARK = "novelty.json"
GROUPS = ("own", "foreign")
FORM = ("binarise", "size", "angles", "given")
"""Options that decide the form of items."""


@dataclass(frozen=True)
class Novelty:
    """How well each score tells foreign items from the run's own test items: areas with their intervals."""

    areas: Mapping[str, tuple[float, float, float]]
    nats: tuple[float, float]
    picture: Path

    def to_json(self) -> dict[str, Any]:
        """Return the areas and the mean nats of own and foreign items."""
        areas = {name: {"auroc": a, "lo": lo, "hi": hi} for name, (a, lo, hi) in self.areas.items()}
        return {"scores": areas, "own_nats": self.nats[0], "foreign_nats": self.nats[1]}


def measure_novelty(
    run: Run,
    source: str,
    options: DataOptions,
    out: Path,
    *,
    background: Path | None = None,
    limit: int = 1000,
    command: str = "",
    say: Callable[[str], None] = print,
) -> Novelty:
    """Score the test items of a run's own data and of a foreign source, and compare.

    Writes ``novelty.json``, ``scores.csv`` with a line for each item, and a picture of the foreign items that
    look least foreign.

    Args:
        options: how the foreign source is read; as the run's own data if they are the defaults.
        background: a run on the same data whose likelihood is divided out; values of an item taken as
            independent of each other if absent.
        limit: at most this many items of each sort.

    Raises:
        Unsupported: the run's model has no likelihood.
        DataError: the foreign items are not of the form of the run's own data.
        ConfigError: ``out`` holds something else.
    """
    check_folder(out, MARK)
    need(run.load(), Likelihood, "novelty")
    dataset = data_of(run)
    opened = open_data(source, _reading(run, options))
    foreign = opened.test.some(limit)
    check_form(run, opened.modality, foreign.items, source)
    behind = open_run(background) if background else _independent(run, dataset, out / "background", command)
    parts = (dataset.test.some(limit), foreign)
    trained = _nats(run, dataset.train.some(limit))
    found = []
    for name, part in zip(GROUPS, parts, strict=True):
        say(f"scoring {len(part):,} {name} items")
        found.append(tasks.scores(_nats(run, part), trained, _nats(behind, part), part.items))
    areas = {name: auroc(found[0][name], found[1][name]) for name in found[0]}
    own, strange = (float(scores["likelihood"].mean()) for scores in found)
    picture = _least_foreign(run, foreign, found[1], areas, out)
    result = Novelty(areas, (own, strange), picture)
    write_atomically(out / "scores.csv", _table(found))
    facts = {"run": str(run.folder), "foreign": source, "command": command, "versions": versions()}
    write_atomically(out / MARK, to_json({**facts, **result.to_json()}).encode())
    return result


def _reading(run: Run, options: DataOptions) -> DataOptions:
    """Return how to read the foreign source: what concerns the form of items as for the run's own."""
    own = run.facts["data"]["options"]
    form = {name: own[name] for name in FORM}
    return DataOptions(**{**form, **options.model_dump(exclude_defaults=True)})


def _independent(run: Run, dataset: Dataset, folder: Path, command: str) -> Run:
    if run.view.given is not None:
        raise ConfigError(
            "for a run with given columns or texts, name a --background: another run on the same data"
        )
    facts = run.facts["data"]
    config = FitConfig(
        "baseline.independent", facts["source"], data=DataOptions(**facts["options"]), conditional="no"
    )
    return fit(config, folder, dataset=dataset, previews=False, progress=False, command=command)


def _nats(run: Run, split: Split) -> Tensor:
    """Return negative log-likelihoods (n,) in nats of the data, of items whose classes are not told."""
    return -score(run.load(), run, Split(split.items)).value


def _least_foreign(
    run: Run,
    foreign: Split,
    scores: Mapping[str, Tensor],
    areas: Mapping[str, tuple[float, float, float]],
    out: Path,
) -> Path:
    """Draw the foreign items that the best score takes for the run's own first."""
    best = max(areas, key=lambda name: areas[name][0])
    order = scores[best].argsort()[:SHOWN]
    return write_picture(out / "least-foreign", *run.modality.draw(foreign.items[order]))


def _table(found: Sequence[Mapping[str, Tensor]]) -> bytes:
    """Return the scores of every item, own and foreign, as CSV."""
    names = list(found[0])
    rows = [torch.stack([scores[name] for name in names], 1).tolist() for scores in found]
    groups = [group for group, part in zip(GROUPS, rows, strict=True) for _ in part]
    return to_csv(names, [row for part in rows for row in part], groups, "group")
