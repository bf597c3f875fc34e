"""The public surface: a short list of names, each documented, that works on digits."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch

import genloom
from genloom.core.errors import ConfigError, DataError, GenloomError

NAMES = [
    "CompareConfig",
    "DataOptions",
    "FitConfig",
    "GenloomError",
    "LogProb",
    "TrainConfig",
    "Trained",
    "compare",
    "evaluate",
    "fit",
    "load",
    "open_data",
]

DATA = {"limit": 120, "valid_fraction": 0.05}
VAE = {"hidden": 8, "latent_dim": 2, "importance_samples": 2, "emit": "draw"}


def fit(out: Path, **settings: Any) -> genloom.Trained:
    """Fit a small autoencoder to a few digits."""
    given = {"model": VAE, "train": {"steps": 2}, "data": DATA} | settings
    return genloom.fit("vae.gaussian", "digits", out=out, **given)


def test_the_names() -> None:
    assert genloom.__all__ == NAMES
    assert len(NAMES) <= 40


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_documented(name: str) -> None:
    found = getattr(genloom, name)
    assert inspect.getdoc(found)
    for method, value in vars(found).items() if inspect.isclass(found) else ():
        if inspect.isfunction(value) and not method.startswith("_"):
            assert inspect.getdoc(value), f"{name}.{method}"


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="'genloom' has no attribute 'trian'"):
        genloom.trian  # noqa: B018


def test_fit_and_load_are_the_same_model(tmp_path: Path) -> None:
    trained = fit(tmp_path / "run")
    again = genloom.load(tmp_path / "run")
    assert torch.equal(trained.sample(5, seed=3), again.sample(5, seed=3))
    items = genloom.open_data("digits", genloom.DataOptions(**DATA)).test.items[:6]
    assert torch.equal(trained.log_prob(items).value, again.log_prob(items).value)


def test_samples_are_items(tmp_path: Path) -> None:
    trained = fit(tmp_path / "run")
    many = trained.sample(70, seed=1)
    assert (many.dtype, many.shape) == (torch.uint8, (70, 1, 8, 8))
    assert int(many.max()) <= 16
    assert torch.equal(trained.sample(3, seed=1), many[:3])
    assert not torch.equal(trained.sample(3, seed=2), many[:3])
    assert torch.equal(trained.sample(4, label=7), trained.sample(4, label="7"))
    assert not torch.equal(trained.sample(4, label=7), trained.sample(4, label=1))


KINDS = {
    ("baseline.independent", "digits"): "exact",
    ("baseline.kde", "digits"): "lower_bound",
    ("baseline.kde", "iris"): "exact",
    ("vae.gaussian", "digits"): "lower_bound",
}


@pytest.mark.parametrize(("family", "source"), KINDS)
def test_the_kind_of_a_likelihood(tmp_path: Path, family: str, source: str) -> None:
    model = VAE if family == "vae.gaussian" else {}
    trained = genloom.fit(family, source, out=tmp_path / "run", model=model, train={"steps": 1})
    scored = trained.log_prob(genloom.open_data(source).test.items[:5])
    assert isinstance(scored, genloom.LogProb)
    assert (scored.kind, scored.value.shape) == (KINDS[family, source], (5,))
    assert scored.value.isfinite().all()


def test_a_family_without_a_likelihood(tmp_path: Path) -> None:
    trained = genloom.fit("gan.wgan_gp", "iris", out=tmp_path / "run", train={"steps": 1})
    with pytest.raises(GenloomError, match="log_prob needs a model that offers Likelihood"):
        trained.log_prob(genloom.open_data("iris").test.items)


def test_evaluate(tmp_path: Path) -> None:
    fit(tmp_path / "run")
    before = torch.get_rng_state()
    figures = genloom.evaluate(tmp_path / "run", limit=40)
    assert torch.equal(torch.get_rng_state(), before), "PyTorch's own generator is left alone"
    assert {"frechet", "c2st", "nll", "copying", "rate"} <= set(figures)
    for figure in figures.values():
        assert figure.lo <= figure.value <= figure.hi
        assert len(figure.fingerprint.digest) == 12


def test_samples_of_a_class_are_measured_by_it(tmp_path: Path) -> None:
    fit(tmp_path / "run", conditional="yes")
    figures = genloom.evaluate(tmp_path / "run", limit=40)
    assert 0 <= figures["class_accuracy"].value <= 1
    assert figures["class_accuracy"].note.endswith("of real items")


def test_compare(tmp_path: Path) -> None:
    results = genloom.compare(
        "digits",
        families=["vae.gaussian", "baseline.independent"],
        out=tmp_path,
        models={"vae.gaussian": VAE},
        train={"steps": 2},
        data=DATA,
    )
    assert [r["name"] for r in results["rows"]] == ["real", "copies", "vae.gaussian", "baseline.independent"]
    again = genloom.compare([tmp_path / "runs" / f"{n}-0" for n in ("vae.gaussian", "baseline.independent")],
                            out=tmp_path / "side")  # fmt: skip
    assert [r["figures"]["frechet"]["value"] for r in again["rows"]] == [
        r["figures"]["frechet"]["value"] for r in results["rows"]
    ]
    assert (tmp_path / "side" / "report.html").exists()


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"train": {"steps": 0}}, "^steps must be at least 1, not 0$"),
        ({"train": {"stepz": 3}}, "^there is no setting stepz$"),
        ({"train": {"steps": 1, "flops": 5.0}}, "^give only one of steps and flops$"),
        ({"data": {"limitt": 3}}, "^there is no setting limitt$"),
        ({"model": {"hiden": 3}}, "^vae.gaussian has no setting 'hiden'; did you mean hidden\\?$"),
        ({"view": "lvels"}, "did you mean levels\\?"),
    ],
)
def test_slips_are_one_line(tmp_path: Path, settings: dict[str, Any], line: str) -> None:
    with pytest.raises(GenloomError, match=line):
        fit(tmp_path / "run", **settings)


def test_wrong_samples(tmp_path: Path) -> None:
    trained = fit(tmp_path / "run")
    with pytest.raises(GenloomError, match="n must be at least 1, not 0"):
        trained.sample(0)
    with pytest.raises(GenloomError, match="no class 99"):
        trained.sample(2, label=99)
    plain = genloom.fit("baseline.kde", "iris", out=tmp_path / "plain")
    with pytest.raises(GenloomError, match="is not conditional on classes"):
        plain.sample(2, label=1)
    with pytest.raises(GenloomError, match="is not a run directory"):
        genloom.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        (torch.rand(3, 1, 8, 8), "whole numbers from 0 to 16"),
        (torch.full((3, 1, 8, 8), 17), "whole numbers from 0 to 16"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "items of shape"),
        (torch.zeros(0, 1, 8, 8, dtype=torch.uint8), "items of shape"),
    ],
)
def test_what_are_no_items_is_refused(tmp_path: Path, items: torch.Tensor, reason: str) -> None:
    trained = fit(tmp_path / "run")
    with pytest.raises(GenloomError, match=reason):
        trained.log_prob(items)


def test_rows_with_missing_values_are_refused(tmp_path: Path) -> None:
    trained = genloom.fit("baseline.independent", "iris", out=tmp_path / "run")
    rows = genloom.open_data("iris").test.items.clone()
    assert trained.log_prob(rows.numpy()).value.isfinite().all()  # type: ignore[arg-type]
    rows[0, 0] = torch.nan
    with pytest.raises(GenloomError, match="missing or infinite"):
        trained.log_prob(rows)


def test_comparisons_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(GenloomError, match="no runs to compare"):
        genloom.compare([], out=tmp_path / "out")
    with pytest.raises(GenloomError, match="families: 'str' instances are not allowed"):
        genloom.compare("iris", families="baseline.gmm", out=tmp_path / "out")
    with pytest.raises(GenloomError, match="seeds must be at least 1, not 0"):
        genloom.compare("iris", seeds=0, out=tmp_path / "out")


def test_wrong_types_are_one_line(tmp_path: Path) -> None:
    for words in ({"seed": 1.5}, {"conditional": "maybe"}, {"model": [1]}, {"train": 5}):
        with pytest.raises(GenloomError, match=next(iter(words))):
            genloom.fit("baseline.gmm", "iris", out=tmp_path / "run", **words)  # type: ignore[arg-type]
    trained = genloom.fit("baseline.independent", "iris", out=tmp_path / "run")
    with pytest.raises(GenloomError, match="n must be a valid integer"):
        trained.sample(2.5)  # type: ignore[arg-type]
    with pytest.raises(GenloomError, match="limit must be at least 20, not 3"):
        genloom.evaluate(tmp_path / "run", limit=3)


def test_samples_become_files(tmp_path: Path) -> None:
    trained = fit(tmp_path / "run")
    files = trained.write(4, tmp_path / "out", label="each")
    assert [file.parent.name for file in files] == ["0", "1", "2", "3"]
    assert (tmp_path / "out" / "all.png").exists()
    again = [file.read_bytes() for file in files]
    assert [file.read_bytes() for file in trained.write(4, tmp_path / "out", label="each")] == again


def test_a_class_can_be_asked_of_a_likelihood_and_of_an_infill(tmp_path: Path) -> None:
    trained = genloom.fit(
        "ar.pixelcnn", "digits", out=tmp_path / "run", train={"steps": 30}, data={"limit": 200}
    )
    items = genloom.open_data("digits").test.items[:6]
    by_class = torch.stack([trained.log_prob(items, label=i).value for i in range(10)])
    counts = trained.run.label_counts
    expected = (by_class + (counts / counts.sum()).log()[:, None]).logsumexp(0)
    torch.testing.assert_close(trained.log_prob(items).value, expected)
    known = torch.zeros(8, 8, dtype=torch.bool)
    one, two = (trained.infill(items, known, label=label) for label in ("1", "7"))
    assert not torch.equal(one, two)
    with pytest.raises(ConfigError):
        trained.log_prob(items, label="eleven")


@pytest.mark.parametrize("items", [None, "abc"])
def test_what_are_no_numbers_are_no_items(tmp_path: Path, items: Any) -> None:
    trained = genloom.fit(
        "flow.nice", "two_moons", out=tmp_path / "run", train={"steps": 1}, model={"hidden": [4]}
    )
    with pytest.raises(DataError, match="items must be a tensor or an array of numbers"):
        trained.log_prob(items)
    with pytest.raises(DataError, match="these codes do not fit the model"):
        trained.decode(torch.zeros(2, 3))
