"""Texts: read as lines or blocks, seen as characters, written and read back."""

import math
from pathlib import Path

import pytest
import torch

import genloom
from genloom.core.errors import DataError
from genloom.core.events import Categorical, Leaf, Length, Padded
from genloom.core.likelihood import Bound, LogProb
from genloom.core.randomness import SampleNoise
from genloom.modalities.base import Dataset
from genloom.modalities.characters import CODE_POINTS, TextView, byte_counts, to_items, to_texts, word_counts
from genloom.modalities.datasets import DataOptions, from_json, open_data
from genloom.modalities.texts import Texts
from genloom.recipes.continuing import Writer

LINES = [f"line {'äöü€😀'[i % 5]}{i}" for i in range(60)]


@pytest.fixture
def lines(tmp_path: Path) -> Dataset:
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return open_data(str(path))


def test_lines_are_items(lines: Dataset) -> None:
    assert isinstance(lines.modality, Texts)
    assert [len(s) for s in (lines.train, lines.valid, lines.test)] == [36, 12, 12]
    texts = [t for split in (lines.train, lines.valid, lines.test) for t in to_texts(split.items)]
    assert sorted(texts) == sorted(LINES)
    assert lines.modality.count_units(to_items(["abc", ""])).tolist() == [4, 1]


def test_a_long_text_is_cut_into_blocks_in_its_own_order(tmp_path: Path) -> None:
    text = "".join(chr(97 + i % 26) for i in range(1005))
    (tmp_path / "long.txt").write_text(text)
    data = open_data(str(tmp_path / "long.txt"), DataOptions(block=10, test_fraction=0.1, valid_fraction=0.1))
    assert [len(s) for s in (data.train, data.valid, data.test)] == [80, 10, 10]
    assert "".join(to_texts(data.train.items)) == text[:800]
    assert "".join(to_texts(data.test.items)) == text[904:1004]
    assert data.notes == ("left out 5 characters at the ends of splits that fill no block",)
    view, *_ = data.modality.views()
    assert view.event == Leaf((10,), Categorical(27))
    assert data.modality.count_units(data.test.items).tolist() == [10] * 10


def test_training_blocks_are_cut_at_random_places_of_the_text(tmp_path: Path) -> None:
    text = "".join(chr(0x4E00 + i) for i in range(1000))
    (tmp_path / "long.txt").write_text(text, encoding="utf-8")
    data = open_data(str(tmp_path / "long.txt"), DataOptions(block=10, limit=30))
    view, *_ = data.modality.views()
    encoded = view.encode(data.train.items)
    stretched = view.stretch(encoded)
    noise = SampleNoise(0, torch.arange(30))
    cut = to_texts(view.decode(view.perturb(stretched, SampleNoise(0, torch.arange(29)))))
    places = [text.index(piece) for piece in cut]
    assert all(10 * i <= place <= 10 * i + 10 for i, place in enumerate(places))
    assert len({place % 10 for place in places}) > 5
    assert to_texts(view.decode(view.perturb(encoded, noise))) == to_texts(data.train.items)


def test_characters_are_seen_and_restored(lines: Dataset) -> None:
    view, *_ = lines.modality.views()
    assert isinstance(lines.modality, Texts)
    k = len(lines.modality.alphabet) + 1
    assert view.event == Leaf((Length(lines.test.items.shape[1]),), Categorical(k))
    seen = view.perturb(view.encode(lines.test.items), SampleNoise(0, torch.arange(12)))
    assert isinstance(seen, Padded)
    assert torch.equal(view.decode(seen), lines.test.items)
    again = from_json(lines.modality.describe())
    assert again.describe() == lines.modality.describe()


def test_an_unknown_character_costs_as_much_as_finding_it_among_all_others(lines: Dataset) -> None:
    view, *_ = lines.modality.views()
    assert isinstance(lines.modality, Texts)
    width = lines.test.items.shape[1]
    items = torch.nn.functional.pad(to_items(["line ?!", "line 1"]), (0, width - 7))
    seen = view.perturb(view.encode(items), SampleNoise(0, torch.arange(2)))
    nats = view.to_data(LogProb(torch.zeros(2), Bound.EXACT), seen).value
    each = math.log(CODE_POINTS - len(lines.modality.alphabet))
    torch.testing.assert_close(nats, torch.tensor([-2 * each, 0], dtype=torch.float64))
    assert to_texts(view.decode(seen)) == ["line \ufffd\ufffd", "line 1"]


def test_texts_are_written_and_read_back(lines: Dataset, tmp_path: Path) -> None:
    (path,) = lines.modality.write(lines.test.items, None, tmp_path / "out")
    assert path.read_text(encoding="utf-8").splitlines() == to_texts(lines.test.items)
    media, picture = lines.modality.draw(lines.test.items, reference=lines.train.items)
    assert media == "image/svg+xml"
    assert to_texts(lines.test.items)[0] in picture.decode()


def test_features_count_runs_of_characters() -> None:
    modality = Texts("ab", 4, "lines")
    same, other, longer = modality.features(to_items(["abab", "baba", "ab"]))
    assert float(same.sum()) == 4 + 3 + 2
    assert float(longer.sum()) == 2 + 1
    assert not torch.equal(same, other)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"", DataOptions(), "is empty"),
        (b"\n \n", DataOptions(), "is empty"),
        (b"caf\xe9 au lait\n" * 30, DataOptions(), "no UTF-8 at byte 3: save it as UTF-8"),
        (b"\xef\xbb\xbfcaf\xe9 au lait\n" * 30, DataOptions(), "no UTF-8 at byte 6: save it as UTF-8"),
        (b"a short text", DataOptions(), "too few for a .* split of blocks of 256"),
        (b"a\0b\n" * 30, DataOptions(text="lines"), "the character 0"),
        (b"word\n" * 30, DataOptions(size=8), "leave --data.binarise and --data.size out"),
    ],
)
def test_what_is_no_text(content: bytes, options: DataOptions, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_data(str(tmp_path / "bad.txt"), options)


def test_numbers_in_a_text_file_are_still_a_table(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("\n".join(f"{i} {i * i}" for i in range(30)))
    assert open_data(str(tmp_path / "rows.txt")).modality.name == "vectors"
    with pytest.raises(DataError, match=r"leave --data\.text out"):
        open_data("digits", DataOptions(text="lines"))


def test_sums_are_right_and_the_same_each_time() -> None:
    data = open_data("sums", DataOptions(points=200))
    for text in to_texts(data.train.items):
        left, total = text.split("=")
        assert sum(map(int, left.split("+"))) == int(total)
    assert data.fingerprint == open_data("sums", DataOptions(points=200)).fingerprint


ODD = ["plain", "äöü", "日本語", "a😀b", "tab\there"] * 12


@pytest.fixture
def odd(tmp_path: Path) -> Dataset:
    path = tmp_path / "odd.txt"
    path.write_text("\n".join(ODD) + "\n", encoding="utf-8")
    return open_data(str(path), DataOptions(vocabulary=300))


@pytest.mark.parametrize("name", ["bytes", "bpe"])
def test_bytes_and_pairs_spell_every_text(odd: Dataset, name: str) -> None:
    (view,) = (v for v in odd.modality.views() if v.name == name)
    assert isinstance(view, TextView)
    assert isinstance(view.event, Leaf)
    items = to_items([*set(ODD), "new ÿ"])
    seen = view.perturb(view.encode(items), SampleNoise(0, torch.arange(len(items))))
    assert isinstance(seen, Padded)
    assert seen.values.shape[1] >= int(seen.lengths.max())
    assert torch.equal(view.decode(seen), items)
    spelled = view.spell()
    assert len(spelled) == view.event.kind.k
    for row, n, text in zip(seen.values.tolist(), seen.lengths.tolist(), to_texts(items), strict=True):
        assert b"".join(spelled[s] for s in row[:n]).decode() == text
    kinds = {"bytes": Bound.EXACT, "bpe": Bound.LOWER}
    assert view.to_data(LogProb(torch.zeros(6), Bound.EXACT), seen).kind is kinds[name]


def test_pairs_are_learnt_and_kept(odd: Dataset) -> None:
    first, *_ = odd.modality.views()
    assert (first.name, [v.name for v in odd.modality.views()]) == ("bpe", ["bpe", "characters", "bytes"])
    assert isinstance(first, TextView)
    assert int(first.read(["plain"]).lengths[0]) < 5
    (again, *_) = from_json(odd.modality.describe()).views()
    assert isinstance(again, TextView)
    assert torch.equal(again.read(ODD).values, first.read(ODD).values)
    with pytest.raises(DataError, match="is no text"):
        open_data("digits", DataOptions(vocabulary=300))


def test_training_blocks_of_pairs_are_cut_before_they_are_spelt(tmp_path: Path) -> None:
    text = "".join(chr(0x4E00 + i) for i in range(400))
    (tmp_path / "long.txt").write_text(text, encoding="utf-8")
    options = DataOptions(block=10, vocabulary=256, text="blocks")
    view, *_ = open_data(str(tmp_path / "long.txt"), options).modality.views()
    items = to_items([text[i : i + 10] for i in range(0, 200, 10)])
    noise = SampleNoise(0, torch.arange(19))
    cut = to_texts(view.decode(view.perturb(view.stretch(view.encode(items)), noise)))
    assert all(len(piece) == 10 and piece in text for piece in cut)
    assert len({text.index(piece) % 10 for piece in cut}) > 3


@pytest.mark.parametrize("family", ["seq.ngram", "seq.lstm"])
@pytest.mark.parametrize("name", ["bytes", "bpe"])
def test_texts_of_bytes_go_on(odd: Dataset, tmp_path: Path, family: str, name: str) -> None:
    (tmp_path / "some.txt").write_text("\n".join(ODD) + "\n", encoding="utf-8")
    trained = genloom.fit(
        family,
        tmp_path / "some.txt",
        out=tmp_path / "run",
        view=name,
        data={"vocabulary": 300},
        train={} if family == "seq.ngram" else {"steps": 3},
    )
    found = trained.continue_texts(["日", "a", "Ω"], length=6, seed=1)
    assert Writer(trained.run)._read(["a", "abcd"]).values.shape[1] <= 4, "a prompt is not padded to an item"
    assert all("\ufffd" not in one.text for one in found)
    (matched,) = trained.continue_texts(["p"], length=12, pattern="[a-z]{2}x")
    assert matched.text.startswith("x") or len(matched.text) >= 2
    assert trained.sample(3).shape[1] == odd.modality.longest


def test_bytes_and_words_are_counted() -> None:
    items = to_items(["two words", " a  b ", "Ωmega €uro 😀", "", "one"])
    assert byte_counts(items).tolist() == [len(t.encode()) for t in to_texts(items)]
    assert word_counts(items, True).tolist() == [2, 2, 3, 0, 1]
    assert word_counts(items, False).tolist() == [1, 2, 2, 0, 0]
    whole = to_items(["one two three four five"])
    parts = torch.stack([whole[0, :11], whole[0, 11:22]])
    assert int(word_counts(parts, False).sum()) == 4


def test_half_a_character_is_refused_in_one_line() -> None:
    with pytest.raises(DataError, match="half a character"):
        to_items(["fine", "\ud800 y"])
