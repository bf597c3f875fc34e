"""A state-space model with chosen decay: attention without a softmax, in a state of fixed size.

Dao & Gu 2024, arXiv:2405.21060 (Mamba-2).

Shapes: B batch, L positions, Q positions of a chunk, C chunks, D width, H heads, P values of a head, N
values of a key, J places that a convolution sees.
"""

from itertools import zip_longest
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from genloom.core import card
from genloom.core.card import Card, Reference
from genloom.core.events import Event, Leaf
from genloom.core.likelihood import Bound
from genloom.core.objective import Optimiser, Stage
from genloom.core.sequences import Alphabet
from genloom.nn.dropout import Map
from genloom.nn.norms import rms_norm
from genloom.nn.recurrent import RecurrentNetwork, State, States
from genloom.nn.sequences import SHORT, SequenceModel, maximum_likelihood, sequence_model

CHUNK = 64
"""Places that are worked on as a matrix; states pass from one chunk to the next."""

REACH = 4
"""Places that the convolution before keys and values sees, as in the paper."""


class Config(card.Config):
    """Settings of a state-space model and of its training."""

    width: int = Field(256, gt=0, description="values a place between blocks; twice as many inside")
    layers: int = Field(8, gt=0, description="blocks; each is about half of a transformer's")
    head: int = Field(64, gt=0, description="values of a head, as in the paper")
    keys: int = Field(64, gt=0, description="values of a key: what a head remembers grows with it")
    dropout: float = Field(0.1, ge=0, lt=1, description="of channels; small texts are read many times over")
    label_dropout: float = Field(0.1, ge=0, lt=1, description="share of labels hidden, for unconditional use")
    lr: float = Field(3e-3, gt=0, description="peak rate of AdamW")
    weight_decay: float = Field(0.01, ge=0, description="times the rate")
    batch_size: int = Field(32, gt=0)

    @classmethod
    def preset(cls, event: Event) -> Self:
        small = isinstance(event, Leaf) and event.extents[0] <= SHORT
        return cls(width=128, layers=4, keys=32, batch_size=128) if small else cls()

    @model_validator(mode="after")
    def _whole_heads(self) -> Self:
        if 2 * self.width % self.head:
            raise ValueError("twice the width must be a multiple of head")
        return self

    def build(self, event: Event, cond: Event | None) -> SequenceModel:
        def network(alphabet: Alphabet, longest: int) -> Network:  # noqa: ARG001
            return Network(alphabet, self.width, self.layers, self.head, self.keys, self.dropout)

        return sequence_model("seq.ssm", event, cond, network)

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, SequenceModel)
        optimiser = Optimiser(
            self.lr, "adamw", (0.9, 0.95), self.weight_decay, schedule="linear", warmup=0.02, clip=1.0
        )
        objective = maximum_likelihood(model, {"network": (model.network, optimiser)}, self.label_dropout)
        return [Stage("fit", objective, self.batch_size, alike=model.uneven)]


def scan(x: Tensor, decay: Tensor, key: Tensor, query: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Return what queries find in a state that fades and takes in values by their keys, and the last state.

    The state moves as S_t = exp(a_t) S_{t-1} + k_t x_t, and y_t = q_t S_t.

    Source: the paper's section 6 and listing 1.

    Args:
        x: values (B, L, H, P), L a multiple of Q or less than Q.
        decay: a (B, L, H), nats, at most 0.
        key, query: (B, L, N), the same for all heads.
        state: (B, H, N, P).
    """
    size = min(CHUNK, x.shape[1])
    x, key, query = (part.unflatten(1, (-1, size)) for part in (x, key, query))
    x = x.transpose(2, 3)
    total = decay.unflatten(1, (-1, size)).transpose(2, 3).cumsum(-1)
    fading = (total[..., :, None] - total[..., None, :]).masked_fill(later(size), -torch.inf).exp()
    scores = (query @ key.transpose(-1, -2)).unsqueeze(2) * fading.to(x.dtype)
    within = scores @ x
    left = (total[..., -1:] - total).exp().to(x.dtype)
    taken = key.transpose(-1, -2).unsqueeze(2) @ (x * left[..., None])
    outside = []
    for chunk in range(x.shape[1]):
        outside.append(query[:, chunk, None] @ state.to(x.dtype))
        state = state * total[:, chunk, :, -1, None, None].exp() + taken[:, chunk]
    found = within + torch.stack(outside, 1) * total.exp().to(x.dtype)[..., None]
    return found.transpose(2, 3).flatten(1, 2), state


def later(size: int) -> Tensor:
    """Return which places (column) come after which (row), (Q, Q) booleans."""
    return torch.ones(size, size, dtype=torch.bool).triu(1)


class Block(nn.Module):
    """A convolution over a few places, the scan, and a gate, added to what was read.

    Its state is the inputs of the convolution at the last J - 1 places (B, J - 1, channels), and that of the
    scan.
    """

    def __init__(self, width: int, head: int, keys: int) -> None:
        super().__init__()
        self.inner, self.head, self.keys = 2 * width, head, keys
        heads, mixed = self.inner // head, self.inner + 2 * keys
        self.enter = nn.Linear(width, self.inner + mixed + heads, bias=False)
        self.leave = nn.Linear(self.inner, width, bias=False)
        self.mixing = nn.Parameter(torch.randn(REACH, mixed) * 0.3)
        self.bias = nn.Parameter(torch.zeros(mixed))
        self.rate = nn.Parameter(torch.empty(heads).uniform_(1e-3, 0.1).expm1().log())
        self.fading = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        self.direct = nn.Parameter(torch.ones(heads))

    def blank(self, rows: int, like: Tensor) -> State:
        """Return the state before the first place."""
        before = like.new_zeros(rows, REACH - 1, self.inner + 2 * self.keys)
        return before, like.new_zeros(rows, self.inner // self.head, self.keys, self.head)

    def forward(self, x: Tensor, state: State, drop: Map) -> tuple[Tensor, State]:
        """Map (B, L, D) to (B, L, D); return the state after the last place too."""
        length = x.shape[1]
        gate, mixed, rate = self.enter(rms_norm(x)).split(
            (self.inner, self.inner + 2 * self.keys, self.rate.numel()), -1
        )
        seen = torch.cat((state[0].to(mixed.dtype), mixed), 1)
        mixed = F.silu(sum((seen[:, j : j + length] * self.mixing[j] for j in range(REACH)), self.bias))
        values, key, query = mixed.to(gate.dtype).split((self.inner, self.keys, self.keys), -1)
        values = values.unflatten(-1, (-1, self.head))
        rate = F.softplus(rate.to(self.rate) + self.rate)
        decay = -rate * self.fading.exp()
        missing = -length % CHUNK if length > CHUNK else 0
        weighed = (values * rate[..., None]).to(gate.dtype)
        x_, a, k, q = (longer(part, missing) for part in (weighed, decay, key, query))
        found, last = scan(x_, a, k, q, state[1])
        found = found[:, :length] + values * self.direct.to(values.dtype)[:, None]
        gated = rms_norm(found.flatten(2) * F.silu(gate))
        return x + drop(self.leave(gated)), (seen[:, length:].to(state[0].dtype), last)


def longer(x: Tensor, places: int) -> Tensor:
    """Return x (B, L, ...) with so many places of zeros at the end."""
    return F.pad(x, (*[0] * 2 * (x.dim() - 2), 0, places))


class Network(RecurrentNetwork):
    """Blocks between an embedding of symbols and the same embedding as the map to logits."""

    def __init__(
        self, alphabet: Alphabet, width: int, layers: int, head: int, keys: int, dropout: float
    ) -> None:
        super().__init__()
        self.outputs, self.dropout = alphabet.outputs, dropout
        self.embedding = nn.Embedding(alphabet.inputs, width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(width, head, keys) for _ in range(layers))

    def read(self, symbols: Tensor, states: States, drop: Map) -> tuple[Tensor, States]:
        x, left = drop(self.embedding(symbols)), list[State]()
        for block, state in zip_longest(self.blocks, states):
            assert isinstance(block, Block)
            blank = block.blank(len(x), self.embedding.weight)
            x, last = block(x, blank if state is None else state, drop)
            left.append(last)
        return F.linear(rms_norm(x), self.embedding.weight[: self.outputs]), left


CARD = Card(
    name="seq.ssm",
    title="State-space model",
    summary="Predicts the next symbol from a fading state that it reads like attention, at constant cost.",
    events=(card.symbol_sequence,),
    likelihood=Bound.EXACT,
    conditions="class",
    autocast=True,
    references=(
        Reference("Dao & Gu", 2024, "Transformers are SSMs", "arXiv:2405.21060"),
        Reference("Gu & Dao", 2023, "Mamba: linear-time sequence modeling", "arXiv:2312.00752"),
    ),
    good_at=("Long texts: each symbol drawn costs the same, and training is parallel along the text.",),
    bad_at=("Copying exactly what stands far back, which attention finds and a state may have lost.",),
)
