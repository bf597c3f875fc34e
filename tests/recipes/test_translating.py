"""Translations: drawn and searched for, one by one and together, in Python and as they are typed."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch

import genloom
from genloom.cli.main import main
from genloom.core.errors import ConfigError, DataError, Unsupported
from genloom.modalities.datasets import DataOptions, open_data
from genloom.recipes.comparing import CompareConfig, make_plan
from genloom.recipes.evaluating import data_of, evaluate_run
from genloom.recipes.translating import Search, Translator

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FAMILIES = {
    "seq2seq.transformer": {"width": 64, "encoder_layers": 1, "layers": 2, "dropout": 0.0},
    "seq2seq.rnn": {"units": 96, "embedding": 32, "dropout": 0.0},
}
STEPS = {"seq2seq.transformer": 350, "seq2seq.rnn": 1000}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a table of numbers of four digits and these in words."""
    path = tmp_path_factory.mktemp("pairs") / "numbers.csv"
    numbers = [f"{n:04}" for n in range(0, 10_000, 9)]
    lines = [f"{n},{' '.join(DIGITS[int(d)] for d in n)}" for n in numbers]
    path.write_text("number,words\n" + "\n".join(lines) + "\n")
    return path


DATA = {"column": "words", "given": "number", "vocabulary": 280}


@pytest.fixture(scope="module", params=FAMILIES)
def trained(table: Path, request: pytest.FixtureRequest) -> genloom.Trained:
    family = request.param
    out, settings = table.parent / family, {**FAMILIES[family], "batch_size": 64}
    return genloom.fit(family, table, out=out, model=settings, data=DATA, train={"steps": STEPS[family]})


def test_numbers_are_read_out(trained: genloom.Trained) -> None:
    dataset = data_of(trained.run)
    figures = evaluate_run(trained.run).figures
    assert figures["bleu"].value > 50
    assert figures["chrf"].value > 50
    assert figures["bleu"].n == len(dataset.test)
    assert figures["nll"].given == "text"
    assert figures["nll"].kind == "lower_bound"


def test_a_translation_depends_on_its_text_alone(trained: genloom.Trained) -> None:
    texts = ["0017", "3052", "8806", "9621"]
    together = trained.translate(texts)
    alone = [trained.translate([text])[0] for text in texts]
    assert [one.text for one in together] == [one.text for one in alone]
    assert [one.source for one in together] == texts
    for a, b in zip(together, alone, strict=True):
        assert a.nats == pytest.approx(b.nats, abs=1e-4)
    drawn = [trained.translate(texts, temperature=3.0, seed=seed) for seed in (1, 1, 2)]
    assert [one.text for one in drawn[0]] == [one.text for one in drawn[1]]
    assert [one.text for one in drawn[0]] != [one.text for one in drawn[2]]


def test_a_search_finds_what_is_at_least_as_likely(trained: genloom.Trained) -> None:
    texts = ["1121", "4705", "8089"]
    greedy = trained.translate(texts)
    for a, b in zip(trained.translate(texts, beam=6, length_penalty=0.0), greedy, strict=True):
        assert a.nats <= b.nats + 1e-4
    with pytest.raises(ConfigError, match="leave temperature and cuts out"):
        trained.translate(texts, beam=3, temperature=1.0)


def test_nats_are_those_of_the_model(trained: genloom.Trained) -> None:
    translator = Translator(trained.run)
    for one in translator.translate(["3052", "1299"], search=Search(4)):
        x, cond = translator.view.answer([one.text]), translator.view.read([one.source])
        scored = trained.model.log_density(x, cond)
        assert float(scored) == pytest.approx(-one.nats, abs=1e-3)


def test_a_picture_shows_what_is_looked_at(trained: genloom.Trained) -> None:
    translator = Translator(trained.run)
    picture = ET.fromstring(translator.attention("3052", "three zero five two"))
    view = translator.view
    read = view.read(["3052"]), view.answer(["three zero five two"])
    columns, rows = (int(side.lengths) + 1 for side in read)
    squares = [part for part in picture.iter() if part.get("fill-opacity") is not None]
    assert len(squares) == rows * columns
    shares = torch.tensor([float(part.get("fill-opacity", 0)) for part in squares]).view(rows, columns)
    assert torch.allclose(shares.sum(1), torch.ones(rows), atol=0.03)
    assert [part.text for part in picture.iter() if part.tag.endswith("text")].count("end") == 2


def test_texts_that_cannot_be_translated_are_refused(trained: genloom.Trained) -> None:
    with pytest.raises(DataError, match="text 2 of 2 is empty"):
        trained.translate(["1", "  "])
    with pytest.raises(DataError, match="the longest known one"):
        trained.translate(["1" * 100])


def test_other_models_do_not_translate(table: Path) -> None:
    out = table.parent / "counts"
    run = genloom.fit("seq.ngram", "sums", out=out, data={"points": 200})
    with pytest.raises(Unsupported, match="not of pairs of texts"):
        run.translate(["1"])


def test_only_models_of_pairs_take_pairs(table: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be given texts: fit one of seq2seq"):
        genloom.fit("seq.gpt", table, out=table.parent / "no", data=DATA)
    with pytest.raises(ConfigError, match="it needs pairs"):
        genloom.fit("seq2seq.rnn", "sums", out=table.parent / "no")
    config = CompareConfig(source=str(table), data=DataOptions(**DATA))
    plan = make_plan(config, open_data(str(table), DataOptions(**DATA)))
    assert plan.families == ("seq2seq.rnn", "seq2seq.transformer")


def typed(*words: object) -> None:
    main([str(word) for word in words])


def test_the_command_prints_a_line_for_each_text(
    trained: genloom.Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, svg = tmp_path / "texts.txt", tmp_path / "attention.svg"
    file.write_text("4567\n6789\n")
    folder = trained.run.folder
    typed("translate", folder, "3052", "--file", file)
    expected = trained.translate(["3052", "4567", "6789"])
    assert capsys.readouterr().out.splitlines() == [one.text for one in expected]
    typed("translate", folder, "3052", "--beam", 3, "--attention", svg, "--json")
    told = json.loads(capsys.readouterr().out)
    assert told["translations"][0]["source"] == "3052"
    assert b"<svg" in svg.read_bytes()


def test_a_flag_leaves_the_other_choices_as_they_are(
    trained: genloom.Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = [one.text for one in trained.translate([" 3052\t", "9999"])]
    typed("translate", trained.run.folder, "3052", "9999", "--min-p", "0")
    assert capsys.readouterr().out.splitlines() == expected


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "translate needs a text"),
        (("1", "2", "--attention", "a.svg"), "a picture of one text, not of 2"),
        (("1", "--beam", "0"), "a beam is from 1 to 1,000 wide"),
        (("1", "--length-penalty", "1"), "--length-penalty is of a search"),
        (("1", "--beam", "2", "--length-penalty", "-1"), "its length penalty from 0 to 10"),
        (("1", "--guidance-scale", "2"), "guidance is towards a class"),
        (("a\udcff",), "half a character"),
        (("1", "--file", "/no/such/file"), "No such file"),
        (("1", "--beam", "2", "--top-k", "3"), "leave temperature and cuts out"),
    ],
)
def test_what_makes_no_sense_gets_one_line(
    trained: genloom.Trained, words: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        typed("translate", trained.run.folder, *words)
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert text in told
    assert len(told.strip().splitlines()) == 1
