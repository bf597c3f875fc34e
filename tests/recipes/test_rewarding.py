"""Models of texts that are rewarded: in Python and as it is typed, resumed, and refused."""

import json
from pathlib import Path

import pytest

import genloom
from genloom.cli.main import main
from genloom.core.errors import ConfigError, DataError, RunError, Unsupported
from genloom.modalities.characters import to_texts
from genloom.recipes.rewarding import judged, matches

TRAIN = {"steps": 120}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> genloom.Trained:
    folder = tmp_path_factory.mktemp("rewarded")
    settings = {"units": 48, "layers": 1, "dropout": 0.0, "lr": 1e-2}
    return genloom.fit("seq.lstm", "sums", out=folder / "prior", model=settings, train={"steps": 150})


def share(trained: genloom.Trained, pattern: str) -> float:
    texts = to_texts(trained.sample(400, seed=5))
    return sum(matches(pattern)(texts)) / len(texts)


def test_more_texts_are_as_was_wanted(trained: genloom.Trained) -> None:
    out, pattern = trained.run.folder.with_name("tuned"), ".*7"
    before = share(trained, pattern)
    tuned = trained.reinforce(matches(pattern), out, lr=5e-3, train=TRAIN, name=pattern)
    assert before < 0.3
    assert share(tuned, pattern) > before + 0.3
    texts = to_texts(tuned.sample(200))
    assert sum(matches(r"\d+\+\d+=\d+")(texts)) > 120
    assert tuned.run.facts["rewarded"]["by"] == pattern
    assert tuned.run.facts["state"] == "finished"
    again = genloom.load(out)
    assert to_texts(again.sample(8)) == to_texts(tuned.sample(8))


def test_a_large_beta_keeps_the_model_as_it_was(trained: genloom.Trained) -> None:
    out, pattern = trained.run.folder.with_name("kept"), ".*7"
    tuned = trained.reinforce(matches(pattern), out, beta=50.0, train={"steps": 40})
    assert abs(share(tuned, pattern) - share(trained, pattern)) < 0.1


def test_the_command_tunes_and_goes_on(trained: genloom.Trained, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = str(trained.run.folder), str(trained.run.folder.with_name("typed"))
    words = ["reinforce", folder, ".*=1\\d*", "--steps", "20", "--batch-size", "32", "--out", out]
    main(words)
    assert "20 steps, reward less divergence" in capsys.readouterr().out
    main([*words, "--json"])
    told = capsys.readouterr()
    assert "finished already" in told.err
    assert json.loads(told.out)["rewarded"]["batch_size"] == 32
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--beta", "0.3"])
    assert stopped.value.code == 2
    assert (
        "holds a run with another rewarded (beta 0.1, not 0.3): choose another --out"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("rewards", [[1.0], [1.0, float("nan")], [[1.0, 2.0], [1.0, 2.0]]])
def test_rewards_are_one_number_a_text(rewards: list[float]) -> None:
    with pytest.raises((DataError, TypeError)):
        judged(lambda texts: rewards, ["a", "b"])  # noqa: ARG005


def test_what_cannot_be_rewarded_is_refused(trained: genloom.Trained, tmp_path: Path) -> None:
    counted = genloom.fit("seq.ngram", "sums", out=tmp_path / "counted", data={"points": 200})
    with pytest.raises(Unsupported, match=r"fit seq\.lstm, seq\.gpt or seq\.ssm"):
        counted.reinforce(matches("a"), tmp_path / "a")
    points = genloom.fit("baseline.gmm", "iris", out=tmp_path / "points")
    with pytest.raises(Unsupported):
        points.reinforce(matches("a"), tmp_path / "b")
    with pytest.raises(ConfigError, match="beta and lr must be above 0"):
        trained.reinforce(matches("a"), tmp_path / "c", beta=0.0)
    with pytest.raises(ConfigError, match="is no regular expression"):
        matches("(")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    with pytest.raises(RunError, match="is not a run directory"):
        trained.reinforce(matches("a"), tmp_path / "full")
