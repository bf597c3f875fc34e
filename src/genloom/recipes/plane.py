"""Every family on points in the plane, in one picture: the data, then each family's density or draws."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from genloom.core import registry
from genloom.core.capabilities import Likelihood, Sampler
from genloom.core.errors import ConfigError
from genloom.core.likelihood import Bound
from genloom.core.serial import to_json
from genloom.modalities.base import Dataset, Split
from genloom.modalities.datasets import DataOptions, open_data
from genloom.modalities.drawing import PictureRow, heat, png_bytes, sheet
from genloom.modalities.toys import log_density
from genloom.recipes.evaluating import score
from genloom.recipes.fitting import FitConfig, fit
from genloom.recipes.runs import Run, versions, view_for
from genloom.tasks import sampling
from genloom.train.checkpoint import write_atomically
from genloom.train.config import TrainConfig

TOYS = ("two_moons", "rings", "checkerboard", "pinwheel")
TOY_SECONDS = 20.0
"""The budget of a fit to one toy that sets none."""

POINTS = 50_000
"""Of each toy: enough that what a likelihood lacks is the family's fault, not the sample's."""

SCORED = 2_000
"""Test points whose likelihood is computed at most: a diffusion model's bound takes many passes."""

SIDE = 110
"""Cells, and pixels, along a side of each picture."""

DRAWN = 20_000
"""Points of a histogram, of the true shape and of families without an exact density."""

DRAWN_TOGETHER = 2_000
"""Points of a pass: many, as a network of two values spends its time on calls."""

MARKS = {Bound.EXACT: "", Bound.LOWER: "at most ", Bound.UPPER: "at least "}


@dataclass(frozen=True)
class Cell:
    """A family on a toy: a picture, and the nats by which its likelihood lies below the truth."""

    picture: np.ndarray
    kind: Bound | None = None
    gap: float | None = None

    @property
    def caption(self) -> str:
        """The gap with what it is; nothing where there is none."""
        return (
            "" if self.gap is None else f"{MARKS.get(self.kind or Bound.EXACT, 'about ')}{self.gap:.3f} nats"
        )


def takers() -> list[str]:
    """Return the families that take points in the plane and draw samples."""
    modality, able = open_data(TOYS[0]).modality, []
    for name in registry.names():
        family = registry.load(name)
        if view := view_for(family.card, modality):
            model = family.config.preset(view.event).build(view.event, None)
            able += [name] if isinstance(model, Sampler) else []
    return able


def draw_plane(
    out: Path,
    train: TrainConfig,
    *,
    families: Sequence[str] = (),
    points: int = POINTS,
    seed: int = 0,
    progress: bool = True,
    command: str = "",
    say: Callable[[str], None] = print,
) -> dict[str, dict[str, float | None]]:
    """Fit families to four toys, or go on with what ``out`` holds; write ``toys.png`` and ``toys.json``.

    Args:
        families: those to show, all that can if empty.
        points: drawn of each toy.

    Returns:
        By family and toy, the nats by which a likelihood falls short of the truth.

    Raises:
        ConfigError: a family does not exist or does not take points.
    """
    for name in families:
        registry.module_of(name)
    able = takers()
    if refused := [name for name in families if name not in able]:
        raise ConfigError(
            f"{', '.join(refused)} cannot be drawn in the plane  (these can: {', '.join(able)})"
        )
    chosen = list(families) or able
    options = DataOptions(points=points)
    datasets = {toy: open_data(toy, options) for toy in TOYS}
    rows = {}
    for number, name in enumerate(chosen, 1):
        say(f"{number}/{len(chosen)} {name}")
        runs = [
            fit(
                FitConfig(name, toy, train=train, data=options, conditional="no", seed=seed),
                out / "runs" / f"{name}-{toy}",
                dataset=datasets[toy],
                previews=False,
                progress=progress,
                command=command,
            )
            for toy in TOYS
        ]
        rows[name] = [_cell(run, datasets[toy]) for run, toy in zip(runs, TOYS, strict=True)]
    truth = PictureRow(
        "data", [_histogram(d.train.items, *_frame(d)) for d in datasets.values()], [""] * len(TOYS)
    )
    shown = [
        PictureRow(n, [c.picture for c in cells], [c.caption for c in cells]) for n, cells in rows.items()
    ]
    page = sheet([truth, *shown], [toy.replace("_", " ") for toy in TOYS])
    write_atomically(out / "toys.png", png_bytes(page))
    gaps = {name: {t: c.gap for t, c in zip(TOYS, cells, strict=True)} for name, cells in rows.items()}
    facts = {"gaps": gaps, "train": train.model_dump(), "seed": seed, "command": command}
    write_atomically(out / "toys.json", to_json({**facts, "versions": versions()}).encode())
    return gaps


def _frame(dataset: Dataset) -> tuple[Tensor, Tensor]:
    """Return the corners of a square around the points."""
    items = dataset.train.items
    centre = (items.amax(0) + items.amin(0)) / 2
    half = 0.55 * (items.amax(0) - items.amin(0)).max()
    return centre - half, centre + half


def _cell(run: Run, dataset: Dataset) -> Cell:
    model, (low, high) = run.load(), _frame(dataset)
    if not isinstance(model, Likelihood):
        return Cell(_drawn(run, model, low, high))
    test = dataset.test.some(SCORED)
    truth, found = log_density(dataset.name, test.items), score(model, run, test)
    gap = None if truth is None else float((truth - found.value).mean())
    if found.kind is not Bound.EXACT:
        return Cell(_drawn(run, model, low, high), found.kind, gap)
    axes = [torch.linspace(a, b, SIDE).double() for a, b in zip(low.tolist(), high.tolist(), strict=True)]
    density = score(model, run, Split(torch.cartesian_prod(*axes))).value.exp()
    return Cell(_picture(density.view(SIDE, SIDE)), found.kind, gap)


def _drawn(run: Run, model: nn.Module, low: Tensor, high: Tensor) -> np.ndarray:
    drawn = sampling.sample(model, DRAWN, micro_batch=DRAWN_TOGETHER)
    return _histogram(run.view.decode(drawn), low, high)


def _histogram(points: Tensor, low: Tensor, high: Tensor) -> np.ndarray:
    """Return a picture of how many points lie in each cell, a little blurred."""
    x, y = points.double().T.numpy()
    counts, _, _ = np.histogram2d(x, y, bins=SIDE, range=torch.stack([low, high], 1).tolist())
    return _picture(torch.from_numpy(gaussian_filter(counts, 0.7)))


def _picture(density: Tensor) -> np.ndarray:
    """Return colours of densities, the first axis to the right, relative to a high quantile of them."""
    top = density[density > density.max() / 100].quantile(0.995)
    return heat((density / top).clamp(0, 1).T.flip(0).numpy())
