"""Annealed importance sampling: log Z of an unnormalised density, bracketed from both sides.

Neal 2001, arXiv:physics/9803008; Grosse, Ghahramani & Adams 2015, arXiv:1511.02543.  C chains.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor

from genloom.core.randomness import Noise
from genloom.math.hmc import LogDensity, hmc_step

State = TypeVar("State")
LogRatio = Callable[[State, float, float], Tensor]
"""(x, from, to) -> log f_to(x) - log f_from(x), (C,) nats, for unnormalised densities on the path."""
Move = Callable[[State, float], State]
"""(x, beta) -> the next state of a Markov chain that is reversible with respect to f_beta."""


@dataclass(frozen=True)
class Bracket:
    """A log partition function from both sides, in nats.

    ``lower`` and ``upper`` are the two stochastic bounds, each moved outwards by three of its standard
    errors; ``estimate`` lies midway between the bounds themselves, and ``stderr`` covers both their
    noise and the gap between them.
    """

    lower: float
    upper: float
    estimate: float
    stderr: float


def ladder(count: int, sharpness: float = 4.0) -> list[float]:
    """Return inverse temperatures 0 = b_0 < ... < b_count = 1, dense near both ends.

    Args:
        count: number of intervals, at least 1.
        sharpness: half-width of the logistic curve that is rescaled to [0, 1].

    Source: Wu et al. 2017, arXiv:1611.04273, section 3 (the sigmoid schedule).
    """
    curve = torch.sigmoid(torch.linspace(-sharpness, sharpness, count + 1, dtype=torch.float64))
    scaled = ((curve - curve[0]) / (curve[-1] - curve[0])).tolist()
    return [0.0, *scaled[1:-1], 1.0]


def anneal(
    x: State, betas: Sequence[float], log_ratio: LogRatio[State], move: Move[State]
) -> tuple[State, Tensor]:
    """Carry exact samples of f_0 along increasing ``betas``.

    Returns:
        The states at the last temperature, and log weights (C,) with E[exp(w)] = Z_1 / Z_0.

    Source: Neal 2001, equations 4 to 10.
    """
    log_weight = torch.zeros(())
    for low, high in pairwise(betas):
        log_weight = log_weight + log_ratio(x, low, high)
        x = move(x, high)
    return x, log_weight


def anneal_back(
    x: State, betas: Sequence[float], log_ratio: LogRatio[State], move: Move[State]
) -> tuple[State, Tensor]:
    """Carry samples of f_1 back along increasing ``betas``, the exact time reversal of ``anneal``.

    Returns:
        The states at the first temperature, and log weights (C,) with E[exp(w)] = Z_0 / Z_1 when the
        starting states are exact samples.

    Source: Grosse et al. 2015, section 3.1.
    """
    log_weight = torch.zeros(())
    for high, low in pairwise(reversed(betas)):
        x = move(x, high)
        log_weight = log_weight + log_ratio(x, high, low)
    return x, log_weight


def log_mean_exp(log_weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return log mean exp of (..., C) log weights and its standard error by the delta method, (...) nats."""
    top = log_weight.max(-1).values.double()
    w = (log_weight.double() - top[..., None]).exp()
    return top + w.mean(-1).log(), w.std(-1) / w.mean(-1) / math.sqrt(log_weight.shape[-1])


def bracket(log_z0: float, forward: Tensor, backward: Tensor) -> Bracket:
    """Bound log Z_1 from the log weights of ``anneal`` and ``anneal_back``.

    The forward average of weights bounds log Z_1 from below in expectation, the backward one from above
    (Jensen). The backward side holds as far as its starting states are samples of f_1.

    Args:
        log_z0: log Z of the base density, nats.
        forward, backward: log weights (C,).

    Source: Grosse et al. 2015, section 3.1.
    """
    gain, gain_error = map(float, log_mean_exp(forward))
    loss, loss_error = map(float, log_mean_exp(backward))
    noise = 0.5 * math.hypot(gain_error, loss_error)
    return Bracket(
        lower=log_z0 + gain - 3 * gain_error,
        upper=log_z0 - loss + 3 * loss_error,
        estimate=log_z0 + 0.5 * (gain - loss),
        stderr=math.hypot(noise, 0.5 * (gain + loss)),
    )


STARTING_STEP, TARGET, GAIN = 0.1, 0.65, 0.2
"""Of the pilot's step sizes: where they start, the acceptance they seek, and how fast."""


def anneal_codes(
    log_prior: LogDensity,
    log_likelihood: LogDensity,
    starts: tuple[Tensor, Tensor],
    betas: Sequence[float],
    noise: Noise,
    *,
    chains: int,
    leapfrogs: int,
) -> Tensor:
    """Carry codes from a prior to the posteriors of some items by Hamiltonian Monte Carlo.

    A pilot finds step sizes for each item and temperature; the weights come from fresh chains that keep to
    them, so that E[exp(w)] = p(x) holds exactly.

    Args:
        starts: exact samples of the prior for the pilot and for the chains proper, (N chains, Z) each, those
            of one item side by side.
        noise: one row for each chain.
        chains: of one item.
        leapfrogs: steps of each trajectory.

    Returns:
        Log weights (N, chains), in nats.

    Source: Wu et al. 2017, arXiv:1611.04273, section 3. Deviation: the pilot, in place of step sizes that
        adapt while the weights are made.
    """
    step = starts[0].new_full((len(starts[0]) // chains,), STARTING_STEP)
    steps: dict[float, Tensor] = {}

    def log_ratio(z: Tensor, a: float, b: float) -> Tensor:
        with torch.no_grad():
            return (b - a) * log_likelihood(z)

    def moved(z: Tensor, beta: float, step: Tensor) -> tuple[Tensor, Tensor]:
        def density(z: Tensor) -> Tensor:
            return log_prior(z) + beta * log_likelihood(z)

        momentum, uniform = noise.normal(z.shape[1]).to(z), noise.uniform().to(z)
        return hmc_step(z, density, step.repeat_interleave(chains), leapfrogs, momentum, uniform)

    def pilot(z: Tensor, beta: float) -> Tensor:
        nonlocal step
        z, accepted = moved(z, beta, step)
        steps[beta] = step
        step = step * torch.exp(GAIN * (accepted.view(-1, chains).mean(1) - TARGET))
        return z

    anneal(starts[0], betas, log_ratio, pilot)
    _, log_weight = anneal(starts[1], betas, log_ratio, lambda z, beta: moved(z, beta, steps[beta])[0])
    return log_weight.view(-1, chains)
