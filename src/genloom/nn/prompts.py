"""What denoising networks are told besides what they see: a time, and a class, a text or nothing.

B batch, E embedding, L symbols of the longest text.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom.core.card import class_count, symbol_sequence
from genloom.core.errors import ConfigError, DataError
from genloom.core.events import Event, Leaf, Padded, Value, categories, rows, tensor
from genloom.core.randomness import Noise
from genloom.nn.attention import Step, angles, everywhere
from genloom.nn.dropout import identity
from genloom.nn.labels import hide_labels, labels_or_null
from genloom.nn.norms import rms_norm
from genloom.nn.transformer import Block, usual_sizes
from genloom.nn.unet import Words, silence, time_features

HEAD = 32
"""Values of a head of attention between symbols."""


@dataclass(frozen=True)
class Prompts:
    """What a model can be told of an item: one of some classes, a text, or nothing.

    No class is the number after the last; no text is one without symbols.

    Args:
        longest: symbols of a text, 0 for none.
    """

    classes: int = 0
    longest: int = 0

    def __bool__(self) -> bool:
        return bool(self.classes or self.longest)

    def complete(self, cond: Value | None, batch: int) -> Value:
        """Return what is told of each item, (B,) labels or texts, nothing where there is no condition.

        Raises:
            DataError: there is another number of texts, or one is too long.
        """
        if not self.longest:
            return labels_or_null(cond, self.classes, batch)
        if cond is None:
            return Padded(torch.zeros(batch, self.longest, dtype=torch.int64), torch.zeros(batch).long())
        if not isinstance(cond, Padded) or rows(cond) != batch or cond.values.shape[1:] != (self.longest,):
            raise DataError(f"{batch} texts of {self.longest} places are needed as conditions")
        return cond

    def nothing_like(self, told: Value) -> Value:
        """Return as many conditions that say nothing."""
        return self.complete(None, rows(told))

    def hidden(self, told: Value, share: float, noise: Noise) -> Value:
        """Return conditions, a share of which say nothing, so that a model learns to do without."""
        if isinstance(told, Padded):
            return Padded(told.values, told.lengths.masked_fill(noise.uniform() < share, 0))
        return hide_labels(tensor(told), self.classes, share, noise)


def prompts_for(cond: Event | None) -> Prompts:
    """Return what models of a condition event can be told.

    Raises:
        ConfigError: it is neither a class label nor a text.
    """
    if cond is not None and symbol_sequence(cond):
        return Prompts(longest=text_leaf(cond).dim)
    return Prompts(class_count(cond))


def text_leaf(cond: Event | None) -> Leaf:
    """Return a condition that is a text, or raise ``ConfigError``."""
    if isinstance(cond, Leaf) and symbol_sequence(cond):
        return cond
    raise ConfigError("a text is needed as a condition")


class TimeTextEmbedding(nn.Module):
    """Embeds a time in [0, 1] and a text: as one vector of both, (B, E), and as words to look at.

    Args:
        reader: turns texts into words (B, L, E).
    """

    def __init__(self, width: int, reader: nn.Module) -> None:
        super().__init__()
        self.features = width // 2
        self.time = nn.Sequential(nn.Linear(self.features, width), nn.SiLU(), nn.Linear(width, width))
        self.reader = reader
        self.whole = nn.Linear(width, width)
        silence(self.whole)

    def forward(self, time: Tensor, text: Padded) -> tuple[Tensor, Words]:
        words: Words = self.reader(text)
        share = words.present[..., None].to(words.values)
        mean = (share * words.values).sum(1) / share.sum(1)
        return self.time(time_features(time, self.features)) + self.whole(mean), words


class ByteReader(nn.Module):
    """A transformer that reads the bytes of a text after a symbol that begins every text.

    Args:
        text: its event, of K kinds of symbols.
    """

    turn: Tensor

    def __init__(self, width: int, text: Leaf, layers: int) -> None:
        super().__init__()
        self.longest, self.begin = text.dim, categories(text.kind)
        heads = max(1, width // HEAD)
        sizes = usual_sizes(width, layers, heads, heads)
        self.symbols = nn.Embedding(self.begin + 1, width)
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(layers))
        self.register_buffer("turn", angles(self.longest + 1, sizes.size), persistent=False)

    def forward(self, text: Padded) -> Words:
        """Return the words of texts.

        Where there are gradients, no more places are read than the longest of them has. Else all are, as the
        last bits of what is said of a text would depend on its neighbours.
        """
        longest = int(text.lengths.max()) if torch.is_grad_enabled() else self.longest
        symbols = F.pad(text.values[:, :longest].long(), (1, 0), value=self.begin)
        present = torch.arange(longest + 1) <= text.lengths[:, None]
        x = self.symbols(symbols)
        step = Step(self.turn[:, : longest + 1].to(x.dtype), everywhere(present[:, None, None]))
        for layer, block in enumerate(self.blocks):
            x = block(x, step, layer, identity)
        missing = self.longest - longest
        return Words(F.pad(rms_norm(x), (0, 0, 0, missing)), F.pad(present, (0, missing)))
