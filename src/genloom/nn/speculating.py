"""Drawing faster with a small model's help, from exactly the same distribution.

Leviathan et al. 2022, arXiv:2211.17192; Chen et al. 2023, arXiv:2302.01318.

Shapes: B sequences, A symbols guessed in a round, V what can come next.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from genloom.core.capabilities import NextSymbol
from genloom.core.errors import DataError
from genloom.core.events import Padded, Value
from genloom.core.randomness import Noise, invert_shares
from genloom.core.sequences import Reader
from genloom.nn.decoding import Choice, Drawn, over, room, shaped
from genloom.nn.readers import open_reader, wide

AHEAD = 7
"""Symbols that a helper guesses in a round."""

ROUNDS = 8
"""Of which uniforms are drawn at once."""


@torch.no_grad()
def speculate(
    model: NextSymbol,
    helper: NextSymbol,
    prompts: Padded,
    noise: Noise,
    steps: int,
    choice: Choice,
    cond: Value | None = None,
    ahead: int = AHEAD,
) -> Iterator[Drawn]:
    """Go on with prompts as ``stream`` does, where the helper guesses and the model confirms or corrects.

    A round's symbols come out one after another; a sequence that got fewer than others in a round is not
    active in the rest of it. What is drawn follows the model's distribution, but is not what ``stream`` draws
    by the same noise.

    Args:
        ahead: A, symbols that the helper guesses in a round.

    Raises:
        DataError: the two do not have the same symbols, symbols that were seen are to be penalised, or the
            text would be longer than a context.
    """
    if model.alphabet != helper.alphabet:
        raise DataError("the model and its helper must have the same symbols, classes and ends")
    if choice.repetition_penalty != 1:
        raise DataError("a helper cannot guess under a repetition penalty: leave one of them out")
    alphabet, rows = model.alphabet, len(prompts.lengths)
    left = room(model, prompts, steps)
    longest = max(int((prompts.lengths + left).max()), prompts.values.shape[1])
    for one in (model, helper):
        if one.context is not None and longest > one.context:
            raise DataError(
                f"with a helper, prompt and continuation must fit into {one.context} symbols, not {longest}"
            )
    readers = [open_reader(m, rows, longest, cond, choice.guidance_scale, ahead + 1) for m in (model, helper)]
    start = torch.cat((alphabet.starts(cond, rows)[:, None], prompts.values), 1)
    last = start.gather(1, prompts.lengths[:, None])
    if start.shape[1] > 1:
        for reader in readers:
            reader.read(start[:, :-1], prompts.lengths)
    lengths = prompts.lengths
    none = torch.zeros(rows, alphabet.outputs, dtype=torch.bool)
    uniforms = _uniforms(noise, 2 * ahead + 1)
    while bool((left > 0).any()):
        guessing, confirming, correcting = next(uniforms).split((ahead, ahead, 1), 1)
        guesses, guessed = _guess(readers[1], last, guessing, choice, none)
        logits = wide(readers[0].read(torch.cat((last, guesses), 1)))
        shares = shaped(logits, choice, none[:, None]).softmax(-1)
        counts = _confirmed(guesses, guessed, shares, confirming)
        fixed = _correct(counts, guessed, shares, correcting[:, 0])
        symbols = torch.cat((guesses, guesses[:, -1:]), 1).scatter(1, counts[:, None], fixed[:, None])
        for reader in readers:
            reader.rewind(ahead + 1 - (counts + 1).minimum(left))
        last = fixed[:, None]
        log_probs = logits.log_softmax(-1).gather(2, symbols[..., None])[..., 0]
        for place in range(int(counts.max()) + 1):
            active = (place <= counts) & (left > 0)
            lengths = lengths + active
            ended = active & over(alphabet, symbols[:, place], lengths >= model.longest)
            yield Drawn(symbols[:, place], log_probs[:, place], active, ended)
            left = (left - active.long()).masked_fill(ended, 0)


def _uniforms(noise: Noise, count: int) -> Iterator[Tensor]:
    """Yield so many uniforms (B, count) for each round, drawn for several rounds at once."""
    while True:
        yield from noise.uniform(ROUNDS, count).double().unbind(1)


def _guess(
    helper: Reader, last: Tensor, uniforms: Tensor, choice: Choice, seen: Tensor
) -> tuple[Tensor, Tensor]:
    """Return what the helper draws next (B, A), and its distributions (B, A, V); all of it is read."""
    symbols, shares = [], []
    for uniform in uniforms.unbind(1):
        shares.append(shaped(wide(helper.read(last))[:, 0], choice, seen).softmax(-1))
        last = invert_shares(shares[-1], uniform)[:, None]
        symbols.append(last)
    helper.read(last)
    return torch.cat(symbols, 1), torch.stack(shares, 1)


def _confirmed(guesses: Tensor, guessed: Tensor, shares: Tensor, uniforms: Tensor) -> Tensor:
    """Return how many first guesses stand (B,), each with chance p / q (Leviathan et al., algorithm 1)."""
    q = guessed.gather(2, guesses[..., None])[..., 0]
    p = shares[:, :-1].gather(2, guesses[..., None])[..., 0]
    stands = uniforms * q < p
    return stands.long().cumprod(1).sum(1)


def _correct(counts: Tensor, guessed: Tensor, shares: Tensor, uniforms: Tensor) -> Tensor:
    """Draw the symbol after the last guess that stands (B,), from what the guesses left out of p."""
    rows = torch.arange(len(counts))
    q = F.pad(guessed, (0, 0, 0, 1))[rows, counts]
    left = (shares[rows, counts] - q).clamp_min(0)
    return invert_shares(left / left.sum(-1, keepdim=True), uniforms)
