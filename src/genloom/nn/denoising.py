"""Diffusion models: networks that tell data from noise, and what follows: samples, bounds and densities.

A network sees x_t scaled to a deviation of 1 and the angle between data and noise in it, and says another
mixture of both at that scale; so it need not know the path that it was trained on.

B batch, S event shape, D scalars, E embedding, T steps of the bound, K strata.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from genloom.core.capabilities import Denoiser, Likelihood, Sampler
from genloom.core.events import Bounded, Leaf, Value, items, nearest_level
from genloom.core.likelihood import Bound, LogProb, given
from genloom.core.randomness import Noise
from genloom.math import bounds
from genloom.math.mixtures import Mixture, PredictionName, beside, determinant, prediction, separate
from genloom.math.ode import dopri5
from genloom.math.paths import PATHS, PathName
from genloom.math.solvers import SOLVERS, Grid, SamplerName, Variance
from genloom.nn.labels import labels_or_null

Weighting = Literal["own", "epsilon", "x0", "v", "velocity", "min_snr"]
"""Whose squared error is learnt from: of what the network predicts, or of another prediction that follows."""

GridName = Literal["time", "karras", "log_snr"]
"""Even in time, in the seventh root of the ratio of noise to data, or in its logarithm."""

LEAST = 2e-3
"""Ratio of noise to data at the last noisy place of grids in that ratio. Karras et al. 2022, table 1."""

GREATEST = 80.0
"""Ratio of noise to data at the first place of such grids. Karras et al. 2022, table 1."""

RHO = 7
"""Karras et al. 2022, table 1."""

WEIGHT_LIMIT = 1e4
"""Of squared errors; what says nothing of another prediction next to the data would count without end."""

SNR_LIMIT = 5.0
"""Gamma of Hang et al. 2023, arXiv:2303.09556, section 4.2."""

NEAREST = 1e-4
"""Angle at which densities begin and, in time, estimates: some predictions are singular at the data."""

EXACT = 64
"""Scalars up to which traces are summed exactly."""


@dataclass(frozen=True)
class Course:
    """What a network learns, and where.

    Args:
        path: from data to noise.
        predicted: what the network says.
        std: deviation of data that scales what it sees and says.
        ratios: mean and deviation of the logarithm of the ratio of noise to data at random times; times are
            even along the path if None.
        weighting: of squared errors.
    """

    path: PathName
    predicted: PredictionName
    std: float
    ratios: tuple[float, float] | None
    weighting: Weighting

    def draw(self, noise: Noise) -> Tensor:
        """Draw a time for each item, (B,) float64."""
        path = PATHS[self.path]
        if self.ratios is None:
            return noise.uniform().double() * path.end
        mean, deviation = self.ratios
        return path.time((mean + deviation * noise.normal().double()).exp()).clamp(0, path.end)

    def seen(self, time: Tensor) -> Mixture:
        """Return what is seen at times."""
        return PATHS[self.path].at(time)

    def told(self, time: Tensor, name: PredictionName | None = None) -> Mixture:
        """Return what the network says at times, or would by another prediction."""
        path = PATHS[self.path]
        return prediction(name or self.predicted, path.at(time), lambda: path.velocity(time), self.std)

    def weight(self, time: Tensor) -> Tensor:
        """Return what the network's squared errors count at times.

        The errors of two predictions of the same x are as their determinants.
        """
        if self.weighting == "own":
            return torch.ones_like(time)
        seen, told = self.seen(time), self.told(time)
        scale = determinant(seen, told)
        if self.weighting != "min_snr":
            other = determinant(seen, self.told(time, self.weighting))
            return (other / scale).square().nan_to_num(0).clamp_max(WEIGHT_LIMIT)
        snr = (seen.data / seen.noise).square()
        return snr.clamp_max(SNR_LIMIT) * (seen.noise / scale).square()


@dataclass(frozen=True)
class Drawing:
    """How samples are drawn.

    Args:
        sampler: of ``SOLVERS``.
        calls: of the network for a sample.
        grid: where these are.
        eta: noise of ddim.
        variance: of ddpm.
        guidance_scale: 0 ignores the label, 1 follows it, more exaggerates it.
        guided: ratios of noise to data between which that is done, else 1 is. Kynkäänniemi et al. 2024,
            arXiv:2404.07724, equation 5.
        clip: estimates of bounded data are kept inside their bounds.
    """

    sampler: SamplerName
    calls: int
    grid: GridName
    eta: float
    variance: Variance
    guidance_scale: float
    guided: tuple[float, float]
    clip: bool

    @property
    def moves(self) -> int:
        """How many moves so many calls make."""
        return -(-self.calls // 2) if self.sampler == "heun" else self.calls

    def walk(self) -> Callable[..., Tensor]:
        """Return the way from noise to data."""
        settings: Mapping[str, dict[str, Any]] = {
            "ddpm": {"variance": self.variance},
            "ddim": {"eta": self.eta},
        }
        return partial(SOLVERS[self.sampler], **settings.get(self.sampler, {}))


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


class Diffusion(nn.Module, Sampler, Denoiser, Likelihood):
    """A network that tells data from noise, the walks that sample with it, and the scores that it gives.

    Its densities count as bounds, as the variational bound does, so that the kind of a score is known.

    Args:
        network: maps (B, *S) and an embedding (B, E) to (B, *S).
        embedding: maps angles in [0, 1], in right angles, and labels (B,) to (B, E).
        timesteps: T.
        bound_terms: K.
        tolerance: of the solver of densities; None for the variational bound.
        probes: random signs by which traces are estimated where they are not summed.
    """

    def __init__(
        self,
        leaf: Leaf,
        network: nn.Module,
        embedding: nn.Module,
        classes: int,
        course: Course,
        drawing: Drawing,
        timesteps: int,
        bound_terms: int,
        tolerance: float | None,
        probes: int,
    ) -> None:
        super().__init__()
        self.leaf, self.classes, self.course, self.drawing = leaf, classes, course, drawing
        self.network, self.embedding = network, embedding
        self.timesteps, self.bound_terms = timesteps, bound_terms
        self.tolerance, self.probes = tolerance, probes

    def output(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        """Return what the network says of x (B, *S) at times (B,)."""
        seen, std = self.course.seen(time), self.course.std
        embedded = self.embedding((seen.angle(std) / (math.pi / 2)).to(x), label)
        return self.network(x / beside(seen.deviation(std), x), embedded).to(x.dtype)

    def guided(self, x: Tensor, time: Tensor, label: Tensor, scale: float) -> Tensor:
        """Return (1 - g) times what is said without label plus g times that with it.

        Source: Ho & Salimans 2022, arXiv:2207.12598, equation 6, with g = w + 1; all predictions are affine
        in epsilon.
        """
        null = torch.full_like(label, self.classes)
        if scale == 1 or not self.classes:
            return self.output(x, time, label)
        if scale == 0:
            return self.output(x, time, null)
        both = self.output(x.repeat(2, *(1,) * (x.dim() - 1)), time.repeat(2), torch.cat([null, label]))
        without, with_label = both.chunk(2)
        return torch.lerp(without, with_label, scale)

    def separated(self, x: Tensor, time: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """Return the data and the noise in x at times (B,) that follow from what the network says."""
        return separate(self.course.seen(time).to(x), x, self.course.told(time).to(x), output)

    def denoising_error(self, x0: Tensor, label: Tensor, noise: Noise) -> Tensor:
        """Return the weighted mean squared error of the network at one random time for each item, (B,)."""
        time = self.course.draw(noise)
        eps = noise.normal(*self.leaf.extents).to(x0)
        x = self.course.seen(time).to(x0).of(x0, eps)
        target = self.course.told(time).to(x0).of(x0, eps)
        error = (self.output(x, time, label) - target).square().flatten(1).mean(1)
        return self.course.weight(time).to(x0) * error

    def denoise(self, x: Tensor, time: Tensor, cond: Value | None = None) -> Tensor:
        """Return the estimate of E[x_0 | x_t = x] at times (B,) of the path; its very ends are left out."""
        time = time.double().clamp(NEAREST, PATHS[self.course.path].end)
        return self._data(x, time, self.output(x, time, labels_or_null(cond, self.classes, len(x))))

    def _data(self, x: Tensor, time: Tensor, output: Tensor) -> Tensor:
        x0, kind = self.separated(x, time, output)[0], self.leaf.kind
        return x0.clamp(kind.lo, kind.hi) if self.drawing.clip and isinstance(kind, Bounded) else x0

    @torch.no_grad()
    def sample(self, noise: Noise, cond: Value | None = None) -> Value:
        """Walk from noise to data; where the event has levels, return the nearest ones."""
        drawing, like = self.drawing, next(self.parameters())
        times = places(drawing.grid, self.course.path, drawing.moves)
        grid = _to_data(self.course.seen(times), -1)

        def denoise(x: Tensor, place: int) -> Tensor:
            time, ratio = times[place].expand(len(x)), grid.noise[place] / grid.data[place]
            scale = drawing.guidance_scale if drawing.guided[0] <= ratio <= drawing.guided[1] else 1.0
            return self._data(x, time, self.guided(x, time, label, scale))

        def draw() -> Tensor:
            return noise.normal(*self.leaf.extents).to(like)

        start = grid.noise[0] * draw()
        label = labels_or_null(cond, self.classes, len(start))
        x = drawing.walk()(denoise, start, Grid(grid.data, grid.noise), draw)
        return nearest_level(x.to(like.dtype), self.leaf.kind)

    @torch.no_grad()
    def log_prob(self, x: Value, cond: Value | None = None, *, noise: Noise) -> LogProb:
        """Return an estimate of a lower bound of log p, or by ``tolerance`` the density of data, in nats.

        A density counts as a bound of the probability of levels, between which x is spread evenly (Theis et
        al. 2016, arXiv:1511.01844, equation 6).
        """
        x = items(x, self.leaf.extents)
        label = labels_or_null(cond, self.classes, len(x))
        value = self._bound(x, label, noise) if self.tolerance is None else self._density(x, label, noise)
        return LogProb(value.to(x.dtype), Bound.LOWER, given(cond))

    def _density(self, x: Tensor, label: Tensor, noise: Noise) -> Tensor:
        """Return log p(x) by the probability-flow ODE, (B,). Song et al. 2021, arXiv:2011.13456, equation 39.

        In the coordinates of the network it is dy = (cos(a) eps - sin(a) u) da with u = x_0 / std, for any
        path (Lu & Song 2025, arXiv:2410.11081, section 3).
        """
        assert self.tolerance is not None
        std, ends = self.course.std, torch.tensor([0, PATHS[self.course.path].end], dtype=torch.float64)
        first, last = self.course.seen(ends).angle(std).clamp_min(NEAREST).tolist()
        x, width = spread(x, self.leaf, noise)
        signs = None
        if self.leaf.dim > EXACT:
            signs = 2 * noise.integers(2, self.probes, *self.leaf.extents).to(x).transpose(0, 1) - 1

        def field(angle: Tensor, state: Tensor) -> Tensor:
            y = state[:-1].t().reshape(x.shape)
            moved, trace = traced(lambda y: self._flow(y, angle, label), y, signs)
            return torch.cat((moved.flatten(1).t(), trace[None]))

        start = torch.cat(((x / std).flatten(1).t(), x.new_zeros(1, len(x))))
        end = dopri5(field, start, first, last, self.tolerance)
        one = torch.ones_like(end[:1])
        log_p = bounds.gaussian_log_density(end[:-1], torch.zeros_like(one), one).sum(0)
        return log_p + end[-1] + self.leaf.dim * math.log(width / std)

    def _flow(self, y: Tensor, angle: Tensor, label: Tensor) -> Tensor:
        """Return the derivative of y (B, *S) by the angle (B,)."""
        course, angle = self.course, angle.double()
        time = PATHS[course.path].time(angle.tan() * course.std)
        x = y * beside(course.seen(time).deviation(course.std), y)
        x0, eps = self.separated(x, time, self.output(x, time, label))
        return Mixture(-angle.sin() / course.std, angle.cos()).to(y).of(x0, eps)

    def _bound(self, x: Tensor, label: Tensor, noise: Noise) -> Tensor:
        """Return an unbiased Monte-Carlo estimate of the variational lower bound, (B,) nats.

        All T terms would cost T network calls. Instead the places 2..T are cut into ``bound_terms`` strata,
        each of which gives one random place, weighted by the size of its stratum; the prior's and the
        decoder's terms are always included. The expectation over ``noise`` is the bound itself, and so below
        log p; a single figure strays from it by Monte-Carlo error.

        Source: Ho et al. 2020, arXiv:2006.11239, equation 5.
        """
        ranges = bounds.strata(2, self.timesteps, self.bound_terms)
        index = bounds.draw_times(ranges, noise.uniform(len(ranges.count)))
        bound = self._decoder_term(x, label, noise) - self._prior_term(x)
        for j, count in enumerate(ranges.count.tolist()):
            bound = bound - count * self._transition_term(x, index[:, j], label, noise)
        return bound

    def _chain(self, index: Tensor) -> tuple[Tensor, Mixture]:
        """Return the times of places 0..T of the bound, and what is seen there; the first are the data."""
        time = index.double() / self.timesteps * PATHS[self.course.path].end
        seen, data = self.course.seen(time), index == 0
        return time, Mixture(seen.data.masked_fill(data, 1), seen.noise.masked_fill(data, 0))

    def _estimated(self, x0: Tensor, time: Tensor, seen: Mixture, label: Tensor, noise: Noise) -> Tensor:
        """Estimate x_0 from a draw of x_t given x_0."""
        x = seen.to(x0).of(x0, noise.normal(*self.leaf.extents).to(x0))
        return self._data(x, time, self.output(x, time, label))

    def _prior_term(self, x0: Tensor) -> Tensor:
        """Return KL(q(x_T | x_0) || p(x_T)), (B,)."""
        _, last = self._chain(torch.tensor([self.timesteps]))
        seen = last.to(x0)
        variance = seen.noise.square()
        return bounds.gaussian_kl(seen.data * x0, variance, 0 * variance, variance).flatten(1).sum(1)

    def _transition_term(self, x0: Tensor, index: Tensor, label: Tensor, noise: Noise) -> Tensor:
        """Return KL(q(x_s | x_t, x_0) || p(x_s | x_t)) of places s just before places t (B,) >= 2, (B,)."""
        time, seen = self._chain(index)
        _, before = self._chain(index - 1)
        off = x0 - self._estimated(x0, time, seen, label, noise)
        left = 1 - (before.noise * seen.data / (before.data * seen.noise)).square()
        true = left * before.noise.square()
        own = true if self.drawing.variance == "posterior" else left * seen.noise.square()
        shift, true, own = (beside(part, x0) for part in (before.data * left, true, own))
        return bounds.gaussian_kl(shift * off, true, torch.zeros_like(true), own).flatten(1).sum(1)

    def _decoder_term(self, x0: Tensor, label: Tensor, noise: Noise) -> Tensor:
        """Return log p(x_0 | x_1), (B,): the mass of levels, else a Gaussian density.

        Source: Ho et al. 2020, equation 13.
        """
        time, seen = self._chain(torch.ones(len(x0), dtype=torch.int64))
        mean, kind = self._estimated(x0, time, seen, label, noise), self.leaf.kind
        variance = seen.to(x0).noise.square()
        if isinstance(kind, Bounded) and kind.levels is not None:
            log_p = bounds.discretised_gaussian(x0, mean, variance, kind.lo, kind.hi, kind.levels)
        else:
            log_p = bounds.gaussian_log_density(x0, mean, variance)
        return log_p.flatten(1).sum(1)


def _to_data(seen: Mixture, place: int) -> Mixture:
    """Return the mixtures with data alone at one place."""
    data, noise = seen.data.clone(), seen.noise.clone()
    data[place], noise[place] = 1, 0
    return Mixture(data, noise)


def spread(x: Tensor, leaf: Leaf, noise: Noise) -> tuple[Tensor, float]:
    """Return data spread evenly about their levels, and the width of a level; without levels, as they are."""
    kind = leaf.kind
    if not isinstance(kind, Bounded) or kind.levels is None:
        return x, 1.0
    width = (kind.hi - kind.lo) / (kind.levels - 1)
    return x + width * (noise.uniform(*leaf.extents).to(x) - 0.5), width


def traced(move: Callable[[Tensor], Tensor], y: Tensor, signs: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return a map of y (B, *S) and the trace of its Jacobian (B,), exact or by signs (N, B, *S).

    Source: Hutchinson 1990; Grathwohl et al. 2019, arXiv:1810.01367, equation 7.
    """
    with torch.enable_grad():
        y = y.detach().requires_grad_()
        moved = move(y)
        ways = signs
        if ways is None:
            ways = torch.eye(moved[0].numel()).to(y).view(-1, 1, *y.shape[1:]).expand(-1, *y.shape)
        trace = y.detach().new_zeros(len(y))
        for way in ways:
            (slope,) = torch.autograd.grad(moved, y, way, retain_graph=True)
            trace = trace + (slope * way).flatten(1).sum(1)
    return moved.detach(), trace / (1 if signs is None else len(signs))
