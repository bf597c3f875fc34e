"""PixelRNN: two-dimensional LSTMs in raster order. van den Oord et al. 2016, arXiv:1601.06759.

Shapes: B batch, C image channels, H height, W width, S units of an LSTM, D = 2 S channels between layers,
P parameters of one pixel.
"""

from abc import ABC, abstractmethod
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from genloom.core import card
from genloom.core.card import Card, Reference, binary_image, level_image
from genloom.core.events import Event, image_leaf
from genloom.core.likelihood import Bound
from genloom.core.objective import Optimiser, Stage
from genloom.core.randomness import Noise
from genloom.nn.causal_conv import ConvCache, ShiftedConv, Stem, StemCache
from genloom.nn.raster import (
    PixelModel,
    PixelNetwork,
    Reader,
    maximum_likelihood,
    pixel_head,
    pixel_model,
)

SMALL_IMAGE = 16 * 16
"""Up to this many pixels one narrow layer suffices."""


class Config(card.Config):
    """Settings of a PixelRNN."""

    recurrence: Literal["row", "diagonal"] = Field(
        "diagonal", description="diagonal sees all pixels before; row is faster and sees a triangle"
    )
    units: int = Field(32, gt=0, description="of each LSTM; the paper's h, 16 for MNIST and 128 for CIFAR-10")
    layers: int = Field(2, gt=0, description="of LSTMs; the paper's 7 for MNIST are slow")
    reach: int = Field(3, gt=0, description="the first layer sees this far: 3 is the paper's 7x7 window")
    mixtures: int = Field(10, gt=0, description="logistics a pixel where levels are many, as in PixelCNN++")
    label_dropout: float = Field(0.1, ge=0, lt=1, description="share of labels hidden, for unconditional use")
    lr: float = Field(3e-3, gt=0, description="peak rate of Adam, which decays as a cosine")
    batch_size: int = Field(32, gt=0, description="the paper's 16 leaves a CPU's cores short of work")

    @classmethod
    def preset(cls, event: Event) -> Self:
        _, height, width = image_leaf(event).extents
        return cls(units=16, layers=1, lr=1e-2) if height * width <= SMALL_IMAGE else cls()

    def build(self, event: Event, cond: Event | None) -> PixelModel:
        def network(shape: tuple[int, int, int], outputs: int, classes: int) -> Network:
            stem = Stem(shape, 2 * self.units, self.reach, classes)
            kind = RowLstm if self.recurrence == "row" else DiagonalBiLstm
            return Network(stem, [kind(self.units) for _ in range(self.layers)], outputs)

        return pixel_model("ar.pixelrnn", event, cond, self.mixtures, network)

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, PixelModel)
        optimiser = Optimiser(self.lr, schedule="cosine", warmup=0.02, clip=10.0)
        return [Stage("fit", maximum_likelihood(model, optimiser, self.label_dropout), self.batch_size)]


def lstm(gates: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Return the new state and memory (..., S) for gates (..., 4 S), in the precision of the memory.

    Source: equation 3 of the paper.
    """
    output, forget, enter, content = gates.to(memory.dtype).chunk(4, -1)
    memory = forget.sigmoid() * memory + enter.sigmoid() * content.tanh()
    return output.sigmoid() * memory.tanh(), memory


def remembering(bias: Tensor, units: int) -> None:
    """Set the forget gates' biases to 1, so that memories last from the start."""
    with torch.no_grad():
        bias.unflatten(0, (-1, 4, units))[:, 1] = 1


def skew(x: Tensor) -> Tensor:
    """Shift row i by i places, so that diagonals become columns, (..., H, W, S) to (..., H, W + H - 1, S)."""
    height, width = x.shape[-3:-1]
    flat = F.pad(x, (0, 0, 0, height)).flatten(-3, -2)
    return flat[..., : height * (width + height - 1), :].unflatten(-2, (height, -1))


def unskew(x: Tensor) -> Tensor:
    """Undo ``skew``."""
    height, steps = x.shape[-3:-1]
    flat = F.pad(x.flatten(-3, -2), (0, 0, 0, height))
    return flat.unflatten(-2, (height, steps + 1))[..., : steps + 1 - height, :]


class LstmCache(ABC):
    """A layer that is computed pixel by pixel."""

    @abstractmethod
    def row(self, i: int) -> None:
        """Begin row i: the rows above it are known."""

    @abstractmethod
    def pixel(self, i: int, j: int, x: Tensor) -> Tensor:
        """Return the state (B, S) at pixel (i, j) for the layer's input there, (B, D)."""


class LstmLayer(nn.Module, ABC):
    """Maps (B, H, W, D) to states (B, H, W, S), each of which sees the inputs up to its own pixel only."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return the states of all pixels."""

    @abstractmethod
    def cache(self, batch: int, height: int, width: int) -> LstmCache:
        """Return a cache of a batch of images."""


class RowLstm(LstmLayer):
    """All pixels of a row step at once, given the input to their left and the three states above.

    Source: section 3.1 of the paper.
    """

    def __init__(self, units: int) -> None:
        super().__init__()
        self.units = units
        self.enter = ShiftedConv(2 * units, 4 * units, (1, 2), above=0, left=1)
        self.recur = nn.Linear(3 * units, 4 * units, bias=False)
        remembering(self.enter.bias, units)

    def forward(self, x: Tensor) -> Tensor:
        state = memory = x.new_zeros(len(x), x.shape[2], self.units, dtype=self.recur.weight.dtype)
        states = []
        for gates in self.enter(x).unbind(1):
            state, memory = lstm(gates + self.from_above(state), memory)
            states.append(state)
        return torch.stack(states, 1)

    def from_above(self, state: Tensor) -> Tensor:
        """Return what the states above (B, W, S) add to the gates of a row, (B, W, 4 S)."""
        around = F.pad(state, (0, 0, 1, 1)).unfold(1, 3, 1)
        return self.recur(around.flatten(2))

    def cache(self, batch: int, height: int, width: int) -> "RowLstmCache":
        return RowLstmCache(self, batch, height, width)


class RowLstmCache(LstmCache):
    """The states and memories of the newest row."""

    def __init__(self, layer: RowLstm, batch: int, height: int, width: int) -> None:
        self.layer, self.enter = layer, ConvCache(layer.enter, batch, height, width)
        self.state = layer.enter.bias.new_zeros(batch, width, layer.units)
        self.memory, self.above = self.state.clone(), self.state

    def row(self, i: int) -> None:  # noqa: ARG002
        self.above = self.layer.from_above(self.state)

    def pixel(self, i: int, j: int, x: Tensor) -> Tensor:
        gates = self.enter.pixel(i, j, x) + self.above[:, j]
        self.state[:, j], self.memory[:, j] = lstm(gates, self.memory[:, j])
        return self.state[:, j]


class DiagonalBiLstm(LstmLayer):
    """Two LSTMs that sweep from the upper corners, all pixels of a diagonal at once.

    Each state is given those of the pixel beside and above it. The sweep from the right has seen pixels to
    the right, so its states count one row lower. Source: section 3.2 of the paper.
    """

    def __init__(self, units: int) -> None:
        super().__init__()
        self.units = units
        self.enter = nn.Linear(2 * units, 8 * units)
        bound = (2 * units) ** -0.5
        self.recur = nn.Parameter(torch.empty(2, 2 * units, 4 * units).uniform_(-bound, bound))
        remembering(self.enter.bias, units)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.enter(x).chunk(2, -1)
        left, right = unskew(self._sweep(skew(torch.stack([left, right.flip(2)]))))
        return left + F.pad(right.flip(2), (0, 0, 0, 0, 1, 0))[:, :-1]

    def _sweep(self, gates: Tensor) -> Tensor:
        """Return both directions' states (2, B, H, T, S) for gates (2, B, H, T, 4 S) of T diagonals."""
        shape = (*gates.shape[:3], self.units)
        state = memory = gates.new_zeros(shape, dtype=self.recur.dtype)
        row = torch.arange(gates.shape[2], device=gates.device)[:, None]
        states = []
        for step, gate in enumerate(gates.unbind(3)):
            above = F.pad(state, (0, 0, 1, 0))[:, :, :-1]
            beside = torch.cat([state, above], -1).flatten(1, 2)
            state, memory = lstm(gate + (beside @ self.recur).view_as(gate), memory)
            begun = row <= step
            state, memory = state * begun, memory * begun
            states.append(state)
        return torch.stack(states, 3)

    def cache(self, batch: int, height: int, width: int) -> "DiagonalCache":  # noqa: ARG002
        return DiagonalCache(self, batch, width)


class Sweep:
    """One direction of a ``DiagonalBiLstm``, pixel by pixel: the states of the newest row."""

    def __init__(self, recur: Tensor, batch: int, width: int, units: int) -> None:
        self.recur = recur
        self.state = recur.new_zeros(batch, width, units)
        self.last = self.memory = self.nothing = recur.new_zeros(batch, units)

    def begin(self) -> None:
        """Begin a row: nothing lies beside its first pixel."""
        self.last, self.memory = self.nothing, self.nothing

    def step(self, j: int, gates: Tensor) -> Tensor:
        """Return the state (B, S) of the pixel in column j, the next in the direction of the sweep."""
        beside = torch.cat([self.last, self.state[:, j]], -1)
        self.last, self.memory = lstm(torch.addmm(gates, beside, self.recur), self.memory)
        self.state[:, j] = self.last
        return self.last


class DiagonalCache(LstmCache):
    """Sweeps from the left with the pixels, and from the right over a whole row once it is known."""

    def __init__(self, layer: DiagonalBiLstm, batch: int, width: int) -> None:
        self.layer = layer
        self.left, self.right = (Sweep(recur, batch, width, layer.units) for recur in layer.recur)
        self.gates = layer.recur.new_zeros(batch, width, 4 * layer.units)

    def row(self, i: int) -> None:
        self.left.begin()
        self.right.begin()
        if i:
            for j in reversed(range(self.gates.shape[1])):
                self.right.step(j, self.gates[:, j])

    def pixel(self, i: int, j: int, x: Tensor) -> Tensor:  # noqa: ARG002
        gates, self.gates[:, j] = self.layer.enter(x).chunk(2, -1)
        return self.left.step(j, gates) + self.right.state[:, j]


class Network(PixelNetwork):
    """Residual layers of LSTMs between a 7x7 window and a small network of every pixel.

    Source: section 3.3 and table 1 of the paper. Deviation: the channels of a pixel depend on one another
    through its distribution, not through masks.
    """

    def __init__(self, stem: Stem, layers: list[LstmLayer], outputs: int) -> None:
        super().__init__()
        width = stem.position.shape[2] // 2
        self.stem, self.layers = stem, nn.ModuleList(layers)
        self.outs = nn.ModuleList(nn.Linear(width // 2, width) for _ in layers)
        self.head = pixel_head(width, outputs)

    def forward(self, x: Tensor, label: Tensor, noise: Noise | None = None) -> Tensor:  # noqa: ARG002
        v, h = self.stem(x, label)
        features = v + h
        for layer, out in zip(self.layers, self.outs, strict=True):
            features = features + out(layer(features))
        return self.head(features)

    def reader(self, label: Tensor) -> "NetworkReader":
        return NetworkReader(self, label)


class NetworkReader(Reader):
    """Computes each state once."""

    def __init__(self, network: Network, label: Tensor) -> None:
        height, width, _ = network.stem.position.shape
        self.stem, self.head, self.outs = StemCache(network.stem, label), network.head, network.outs
        self.layers: list[LstmCache] = []
        for layer in network.layers:
            assert isinstance(layer, LstmLayer)
            self.layers.append(layer.cache(len(label), height, width))
        self.above: Tensor = network.stem.position

    def row(self, i: int) -> None:
        self.above = self.stem.row(i)
        for layer in self.layers:
            layer.row(i)

    def predict(self, i: int, j: int) -> Tensor:
        features = self.above[:, j] + self.stem.pixel(i, j)
        for layer, out in zip(self.layers, self.outs, strict=True):
            features = features + out(layer.pixel(i, j, features))
        return self.head(features)

    def read(self, i: int, j: int, pixel: Tensor) -> None:
        self.stem.read(i, j, pixel)


CARD = Card(
    name="ar.pixelrnn",
    title="PixelRNN",
    summary="Predicts each pixel by LSTMs that sweep over rows or diagonals, with an exact likelihood.",
    events=(level_image, binary_image),
    conditions="class",
    likelihood=Bound.EXACT,
    references=(
        Reference("van den Oord et al.", 2016, "Pixel recurrent neural networks", "arXiv:1601.06759"),
    ),
    good_at=("Likelihood of images.", "Memory without a limit of reach: a state has seen all before it."),
    bad_at=("Training is one step a diagonal or row.", "Drawing is one step a pixel."),
    autocast=True,
)
