"""Opening data by name or by path: read, split, fingerprint, ready for use."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from torch.nn.functional import pad

from genloom.core.errors import DataError, nearest
from genloom.modalities import splits
from genloom.modalities.angles import Angles, Unit, in_one_turn
from genloom.modalities.base import Dataset, Form, Modality, Reading, Split
from genloom.modalities.binaries import Binaries
from genloom.modalities.captions import read_captions
from genloom.modalities.corpora import TEXTS, draw_sums, is_prose, read_corpus, read_official
from genloom.modalities.homes import REMOTES, TABLES, locate
from genloom.modalities.images import DEFAULT_ALPHA, Binarise, Images, fixed_draw
from genloom.modalities.pairs import Pairs
from genloom.modalities.parallel import PARALLEL, draw_numerals, read_pairs, read_parallel
from genloom.modalities.pictures import fit
from genloom.modalities.prompts import longest_prompt_of
from genloom.modalities.readers import read_path
from genloom.modalities.records import JSON_LINES, read_folder, read_records
from genloom.modalities.tables import read_text
from genloom.modalities.templates import with_captions
from genloom.modalities.texts import Texts
from genloom.modalities.toys import TOYS, draw_toy
from genloom.modalities.vectors import Vectors

TEMPLATES = "templates"
"""Captions that are made from classes."""


class DataOptions(BaseModel):
    """How data is read, split and offered."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    binarise: Binarise = Field("none", description="dynamic: draw black or white pixels anew at each step")
    size: int | None = Field(None, ge=1, le=4096, description="cut images square and scale to this side")
    limit: int | None = Field(None, ge=1, description="use at most this many training items")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="share for test where the source has no split")
    valid_fraction: float = Field(0.2, gt=0, lt=1, description="share for validation")
    seed: int = Field(0, description="seed of splits and of generated points")
    alpha: float = Field(DEFAULT_ALPHA, gt=0, lt=0.5, description="margin of the logit view of images")
    label: str | None = Field(None, description="column of class labels in a table")
    given: str | None = Field(
        None, description="columns of a table, or of texts, that are given and not modelled, between commas"
    )
    angles: Unit | None = Field(None, description="unit of a table whose columns are all angles")
    text: Literal["auto"] | Form = Field(
        "auto", description="items of texts: lines, consecutive blocks, or a folder's files as documents"
    )
    column: str | None = Field(None, description="column of texts in JSON lines, CSV or Parquet")
    block: int = Field(256, ge=2, le=65_536, description="characters of a block of a long text")
    vocabulary: int | None = Field(
        None, ge=256, le=65_536, description="learn so many byte pairs from texts, and see those"
    )
    tokenizer: str | None = Field(
        None, description="see texts as the tokens of this file, tokenizer.json of a model to start from"
    )
    captions: str | None = Field(
        None, description="what images are given: a column of texts, or templates of their classes"
    )
    points: int = Field(10_000, ge=10, description="number of points of a two-dimensional toy")

    @model_validator(mode="after")
    def _leaves_training_items(self) -> Self:
        if self.test_fraction + self.valid_fraction >= 1:
            raise ValueError("test_fraction and valid_fraction must leave something for training")
        return self

    @property
    def caption_column(self) -> str | None:
        """The column of captions, None where there is none or templates make them."""
        return None if self.captions == TEMPLATES else self.captions

    @property
    def given_columns(self) -> tuple[str, ...]:
        """The names in ``given``."""
        names = (name.strip() for name in (self.given or "").split(","))
        return tuple(dict.fromkeys(name for name in names if name))


def _digits() -> Reading:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    items = torch.from_numpy(images).to(torch.uint8).reshape(-1, 1, 8, 8)
    parts = {"all": Split(items, torch.from_numpy(labels).long())}
    return Reading(parts, "scikit-learn", tuple("0123456789"), levels=17)


def _table(loader: str) -> Reading:
    """Load one of scikit-learn's tables; a target that is no class becomes the last column."""
    import sklearn.datasets

    natural = {"scaled": False} if loader == "load_diabetes" else {}
    bunch = getattr(sklearn.datasets, loader)(**natural)
    rows, target = torch.from_numpy(bunch.data).double(), torch.from_numpy(bunch.target)
    columns = tuple(map(str, bunch.feature_names))
    if "target_names" not in bunch:
        rows = torch.cat([rows, target.double()[:, None]], 1)
        return Reading({"all": Split(rows)}, "scikit-learn", columns=(*columns, "target"))
    classes = tuple(map(str, bunch.target_names))
    return Reading({"all": Split(rows, target.long())}, "scikit-learn", classes, columns=columns)


BUNDLED: Mapping[str, Callable[[], Reading]] = {
    "digits": _digits,
    "iris": partial(_table, "load_iris"),
    "wine": partial(_table, "load_wine"),
    "breast_cancer": partial(_table, "load_breast_cancer"),
    "diabetes": partial(_table, "load_diabetes"),
}


def names() -> list[str]:
    """Return the names that ``open_data`` knows."""
    return [*BUNDLED, *REMOTES, *TOYS, "sums", "numerals"]


def open_data(source: str, options: DataOptions | None = None) -> Dataset:
    """Open a data set by name, or whatever a path holds.

    Raises:
        DataError: no such name or path, or what is there cannot be used; the message says what to do.
    """
    options = options or DataOptions()
    name, reading = _read(source, options)
    return _build(name, reading, options)


def located(source: str) -> str:
    """Return a name as it is and a path in full, so that it holds from any folder."""
    return source if source in names() else str(Path(source).expanduser().resolve())


def from_json(description: Mapping[str, Any]) -> Modality:
    """Rebuild a modality, with its fitted views, from what its ``describe`` returned.

    Raises:
        DataError: it is of an unknown kind.
    """
    known: Mapping[str, type[Modality]] = {
        "images": Images,
        "vectors": Vectors,
        "binaries": Binaries,
        "angles": Angles,
        "texts": Texts,
        "pairs": Pairs,
    }
    kind = str(description.get("modality"))
    if kind not in known:
        raise DataError(f"this version knows no modality {kind!r}, only {', '.join(known)}")
    return known[kind].from_json(description)


def _read(source: str, options: DataOptions) -> tuple[str, Reading]:
    if source in TOYS:
        return source, draw_toy(source, options.points, options.seed)
    if source == "sums":
        return source, draw_sums(options.points, options.seed)
    if source == "numerals":
        return source, draw_numerals(options.points, options.seed, options.given_columns)
    if source in BUNDLED:
        return source, BUNDLED[source]()
    if source in TABLES:
        layout, folder = TABLES[source], locate(source)
        files = [folder / file.name for file in REMOTES[source]]
        return source, read_text(files, options.label or layout.label, layout.columns)
    if source in TEXTS:
        return source, read_official(locate(source), TEXTS[source], options.block)
    if source == "captions":
        return source, read_captions(locate(source))
    if source in PARALLEL:
        return source, read_parallel(locate(source), PARALLEL[source], options.given_columns)
    if source in REMOTES:
        return source, read_path(locate(source), options.size, options.label, options.caption_column)
    path = Path(located(source))
    if not path.exists():
        raise DataError(
            f"no data set is called {source!r} and no file or folder is there{nearest(source, names())}  "
            f"(names: {', '.join(names())})"
        )
    shares = options.valid_fraction, options.test_fraction
    if path.suffix.lower() == ".txt" and (options.text != "auto" or is_prose(path)):
        return path.stem, read_corpus(path, options.text, options.block, *shares)
    if path.is_dir() and options.text == "documents":
        return path.name, read_folder(path, options.block, *shares, options.seed)
    if options.column is not None and options.given is not None:
        return path.stem, read_pairs(path, options.given, options.column)
    if path.suffix.lower() in JSON_LINES or options.column is not None:
        return path.stem, read_records(path, options.column, options.label)
    return (path.name if path.is_dir() else path.stem), read_path(
        path, options.size, options.label, options.caption_column
    )


def _build(name: str, reading: Reading, options: DataOptions) -> Dataset:
    """Split what was read, fit the modality on the training split and fix what is random in the others."""
    if reading.text is not None:
        return _build_texts(name, reading, reading.text, options)
    if reading.sides is not None:
        return _build_pairs(name, reading, reading.sides, options)
    shapes = {tuple(part.items.shape[1:]) for part in reading.parts.values()}
    if len(shapes) > 1:
        raise DataError(
            f"items of {name} have the shapes {sorted(shapes)} in different splits: make them equal"
        )
    _refuse_unused(name, reading, options)
    unit, parts = options.angles or reading.angles, reading.parts
    if unit:
        parts = {n: Split(in_one_turn(p.items, unit), p.labels) for n, p in parts.items()}
    if not reading.columns:
        sized = {n: fit(p.items, options.size, reading.levels) for n, p in parts.items()}
        parts = {n: replace(p, items=sized[n]) for n, p in parts.items()}
    bits = bool(reading.columns) and not unit and all(is_binary(part.items) for part in parts.values())
    found, notes = splits.divide(
        parts, options.test_fraction, options.valid_fraction, options.seed, distinct=not bits
    )
    found["train"] = _limited(found["train"], options)
    if bits and options.given:
        raise DataError(
            f"{name} is a table of zeros and ones, of which all are modelled: leave --data.given out"
        )
    if options.binarise == "dynamic":
        for split in ("valid", "test"):
            found[split] = replace(found[split], items=fixed_draw(found[split].items, reading.levels, split))
        name = f"{name}-binarised"
    facts = (reading.levels, reading.columns, reading.classes, options.binarise)
    mark = splits.fingerprint(found.values(), *facts, *options.given_columns)
    if options.captions == TEMPLATES:
        found = {n: with_captions(p, reading.classes, reading.levels, n) for n, p in found.items()}
    longest_prompt = longest_prompt_of(found.values())
    return Dataset(
        name=name,
        modality=_modality(found["train"].items, reading, options, bits, unit, longest_prompt),
        train=found["train"],
        valid=found["valid"],
        test=found["test"],
        classes=reading.classes,
        fingerprint=mark,
        notes=(*reading.notes, *notes),
        description=_description(reading, parts, options),
    )


def _build_pairs(name: str, reading: Reading, sides: tuple[str, str], options: DataOptions) -> Dataset:
    """Split pairs of texts and learn how each side is spelt."""
    _refuse_unused(name, reading, options)
    parts = _equally_long(reading.parts)
    found, notes = splits.divide(parts, options.test_fraction, options.valid_fraction, options.seed)
    train, valid, test = _limited(found["train"], options), found["valid"], found["test"]
    longest = train.items.shape[2]
    others = valid.items, test.items
    return Dataset(
        name=name,
        modality=Pairs.fit(train.items, others, sides, options.vocabulary, reading.lower),
        train=train,
        valid=valid,
        test=test,
        classes=(),
        fingerprint=splits.fingerprint((train, valid, test), *sides),
        notes=(*reading.notes, *notes),
        description=f"{_counts(parts)} pairs of up to {longest} characters from {reading.origin}",
    )


def _equally_long(parts: Mapping[str, Split]) -> dict[str, Split]:
    """Return texts in as much room as the longest needs."""
    longest = max(part.items.shape[-1] for part in parts.values())
    return {n: p if p.items.shape[-1] == longest else _longer(p, longest) for n, p in parts.items()}


def _longer(part: Split, longest: int) -> Split:
    return Split(pad(part.items, (0, longest - part.items.shape[-1])), part.labels)


def _build_texts(name: str, reading: Reading, form: Form, options: DataOptions) -> Dataset:
    """Split texts and collect the alphabet of the training split."""
    _refuse_unused(name, reading, options)
    parts = _equally_long(reading.parts)
    longest = parts[next(iter(parts))].items.shape[1]
    shares = options.test_fraction, options.valid_fraction
    found, notes = splits.divide(parts, *shares, options.seed, distinct="all" in parts)
    train = _first(found["train"], options) if form == "blocks" else _limited(found["train"], options)
    size = f"{longest} characters" if form == "blocks" else f"up to {longest} characters"
    return Dataset(
        name=name,
        modality=Texts.fit(train.items, longest, form, options.vocabulary, options.tokenizer),
        train=train,
        valid=found["valid"],
        test=found["test"],
        classes=reading.classes,
        fingerprint=splits.fingerprint((train, found["valid"], found["test"]), form),
        notes=(*reading.notes, *notes),
        description=f"{_counts(parts)} {form} of {size} from {reading.origin}",
    )


def _refuse_unused(name: str, reading: Reading, options: DataOptions) -> None:
    """Refuse options that would have no effect."""
    spoken = reading.text is not None or reading.sides is not None
    if spoken and (options.binarise != "none" or options.size is not None):
        raise DataError(f"{name} is a text: leave --data.binarise and --data.size out")
    if not spoken and options.vocabulary is not None:
        raise DataError(f"{name} is no text: leave --data.vocabulary out")
    if reading.text is None and options.tokenizer is not None:
        raise DataError(f"{name} is no text: leave --data.tokenizer out")
    if not spoken and options.column is not None:
        raise DataError(f"{name} has no column of texts: leave --data.column out")
    if reading.text is None and options.text != "auto":
        raise DataError(f"{name} is no text file: leave --data.text out")
    if reading.columns and options.binarise != "none":
        raise DataError(f"{name} is a table, and binarise is for images: leave --data.binarise out")
    if (spoken or reading.columns) and options.captions is not None:
        raise DataError(f"{name} has no images, and captions are for these: leave --data.captions out")
    column = options.captions not in (None, TEMPLATES)
    if column and not all(part.captions is not None for part in reading.parts.values()):
        raise DataError(f"{name} has no column {options.captions!r} of texts: leave --data.captions out")
    if reading.columns and options.size is not None:
        raise DataError(f"{name} is a table, and size is for images: leave --data.size out")
    if reading.text is not None and options.text not in ("auto", reading.text):
        raise DataError(f"{name} is read as {reading.text}: leave --data.text out")
    if options.label is not None and options.label != reading.label:
        raise DataError(f"{name} has no columns to take labels from: leave --data.label out")
    if options.angles and (not reading.columns or options.given):
        raise DataError("angles is for tables, none of whose columns are given: leave --data.angles out")
    if options.given and not reading.columns and reading.sides is None:
        raise DataError(f"{name} is no table, and given is for columns: leave --data.given out")


def _limited(train: Split, options: DataOptions) -> Split:
    if options.limit is None or options.limit >= len(train):
        return train
    mask = splits.stratified(train.labels, len(train), options.limit, options.seed, "limit")
    return train.take(mask)


def _first(train: Split, options: DataOptions) -> Split:
    """Limit blocks to the first ones, so that neighbours stay neighbours."""
    return train if options.limit is None else train.take(torch.arange(min(options.limit, len(train))))


def is_binary(items: Tensor) -> bool:
    """Tell whether items are zeros and ones."""
    return bool(((items == 0) | (items == 1)).all())


def _modality(
    train: Tensor, reading: Reading, options: DataOptions, bits: bool, unit: Unit | None, longest_prompt: int
) -> Modality:
    if unit:
        return Angles(reading.columns, unit)
    if bits:
        return Binaries(reading.columns)
    if reading.columns:
        return Vectors.fit(train, reading.columns, options.given_columns)
    channels, height, width = train.shape[1:]
    return Images((channels, height, width), reading.levels, options.binarise, options.alpha, longest_prompt)


def _description(reading: Reading, parts: Mapping[str, Split], options: DataOptions) -> str:
    """Return a line such as ``150 rows of 4 columns, 3 classes from scikit-learn``."""
    first = next(iter(parts.values())).items
    if reading.columns:
        kind = f"rows of {len(reading.columns)} columns"
    else:
        _, channels, height, width = first.shape
        colour = "grey" if channels == 1 else "colour"
        kind = f"{colour} images {width}x{height}, {reading.levels} levels"
    classes = f", {len(reading.classes)} classes" if reading.classes else ""
    binarised = ", dynamically binarised," if options.binarise == "dynamic" else ""
    return f"{_counts(parts)} {kind}{classes}{binarised} from {reading.origin}"


def _counts(parts: Mapping[str, Split]) -> str:
    """Return the sizes of what was read, such as ``800 + 200 test``."""
    names = sorted(parts, key=_order)
    return " + ".join(f"{len(parts[n]):,}{'' if n in ('all', 'train') else f' {n}'}" for n in names)


def _order(split: str) -> int:
    return ("all", "train", "valid", "test").index(split)
