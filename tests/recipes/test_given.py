"""Columns that are given: from the option to samples, likelihoods and reports."""

import pytest
import torch

import genloom
from genloom.core.errors import ConfigError, DataError
from genloom.modalities.base import Split
from genloom.modalities.datasets import DataOptions, open_data
from genloom.recipes.novelty import measure_novelty
from genloom.recipes.walking import write_interpolations

OPTIONS = {"given": "age, bmi"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return genloom.fit(
        "flow.maf",
        "diabetes",
        out=tmp_path_factory.mktemp("given") / "run",
        data=OPTIONS,
        train={"steps": 30},
    )


def test_views_give_some_columns_and_model_the_others() -> None:
    data = open_data("diabetes", DataOptions(**OPTIONS))
    (view,) = data.modality.views()
    items = data.test.items
    given = view.conditions(Split(items))
    assert given.shape == (len(items), 2)
    assert view.encode(items).shape == (len(items), 9)
    assert data.modality.count_units(data.test.items[:2]).tolist() == [9, 9]
    whole = view.join(view.decode(view.encode(items).double()), given)
    torch.testing.assert_close(whole, items, rtol=1e-6, atol=1e-6)
    assert data.fingerprint != open_data("diabetes").fingerprint


def test_likelihoods_say_what_was_given(trained) -> None:
    scored = trained.log_prob(genloom.open_data("diabetes").test.items)
    assert scored.given == "columns"
    assert bool(scored.value.isfinite().all())


def test_samples_hold_what_was_given(trained, tmp_path) -> None:
    drawn = trained.sample(5, given={"bmi": 30.0, "age": 42.0})
    assert drawn.shape == (5, 11)
    torch.testing.assert_close(drawn[:, [0, 2]], torch.tensor([42.0, 30.0]).double().expand(5, 2))
    assert len(drawn[:, 1].unique()) == 5
    rows = genloom.open_data("diabetes", DataOptions(**OPTIONS)).test.items
    of_rows = trained.sample(6)[:, [0, 2]].double()
    gaps = (of_rows[:, None] - rows[None, :, [0, 2]]).abs().sum(-1).min(1).values
    assert float(gaps.max()) < 1e-9, "by default the test rows' values are given"
    assert torch.equal(trained.sample(3), trained.sample(6)[:3])
    assert (
        trained.write(2, tmp_path / "drawn", given={"bmi": 30.0, "age": 42.0})[0].read_text().count("30.0")
        >= 2
    )


def test_codes_are_those_of_items_with_their_own_columns(trained, tmp_path) -> None:
    items = genloom.open_data("diabetes", DataOptions(**OPTIONS)).test.items[:7]
    assert trained.encode(items).shape == (7, 9)
    torch.testing.assert_close(trained.reconstruct(items), items, rtol=1e-3, atol=1e-3)
    with pytest.raises(DataError, match="2 numbers an item"):
        trained.decode(torch.zeros(2, 9))
    with pytest.raises(ConfigError, match="interpolate needs codes that stand for themselves"):
        write_interpolations(trained.run, None, 2, 3, "linear", None)
    with pytest.raises(ConfigError, match="name a --background"):
        measure_novelty(trained.run, "diabetes", DataOptions(), tmp_path / "n")


def test_evaluation_and_comparison(trained, tmp_path) -> None:
    assert genloom.evaluate(trained.run.folder)["nll"].given == "columns"
    results = genloom.compare(
        "diabetes",
        families=["flow.nice", "vae.gaussian"],
        data=OPTIONS,
        train={"steps": 5},
        out=tmp_path / "c",
    )
    names = [row["name"] for row in results["rows"]]
    assert any("flow.nice" in name for name in names)
    assert not any("vae" in name for name in names)


@pytest.mark.parametrize(
    ("family", "source", "given", "text"),
    [
        ("flow.maf", "diabetes", "agee", "did you mean age"),
        ("vae.gaussian", "diabetes", "age", "cannot be given columns"),
        ("flow.maf", "iris", ",".join(genloom.open_data("iris").modality.columns), "leave one"),
        ("flow.maf", "digits", "age", "no table"),
    ],
)
def test_what_cannot_be_given_is_refused(family, source, given, text, tmp_path) -> None:
    with pytest.raises((ConfigError, DataError), match=text):
        genloom.fit(family, source, out=tmp_path / "run", data={"given": given}, train={"steps": 1})


def test_wrong_values_are_refused(trained) -> None:
    for given, text in (({"age": 1.0}, "age, bmi"), ({"age": 1.0, "bmi": float("nan")}, "finite")):
        with pytest.raises(DataError, match=text):
            trained.sample(1, given=given)
