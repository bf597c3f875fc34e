"""What models of sequences of symbols share: reading from left to right, the model, and its objective.

Shapes: B batch, L positions, T symbols read at once, K kinds of symbols, V what can come next: the symbols,
and the end where items vary in length.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genloom.core.capabilities import Aligner, Likelihood, NextSymbol, Sampler
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

STRIDE = 8
"""Steps in which batches of items of varying length are cut to the longest of them."""


class SequenceNetwork(nn.Module, ABC):
    """Predicts each symbol of a sequence from those before it.

    ``context`` is the most symbols that can be read, None for any number.
    """

    context: int | None = None

    @abstractmethod
    def forward(self, symbols: Tensor, noise: Noise | None = None, cond: Value | None = None) -> Tensor:
        """Return the logits of what follows each symbol, (B, L, V) for (B, L) int64.

        Args:
            noise: of dropout, while training.
            cond: what the sequences are given; their classes stand in their starts already.
        """

    @abstractmethod
    def reader(self, rows: int, longest: int, cond: Value | None = None) -> Reader:
        """Return a reader of so many empty sequences, which will get at most ``longest`` symbols each."""


class AlignedNetwork(SequenceNetwork, ABC):
    """Predicts sequences from others, and looks at these as it goes."""

    @abstractmethod
    def align(self, symbols: Tensor, cond: Value) -> Tensor:
        """Return how much each symbol (B, T) takes from each place of its source, (B, T, S)."""


class SequenceModel(nn.Module, Sampler, Likelihood, NextSymbol):
    """A network that reads from left to right, as a distribution over items.

    The end of an item of greatest length is certain, so that all items together have probability 1.
    """

    def __init__(self, alphabet: Alphabet, longest: int, network: SequenceNetwork) -> None:
        super().__init__()
        self.alphabet, self.longest, self.network = alphabet, longest, network
        self.context = network.context

    def log_density(
        self,
        x: Value,
        cond: Value | None = None,
        noise: Noise | None = None,
        label_smoothing: float = 0.0,
        symbol_dropout: float = 0.0,
    ) -> Tensor:
        """Return log p(x | cond), (B,) nats.

        Args:
            noise: of dropout, while training.
            label_smoothing: share of each symbol's place that all symbols get alike, while training (Szegedy
                et al. 2016, arXiv:1512.00567, section 7).
            symbol_dropout: share of the symbols before that are not seen, while training (Bowman et al. 2016,
                arXiv:1511.06349, section 3.1).
        """
        targets, present = self.targets(x)
        starts = self.alphabet.starts(cond, len(targets))
        symbols = torch.cat((starts[:, None], targets[:, :-1]), 1)
        if noise is not None and symbol_dropout > 0:
            hidden = noise.uniform(symbols.shape[1]) < symbol_dropout
            symbols = torch.where(hidden, self.alphabet.hide(symbols), symbols)
        logits = wide(self.network(symbols, noise, brief(cond))).flatten(0, 1)
        loss = F.cross_entropy(logits, targets.flatten(), reduction="none", label_smoothing=label_smoothing)
        return -(loss.view_as(targets) * present).sum(1)

    def log_prob(self, x: Value, cond: Value | None = None, *, noise: Noise) -> LogProb:  # noqa: ARG002
        return LogProb(self.log_density(x, cond), Bound.EXACT, given(cond))

    @torch.no_grad()
    def sample(self, noise: Noise, cond: Value | None = None) -> Value:
        return draw_items(self, noise, cond)

    def reader(self, rows: int, longest: int, cond: Value | None = None) -> Reader:
        return self.network.reader(rows, longest, cond)

    @property
    def uneven(self) -> bool:
        """Whether items differ so much in length that batches of alike ones pay."""
        return self.alphabet.ends and self.longest > SHORT

    def targets(self, x: Value) -> tuple[Tensor, Tensor]:
        """Return what is to be predicted (B, L), ends included, and which of it an item has.

        L is the number of places that some item has, in steps of ``STRIDE``, ``longest`` at most.
        """
        if not self.alphabet.ends:
            values = items(x, (self.longest,))
            return values, torch.ones_like(values, dtype=torch.bool)
        if not isinstance(x, Padded):
            raise DataError("items of varying length are needed, with their lengths")
        items(x.values, (self.longest,))
        return with_ends(x, self.alphabet.symbols, min(self.longest, places(x)))


class AlignedModel(SequenceModel, Aligner):
    """A network that turns sequences into others, as a distribution over these."""

    network: AlignedNetwork

    @torch.no_grad()
    def align(self, x: Value, cond: Value) -> Tensor:
        targets, _ = self.targets(x)
        starts = self.alphabet.starts(None, len(targets))
        return self.network.align(torch.cat((starts[:, None], targets[:, :-1]), 1), cond)


def places(x: Padded) -> int:
    """Return how many places the longest sequence and its end need, in steps of ``STRIDE``."""
    return STRIDE * (1 + int(x.lengths.max()) // STRIDE)


def brief(cond: Value | None) -> Value | None:
    """Return sequences without places that none of them has; any other condition as it is."""
    return Padded(cond.values[:, : places(cond)], cond.lengths) if isinstance(cond, Padded) else cond


def with_ends(x: Padded, end: int, width: int) -> tuple[Tensor, Tensor]:
    """Return so many symbols of sequences, their ends among them (B, L), and which of these there are."""
    length, place = x.lengths[:, None], torch.arange(width)
    values = F.pad(x.values.long(), (0, width - x.values.shape[1]))
    return torch.where(place < length, values, end), place <= length


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
    alphabet, longest = alphabet_of(family, event, cond)
    return SequenceModel(alphabet, longest, network(alphabet, longest))


def alphabet_of(family: str, event: Event, cond: Event | None) -> tuple[Alphabet, int]:
    """Return the symbols of an event and the number of symbols of the longest item."""
    if not symbol_sequence(event):
        raise DataError(f"{family} needs sequences of symbols, not {describe(event)}")
    assert isinstance(event, Leaf)
    alphabet = Alphabet(categories(event.kind), event.length_axis is not None, class_count(cond))
    return alphabet, event.extents[0]


def translation_model(
    family: str, event: Event, cond: Event | None, network: Callable[[Alphabet, int], AlignedNetwork]
) -> AlignedModel:
    """Return a model of sequences of symbols that are given other sequences of symbols.

    Args:
        family: its name, for the error.
        network: makes the network for an alphabet and the number of the source's symbols.

    Raises:
        DataError: the event or what is given is something else.
    """
    if cond is None or not symbol_sequence(cond):
        raise DataError(f"{family} turns sequences into others: it needs pairs of texts")
    assert isinstance(cond, Leaf)
    alphabet, longest = alphabet_of(family, event, None)
    return AlignedModel(alphabet, longest, network(alphabet, categories(cond.kind)))


def source_of(cond: Value | None, rows: int, end: int) -> tuple[Tensor, Tensor]:
    """Return what a translation is given, (B, S), each sequence with its end, and which places there are.

    Raises:
        DataError: it is missing, or of another number.
    """
    if not isinstance(cond, Padded):
        raise DataError("this model turns sequences into others: give it sequences with their lengths")
    if len(cond.lengths) != rows:
        raise DataError(f"{rows} sequences to turn into others are needed, not {len(cond.lengths)}")
    return with_ends(cond, end, cond.values.shape[1] + 1)


def maximum_likelihood(
    model: SequenceModel,
    optimisers: Mapping[str, tuple[nn.Module, Optimiser]],
    label_dropout: float = 0.0,
    label_smoothing: float = 0.0,
    symbol_dropout: float = 0.0,
) -> Objective:
    """Return maximum likelihood, a share of the labels hidden, with averaged weights.

    The loss is in nats a place, so that rates and clipping suit items of any length.

    Args:
        optimisers: parts of the network and how they move, by name.
        label_dropout: share of labels that are hidden.
        label_smoothing: share of each symbol's place that all symbols get alike.
        symbol_dropout: share of the symbols before that are not seen.
    """

    def loss(batch: Batch, noise: Noise, clock: Clock) -> Loss:  # noqa: ARG001
        cond, classes = batch.get("cond"), model.alphabet.classes
        if cond is not None and classes:
            cond = hide_labels(tensor(cond), classes, label_dropout, noise)
        nats = -model.log_density(batch["x"], cond, noise, label_smoothing, symbol_dropout)
        return Loss({"nll": nats.mean() / model.longest})

    groups = {name: Group(*moved) for name, moved in optimisers.items()}
    return Objective(groups, [Phase("likelihood", tuple(groups), loss)], Average())
