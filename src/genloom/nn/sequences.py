"""What models of sequences of symbols share: reading from left to right, the model, and its objective.

Shapes: B batch, L positions, T symbols read at once, K kinds of symbols, V what can come next: the symbols,
and the end where items vary in length.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genloom.core.capabilities import Likelihood, NextSymbol, Sampler
from genloom.core.card import class_count, symbol_sequence
from genloom.core.errors import DataError
from genloom.core.events import Batch, Event, Leaf, Padded, Value, categories, describe, items, tensor
from genloom.core.likelihood import Bound, LogProb, given
from genloom.core.objective import Average, Clock, Group, Loss, Objective, Optimiser, Phase
from genloom.core.randomness import Noise
from genloom.core.sequences import Alphabet, Reader
from genloom.nn.decoding import draw_items
from genloom.nn.labels import hide_labels
from genloom.nn.readers import wide

SHORT = 64
"""Up to this many symbols an item a small network suffices."""

STRIDE = 16
"""Steps in which batches of items of varying length are cut to the longest of them."""


class SequenceNetwork(nn.Module, ABC):
    """Predicts each symbol of a sequence from those before it.

    ``context`` is the most symbols that can be read, None for any number.
    """

    context: int | None = None

    @abstractmethod
    def forward(self, symbols: Tensor, noise: Noise | None = None) -> Tensor:
        """Return the logits of what follows each symbol, (B, L, V) for (B, L) int64.

        Args:
            noise: of dropout, while training.
        """

    @abstractmethod
    def reader(self, rows: int, longest: int) -> Reader:
        """Return a reader of so many empty sequences, which will get at most ``longest`` symbols each."""


class SequenceModel(nn.Module, Sampler, Likelihood, NextSymbol):
    """A network that reads from left to right, as a distribution over items.

    The end of an item of greatest length is certain, so that all items together have probability 1.
    """

    def __init__(self, alphabet: Alphabet, longest: int, network: SequenceNetwork) -> None:
        super().__init__()
        self.alphabet, self.longest, self.network = alphabet, longest, network
        self.context = network.context

    def log_density(self, x: Value, cond: Value | None = None, noise: Noise | None = None) -> Tensor:
        """Return log p(x | cond), (B,) nats; ``noise`` is of dropout, while training."""
        targets, present = self.targets(x)
        starts = self.alphabet.starts(cond, len(targets))
        symbols = torch.cat((starts[:, None], targets[:, :-1]), 1)
        logits = self.network(symbols, noise)
        log_p = -F.cross_entropy(wide(logits).flatten(0, 1), targets.flatten(), reduction="none")
        return (log_p.view_as(targets) * present).sum(1)

    def log_prob(self, x: Value, cond: Value | None = None, *, noise: Noise) -> LogProb:  # noqa: ARG002
        return LogProb(self.log_density(x, cond), Bound.EXACT, given(cond))

    @torch.no_grad()
    def sample(self, noise: Noise, cond: Value | None = None) -> Value:
        return draw_items(self, noise, cond)

    def reader(self, rows: int, longest: int) -> Reader:
        return self.network.reader(rows, longest)

    def targets(self, x: Value) -> tuple[Tensor, Tensor]:
        """Return what is to be predicted (B, L), ends included, and which of it an item has.

        L is the number of places that some item has, in steps of ``STRIDE``.
        """
        if not self.alphabet.ends:
            values = items(x, (self.longest,))
            return values, torch.ones_like(values, dtype=torch.bool)
        if not isinstance(x, Padded):
            raise DataError("items of varying length are needed, with their lengths")
        values, length = items(x.values, (self.longest,)), x.lengths[:, None]
        width = min(self.longest, STRIDE * (1 + int(length.max()) // STRIDE))
        place = torch.arange(width)
        return torch.where(place < length, values[:, :width], self.alphabet.symbols), place <= length


def sequence_model(
    family: str, event: Event, cond: Event | None, network: Callable[[Alphabet, int], SequenceNetwork]
) -> SequenceModel:
    """Return a model of sequences of symbols.

    Args:
        family: its name, for the error.
        network: makes the network for an alphabet and the greatest length.

    Raises:
        DataError: the event is something else.
    """
    if not symbol_sequence(event):
        raise DataError(f"{family} needs sequences of symbols, not {describe(event)}")
    assert isinstance(event, Leaf)
    alphabet = Alphabet(categories(event.kind), event.length_axis is not None, class_count(cond))
    longest = event.extents[0]
    return SequenceModel(alphabet, longest, network(alphabet, longest))


def maximum_likelihood(
    model: SequenceModel, optimisers: dict[str, tuple[nn.Module, Optimiser]], label_dropout: float
) -> Objective:
    """Return maximum likelihood, a share of the labels hidden, with averaged weights.

    The loss is in nats a place, so that rates and clipping suit items of any length.

    Args:
        optimisers: parts of the network and how they move, by name.
    """

    def loss(batch: Batch, noise: Noise, clock: Clock) -> Loss:  # noqa: ARG001
        cond, classes = batch.get("cond"), model.alphabet.classes
        if cond is not None and classes:
            cond = hide_labels(tensor(cond), classes, label_dropout, noise)
        return Loss({"nll": -model.log_density(batch["x"], cond, noise).mean() / model.longest})

    groups = {name: Group(*moved) for name, moved in optimisers.items()}
    return Objective(groups, [Phase("likelihood", tuple(groups), loss)], Average())
