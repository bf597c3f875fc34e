"""How samples are drawn by a diffusion model: by which solver, in how many calls, where, and how steered."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from genloom.math.paths import PATHS, PathName
from genloom.math.solvers import SOLVERS, SamplerName, Variance, churned, raised, renoised, revisited

GridName = Literal["time", "karras", "log_snr"]
"""Even in time, in the seventh root of the ratio of noise to data, or in its logarithm."""

Restoring = Literal["projection", "repaint", "posterior", "particles"]
"""How estimates are made to agree with what is known: put right, put right with each move walked several
times, by the model's own slopes, or by these and weighted particles that make up for what slopes miss."""

LEAST = 2e-3
"""Ratio of noise to data at the last noisy place of grids in that ratio. Karras et al. 2022, table 1."""

GREATEST = 80.0
"""Ratio of noise to data at the first place of such grids. Karras et al. 2022, table 1."""

RHO = 7
"""Karras et al. 2022, table 1."""


Walk = Callable[..., Tensor]
"""Leads from noise to data: takes a denoiser, x, a grid and draws."""

WALKS: Mapping[str, Walk] = {
    **SOLVERS,
    "churn": churned,
    "consistency": renoised,
    "repaint": revisited,
}
"""By name."""


@dataclass(frozen=True)
class Drawing:
    """How samples are drawn.

    Args:
        sampler: of ``WALKS``.
        calls: of the network for a sample.
        grid: where these are.
        clip: estimates of bounded data are kept inside their bounds.
        bf16: the network works in bfloat16.
        restoring: what makes samples agree with what is known.
        fills: parts that are known are told to the network, and need nothing to make samples agree.
        revisits: how often ``repaint`` walks each move.
        eta: noise of ddim.
        variance: of ddpm.
        guidance_scale: 0 ignores the label, 1 follows it, more exaggerates it.
        guided: ratios of noise to data between which that is done, else 1 is. Kynkäänniemi et al. 2024,
            arXiv:2404.07724, equation 5.
        iterations: of ``posterior`` and ``particles``, at each call.
        particles: of each item.
        churn: noise put in by the sampler of that name.
    """

    sampler: SamplerName | Literal["consistency"]
    calls: int
    grid: GridName
    clip: bool
    bf16: bool
    restoring: Restoring = "projection"
    fills: bool = False
    revisits: int = 1
    eta: float = 0.0
    variance: Variance = "posterior"
    guidance_scale: float = 1.0
    guided: tuple[float, float] = (0.0, math.inf)
    iterations: int = 1
    particles: int = 1
    churn: float = 0.0

    def way(self, path: PathName, share: float = 1.0, agreeing: bool = False) -> tuple[Tensor, Walk]:
        """Return the times of the places from noise to data, float64, and the way to walk them.

        Args:
            share: of the moves, the last ones and at least one.
            agreeing: something is known of the data.
        """
        sampler = "repaint" if agreeing and self.restoring == "repaint" else self.sampler
        moves = -(-self.calls // 2) if sampler in ("heun", "churn") else self.calls
        last, times = max(1, round(share * moves)), places(self.grid, path, moves)
        if sampler == "churn":
            seen, end, last = PATHS[path].at(times), PATHS[path].end, 2 * last
            times = PATHS[path].time(raised(seen.noise / seen.data, self.churn)).clamp(0, end)
        if sampler == "consistency":
            times = times.clamp_max(PATHS[path].time(times.new_tensor(GREATEST)))
        settings: Mapping[str, dict[str, Any]] = {
            "ddpm": {"variance": self.variance},
            "ddim": {"eta": self.eta},
            "repaint": {"times": self.revisits},
        }
        return times[-1 - last :], partial(WALKS[sampler], **settings.get(sampler, {}))


def places(name: GridName, path: PathName, moves: int) -> Tensor:
    """Return the times of so many moves from noise, and 0, falling, (moves + 1,) float64."""
    way, end = PATHS[path], PATHS[path].end
    if name == "time":
        return torch.linspace(end, 0, moves + 1, dtype=torch.float64)
    last = way.at(torch.tensor(end, dtype=torch.float64))
    first = min(GREATEST, float(last.noise / last.data))
    share = torch.linspace(0, 1, moves, dtype=torch.float64) if moves > 1 else torch.zeros(1).double()
    if name == "karras":
        ratios = (first ** (1 / RHO) + share * (LEAST ** (1 / RHO) - first ** (1 / RHO))) ** RHO
    else:
        ratios = first * (LEAST / first) ** share
    times = way.time(ratios).clamp(0, end)
    return torch.cat((times, times.new_zeros(1)))
