"""Pairs of texts: reading, tokens of both sides, what is given and what is modelled, files and pictures."""

import gzip
import json
import os
from pathlib import Path

import pytest
import torch

from genloom.core.errors import DataError
from genloom.core.events import Padded
from genloom.core.randomness import SampleNoise
from genloom.modalities import datasets
from genloom.modalities.base import Dataset, Split
from genloom.modalities.characters import to_texts
from genloom.modalities.datasets import DataOptions, open_data
from genloom.modalities.homes import REMOTES
from genloom.modalities.pairs import Pairs, TranslationView
from genloom.modalities.parallel import PARALLEL, draw_numerals, read_pairs, read_parallel, roman, to_pairs

HERE = os.environ.get("GENLOOM_DATA")
WORDS = {"one": "eins", "two": "zwei", "three": "drei", "four": "vier", "five": "fünf", "six": "sechs"}


def rows() -> list[tuple[str, str]]:
    """Return 36 pairs of two words each."""
    return [(f"{WORDS[a]} {WORDS[b]}", f"{a} {b}") for a in WORDS for b in WORDS]


@pytest.fixture
def opened(tmp_path: Path) -> Dataset:
    path = tmp_path / "numbers.tsv"
    path.write_text("de\ten\n" + "".join(f"{a}\t{b}\n" for a, b in rows()), encoding="utf-8")
    return open_data(str(path), DataOptions(column="en", given="de", vocabulary=300))


def view_of(dataset: Dataset) -> TranslationView:
    (view,) = dataset.modality.views()
    assert isinstance(view, TranslationView)
    return view


def test_columns_become_pairs(opened: Dataset) -> None:
    assert opened.description == "36 pairs of up to 11 characters from numbers.tsv"
    assert len(opened.train) + len(opened.valid) + len(opened.test) == 36
    assert opened.train.items.shape[1:] == (2, 11)
    found = {tuple(to_texts(pair)) for pair in opened.train.items}
    assert found <= set(rows())
    assert opened.modality.describe()["names"] == ["de", "en"]


def test_a_view_gives_one_side_and_models_the_other(opened: Dataset) -> None:
    view, items = view_of(opened), opened.train.items
    x = view.perturb(view.encode(items), SampleNoise(0, torch.arange(len(items))))
    assert isinstance(x, Padded)
    assert x.values.dtype == torch.int64
    given = view.conditions(Split(items))
    assert isinstance(given, Padded)
    assert torch.equal(view.decode(x), items[:, 1])
    assert torch.equal(view.join(view.decode(x), given), items)
    assert not torch.equal(given.values, x.values)


def test_a_modality_comes_back_from_its_description(opened: Dataset) -> None:
    again = datasets.from_json(json.loads(json.dumps(opened.modality.describe())))
    assert isinstance(again, Pairs)
    assert again.describe() == opened.modality.describe()
    view, other = view_of(opened), again.views()[0]
    assert view.event == other.event
    assert view.given == other.given
    found, expected = (v.encode(opened.test.items) for v in (other, view))
    assert isinstance(found, Padded)
    assert isinstance(expected, Padded)
    assert torch.equal(found.values, expected.values)


def test_units_are_characters_of_what_is_modelled_and_its_end(opened: Dataset) -> None:
    items = to_pairs(["vier"], ["to 4"])
    assert opened.modality.count_units(items).tolist() == [5]


def test_white_space_is_single_blanks() -> None:
    items = to_pairs(["  a\tb ", "c"], ["x\n\ny", "z"])
    assert [to_texts(pair) for pair in items] == [["a b", "x y"], ["c", "z"]]


def test_sides_of_different_number_are_refused() -> None:
    with pytest.raises(DataError, match="2 texts on one side and 1 on the other"):
        to_pairs(["a", "b"], ["c"])


def test_samples_are_written_as_they_were_read(opened: Dataset, tmp_path: Path) -> None:
    (path,) = opened.modality.write(opened.test.items, None, tmp_path / "out")
    again = open_data(str(path), DataOptions(column="en", given="de", vocabulary=300))
    count = sum(map(len, (again.train, again.valid, again.test)))
    assert count == len(opened.test)
    media, picture = opened.modality.draw(opened.test.items, reference=opened.test.items)
    assert media == "image/svg+xml"
    assert b"de / en / data" in picture


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"column": "en", "given": "en"}, "cannot be given and modelled at once"),
        ({"column": "english", "given": "de"}, "no 'english'"),
        ({"column": "en", "given": "de", "binarise": "dynamic"}, "is a text: leave --data.binarise"),
        ({"column": "en", "given": "de", "angles": "degrees"}, "angles is for tables"),
        ({"column": "en", "given": "de", "label": "de"}, "no columns to take labels from"),
    ],
)
@pytest.mark.usefixtures("opened")
def test_options_without_use_are_refused(tmp_path: Path, options: dict, text: str) -> None:
    with pytest.raises(DataError, match=text):
        open_data(str(tmp_path / "numbers.tsv"), DataOptions(**options))


def test_a_vocabulary_holds_every_byte(opened: Dataset) -> None:
    text = "漢字 Ωx"
    for side in (view_of(opened).source, view_of(opened).target):
        assert side.texts(side.read([text])) == [text]


def test_texts_longer_than_any_known_are_refused(opened: Dataset) -> None:
    with pytest.raises(DataError, match="the longest known one"):
        view_of(opened).read(["unbekannt " * 20])


def test_quotes_and_breaks_do_not_disturb_files(opened: Dataset, tmp_path: Path) -> None:
    items = to_pairs(['"nein', 'a "b" c', "x"], ['"no', "b", 'y"'])
    (path,) = opened.modality.write(items, None, tmp_path / "quoted")
    reading = read_pairs(path, "de", "en")
    assert [to_texts(pair) for pair in reading.parts["all"].items] == [to_texts(pair) for pair in items]
    view = view_of(opened)
    broken = view.target.read(["one\n two\t"])
    found = view.decode(Padded(broken.values, broken.lengths))
    assert to_texts(found) == ["one two"]


def test_empty_pairs_are_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    lines = [{"a": f"text {i}", "b": f"word {i}" if i % 4 else " "} for i in range(40)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = open_data(str(path), DataOptions(column="b", given="a", vocabulary=256))
    assert "left out 10 pairs of which a text is empty" in found.notes
    path.write_text('{"a": "", "b": "x"}\n')
    with pytest.raises(DataError, match="no pair of texts in its columns 'a' and 'b'"):
        open_data(str(path), DataOptions(column="b", given="a"))


def test_named_pairs_are_read_in_either_direction(tmp_path: Path) -> None:
    corpus = PARALLEL["multi30k"]
    for stem in corpus.files.values():
        for side, text in (("de", "Eins Zwei\nDrei\n"), ("en", "One Two\nThree\n")):
            with gzip.open(tmp_path / f"{stem}.{side}.gz", "wt", encoding="utf-8") as file:
                file.write(text)
    found = read_parallel(tmp_path, corpus, ())
    assert found.sides == ("de", "en")
    assert to_texts(found.parts["test"].items[0]) == ["eins zwei", "one two"]
    turned = read_parallel(tmp_path, corpus, ("en",))
    assert turned.sides == ("en", "de")
    assert to_texts(turned.parts["valid"].items[1]) == ["three", "drei"]
    with pytest.raises(DataError, match="the sides de and en"):
        read_parallel(tmp_path, corpus, ("fr",))
    assert {remote.name for remote in REMOTES["multi30k"]} == {
        f"{stem}.{side}.gz" for stem in corpus.files.values() for side in corpus.sides
    }


HELD = bool(HERE and Path(HERE, "multi30k").is_dir())


def test_numerals_are_those_of_the_romans() -> None:
    known = {1: "i", 4: "iv", 9: "ix", 49: "xlix", 1666: "mdclxvi", 1987: "mcmlxxxvii", 3999: "mmmcmxcix"}
    assert {number: roman(number) for number in known} == known
    found = draw_numerals(10_000, 0, ())
    numbers = [to_texts(pair) for pair in found.parts["all"].items]
    assert sorted(int(number) for number, _ in numbers) == list(range(1, 4000))
    assert all(roman(int(number)) == numeral for number, numeral in numbers)
    assert draw_numerals(5, 0, ("numeral",)).sides == ("numeral", "number")


@pytest.mark.skipif(not HELD, reason="no multi30k folder in $GENLOOM_DATA")
def test_multi30k_is_as_it_was_published() -> None:
    found = open_data("multi30k", DataOptions(vocabulary=400, limit=2000))
    assert (len(found.train), len(found.valid), len(found.test)) == (2000, 1014, 1000)
    assert to_texts(found.test.items[0]) == [
        "ein mann mit einem orangefarbenen hut, der etwas anstarrt.",
        "a man in an orange hat starring at something.",
    ]
