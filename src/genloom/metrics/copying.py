"""The copying check: are samples closer to the training rows than genuinely new rows are?"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from genloom.core.errors import DataError
from genloom.core.randomness import generator
from genloom.metrics._rows import checked, chunks, squared_distances

_NEAR, _FAR = 5, 20
_PRIOR = 3.0
"""Spacings' worth of weight on the average local dimension, which steadies ties and small counts."""


@dataclass(frozen=True)
class CopyReport:
    """What the copying check found.

    Attributes:
        fraction: estimated share of samples that are copies, in [0, 1]: the excess, over the held-out
            rows, of samples at or below ``threshold``. Blurred copies may lie above it and go uncounted.
            Read it only where ``flagged``.
        p_value: of the null that ``copying`` states.
        threshold: the closeness, in [0, 1], below which 1% of the held-out rows lie (0: as close as equal).
        flagged: whether ``p_value`` is below the level asked for.
        nearest: (n,) int64, the training row nearest to each sample.
        closeness: (n,) in [0, 1], 0 for a sample equal to a training row; sort by it to look at the worst.
        row_p: (n,) conformal p-values, each uniform on [0, 1] under the null.
    """

    fraction: float
    p_value: float
    threshold: float
    flagged: bool
    nearest: Tensor
    closeness: Tensor
    row_p: Tensor


def copying(
    samples: Tensor, train: Tensor, held_out: Tensor, *, seed: int = 0, level: float = 1e-3
) -> CopyReport:
    """Test whether samples sit closer to single training rows than held-out rows do.

    **Closeness.** With d_1 <= d_2 <= ... the distances from a row to the training rows, its closeness is
    (d_1 / d_5)^D, where D is the local dimension read off d_5 ... d_20. Where the number of training rows
    within a distance grows like a power of it, closeness has one distribution for every local density and
    dimension: d_1 / d_5 and the spacings beyond d_5 are then independent (Rényi). So a generator that seeks
    the mode, whose samples are nearer to the training rows because these lie dense there, is no copier here,
    and scales of features do not matter. A training row repeated fewer than 5 times still counts as one
    record; a value seen 5 times and more is common, and repeating it is no copy.

    **Null.** Given the training rows, samples and held-out rows are exchangeable in closeness, and in
    whether they equal a training row. It holds exactly when samples are new draws from the data's
    distribution, and nearly for any generator whose samples do not depend on single training rows.

    **Test.** Two parts, joined by Bonferroni; all counts are hypergeometric under the null. (1) Equal rows:
    samples against held-out rows that equal a training row. Where held-out rows do coincide with training
    rows, chance repeats are natural, and the part must also show that the samples prefer values seen once
    in training to values seen once among the held-out rows, which no generator without knowledge of the
    training rows can, whatever it favours. (2) Near copies: samples closer than the 1st, 2nd, 4th ...
    closest held-out row, up to 1% of them; samples that share their nearest training row count once, so
    that a collapsed generator is not mistaken for a copier.

    Not seen: copies blurred beyond the distance between neighbours, and copies in other features than these.

    Args:
        samples: (n, d) generated rows.
        train: (N, d) all the rows the model was fitted on, N > 20.
        held_out: (M, d) new rows of the same origin; with M below 100 only many copies can be found.
        seed: keys the breaking of ties in ``row_p``.
        level: upper bound on the chance of flagging under the null.

    Source: after Meehan, Chaudhuri & Dasgupta 2020 (calibrate on held-out rows); Levina & Bickel 2005,
    equation 8 (local dimension), averaged here as inverses with a weak common prior; Vovk, Gammerman &
    Shafer 2005, section 2.2 (conformal p-values).
    """
    samples, train, held_out = (
        checked(name, rows) for name, rows in (("samples", samples), ("train", train), ("held_out", held_out))
    )
    if not samples.shape[1] == train.shape[1] == held_out.shape[1]:
        raise DataError("samples, train and held_out differ in columns; use the same features for all three")
    if len(train) <= _FAR:
        raise DataError(f"the copying check needs more than {_FAR} training rows, not {len(train)}")
    neighbours = [_neighbours(rows, train) for rows in (samples, held_out)]
    ours, theirs = _closeness(neighbours[0][0], neighbours[1][0])
    nearest = neighbours[0][1][:, 0]
    tails = _near_copies(ours, theirs, nearest)
    p_values = [_equal_rows(samples, train, held_out, ours, theirs), *tails]
    p_value = min(1.0, len(p_values) * min(p_values))
    threshold = theirs.sort().values[max(0, math.ceil(0.01 * len(theirs)) - 1)]
    below, chance = (ours <= threshold).double().mean().item(), (theirs <= threshold).double().mean().item()
    return CopyReport(
        fraction=max(0.0, (below - chance) / (1 - chance)) if chance < 1 else 0.0,
        p_value=p_value,
        threshold=threshold.exp().item(),
        flagged=p_value < level,
        nearest=nearest,
        closeness=ours.exp(),
        row_p=_conformal(ours, theirs, seed),
    )


def _neighbours(rows: Tensor, train: Tensor) -> tuple[Tensor, Tensor]:
    """Return (n, 20) ascending distances to the nearest training rows, 0 if equal, and their indices."""
    centre = train.mean(0)
    centred = train - centre
    found = []
    for part in chunks(len(rows), max(len(train), _FAR * train.shape[1])):
        index = squared_distances(rows[part] - centre, centred).topk(_FAR, largest=False).indices
        apart, order = (rows[part, None] - train[index]).norm(dim=2).sort(dim=1, stable=True)
        found.append((apart, index.gather(1, order)))
    return torch.cat([apart for apart, _ in found]), torch.cat([index for _, index in found])


def _closeness(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logarithm of closeness, (n,) and (M,) in [-inf, 0], from distances (n, 20) and (M, 20)."""
    apart = torch.cat([ours, theirs])
    edge = apart[:, _NEAR - 1]
    spread = edge > 0
    outer = torch.where(spread[:, None], apart[:, _NEAR - 1 :], 1.0).log()
    spacing = (outer.diff(dim=1) * torch.arange(_NEAR, _FAR)).sum(1)
    count = _FAR - _NEAR
    prior = spacing[spread].mean().nan_to_num().clamp_min(1e-12) / count
    dimension = (count + _PRIOR) / (spacing + _PRIOR * prior)
    log_ratio = torch.where(spread, apart[:, 0] / edge, 1.0).log()
    closeness = log_ratio * dimension
    return closeness[: len(ours)], closeness[len(ours) :]


def _near_copies(ours: Tensor, theirs: Tensor, nearest: Tensor) -> list[float]:
    """Return a p-value for each of the thresholds set by the closest held-out rows; equal rows left out.

    At least c of n samples lie below the j-th of M held-out rows if and only if the c + j - 1 closest of all
    hold at most j - 1 held-out rows. Counting distinct training rows only lowers c.
    """
    near, nearest, others = ours[ours > -math.inf], nearest[ours > -math.inf], theirs[theirs > -math.inf]
    ranks = [2**i for i in range(20) if 2**i <= max(1, len(theirs) // 100)]
    p_values = []
    for rank in ranks:
        below = near < others.sort().values[rank - 1] if rank <= len(others) else near < -math.inf
        count = len(nearest[below].unique())
        p_values.append(_tail(count, count + rank - 1, len(near), len(others)) if count else 1.0)
    return p_values


def _equal_rows(samples: Tensor, train: Tensor, held_out: Tensor, ours: Tensor, theirs: Tensor) -> float:
    """Return the p-value of part 1: samples that equal a training row."""
    equal, natural = int((ours == -math.inf).sum()), int((theirs == -math.inf).sum())
    p_value = _tail(equal, equal + natural, len(ours), len(theirs))
    return p_value if natural == 0 else max(p_value, _preference(samples, train, held_out))


def _preference(samples: Tensor, train: Tensor, held_out: Tensor) -> float:
    """Return the p-value of the values seen once, in training or held out, that the samples repeat."""
    _, value = torch.cat([train, held_out, samples]).unique(dim=0, return_inverse=True)
    known = len(train) + len(held_out)
    once = value[:known].bincount(minlength=int(value.max()) + 1)[value[:known]] == 1
    repeated = torch.isin(value[:known], value[known:]) & once
    seen, fresh = once[: len(train)].sum(), once[len(train) :].sum()
    return _tail(int(repeated[: len(train)].sum()), int(repeated.sum()), int(seen), int(fresh))


def _tail(least: int, drawn: int, marked: int, others: int) -> float:
    """Return P(X >= least) of the marked items among ``drawn`` of ``marked + others`` without replacement."""
    count = torch.arange(max(least, drawn - others, 0), min(drawn, marked) + 1, dtype=torch.float64)
    if len(count) == 0:
        return 0.0
    log_p = (
        _log_choose(marked, count)
        + _log_choose(others, drawn - count)
        - _log_choose(marked + others, torch.tensor(float(drawn), dtype=torch.float64))
    )
    return min(1.0, log_p.exp().sum().item())


def _log_choose(n: int, k: Tensor) -> Tensor:
    return math.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)


def _conformal(ours: Tensor, theirs: Tensor, seed: int) -> Tensor:
    """Return (n,) p-values: the rank of each sample among the held-out rows, ties broken at random."""
    ordered = theirs.sort().values
    below = torch.searchsorted(ordered, ours)
    ties = torch.searchsorted(ordered, ours, right=True) - below
    u = torch.rand(len(ours), generator=generator("copying", seed), dtype=torch.float64)
    return (below + u * (ties + 1)) / (len(theirs) + 1)
