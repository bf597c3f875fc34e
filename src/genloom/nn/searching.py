"""The likeliest continuation, by beam search.

Shapes: B prompts, W hypotheses of each, N symbols, V what can come next.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from genloom.core.capabilities import NextSymbol
from genloom.core.events import Padded, Value
from genloom.nn.decoding import opened, room
from genloom.nn.readers import wide


@dataclass(frozen=True)
class Found:
    """Continuations of each prompt, the best first.

    Args:
        values: (B, W, N) symbols, the end not counted.
        lengths: (B, W).
        log_probs: (B, W) nats, the end included; -inf where fewer than W were found.
        scores: (B, W) log_probs over the penalty of the length.
    """

    values: Tensor
    lengths: Tensor
    log_probs: Tensor
    scores: Tensor


def penalty(length: Tensor, alpha: float) -> Tensor:
    """Return what log-probabilities of this many symbols are divided by.

    Source: Wu et al. 2016, arXiv:1609.08144, equation 14.
    """
    return ((5 + length.double()) / 6) ** alpha


@torch.no_grad()
def beam_search(
    model: NextSymbol,
    prompts: Padded,
    width: int,
    steps: int,
    alpha: float = 0.0,
    cond: Value | None = None,
) -> Found:
    """Return the W best continuations that a beam search finds, of at most ``steps`` symbols with the end.

    What has not ended by then counts as it is. The search of a prompt is over when W hypotheses have ended
    and no other can still beat them.

    Args:
        alpha: of the length penalty; 0 for none.
    """
    alphabet, rows, left = model.alphabet, len(prompts.lengths), room(model, prompts, steps)
    reader, logits = opened(model, prompts, steps, cond)
    reader.select(torch.arange(rows).repeat_interleave(width))
    logits = logits.repeat_interleave(width, 0)
    first = torch.arange(rows)[:, None] * width
    scores = torch.full((rows, width), -torch.inf, dtype=torch.float64)
    scores[:, 0] = 0
    text = torch.zeros(rows, width, 0, dtype=torch.int64)
    found = nothing(rows, width, steps)
    for step in range(1, int(left.max()) + 1):
        every = scores[..., None] + logits.double().log_softmax(-1).view(rows, width, -1)
        if alphabet.ends:
            found = merged(found, text, every[..., alphabet.symbols], step, alpha)
            every = every[..., : alphabet.symbols]
        scores, chosen = every.flatten(1).topk(min(width, every[0].numel()), 1)
        scores = F.pad(scores, (0, width - scores.shape[1]), value=-torch.inf)
        chosen = F.pad(chosen, (0, width - chosen.shape[1]))
        parents, symbols = chosen // every.shape[-1], chosen % every.shape[-1]
        text = torch.cat((text.gather(1, parents[..., None].expand_as(text)), symbols[..., None]), -1)
        full = (left == step)[:, None]
        found = merged(found, text, scores.masked_fill(~full, -torch.inf), step, alpha)
        scores = scores.masked_fill(full, -torch.inf)
        best = scores[:, 0] / penalty(left if alpha > 0 else torch.full_like(left, step), alpha)
        if bool((best <= found.scores[:, -1]).all()):
            break
        reader.select((first + parents).flatten())
        logits = wide(reader.read(symbols.view(-1, 1))[:, 0])
    return found


def nothing(rows: int, width: int, steps: int) -> Found:
    """Return that no continuation was found yet."""
    missing = torch.full((rows, width), -torch.inf, dtype=torch.float64)
    values = torch.zeros(rows, width, steps, dtype=torch.int64)
    return Found(values, torch.zeros(rows, width, dtype=torch.int64), missing, missing)


def merged(found: Found, text: Tensor, log_probs: Tensor, symbols: int, alpha: float) -> Found:
    """Return the best of those found and of others.

    Args:
        text: (B, W, N') the others, without their end.
        log_probs: (B, W).
        symbols: of each of the others, its end included.
    """
    width, steps = found.values.shape[1:]
    lengths = torch.full_like(found.lengths, text.shape[-1])
    others = log_probs / penalty(torch.tensor(symbols), alpha)
    scores, best = torch.cat((found.scores, others), 1).topk(width, 1)
    values = torch.cat((found.values, F.pad(text, (0, steps - text.shape[-1]))), 1)
    return Found(
        values.gather(1, best[..., None].expand(-1, -1, steps)),
        torch.cat((found.lengths, lengths), 1).gather(1, best),
        torch.cat((found.log_probs, log_probs), 1).gather(1, best),
        scores,
    )
