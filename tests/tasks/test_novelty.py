"""Scores of novelty: their formulas, and a case where likelihood alone is fooled."""

import json
import math
import zlib

import pytest
import torch

import genloom
from genloom.core.errors import DataError, Unsupported
from genloom.core.randomness import generator
from genloom.metrics import auroc
from genloom.modalities.datasets import DataOptions
from genloom.recipes.novelty import measure_novelty
from genloom.tasks.novelty import compressed_nats, likelihood_ratio, scores, typicality


def test_typicality_sees_what_is_too_likely() -> None:
    """In 100 dimensions the mode of a normal is likelier than any draw, and not typical at all."""
    source = generator("typical")
    own, train = torch.randn(500, 100, generator=source), torch.randn(500, 100, generator=source)
    foreign = 0.5 * torch.randn(500, 100, generator=source)
    nll_own, nll_train, nll_foreign = (0.5 * x.square().sum(1).double() for x in (own, train, foreign))
    assert auroc(nll_own, nll_foreign)[0] < 0.01
    assert auroc(typicality(nll_own, nll_train), typicality(nll_foreign, nll_train))[0] > 0.99
    background = {"own": 0.5 * (own / 0.5).square().sum(1), "foreign": 0.5 * (foreign / 0.5).square().sum(1)}
    ratio = [likelihood_ratio(n, background[k]) for k, n in (("own", nll_own), ("foreign", nll_foreign))]
    assert auroc(*ratio)[0] > 0.99


def test_compressed_size_is_that_of_the_best_filter() -> None:
    noise = torch.randint(0, 256, (1, 1, 16, 16), generator=generator("bytes"), dtype=torch.int64).to(
        torch.uint8
    )
    flat, ramp = torch.full_like(noise, 7), torch.arange(256).view(1, 1, 16, 16).to(torch.uint8)
    plain = [8 * math.log(2) * len(zlib.compress(x.numpy().tobytes(), 9)) for x in (noise, flat, ramp)]
    found = compressed_nats(torch.cat([noise, flat, ramp]))
    assert float(found[0]) <= plain[0]
    assert float(found[1]) <= plain[1] < plain[0] / 5
    assert float(found[2]) < plain[2] / 5, "a ramp is simple once neighbours are subtracted"


def test_only_bytes_are_compressed() -> None:
    nll = torch.zeros(3)
    assert "input complexity" not in scores(nll, nll, None, torch.zeros(3, 2))
    assert list(scores(nll, nll, nll, torch.zeros(3, 1, 2, 2, dtype=torch.uint8)))[-1] == "input complexity"


def test_from_a_run_to_a_table(tmp_path) -> None:
    run = genloom.fit("baseline.gmm", "eight_gaussians", out=tmp_path / "run").run
    found = measure_novelty(
        run, "checkerboard", genloom.DataOptions(), tmp_path / "out", limit=200, say=lambda _: None
    )
    area, lo, hi = found.areas["likelihood"]
    assert 0.8 < lo < area < hi <= 1
    lines = (tmp_path / "out" / "scores.csv").read_text().splitlines()
    columns = lines[0].split(",")
    assert (columns[:2], columns[-1]) == (["likelihood", "typicality"], "group")
    assert [line.rsplit(",", 1)[1] for line in lines[1:]] == ["own"] * 200 + ["foreign"] * 200
    assert (
        json.loads((tmp_path / "out" / "novelty.json").read_text())["scores"]["likelihood"]["auroc"] == area
    )
    assert found.picture.exists()


def test_what_cannot_be_told_apart(tmp_path) -> None:
    run = genloom.fit("baseline.gmm", "eight_gaussians", out=tmp_path / "run").run
    with pytest.raises(DataError, match="iris does not have the form"):
        measure_novelty(run, "iris", genloom.DataOptions(), tmp_path / "out", say=lambda _: None)
    gan = genloom.fit("gan.wgan_gp", "eight_gaussians", out=tmp_path / "gan", train={"steps": 1}).run
    with pytest.raises(Unsupported, match="novelty needs"):
        measure_novelty(gan, "iris", genloom.DataOptions(), tmp_path / "out", say=lambda _: None)


def test_another_unit_is_refused(tmp_path) -> None:
    path = tmp_path / "angles.csv"
    path.write_text("phi,psi\n" + "".join(f"{i % 6},{i * i % 6 / 2}\n" for i in range(100)))
    model = {"hidden": [4], "layers": 1}
    trained = genloom.fit("flow.circular", "torus", out=tmp_path / "run", model=model, train={"steps": 1})
    with pytest.raises(DataError, match="they are angles in degrees, not angles in radians"):
        measure_novelty(trained.run, str(path), DataOptions(angles="degrees"), tmp_path / "out")
    own = measure_novelty(
        trained.run, "torus", DataOptions(), tmp_path / "own", limit=20, background=trained.run.folder
    )
    assert own.areas["likelihood"][0] == 0.5
