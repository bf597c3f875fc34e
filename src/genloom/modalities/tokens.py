"""Texts as bytes, or as tokens that byte-pair encoding learns from the training texts.

B batch, L symbols of the longest item.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genloom.core.errors import ConfigError, DataError, MissingExtra
from genloom.core.events import Categorical, Event, Leaf, Length, Padded, Value, tensor
from genloom.core.likelihood import Bound, LogProb, weaken
from genloom.core.randomness import Noise
from genloom.modalities.base import Form
from genloom.modalities.characters import TextView, cut_anew, lengths, neighbours, to_items, to_texts, utf8
from genloom.nn.llama import ordinary_ids

PROBES = ("A bC  d\n\t", " e\u0301", "\u212b \u6f22")
"""Texts that a tokenizer must give back as they are: capitals, blanks, letters that some replace."""

BYTES = 4
"""Of one character at most, in UTF-8."""


class SpelledView(TextView):
    """Each text as symbols that stand for bytes, with its end.

    A block ends as well, as the number of its symbols varies.

    Args:
        longest: characters of the longest item, or of a block.
    """

    def __init__(self, symbols: int, longest: int, form: Form) -> None:
        self.longest, self.form = longest, form
        self.event: Event = Leaf((Length(BYTES * longest),), Categorical(symbols))

    def encode(self, items: Tensor) -> Value:
        """Return code points, as they are spelt batch by batch."""
        return items if self.form == "blocks" else Padded(items, lengths(items))

    def stretch(self, encoded: Value) -> Value:
        return encoded if isinstance(encoded, Padded) else neighbours(tensor(encoded))

    def perturb(self, encoded: Value, noise: Noise) -> Value:
        if isinstance(encoded, Padded):
            return self.read(to_texts(encoded.values))
        return self.read(to_texts(cut_anew(tensor(encoded), self.longest, noise)))

    def to_data(self, log_prob: LogProb, x: Value) -> LogProb:  # noqa: ARG002
        return replace(log_prob, value=log_prob.value.double())

    def decode(self, x: Value) -> Tensor:
        assert isinstance(x, Padded)
        cut = to_items([text.replace("\0", "\ufffd")[: self.longest] for text in self.texts(x)])
        return torch.nn.functional.pad(cut, (0, self.longest - cut.shape[1]))

    def texts(self, x: Padded) -> list[str]:
        """Return the texts that symbols spell."""
        spelled = self.spell()
        rows = zip(x.values.tolist(), x.lengths.tolist(), strict=True)
        return [b"".join(spelled[s] for s in row[:n]).decode("utf-8", "replace") for row, n in rows]

    def padded(self, rows: Sequence[Sequence[int]]) -> Padded:
        """Return symbols of varying number with their numbers."""
        values = torch.zeros(len(rows), max([BYTES * self.longest, *map(len, rows)]), dtype=torch.int64)
        for row, symbols in zip(values, rows, strict=True):
            row[: len(symbols)] = torch.tensor(symbols, dtype=torch.int64)
        return Padded(values, torch.tensor([len(row) for row in rows]))


class ByteView(SpelledView):
    """Each byte of a text's UTF-8 a category: exact, for any language."""

    name = "bytes"

    def __init__(self, longest: int, form: Form) -> None:
        super().__init__(256, longest, form)

    def spell(self) -> list[bytes]:
        return [bytes([i]) for i in range(256)]

    def read(self, texts: Sequence[str]) -> Padded:
        return self.padded([list(text.encode("utf-8")) for text in texts])


class PairView(SpelledView):
    """Tokens of byte-pair encoding, which can spell every text.

    A text can be spelt in more ways than the one that is scored, so that likelihoods are lower bounds.

    Source: Sennrich et al. 2016, arXiv:1508.07909; bytes as in Radford et al. 2019.

    Args:
        description: the encoding as JSON of the package tokenizers.
    """

    name = "bpe"

    def __init__(self, description: str, longest: int, form: Form) -> None:
        self.description = description
        self._facts = json.loads(description)
        self._tokens = _tokenizers().Tokenizer.from_str(description)
        self._tokens.encode_special_tokens = True
        self._tokens.no_truncation()
        self._tokens.no_padding()
        self._ids = ordinary_ids(self._facts)
        self._symbols = {number: symbol for symbol, number in enumerate(self._ids)}
        super().__init__(len(self._ids), longest, form)

    def spell(self) -> list[bytes]:
        letters = {letter: byte for byte, letter in enumerate(_letters())}
        added = {token["id"]: token["content"] for token in self._facts.get("added_tokens") or []}
        return [
            added[i].encode() if i in added else bytes(letters[c] for c in self._tokens.id_to_token(i))
            for i in self._ids
        ]

    def read(self, texts: Sequence[str]) -> Padded:
        for text in texts:
            utf8(text)
        found = self._tokens.encode_batch_fast(list(texts), add_special_tokens=False)
        return self.padded([[self._symbols[i] for i in one.ids] for one in found])

    def to_data(self, log_prob: LogProb, x: Value) -> LogProb:
        found = super().to_data(log_prob, x)
        return replace(found, kind=weaken(found.kind, Bound.LOWER))


def learn_pairs(texts: Sequence[str], vocabulary: int) -> str:
    """Return a byte-pair encoding of so many tokens, learnt from texts, as JSON.

    Raises:
        ConfigError: there are fewer tokens than bytes.
        MissingExtra: the package tokenizers is not installed.
    """
    if vocabulary < 256:
        raise ConfigError(f"a vocabulary has 256 tokens at least, one for each byte, not {vocabulary}")
    package = _tokenizers()
    found = package.Tokenizer(package.models.BPE())
    found.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = package.trainers.BpeTrainer(
        vocab_size=vocabulary,
        show_progress=False,
        initial_alphabet=sorted(package.pre_tokenizers.ByteLevel.alphabet()),
    )
    found.train_from_iterator(texts, trainer)
    return str(found.to_str())


def read_tokenizer(path: Path) -> str:
    """Return a byte-pair encoding from a file of the package tokenizers, as JSON.

    Raises:
        DataError: there is none, or its tokens are not pairs of bytes.
        MissingExtra: the package tokenizers is not installed.
    """
    try:
        text = path.read_text(encoding="utf-8")
        facts = json.loads(text)
        steps = facts.get("pre_tokenizer") or {}
        kinds = {step.get("type") for step in (steps, *steps.get("pretokenizers", []))}
        pairs = facts["model"]["type"] == "BPE" and "ByteLevel" in kinds
        whole = set(_letters()) <= set(facts["model"]["vocab"])
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataError(f"{path} cannot be read as a tokenizer: {error}") from error
    if not pairs:
        raise DataError(f"{path}: only byte-level pair encodings are known, as of GPT-2, Llama 3 and SmolLM")
    try:
        view = PairView(text, 1, "lines")
        kept = whole and view.texts(view.read(PROBES)) == list(PROBES)
    except MissingExtra:
        raise
    except Exception as error:
        raise DataError(f"{path} cannot be read as a tokenizer: {error}") from error
    if not kept:
        raise DataError(
            f"{path} changes what it reads: a normalizer, a blank before each text or missing bytes"
        )
    return text


def _letters() -> list[str]:
    """Return the letter that byte-level encodings write each byte as.

    Source: Radford et al. 2019, section 2.2: printable bytes are themselves, others follow from 256 on.
    """
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _tokenizers() -> Any:
    try:
        import tokenizers
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError as error:
        raise MissingExtra("tokenizers", "text") from error
    return tokenizers
