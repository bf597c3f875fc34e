"""Texts that go on: drawn, cut, matched, searched for and guessed, in Python and as they are typed."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import genloom
from genloom.core.errors import ConfigError, DataError, Unsupported
from genloom.modalities.characters import to_items
from genloom.nn.decoding import Choice
from genloom.recipes.continuing import Wish, Writer
from genloom.recipes.runs import open_run

TEXT = "one two three four five six seven eight nine ten " * 60
SETTINGS = {
    "seq.ngram": {},
    "seq.lstm": {"units": 32, "layers": 1},
    "seq.gpt": {"width": 32, "layers": 2},
    "seq.ssm": {"width": 32, "layers": 1},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], genloom.Trained]:
    """Return a function that gives a run of blocks of 24 characters of counting."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "text.txt").write_text(TEXT)

    def run(family: str) -> genloom.Trained:
        options = {"text": "blocks", "block": 24}
        more = {} if family == "seq.ngram" else {"train": {"steps": 60}}
        out, settings = folder / family, SETTINGS[family]
        return genloom.fit(family, folder / "text.txt", out=out, model=settings, data=options, **more)

    return run


@pytest.mark.parametrize("family", SETTINGS)
def test_a_continuation_depends_on_its_prompt_and_seed_alone(
    runs: Callable[[str], genloom.Trained], family: str
) -> None:
    trained = runs(family)
    first, second, third = trained.continue_texts(["one t", "", "seven eight nine"], length=40, seed=3)
    (alone,) = trained.continue_texts(["one t"], length=40, seed=3)
    assert alone.text == first.text
    assert len(first.text) == len(second.text) == len(third.text) == 40
    assert first.text != trained.continue_texts(["one t"], length=40, seed=4)[0].text
    assert set(third.text) <= set(TEXT)
    writer = Writer(trained.run)
    assert "".join(writer.pieces("one t", Wish(40, seed=3))) == first.text


def test_counts_learn_to_count(runs: Callable[[str], genloom.Trained]) -> None:
    trained = runs("seq.ngram")
    (found,) = trained.continue_texts(["one two "], length=22, temperature=0.0)
    assert found.text == "three four five six se"
    (best, *_) = Writer(trained.run).search("one two ", 3, 0.0, Wish(22))
    assert best.text == found.text
    assert best.nats == pytest.approx(found.nats, abs=1e-9)


def test_nats_are_those_of_the_model(runs: Callable[[str], genloom.Trained]) -> None:
    trained = runs("seq.lstm")
    (found,) = trained.continue_texts([""], length=24, seed=1)
    nats = -float(trained.log_prob(to_items([found.text])).value)
    assert nats - 1.0 < found.nats < nats


def test_stops_end_a_text_and_are_cut(runs: Callable[[str], genloom.Trained]) -> None:
    trained, stop = runs("seq.ngram"), (" five", "nine")
    (found,) = trained.continue_texts(["two three"], length=60, temperature=0.0, stop=stop)
    assert (found.text, found.ended) == (" four", True)
    pieces = list(Writer(trained.run).pieces("two three", Wish(60, Choice(temperature=0), stop)))
    assert "".join(pieces) == " four"
    assert len(pieces) > 1


@pytest.mark.parametrize("family", SETTINGS)
def test_a_pattern_is_matched(runs: Callable[[str], genloom.Trained], family: str) -> None:
    pattern = r" (t[a-z]{2,4} ){2}(six|nine)"
    found = runs(family).continue_texts(["one"] * 4, length=40, pattern=pattern)
    for one in found:
        assert one.ended
        assert re.fullmatch(pattern, one.text)


def test_lines_end_where_the_pattern_is_matched(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("".join(f"{'ab' * (i % 7 + 1)}\n" for i in range(100)))
    trained = genloom.fit("seq.ngram", tmp_path / "lines.txt", out=tmp_path / "run")
    found = trained.continue_texts([""] * 30, length=30, pattern="(ab)*a?", seed=2)
    assert all(re.fullmatch("(ab)*a?", one.text) for one in found)
    assert {one.text for one in found} > {"ab", "abab"}
    short = trained.continue_texts([""], length=3, pattern="(ab){5}")[0]
    assert (short.text, short.ended) == ("aba", False)


def test_a_helper_guesses_for_another(runs: Callable[[str], genloom.Trained]) -> None:
    model, helper = runs("seq.gpt"), runs("seq.ngram")
    writer = Writer(model.run, helper.run)
    found = writer.write(["one ", "two thr", ""], Wish(12, seed=5))
    again = writer.write(["one "], Wish(12, seed=5))
    assert [len(one.text) for one in found] == [12] * 3
    assert again[0].text == found[0].text
    with torch.no_grad():
        (line,) = writer.write([""], Wish(12))
        alone = Writer(model.run)
        reader = alone.model.reader(1, 13)
        symbols = alone.view.read([line.text]).values
        start = torch.tensor([[alone.model.alphabet.nameless]])
        logits = reader.read(torch.cat((start, symbols[:, :-1]), 1)).log_softmax(-1)
    expected = -float(logits.gather(2, symbols[..., None]).sum())
    assert line.nats == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("family", ["seq.lstm", "seq.gpt", "seq.ssm"])
def test_half_of_the_bits_say_nearly_the_same(runs: Callable[[str], genloom.Trained], family: str) -> None:
    trained = runs(family)
    exact, found = (
        trained.continue_texts(["one two "], length=20, temperature=0.0, precision=precision)[0]
        for precision in ("fp32", "bf16")
    )
    assert found.text == exact.text
    assert found.nats == pytest.approx(exact.nats, rel=0.1)
    assert found.nats != exact.nats


def test_what_the_model_will_not_see_is_said(runs: Callable[[str], genloom.Trained]) -> None:
    assert "the last 12" in Writer(runs("seq.gpt").run).notice("one two", 40)
    assert Writer(runs("seq.gpt").run).notice("one two", 10) == ""
    assert Writer(runs("seq.lstm").run).notice("one two", 4000) == ""


def test_refusals(runs: Callable[[str], genloom.Trained], tmp_path: Path) -> None:
    trained = runs("seq.ngram")
    for error, words, prompt, settings in (
        (DataError, "has no 'Z'", "Z", {}),
        (
            DataError,
            "after 'one ' this model can write nothing",
            "",
            {"pattern": "one Z"},
        ),
        (ConfigError, "no regular expression", "", {"pattern": "("}),
        (ConfigError, "top_k", "", {"top_k": 0}),
        (ConfigError, "does not run in bfloat16: leave --precision out", "", {"precision": "bf16"}),
        (ConfigError, "leave --compile out", "", {"compile": True}),
        (ConfigError, "not conditional", "", {"label": "x"}),
        (ConfigError, "towards a class", "", {"guidance_scale": 2.0}),
        (ConfigError, "empty stop", "", {"stop": ("",)}),
        (DataError, "half a character", "", {"stop": ("\udcff",)}),
        (ConfigError, r"never writes '\\n'", "", {"stop": ("\n",)}),
        (ConfigError, "no regular expression", "", {"pattern": "(" * 5000 + ")" * 5000}),
    ):
        with pytest.raises(error, match=words):
            trained.continue_texts([prompt], **settings)
    with pytest.raises(ConfigError, match="leave stops, patterns, cuts and helpers out"):
        Writer(trained.run).search("", 2, 0.0, Wish(stop=("a",)))
    with pytest.raises(ConfigError, match="under stops or a pattern"):
        Writer(runs("seq.gpt").run, trained.run).write([""], Wish(5, stop=("one",)))
    other = genloom.fit("seq.ngram", "sums", out=tmp_path / "other")
    with pytest.raises(ConfigError, match="other texts"):
        Writer(trained.run, other.run)
    images = genloom.fit("baseline.independent", "digits", out=tmp_path / "images")
    with pytest.raises(Unsupported, match="only texts"):
        Writer(images.run)
    texts = genloom.fit("baseline.independent", "sums", out=tmp_path / "independent")
    with pytest.raises(Unsupported, match="NextSymbol"):
        Writer(texts.run)


def test_a_stop_and_a_pattern_hold_together(runs: Callable[[str], genloom.Trained]) -> None:
    settings = {"length": 40, "pattern": "[a-z ]+", "stop": (" f", " s")}
    found = runs("seq.ngram").continue_texts(["one"] * 8, **settings)
    assert all(" f" not in one.text and " s" not in one.text for one in found)
    assert any(one.ended for one in found)
    (missed,) = runs("seq.ngram").continue_texts(["one"], length=5, pattern="[a-z ]{9,}", stop=("xx",))
    assert (len(missed.text), missed.ended) == (5, False)


def test_some_texts_may_be_stuck(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("abc\nacb\n" * 30)
    trained = genloom.fit("seq.ngram", tmp_path / "lines.txt", out=tmp_path / "run")
    found = trained.continue_texts([""] * 20, length=5, pattern="a(b|cZ)")
    assert {(one.text, one.ended) for one in found} == {("ab", True), ("ac", False)}
    with pytest.raises(DataError, match="leads to 'acZ'"):
        trained.continue_texts([""] * 20, length=5, pattern="acZ")


def test_lines_are_no_longer_than_lines_are(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("".join(f"{'ab'[i % 2] * 3}\n" for i in range(60)))
    trained = genloom.fit("seq.lstm", tmp_path / "lines.txt", out=tmp_path / "run", train={"steps": 2})
    found = trained.continue_texts(["", "a", "bbb"] * 40, length=50)
    assert max(len(one.prompt + one.text) for one in found) == 3
    assert all(one.ended for one in found if one.prompt != "bbb")
    assert [one.text for one in found if one.prompt == "bbb"] == [""] * 40
    assert trained.continue_texts([]) == []
    with pytest.raises(DataError, match="up to 3 symbols, the prompt 4"):
        trained.continue_texts(["abab"])


def test_as_it_is_typed(runs: Callable[[str], genloom.Trained], capsys: pytest.CaptureFixture[str]) -> None:
    from genloom.cli.main import main

    folder = str(runs("seq.ngram").run.folder)
    assert open_run(folder).family == "seq.ngram"

    def typed(*words: str) -> str:
        main(["continue", folder, *words])
        return capsys.readouterr().out

    assert typed("one two ", "--length", "10", "--temperature", "0") == "one two three four\n"
    assert (
        typed("one two ", "--length", "10", "-n", "2", "--beam", "3").splitlines()[0] == "one two three four"
    )
    assert len(typed("one", "-n", "3", "--length", "9").splitlines()) == 3
    with pytest.raises(SystemExit):
        main(["continue", folder, "Ä"])
    caught = capsys.readouterr()
    assert (caught.out, caught.err.count("\n")) == ("", 1)
