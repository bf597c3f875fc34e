"""The Bernoulli distribution, in the one form that training spends its time on."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

ROWS = 256
"""Rows worked on at once: what is made of them stays in the processor's cache."""


def bernoulli_log_prob(logits: Tensor, x: Tensor) -> Tensor:
    """Return log p(x) of rows of independent zeros and ones: (K B, D) and (B, D) -> (K B,) nats.

    Row i of the logits belongs to row i mod B of x. Differentiable once, in the logits.

    Args:
        logits: of the ones; those of half precision are worked on in float32.
        x: zeros and ones of any type.
    """
    return _LogProb.apply(logits, x)  # type: ignore[no-any-return, no-untyped-call]


class _LogProb(torch.autograd.Function):
    """sum_d x_d l_d - log(1 + exp l_d), whose gradient is x - sigmoid(l), both block by block."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(logits, x)
        total = logits.new_empty(len(logits), dtype=_working(logits))
        for place, l, ones in _blocks(logits, x):
            total[place] = torch.linalg.vecdot(ones, l) - softplus(l).sum(1)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        logits, x = ctx.saved_tensors
        found = torch.empty_like(logits)
        for place, l, ones in _blocks(logits, x):
            found[place] = (ones - l.sigmoid()) * gradient[place, None]
        return found, None


def _working(logits: Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)


def _blocks(logits: Tensor, x: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield places of rows, their logits, and the zeros and ones that belong to them."""
    for draw in range(0, len(logits), max(len(x), 1)):
        for start in range(0, len(x), ROWS):
            part = x[start : start + ROWS]
            place = slice(draw + start, draw + start + len(part))
            l = logits[place].to(_working(logits))
            yield place, l, part.to(l.dtype)
