"""Ways from noise to data that know nothing but a denoiser: x_t = alpha_t x_0 + sigma_t eps.

The noise-to-data ratio s = sigma / alpha orders the times of every schedule, and lambda = -log s. Solvers
walk a grid of times from noise to data; where alpha is 0 at its start, s is infinite and the first step is
exact to first order. Shapes: B batch, S event shape, K moves.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Denoise = Callable[[Tensor, int], Tensor]
"""Returns E[x_0 | x] for x (B, *S) at a place 0..K of the grid."""

Draw = Callable[[], Tensor]
"""Returns standard normals (B, *S), new ones each time."""

SamplerName = Literal["ddpm", "ddim", "heun", "churn", "adams", "dpm_solver_2m", "dpm_solver_2m_sde", "unipc"]
"""A solver's name."""

Variance = Literal["forward", "posterior"]
"""Of the noise of an ancestral step: that of q(x_i | x_j), or of q(x_j | x_i, x_0)."""


@dataclass(frozen=True)
class Grid:
    """The places of a walk from noise to data, (K + 1,) float64 each; sigma may be 0 at the last."""

    alpha: Tensor
    sigma: Tensor

    @property
    def moves(self) -> int:
        """K, how many there are."""
        return len(self.alpha) - 1

    @property
    def ratio(self) -> Tensor:
        """The noise-to-data ratio s of each place, falling."""
        return self.sigma / self.alpha


def transfer(x: Tensor, x0: Tensor, grid: Grid, i: int, j: int) -> Tensor:
    """Move x from place i to j as if its estimate of the data stayed as it is.

    This is Euler's step in s for x / alpha. Source: Song et al. 2021, arXiv:2010.02502, equation 13.
    """
    share = grid.sigma[j] / grid.sigma[i]
    return share * x + (grid.alpha[j] - share * grid.alpha[i]) * x0


def ancestral(
    denoise: Denoise, x: Tensor, grid: Grid, draw: Draw, variance: Variance = "posterior"
) -> Tensor:
    """Walk by draws from q(x_j | x_i, x_0) at the estimate of x_0, or wider ones.

    Source: Ho et al. 2020, arXiv:2006.11239, algorithm 2 and section 3.2, for any alpha and sigma: with
    d = s_j^2 / s_i^2 the posterior variance is sigma_j^2 (1 - d), that of q(x_i | x_j) sigma_i^2 (1 - d).
    """
    for i in range(grid.moves):
        x = _redrawn(x, denoise(x, i), grid, i, draw, i + 1 if variance == "posterior" else i)
    return x


def renoised(denoise: Denoise, x: Tensor, grid: Grid, draw: Draw) -> Tensor:
    """Walk by estimates of where x leads, each put back into new noise.

    Unlike those of a denoiser, the estimates must be draws of the data: those of a consistency model. Source:
    Song et al. 2023, arXiv:2303.01469, algorithm 1.
    """
    for i in range(grid.moves):
        x0 = denoise(x, i)
        x = grid.alpha[i + 1] * x0 + grid.sigma[i + 1] * draw() if grid.sigma[i + 1] > 0 else x0
    return x


def revisited(denoise: Denoise, x: Tensor, grid: Grid, draw: Draw, times: int) -> Tensor:
    """Walk as ``ancestral`` does, each move but the last ``times`` over, with the noise put back between.

    What is estimated from what is known so has time to agree with it. Source: Lugmayr et al. 2022,
    arXiv:2201.09865, algorithm 1, with jumps of one place.
    """
    s = grid.ratio
    for i in range(grid.moves):
        for left in reversed(range(times if grid.sigma[i + 1] > 0 else 1)):
            x = _redrawn(x, denoise(x, i), grid, i, draw, i + 1)
            if left:
                share, more = grid.alpha[i] / grid.alpha[i + 1], 1 - (s[i + 1] / s[i]) ** 2
                x = share * x + grid.sigma[i] * more.sqrt() * draw()
    return x


def _redrawn(x: Tensor, x0: Tensor, grid: Grid, i: int, draw: Draw, wide: int) -> Tensor:
    """Draw the next x from that at place i; the noise has the scale of place ``wide``, and the last none."""
    kept, moved, spread = redrawing(grid, i, wide)
    mean = kept * x + moved * x0
    return mean + spread * draw() if grid.sigma[i + 1] > 0 else mean


def redrawing(grid: Grid, i: int, wide: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weights of x, of its estimate and of noise in a draw of the next x from that at place i."""
    share = grid.ratio[i + 1] / grid.ratio[i]
    left = 1 - share**2
    kept = grid.sigma[i + 1] / grid.sigma[i] * share
    return kept, grid.alpha[i + 1] * left, grid.sigma[wide] * left.sqrt()


def ddim(denoise: Denoise, x: Tensor, grid: Grid, draw: Draw, eta: float = 0.0) -> Tensor:
    """Walk by ``transfer``, a share ``eta`` of the way to ancestral sampling.

    Source: Song et al. 2021, equations 12 and 16, for any alpha and sigma: q(x_j | x_i, x_0) has the variance
    sigma_j^2 (1 - s_j^2 / s_i^2).
    """
    s = grid.ratio
    for i in range(grid.moves):
        alpha, sigma = grid.alpha[i + 1], grid.sigma[i + 1]
        x0 = denoise(x, i)
        variance = eta**2 * sigma**2 * (1 - (s[i + 1] / s[i]) ** 2)
        x = alpha * x0 + (sigma**2 - variance).clamp_min(0).sqrt() * _slope(x, x0, grid, i)
        x = x + variance.sqrt() * draw() if variance > 0 else x
    return x


def heun(denoise: Denoise, x: Tensor, grid: Grid, draw: Draw) -> Tensor:  # noqa: ARG001
    """Walk by Heun's method, two calls a move but for the last, as far as there is no noise at its end.

    Source: Karras et al. 2022, arXiv:2206.00364, algorithm 1; here by the angle a between data and noise, in
    which x at a deviation of 1 moves by cos(a) eps - sin(a) x_0 (Lu & Song 2025, arXiv:2410.11081, sec. 3).
    In s, as they have it, a first move from next to no data to some goes astray.
    """
    for i in range(grid.moves):
        x = _averaged(denoise, x, grid, i)
    return x


def churned(denoise: Denoise, x: Tensor, grid: Grid, draw: Draw) -> Tensor:
    """Walk as ``heun`` does from each odd place, to which noise leads from the even place before it.

    Source: Karras et al. 2022, algorithm 2, with S_noise = 1; ``raised`` makes such a grid.
    """
    s = grid.ratio
    for i in range(0, grid.moves, 2):
        more = (s[i + 1] ** 2 - s[i] ** 2).clamp_min(0).sqrt()
        x = grid.alpha[i + 1] * (x / grid.alpha[i] + more * draw())
        x = _averaged(denoise, x, grid, i + 1)
    return x


def raised(ratio: Tensor, churn: float) -> Tensor:
    """Return the ratios of places (K + 1,) with a noisier one after each but the last, (2 K + 1,).

    Args:
        churn: S_churn of Karras et al. 2022, algorithm 2.
    """
    moves = len(ratio) - 1
    more = 1 + min(churn / moves, 2**0.5 - 1)
    return torch.cat((torch.stack((ratio, more * ratio), 1).flatten()[:-2], ratio[-1:]))


def _averaged(denoise: Denoise, x: Tensor, grid: Grid, i: int) -> Tensor:
    """Move x from place i to the next by the mean of the slopes at both, if there is noise at the next."""
    x0 = denoise(x, i)
    moved = transfer(x, x0, grid, i, i + 1)
    if grid.sigma[i + 1] == 0:
        return moved
    angle, size = torch.atan2(grid.sigma, grid.alpha), grid.alpha.hypot(grid.sigma)
    slopes = _turn(x, x0, grid, i) + _turn(moved, denoise(moved, i + 1), grid, i + 1)
    return size[i + 1] * (x / size[i] + (angle[i + 1] - angle[i]) / 2 * slopes)


def _turn(x: Tensor, x0: Tensor, grid: Grid, i: int) -> Tensor:
    """Return the derivative by the angle of x at a deviation of 1."""
    size = grid.alpha[i].hypot(grid.sigma[i])
    return (grid.alpha[i] * _slope(x, x0, grid, i) - grid.sigma[i] * x0) / size


def _slope(x: Tensor, x0: Tensor, grid: Grid, i: int) -> Tensor:
    """Return the derivative of x / alpha by s, which is the estimate of eps."""
    return (x - grid.alpha[i] * x0) / grid.sigma[i]


def adams(denoise: Denoise, x: Tensor, grid: Grid, draw: Draw, order: int = 4) -> Tensor:  # noqa: ARG001
    """Walk by the method of Adams and Bashforth in s, of at most this order, on any grid.

    Source: Hairer et al., Solving Ordinary Differential Equations I, section III.1 and III.5.
    """
    s, slopes = grid.ratio, dict[int, Tensor]()
    for i in range(grid.moves):
        x0 = denoise(x, i)
        moved = transfer(x, x0, grid, i, i + 1)
        if s[i].isfinite():
            slopes = dict([*slopes.items(), (i, _slope(x, x0, grid, i))][-order:])
            known = list(slopes)
            weights = lagrange_integrals(s[known], s[i], s[i + 1])
            weights[-1] -= s[i + 1] - s[i]
            steps = (w * slopes[k] for w, k in zip(weights, known, strict=True))
            moved = moved + grid.alpha[i + 1] * sum(steps, torch.zeros_like(x))
        x = moved
    return x


def lagrange_integrals(nodes: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Return the integral from start to end of each node's Lagrange polynomial, (n,) for nodes (n,)."""
    scale = end - start
    places = (nodes - start) / scale
    powers = torch.arange(len(nodes), dtype=nodes.dtype)
    return scale * _matched(places, 1 / (powers + 1))


def _matched(places: Tensor, moments: Tensor) -> Tensor:
    """Return the weights (n,) of places (n,) whose powers 0..n-1 have these moments (n,)."""
    powers = torch.arange(len(places), dtype=places.dtype)
    found: Tensor = torch.linalg.solve(places[None] ** powers[:, None], moments)
    return found


def dpm_solver_2m(denoise: Denoise, x: Tensor, grid: Grid, draw: Draw) -> Tensor:  # noqa: ARG001
    """Walk by DPM-Solver++(2M). Source: Lu et al. 2022, arXiv:2211.01095, algorithm 2."""
    s, before = grid.ratio, None
    for i in range(grid.moves):
        x0 = denoise(x, i)
        x = transfer(x, _ahead(x0, before, s, i), grid, i, i + 1)
        before = x0
    return x


def _ahead(x0: Tensor, before: Tensor | None, s: Tensor, i: int) -> Tensor:
    """Return the estimate that a line through the last two has half-way, in lambda; the last one at the ends.

    Source: Lu et al. 2022, equation of D_i in algorithm 2.
    """
    if before is None or s[i + 1] == 0 or not s[i - 1].isfinite():
        return x0
    share = (s[i] / s[i + 1]).log() / (s[i - 1] / s[i]).log() / 2
    return torch.lerp(before, x0, float(1 + share))


def dpm_solver_2m_sde(denoise: Denoise, x: Tensor, grid: Grid, draw: Draw) -> Tensor:
    """Walk by SDE-DPM-Solver++(2M), which adds noise as ancestral sampling does.

    Source: Lu et al. 2022, arXiv:2211.01095, appendix B.2 (equation of the multistep SDE solver).
    """
    s, before = grid.ratio, None
    for i in range(grid.moves):
        x0 = denoise(x, i)
        x = _redrawn(x, _ahead(x0, before, s, i), grid, i, draw, i + 1)
        before = x0
    return x


def unipc(denoise: Denoise, x: Tensor, grid: Grid, draw: Draw, order: int = 3) -> Tensor:  # noqa: ARG001
    """Walk by UniPC of data prediction: each estimate also corrects the move that led to it.

    Source: Zhao et al. 2023, arXiv:2302.04867, algorithms 5 and 6.
    """
    s, known, estimates = grid.ratio, [0], {0: denoise(x, 0)}
    for i in range(grid.moves):
        if s[i + 1] == 0:
            return transfer(x, estimates[i], grid, i, i + 1)
        predicted = _united(x, estimates, known, grid, i)
        estimates[i + 1] = denoise(predicted, i + 1)
        x = _united(x, estimates, [*known, i + 1], grid, i)
        known = [k for k in [*known, i + 1] if s[k].isfinite()][-order:]
        estimates = {k: estimates[k] for k in {*known, i + 1}}
    return x


def _united(x: Tensor, estimates: Mapping[int, Tensor], known: list[int], grid: Grid, i: int) -> Tensor:
    """Move x from place i to the next by a polynomial in lambda through the estimates at known places.

    Source: Zhao et al. 2023, theorem 3.1; as the weights are solved for at every order, B(h) cancels.
    """
    s, moved = grid.ratio, transfer(x, estimates[i], grid, i, i + 1)
    others = [k for k in known if k != i]
    if not others or not s[i].isfinite():
        return moved
    h = (s[i] / s[i + 1]).log()
    places = torch.stack([(s[i] / s[k]).log() / h for k in others])
    weights = _matched(places, _moments(h, len(others)))
    steps = (w / r * (estimates[k] - estimates[i]) for w, r, k in zip(weights, places, others, strict=True))
    return moved + grid.alpha[i + 1] * sum(steps, torch.zeros_like(x))


def _moments(h: Tensor, count: int) -> Tensor:
    """Return the integrals of h e^(h (r - 1)) r^n over r from 0 to 1, n = 1..count.

    By parts: the n-th is 1 less n / h times the one before, of which the first is 1 - e^-h.
    """
    found = [-torch.expm1(-h)]
    for n in range(1, count + 1):
        found.append(1 - n / h * found[-1])
    return torch.stack(found[1:])


SOLVERS: Mapping[str, Callable[..., Tensor]] = {
    "ddpm": ancestral,
    "ddim": ddim,
    "heun": heun,
    "adams": adams,
    "dpm_solver_2m": dpm_solver_2m,
    "dpm_solver_2m_sde": dpm_solver_2m_sde,
    "unipc": unipc,
}
"""By name, as each takes a denoiser, x, any grid and draws. All but ``heun`` call it once a move."""
