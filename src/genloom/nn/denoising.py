"""Diffusion models: networks that tell data from noise, and what follows: samples, bounds and densities.

A network sees x_t scaled to a deviation of 1 and the angle between data and noise in it, and says another
mixture of both at that scale; so it need not know the path that it was trained on.

B batch, S event shape, D scalars, E embedding, T steps of the bound, K strata.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genloom.core.capabilities import (
    Denoiser,
    Infill,
    Likelihood,
    Redrawer,
    Restorer,
    Reversible,
    Sampler,
    Steerable,
)
from genloom.core.errors import DataError
from genloom.core.events import Bounded, Leaf, Value, items, nearest_level, stack, tensor
from genloom.core.likelihood import Bound, LogProb, given
from genloom.core.measurements import Measurement
from genloom.core.randomness import Noise
from genloom.math import bounds
from genloom.math.coupling import optimal_pairs
from genloom.math.inverse import masked, posterior_means
from genloom.math.mixtures import Mixture, beside, separate
from genloom.math.ode import dopri5
from genloom.math.particles import twisted
from genloom.math.paths import PATHS
from genloom.math.solvers import Grid
from genloom.nn.courses import Course
from genloom.nn.filling import counted, prompt_of, shown, with_parts, with_prompt
from genloom.nn.prompts import Prompts
from genloom.nn.walks import Drawing, Walk, places

NEAREST = 1e-4
"""Angle at which densities begin and, in time, estimates: some predictions are singular at the data."""

HIDDEN = 1 / 3
"""Ratio of noise to the width of a level at the first place of bounds: less tells nothing, and costs."""

TURNS = 100
"""Of putting restored items inside their bounds and right again."""

EXACT = 64
"""Scalars up to which traces are summed exactly."""


Estimate = Callable[[Tensor], Tensor]
"""Returns E[x_0 | x] for x (B, *S) at one place."""

Steer = Callable[[Estimate, Tensor, Tensor], Tensor]
"""Returns the estimate of x_0 to go by, given the model's own, x (B, *S) and sigma^2 / alpha."""


@dataclass(frozen=True)
class Scoring:
    """How items are scored.

    Args:
        timesteps: T.
        bound_terms: K.
        by_ode: by densities, not by the variational bound.
        tolerance: of the solver of densities and codes.
        probes: random signs by which traces are estimated where they are not summed.
    """

    timesteps: int = 1000
    bound_terms: int = 32
    by_ode: bool = False
    tolerance: float = 1e-4
    probes: int = 1


class Diffusion(nn.Module, Sampler, Denoiser, Likelihood, Infill, Restorer, Redrawer, Steerable, Reversible):
    """A network that tells data from noise, the walks that sample with it, and the scores that it gives.

    Its densities count as bounds, as the variational bound does, so that the kind of a score is known.

    Args:
        network: maps (B, *S) and an embedding (B, E) to (B, *S).
        embedding: maps angles in [0, 1], in right angles, and labels (B,) to (B, E), or texts to (B, E) and
            words.
        fills: the network is shown what is known of items as well.

    ``guides`` may hold a weaker model to be led away from; it is no part of this one.
    """

    def __init__(
        self,
        leaf: Leaf,
        network: nn.Module,
        embedding: nn.Module,
        prompts: Prompts,
        course: Course,
        drawing: Drawing,
        scoring: Scoring,
        fills: bool = False,
    ) -> None:
        super().__init__()
        self.leaf, self.prompts, self.course = leaf, prompts, course
        self.drawing, self.scoring = drawing, scoring
        self.network, self.embedding, self.fills = network, embedding, fills
        self.guides = tuple[Diffusion, ...]()

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile what is called."""
        self.network.compile(*args, **kwargs)
        if not self.prompts.longest:
            self.embedding.compile(*args, **kwargs)

    def output(self, x: Tensor, time: Tensor, told: Value) -> Tensor:
        """Return what the network says of x (B, *S) at times (B,), and what it is told."""
        seen, std = self.course.seen(time), self.course.std
        embedded = self.embedding((seen.angle(std) / (math.pi / 2)).to(x), prompt_of(told))
        parts = embedded if isinstance(embedded, tuple) else (embedded,)
        scaled = x / beside(seen.deviation(std), x)
        return self.network(shown(scaled, told, 1 / std) if self.fills else scaled, *parts).to(x.dtype)

    def guided(self, x: Tensor, time: Tensor, told: Value, scale: float) -> Tensor:
        """Return (1 - g) times what is said if told nothing, or by a weaker model, plus g times what is said.

        Source: Ho & Salimans 2022, arXiv:2207.12598, equation 6, with g = w + 1; Karras et al. 2024,
        arXiv:2406.02507, section 4. All predictions are affine in epsilon.
        """
        if scale == 1 or not (self.prompts or self.guides):
            return self.output(x, time, told)
        if self.guides:
            weaker = self._said_by(self.guides[0], x, time, told)
            return torch.lerp(weaker, self.output(x, time, told), scale)
        nothing = with_prompt(told, self.prompts.nothing_like(prompt_of(told)))
        if scale == 0:
            return self.output(x, time, nothing)
        twice = x.repeat(2, *(1,) * (x.dim() - 1)), time.repeat(2)
        without, said = self.output(*twice, stack([nothing, told])).chunk(2)
        return torch.lerp(without, said, scale)

    def _said_by(self, other: "Diffusion", x: Tensor, time: Tensor, told: Value) -> Tensor:
        """Return what another model along the same path says, as this one would say it."""
        x0, eps = other.separated(x, time, other.output(x, time, told))
        return self.course.told(time).to(x).of(x0, eps)

    def separated(self, x: Tensor, time: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """Return the data and the noise in x at times (B,) that follow from what the network says."""
        return separate(self.course.seen(time).to(x), x, self.course.told(time).to(x), output)

    def denoising_error(self, x0: Tensor, told: Value, noise: Noise) -> Tensor:
        """Return the weighted mean squared error of the network at one random time for each item, (B,).

        Values that it is told do not count.
        """
        time = self.course.draw(noise)
        eps = noise.normal(*self.leaf.extents).to(x0)
        if self.course.coupling == "optimal":
            eps = optimal_pairs(x0, eps, tensor(told))
        return self.error_between(x0, eps, time, told)

    def error_between(self, x0: Tensor, eps: Tensor, time: Tensor, told: Value) -> Tensor:
        """Return this error at times (B,) between data and noise that belong together, (B,)."""
        x = self.course.seen(time).to(x0).of(x0, eps)
        target = self.course.told(time).to(x0).of(x0, eps)
        counts = counted(x0, told).flatten(1)
        error = (self.output(x, time, told) - target).square().flatten(1) * counts
        share = counts.mean(1).clamp_min(1 / self.leaf.dim)
        return self.course.weight(time).to(x0) * error.mean(1) / share

    def denoise(self, x: Tensor, time: Tensor, cond: Value | None = None) -> Tensor:
        """Return the estimate of E[x_0 | x_t = x] at times (B,) of the path; its very ends are left out."""
        time = time.double().clamp(NEAREST, PATHS[self.course.path].end)
        return self._data(x, time, self.output(x, time, self.prompts.complete(cond, len(x))))

    def _data(self, x: Tensor, time: Tensor, output: Tensor) -> Tensor:
        return self._clipped(self.separated(x, time, output)[0])

    def _clipped(self, x0: Tensor) -> Tensor:
        kind = self.leaf.kind
        return x0.clamp(kind.lo, kind.hi) if self.drawing.clip and isinstance(kind, Bounded) else x0

    @torch.no_grad()
    def sample(self, noise: Noise, cond: Value | None = None) -> Value:
        """Walk from noise to data; where the event has levels, return the nearest ones."""
        eps = self._normals(noise)
        told = self.prompts.complete(cond, len(eps))
        return nearest_level(self.arrival(eps, noise, told), self.leaf.kind)

    @torch.no_grad()
    def arrival(self, eps: Tensor, noise: Noise, told: Value) -> Tensor:
        """Return where noise (B, *S) leads, not rounded to levels."""
        times, walk = self.drawing.way(self.course.path)
        return self._walked(self.course.seen(times[0]).noise * eps, times, walk, noise, told, self._free)

    @torch.no_grad()
    def sample_towards(
        self, reward: Callable[[Tensor], Tensor], noise: Noise, cond: Value | None = None
    ) -> Value:
        """Walk from noise to data by estimates that are moved up the reward's slope at what x leads to.

        Exact for normal data and linear rewards. Source: Dhariwal & Nichol 2021, arXiv:2105.05233, algorithm
        2; that rewards are those of estimates, Chung et al. 2023, arXiv:2209.14687, section 3.2.
        """

        def moved(estimate: Estimate, x: Tensor, scale: Tensor) -> Tensor:
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                x0 = estimate(x)
                (slope,) = torch.autograd.grad(reward(x0).sum(), x)
            return self._clipped(x0.detach() + scale.to(x0) * slope)

        times, walk = self.drawing.way(self.course.path)
        start = self.course.seen(times[0]).noise * self._normals(noise)
        told = self.prompts.complete(cond, len(start))
        return nearest_level(self._walked(start, times, walk, noise, told, moved), self.leaf.kind)

    @torch.no_grad()
    def restore(
        self, measurement: Measurement, known: Tensor, noise: Noise, cond: Value | None = None
    ) -> Value:
        """Walk from noise to data, with estimates that agree with what is known.

        Source: Wang et al. 2023, arXiv:2212.00490, equation 13 (projection); ``revisited`` (repaint);
        ``posterior_means`` (posterior); ``twisted`` (particles).
        """
        drawing = self.drawing
        if drawing.restoring == "particles":
            x = self._by_particles(measurement, known, noise, cond)
            return nearest_level(self._settled(measurement, x, known), self.leaf.kind)

        def agreeing(estimate: Estimate, x: Tensor, scale: Tensor) -> Tensor:
            if drawing.restoring == "posterior":
                found = posterior_means(estimate, x, scale, measurement, known, drawing.iterations)
                return self._clipped(found[1])
            return measurement.agreeing(self._clipped(estimate(x)), known)

        times, walk = drawing.way(self.course.path, agreeing=True)
        start = self.course.seen(times[0]).noise * self._normals(noise)
        x = self._walked(start, times, walk, noise, self.prompts.complete(cond, len(start)), agreeing)
        return nearest_level(self._settled(measurement, x, known), self.leaf.kind)

    def _by_particles(
        self, measurement: Measurement, known: Tensor, noise: Noise, cond: Value | None
    ) -> Tensor:
        """Return items (B, *S) that about agree with what is known, of some particles each."""
        drawing, told = self.drawing, self.prompts.complete(cond, len(known))
        times = places(drawing.grid, self.course.path, drawing.calls)
        grid = _to_data(self.course.seen(times), -1)

        def look(x: Tensor, place: int) -> tuple[Tensor, Tensor, Tensor]:
            estimate, scale = self._estimate(times[place], told), grid.noise[place] ** 2 / grid.data[place]
            found = [
                posterior_means(estimate, one.contiguous(), scale, measurement, known, drawing.iterations)
                for one in x.unbind(1)
            ]
            free, led, twist = (torch.stack(part, 1) for part in zip(*found, strict=True))
            return self._clipped(free), self._clipped(led), twist

        def draw() -> Tensor:
            return noise.normal(drawing.particles, *self.leaf.extents).to(next(self.parameters()))

        start = self.course.seen(times[0]).noise * draw()
        return twisted(look, start, Grid(grid.data, grid.noise), draw, noise.uniform).to(start.dtype)

    def _settled(self, measurement: Measurement, x: Tensor, known: Tensor) -> Tensor:
        """Return items near x that agree with what is known and are inside their bounds, by turns."""
        x, kind = measurement.agreeing(x, known), self.leaf.kind
        if isinstance(kind, Bounded):
            for _ in range(TURNS):
                x = measurement.agreeing(x.clamp(kind.lo, kind.hi), known)
            x = x.clamp(kind.lo, kind.hi)
        return x

    def infill(self, x: Value, known: Value, noise: Noise, cond: Value | None = None) -> Value:
        """Draw what is not known of items: by a network that is told the rest, or by restoring.

        Raises:
            DataError: such a network cannot be told channels that are known in different places.
        """
        x = items(x, self.leaf.extents)
        known = tensor(known).expand_as(x)
        if not self.drawing.fills:
            return x.where(known, tensor(self.restore(masked(known), x.where(known, 0), noise, cond)))
        if len(self.leaf.extents) == 3 and bool((known != known[:, :1]).any()):
            raise DataError("all channels must be known in the same places, or a way of restoring be named")
        told = with_parts(self.prompts.complete(cond, len(x)), x, known)
        drawn = self.arrival(self._normals(noise), noise, told)
        return x.where(known, nearest_level(drawn, self.leaf.kind))

    @torch.no_grad()
    def redraw(self, x: Tensor, strength: float, noise: Noise, cond: Value | None = None) -> Value:
        """Hide items in noise and walk back, by the last moves. Meng et al. 2022, arXiv:2108.01073."""
        times, walk = self.drawing.way(self.course.path, strength)
        start = self.course.seen(times[0]).of(items(x, self.leaf.extents), self._normals(noise))
        told = self.prompts.complete(cond, len(start))
        return nearest_level(self._walked(start, times, walk, noise, told, self._free), self.leaf.kind)

    def _normals(self, noise: Noise) -> Tensor:
        return noise.normal(*self.leaf.extents).to(next(self.parameters()))

    def _walked(
        self,
        x: Tensor,
        times: Tensor,
        walk: Walk,
        noise: Noise,
        told: Value,
        steer: Steer,
    ) -> Tensor:
        """Walk from x (B, *S) at the first of some times to the data at the last."""
        grid = _to_data(self.course.seen(times), -1)

        def denoise(x: Tensor, place: int) -> Tensor:
            estimate = self._estimate(times[place], told)
            return steer(estimate, x, grid.noise[place] ** 2 / grid.data[place])

        arrived: Tensor = walk(denoise, x, Grid(grid.data, grid.noise), lambda: self._normals(noise))
        return arrived.to(x.dtype)

    def _estimate(self, time: Tensor, told: Value) -> Estimate:
        """Return how data are estimated at a time, with guidance."""
        drawing, seen = self.drawing, self.course.seen(time)
        guided = drawing.guided[0] <= seen.noise / seen.data <= drawing.guided[1]
        scale = drawing.guidance_scale if guided else 1.0

        def estimate(x: Tensor) -> Tensor:
            bf16 = drawing.bf16 or torch.is_autocast_enabled("cpu")
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                output = self.guided(x, time.expand(len(x)), told, scale)
            return self.separated(x, time.expand(len(x)), output)[0]

        return estimate

    def _free(self, estimate: Estimate, x: Tensor, scale: Tensor) -> Tensor:  # noqa: ARG002
        return self._clipped(estimate(x))

    @torch.no_grad()
    def encode(self, x: Value, cond: Value | None = None) -> Tensor:
        """Return the noise (B, *S) to which the probability-flow ODE leads items.

        Source: Song et al. 2021, arXiv:2011.13456, section 4.3.
        """
        x = items(x, self.leaf.extents)
        return self._carried(x / self.course.std, *self._angles(), self.prompts.complete(cond, len(x)))

    @torch.no_grad()
    def decode(self, z: Tensor, cond: Value | None = None) -> Value:
        """Return the items to which noise (B, *S) leads back."""
        last, first = reversed(self._angles())
        y = self._carried(z, last, first, self.prompts.complete(cond, len(z)))
        return nearest_level(y * self.course.std, self.leaf.kind)

    @torch.no_grad()
    def log_prob(self, x: Value, cond: Value | None = None, *, noise: Noise) -> LogProb:
        """Return an estimate of a lower bound of log p, or with ``by_ode`` the density of data, in nats.

        A density counts as a bound of the probability of levels, between which x is spread evenly (Theis et
        al. 2016, arXiv:1511.01844, equation 6).
        """
        x = items(x, self.leaf.extents)
        told = self.prompts.complete(cond, len(x))
        value = self._density(x, told, noise) if self.scoring.by_ode else self._bound(x, told, noise)
        return LogProb(value.to(x.dtype), Bound.LOWER, given(cond))

    def _density(self, x: Tensor, told: Value, noise: Noise) -> Tensor:
        """Return log p(x) by the probability-flow ODE, (B,). Song et al. 2021, arXiv:2011.13456, equation 39.

        In the coordinates of the network it is dy = (cos(a) eps - sin(a) u) da with u = x_0 / std, for any
        path (Lu & Song 2025, arXiv:2410.11081, section 3).
        """
        std, (first, last) = self.course.std, self._angles()
        x, width = spread(x, self.leaf, noise)
        signs = None
        if self.leaf.dim > EXACT:
            signs = 2 * noise.integers(2, self.scoring.probes, *self.leaf.extents).to(x).transpose(0, 1) - 1

        def field(angle: Tensor, state: Tensor) -> Tensor:
            y = state[:-1].t().reshape(x.shape)
            moved, trace = traced(lambda y: self._flow(y, angle, told), y, signs)
            return torch.cat((moved.flatten(1).t(), trace[None]))

        start = torch.cat(((x / std).flatten(1).t(), x.new_zeros(1, len(x))))
        end = dopri5(field, start, first, last, self.scoring.tolerance)
        one = torch.ones_like(end[:1])
        log_p = bounds.gaussian_log_density(end[:-1], torch.zeros_like(one), one).sum(0)
        return log_p + end[-1] + self.leaf.dim * math.log(width / std)

    def _angles(self) -> tuple[float, float]:
        """Return the angles next to the data and next to noise."""
        ends = torch.tensor([0, PATHS[self.course.path].end], dtype=torch.float64)
        first, last = self.course.seen(ends).angle(self.course.std).clamp_min(NEAREST).tolist()
        return first, last

    def _carried(self, y: Tensor, start: float, end: float, told: Value) -> Tensor:
        """Carry y (B, *S) by the probability-flow ODE from one angle to another."""

        def field(angle: Tensor, state: Tensor) -> Tensor:
            return self._flow(state.t().reshape(y.shape), angle, told).flatten(1).t()

        return dopri5(field, y.flatten(1).t(), start, end, self.scoring.tolerance).t().reshape(y.shape)

    def _flow(self, y: Tensor, angle: Tensor, told: Value) -> Tensor:
        """Return the derivative of y (B, *S) by the angle (B,)."""
        course, angle = self.course, angle.double()
        time = PATHS[course.path].time(angle.tan() * course.std)
        x = y * beside(course.seen(time).deviation(course.std), y)
        x0, eps = self.separated(x, time, self.output(x, time, told))
        return Mixture(-angle.sin() / course.std, angle.cos()).to(y).of(x0, eps)

    def _bound(self, x: Tensor, told: Value, noise: Noise) -> Tensor:
        """Return an unbiased Monte-Carlo estimate of the variational lower bound, (B,) nats.

        All T terms would cost T network calls. Instead the places 2..T are cut into ``bound_terms`` strata,
        each of which gives one random place, weighted by the size of its stratum; the prior's and the
        decoder's terms are always included. The expectation over ``noise`` is the bound itself, and so below
        log p; a single figure strays from it by Monte-Carlo error.

        Source: Ho et al. 2020, arXiv:2006.11239, equation 5.
        """
        ranges = bounds.strata(2, self.scoring.timesteps, self.scoring.bound_terms)
        index = bounds.draw_times(ranges, noise.uniform(len(ranges.count)))
        bound = self._decoder_term(x, told, noise) - self._prior_term(x)
        for j, count in enumerate(ranges.count.tolist()):
            bound = bound - count * self._transition_term(x, index[:, j], told, noise)
        return bound

    def _chain(self, index: Tensor) -> tuple[Tensor, Mixture]:
        """Return the times of places 0..T of the bound, and what is seen there; the first are the data.

        Others are even in time. Data with levels need no place where these are told apart for certain.
        """
        path, width = PATHS[self.course.path], level_width(self.leaf)
        first = path.end / self.scoring.timesteps
        if width is not None:
            first = float(path.time(torch.tensor(width * HIDDEN, dtype=torch.float64)))
        time = first + (index.double() - 1) / (self.scoring.timesteps - 1) * (path.end - first)
        seen, data = self.course.seen(time), index == 0
        return time, Mixture(seen.data.masked_fill(data, 1), seen.noise.masked_fill(data, 0))

    def _estimated(self, x0: Tensor, time: Tensor, seen: Mixture, told: Value, noise: Noise) -> Tensor:
        """Estimate x_0 from a draw of x_t given x_0."""
        x = seen.to(x0).of(x0, noise.normal(*self.leaf.extents).to(x0))
        return self._data(x, time, self.output(x, time, told))

    def _prior_term(self, x0: Tensor) -> Tensor:
        """Return KL(q(x_T | x_0) || p(x_T)), (B,)."""
        _, last = self._chain(torch.tensor([self.scoring.timesteps]))
        seen = last.to(x0)
        variance = seen.noise.square()
        return bounds.gaussian_kl(seen.data * x0, variance, 0 * variance, variance).flatten(1).sum(1)

    def _transition_term(self, x0: Tensor, index: Tensor, told: Value, noise: Noise) -> Tensor:
        """Return KL(q(x_s | x_t, x_0) || p(x_s | x_t)) of places s just before places t (B,) >= 2, (B,)."""
        time, seen = self._chain(index)
        _, before = self._chain(index - 1)
        off = x0 - self._estimated(x0, time, seen, told, noise)
        left = 1 - (before.noise * seen.data / (before.data * seen.noise)).square()
        true = left * before.noise.square()
        own = true if self.drawing.variance == "posterior" else left * seen.noise.square()
        shift, true, own = (beside(part, x0) for part in (before.data * left, true, own))
        return bounds.gaussian_kl(shift * off, true, torch.zeros_like(true), own).flatten(1).sum(1)

    def _decoder_term(self, x0: Tensor, told: Value, noise: Noise) -> Tensor:
        """Return log p(x_0 | x_1), (B,): the mass of levels, else a Gaussian density.

        Source: Ho et al. 2020, equation 13.
        """
        time, seen = self._chain(torch.ones(len(x0), dtype=torch.int64))
        mean, kind = self._estimated(x0, time, seen, told, noise), self.leaf.kind
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


def level_width(leaf: Leaf) -> float | None:
    """Return how far two levels are apart; None without levels."""
    kind = leaf.kind
    return (kind.hi - kind.lo) / (kind.levels - 1) if isinstance(kind, Bounded) and kind.levels else None


def spread(x: Tensor, leaf: Leaf, noise: Noise) -> tuple[Tensor, float]:
    """Return data spread evenly about their levels, and the width of a level; without levels, as they are."""
    width = level_width(leaf)
    if width is None:
        return x, 1.0
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
