"""Log-likelihoods that say what they are."""

from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor

from genloom.core.events import Padded


class Bound(StrEnum):
    """What a log-likelihood figure is, relative to the true value."""

    EXACT = "exact"
    LOWER = "lower_bound"
    UPPER = "upper_bound"
    ESTIMATE = "estimate"
    UNNORMALISED = "unnormalised"


@dataclass(frozen=True)
class LogProb:
    """Log-likelihood of a batch.

    ``value`` has shape (B,), in nats. ``given`` names what was conditioned on ("" for nothing).
    ``stderr`` (B,) accompanies an estimate, and so may a ``bracket`` (below, above): nats by which the truth
    may lie below and above every value.
    """

    value: Tensor
    kind: Bound
    given: str = ""
    stderr: Tensor | None = None
    bracket: tuple[float, float] | None = None


def given(cond: object | None) -> str:
    """Return what ``LogProb.given`` says of a condition: "class", "columns", "text", or "" for none."""
    if cond is None:
        return ""
    if isinstance(cond, Padded):
        return "text"
    return "columns" if isinstance(cond, Tensor) and cond.is_floating_point() else "class"


def weaken(kind: Bound, by: Bound) -> Bound:
    """Return the kind of a sum of a ``kind`` figure and one that is itself ``by`` relative to the truth.

    Exact leaves the other unchanged, equal kinds keep, anything unnormalised stays so, and a mixture of
    directions is only an estimate.
    """
    if Bound.UNNORMALISED in (kind, by):
        return Bound.UNNORMALISED
    if by is Bound.EXACT or kind is by:
        return kind
    return by if kind is Bound.EXACT else Bound.ESTIMATE
