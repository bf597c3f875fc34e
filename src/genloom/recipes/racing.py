"""The samplers of one model against one another: quality of samples by the network calls that they took."""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from genloom.core.errors import Unsupported
from genloom.core.serial import to_json
from genloom.math.solvers import SamplerName
from genloom.metrics import Figure
from genloom.recipes.evaluating import MAX_ITEMS, check_same_data, data_of, held_out, sample_figures
from genloom.recipes.features import features_for
from genloom.recipes.runs import Run
from genloom.report.curves import Series, chart
from genloom.tasks import sampling
from genloom.train.checkpoint import write_atomically

SAMPLERS: tuple[str, ...] = get_args(SamplerName)

CALLS = (5, 10, 20, 50)


@dataclass(frozen=True)
class Heat:
    """What one sampler reached with so many calls of the network for a sample."""

    sampler: str
    calls: int
    frechet: Figure
    kernel: Figure
    milliseconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the facts."""
        figures = {"frechet": self.frechet.to_json(), "kernel": self.kernel.to_json()}
        return {"sampler": self.sampler, "calls": self.calls, "milliseconds": self.milliseconds, **figures}


def race(
    run: Run,
    samplers: Sequence[str] = SAMPLERS,
    calls: Sequence[int] = CALLS,
    *,
    also: Sequence[tuple[str, int]] = (),
    limit: int = MAX_ITEMS,
    say: Callable[[str], None] = print,
) -> list[Heat]:
    """Draw from the same first noise by every sampler with every number of calls, and measure the samples.

    A family with one sampler of its own takes part under its name.

    Args:
        also: samplers with numbers of calls besides, for a family that has a choice.
        limit: at most this many test items are used, and as many samples drawn.

    Raises:
        Unsupported: the model has no choice of calls.
        ConfigError: there is no such sampler.
        DataError: the data are gone or have changed.
    """
    free = type(run.config).free()
    if "sampling_steps" not in free:
        raise Unsupported(f"{run.family} has no choice of samplers: a diffusion model has")
    runs = {(run.family, n): run.with_settings({"sampling_steps": n}) for n in calls}
    if "sampler" in free:
        pairs = [*itertools.product(samplers, calls), *also]
        runs = {(name, n): run.with_settings({"sampler": name, "sampling_steps": n}) for name, n in pairs}
    dataset = data_of(run)
    check_same_data(run, dataset)
    features, test = features_for(dataset), held_out(dataset, limit)
    labels = sampling.drawn_labels(len(test), run.label_counts, 1) if run.classes else None
    given = run.view.conditions(test) if labels is None else labels
    found = []
    for (name, n), changed in runs.items():
        model, began = changed.load(), time.perf_counter()
        items = changed.sample(model, len(test), seed=1, cond=given)
        took = (time.perf_counter() - began) / len(test) * 1000
        figures = sample_figures(items, dataset, features, test)
        found.append(Heat(name, n, figures["frechet"], figures["kernel"], took))
        say(f"{name}, {n:,} calls: Fréchet distance {figures['frechet'].value:.4g}, {took:.3g} ms a sample")
    return found


def draw_race(heats: Sequence[Heat]) -> bytes:
    """Return a chart of the Fréchet distances by calls, SVG."""
    lines = [
        Series(name, [h.calls for h in mine], [h.frechet.value for h in mine])
        for name in dict.fromkeys(h.sampler for h in heats)
        for mine in [[h for h in heats if h.sampler == name]]
    ]
    across, up = "network calls a sample", "Fréchet distance"
    return chart(lines, x_title=across, y_title=up, log_x=True, width=640, height=360).encode()


def write_race(heats: Sequence[Heat], out: Path) -> Path:
    """Write ``samplers.json`` and ``samplers.svg`` into a folder, and return the picture's path."""
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "samplers.json", to_json([heat.to_json() for heat in heats]).encode())
    write_atomically(out / "samplers.svg", draw_race(heats))
    return out / "samplers.svg"
