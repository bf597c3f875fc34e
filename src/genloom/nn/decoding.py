"""One engine that draws sequences from everything that predicts the next symbol.

Shapes: B sequences, L symbols of the longest prompt, N symbols drawn, T symbols read at once, V what can
come next.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from genloom.core.capabilities import NextSymbol
from genloom.core.events import Padded, Value
from genloom.core.randomness import Noise, invert_cdf
from genloom.core.sequences import Alphabet, Reader
from genloom.nn.readers import Tape, open_reader, wide

AHEAD = 64
"""Uniforms drawn at a time for each sequence."""


class Choice(BaseModel):
    """How a symbol is chosen from its logits: penalty, temperature, then cuts in the order of the fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    repetition_penalty: float = Field(1, ge=1, le=100, description="logits of symbols seen shrink by this")
    temperature: float = Field(1, ge=0, description="divides logits; 0 takes the likeliest symbol each time")
    top_k: int | None = Field(None, ge=1, description="only so many of the likeliest symbols")
    top_p: float = Field(1, gt=0, le=1, description="only the likeliest that have this mass together")
    min_p: float = Field(0, ge=0, le=1, description="only those as likely as this share of the likeliest")
    guidance_scale: float = Field(1, ge=0, le=100, description="above 1: more typical of the class")


class Greedy(Choice):
    """The likeliest symbol each time, unless a temperature is given."""

    temperature: float = Field(0, ge=0, description="divides logits; 0 takes the likeliest symbol each time")


DRAWN = Choice()
"""By the model's own distribution."""


class Constraint(ABC):
    """What sequences may be, told symbol after symbol."""

    @abstractmethod
    def allowed(self, active: Tensor) -> Tensor:
        """Return what may come next, (B, V) booleans; a sequence with nothing is cut off there.

        Args:
            active: (B,) which sequences go on; the others may get anything.

        Raises:
            DataError: no sequence at all can go on.
        """

    @abstractmethod
    def take(self, symbols: Tensor, active: Tensor) -> Tensor:
        """Go on by the symbols (B,) of sequences that are active (B,); return which are over, (B,)."""


class Together(Constraint):
    """Several constraints at once."""

    def __init__(self, parts: Sequence[Constraint]) -> None:
        self.parts = parts

    def allowed(self, active: Tensor) -> Tensor:
        return torch.stack([part.allowed(active) for part in self.parts]).all(0)

    def take(self, symbols: Tensor, active: Tensor) -> Tensor:
        return torch.stack([part.take(symbols, active) for part in self.parts]).any(0)


@dataclass(frozen=True)
class Drawn:
    """One symbol more of some sequences.

    Args:
        symbols: (B,) int64.
        log_probs: (B,) nats, by the model as it is read (guided, muted), before any choice or constraint.
        active: (B,) which sequences got a symbol.
        ended: (B,) which of these are whole with it: it is the end, the item is as long as items get, or the
            constraint says so.
    """

    symbols: Tensor
    log_probs: Tensor
    active: Tensor
    ended: Tensor


def penalise(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make symbols that were seen (B, V) less likely. Keskar et al. 2019, arXiv:1909.05858, section 4.1."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Rule out all but the k likeliest; ties stay. Fan et al. 2018, arXiv:1805.04833, section 5.4."""
    least = logits.topk(min(k, logits.shape[-1]), -1).values[..., -1:]
    return logits.masked_fill(logits < least, -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Rule out all but the fewest that have mass p. Holtzman et al. 2019, arXiv:1904.09751, section 3.1."""
    ordered, order = logits.sort(-1, descending=True)
    mass = ordered.softmax(-1)
    ordered = ordered.masked_fill(mass.cumsum(-1) - mass >= p, -torch.inf)
    return torch.empty_like(logits).scatter(-1, order, ordered)


def keep_min_p(logits: Tensor, share: float) -> Tensor:
    """Rule out what is less likely than a share of the likeliest. Nguyen et al. 2024, arXiv:2407.01082."""
    if share == 0:
        return logits
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + torch.tensor(share).log(), -torch.inf)


def shaped(logits: Tensor, choice: Choice, seen: Tensor) -> Tensor:
    """Return the logits (B, V) that symbols are drawn from, in float64; at temperature 0 the likeliest alone.

    Args:
        seen: (B, V) which symbols came before.
    """
    logits = logits.double()
    if choice.repetition_penalty != 1:
        logits = penalise(logits, seen, choice.repetition_penalty)
    if choice.temperature == 0:
        best = F.one_hot(logits.argmax(-1), logits.shape[-1])
        return torch.where(best == 1, 0.0, -torch.inf).to(logits)
    logits = (logits - logits.amax(-1, keepdim=True)) / choice.temperature
    if choice.top_k is not None:
        logits = keep_top_k(logits, choice.top_k)
    if choice.top_p < 1:
        logits = keep_top_p(logits, choice.top_p)
    return keep_min_p(logits, choice.min_p)


def room(model: NextSymbol, prompts: Padded, steps: int) -> Tensor:
    """Return how many symbols each sequence may get (B,): items that can end have their greatest length."""
    wanted = torch.full_like(prompts.lengths, steps)
    return wanted.minimum((model.longest - prompts.lengths).clamp_min(0)) if model.alphabet.ends else wanted


def opened(
    model: NextSymbol, prompts: Padded, steps: int, cond: Value | None, scale: float = 1.0
) -> tuple[Reader, Tensor]:
    """Return a reader that has read the prompts, and the logits of what follows them, (B, V)."""
    rows = len(prompts.lengths)
    longest = int((prompts.lengths + room(model, prompts, steps)).max())
    reader = open_reader(model, rows, max(longest, prompts.values.shape[1] + 1), cond, scale)
    start = torch.cat((model.alphabet.starts(cond, rows)[:, None], prompts.values), 1)
    logits = wide(reader.read(start, prompts.lengths + 1))
    return reader, logits[torch.arange(rows), prompts.lengths]


@torch.no_grad()
def stream(
    model: NextSymbol,
    prompts: Padded,
    noise: Noise,
    steps: int,
    choice: Choice,
    cond: Value | None = None,
    constraint: Constraint | None = None,
) -> Iterator[Drawn]:
    """Go on with prompts, a symbol of each at a time, until all have ended or ``steps`` symbols are drawn.

    Sequence i depends on its prompt, its condition and its row of the noise alone, to rounding.

    Args:
        prompts: (B, L) symbols and their lengths, which may be 0.
        cond: what the sequences are given: classes (B,), or what the model turns into others.
        constraint: what may come; it is told what was drawn, not the prompts.

    Raises:
        DataError: the constraint leaves nothing to any sequence.
    """
    alphabet, left = model.alphabet, room(model, prompts, steps)
    reader, logits = opened(model, prompts, steps, cond, choice.guidance_scale)
    seen, active = seen_in(prompts, alphabet.outputs), left > 0
    for step in range(int(left.max())):
        if step % AHEAD == 0:
            uniforms = noise.uniform(AHEAD).double()
        may = torch.ones_like(seen) if constraint is None else constraint.allowed(active)
        active = active & may.any(1)
        open_to = logits.masked_fill(~may & active[:, None], -torch.inf)
        symbols = invert_cdf(shaped(open_to, choice, seen), uniforms[:, step % AHEAD])
        full = prompts.lengths + step + 1 >= model.longest
        ended = active & over(alphabet, symbols, full)
        if constraint is not None:
            ended = ended | (active & constraint.take(symbols, active))
        yield Drawn(symbols, logits.log_softmax(-1).gather(1, symbols[:, None])[:, 0], active, ended)
        active = active & ~ended & (left > step + 1)
        if not bool(active.any()):
            return
        seen[torch.arange(len(seen)), symbols] = True
        logits = wide(reader.read(symbols.masked_fill(~active, 0)[:, None])[:, 0])


def over(alphabet: Alphabet, symbols: Tensor, full: Tensor) -> Tensor:
    """Return which sequences end with these symbols (B,), ``full`` ones among them where items can end."""
    return (symbols == alphabet.symbols) | full if alphabet.ends else torch.zeros_like(full)


def seen_in(prompts: Padded, outputs: int) -> Tensor:
    """Return which symbols prompts hold, (B, V) booleans."""
    present = torch.arange(prompts.values.shape[1]) < prompts.lengths[:, None]
    counts = torch.zeros(len(prompts.lengths), outputs, dtype=torch.int64)
    return counts.scatter_add(1, prompts.values * present, present.long()) > 0


@dataclass(frozen=True)
class Text:
    """What was drawn after prompts.

    Args:
        values: (B, N) symbols and their numbers, the end not counted.
        ended: (B,) whether the sequence ended by itself.
        log_probs: (B,) nats of what was drawn given the prompt, the end included.
    """

    values: Padded
    ended: Tensor
    log_probs: Tensor


def collect(alphabet: Alphabet, drawn: Iterator[Drawn], rows: int) -> Text:
    """Gather what sequences get until it is over."""
    tape, nats = Tape(rows), torch.zeros(rows, dtype=torch.float64)
    ended = torch.zeros(rows, dtype=torch.bool)
    for one in drawn:
        nats = nats + one.log_probs.double() * one.active
        tape.write(one.symbols[:, None], (one.active & (one.symbols < alphabet.symbols)).long())
        ended = ended | one.ended
    return Text(Padded(tape.values[:, : int(tape.lengths.max())], tape.lengths), ended, nats)


def no_prompts(rows: int) -> Padded:
    """Return empty prompts."""
    return Padded(torch.zeros(rows, 0, dtype=torch.int64), torch.zeros(rows, dtype=torch.int64))


@torch.no_grad()
def draw_items(model: NextSymbol, noise: Noise, cond: Value | None = None, choice: Choice = DRAWN) -> Value:
    """Draw one whole item for each row of the noise, by the model's distribution unless told otherwise."""
    rows = len(noise.uniform())
    drawn = stream(model, no_prompts(rows), noise, model.longest, choice, cond)
    values = collect(model.alphabet, drawn, rows).values
    missing = model.longest - values.values.shape[1]
    whole = F.pad(values.values, (0, missing))
    return Padded(whole, values.lengths) if model.alphabet.ends else whole
