"""Compare: one leaderboard that is honest about what failed, what copied and what took no part."""

import json
import os
import re
import shutil
import signal
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

import pytest
from cli_kit import SMALL, Cli

from genloom.core import registry
from genloom.report import schema
from genloom.train import loop

DIGITS = (
    "compare", "digits", *SMALL, "--steps", 5,
    "--families", "vae.gaussian,flow.nsf,baseline.independent",
    "--model.vae.gaussian.hidden", 8, "--model.vae.gaussian.importance_samples", 2,
    "--model.flow.nsf.layers", 1, "--model.flow.nsf.hidden", "[8]", "--model.flow.nsf.bins", 4,
)  # fmt: skip
MOONS = ("compare", "two_moons", "--data.points", 400, "--steps", 5)


def require(value: Any, kind: Any, where: str = "results") -> None:
    """Fail unless a JSON value is what a typed dictionary declares, without unknown keys."""
    origin, inner = get_origin(kind), get_args(kind)
    if is_typeddict(kind):
        hints = get_type_hints(kind)
        assert kind.__required_keys__ <= set(value) <= set(hints), f"{where}: {sorted(value)}"
        for name, one in value.items():
            require(one, hints[name], f"{where}.{name}")
    elif origin is list:
        for i, one in enumerate(value):
            require(one, inner[0], f"{where}[{i}]")
    elif origin is dict:
        for name, one in value.items():
            require(one, inner[1], f"{where}.{name}")
    elif origin is Literal:
        assert value in inner, f"{where}: {value!r}"
    elif origin in (Union, UnionType):
        kinds = [k for k in inner if isinstance(k, type)]
        assert isinstance(value, (*kinds, int) if float in kinds else tuple(kinds)), f"{where}: {value!r}"
    elif origin is NotRequired:
        require(value, inner[0], where)
    else:
        assert isinstance(value, (float, int) if kind is float else kind), f"{where}: {value!r}"


def rows_by_name(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in results["rows"]}


def times(folder: str) -> dict[Path, int]:
    """Return when the weights of each run were written."""
    return {path: path.stat().st_mtime_ns for path in Path(folder).glob("runs/*/model.safetensors")}


def test_digits(cli: Cli) -> None:
    outcome = cli(*DIGITS, "--out", "all")
    assert outcome.code == 0, outcome
    assert "vae.gaussian" in outcome.out
    assert "all/report.html" in outcome.out
    results = json.loads(Path("all/results.json").read_text(), parse_constant=pytest.fail)
    require(results, schema.Results)
    schema.check(results)
    rows = rows_by_name(results)
    assert set(rows) == {"real", "copies", "vae.gaussian", "flow.nsf", "baseline.independent"}
    assert sorted(r["rank"] for r in rows.values() if r["status"] == "ok") == [1, 2, 3]
    assert rows["copies"]["why"] == "flagged as copying, as it must be"
    assert rows["vae.gaussian"]["cost"]["steps"] == 5
    digests = {r["figures"]["frechet"]["fingerprint"]["digest"] for r in rows.values()}
    assert len(digests) == 1, "every row is measured alike"
    page = Path("all/report.html").read_text()
    assert "data:image/png;base64" in page
    assert not re.findall(r"""(?:src|href)=["']?(?!data:|#)(?!https?://(?:arxiv|doi)\.org)[^"'\s>]+""", page)
    assert not re.search(r"<script[^>]*src|@import|url\((?!data:)", page)

    before = times("all")
    assert len(before) == 3
    again = cli(*DIGITS, "--out", "all", "--json")
    assert times("all") == before
    assert rows_by_name(again.json)["flow.nsf"]["figures"] == rows["flow.nsf"]["figures"]

    changed = cli(*DIGITS[:-1], 5, "--out", "all")
    assert changed.code == 2
    assert "flow.nsf-0 holds a run with another config" in changed.err.splitlines()[-1]

    side = cli("compare", "all/runs/vae.gaussian-0", "all/runs/flow.nsf-0", "--out", "side", "--json").json
    assert set(rows_by_name(side)) == {"real", "copies", "vae.gaussian", "flow.nsf"}
    for name, row in rows_by_name(side).items():
        assert row["figures"]["frechet"] == rows[name]["figures"]["frechet"]
    assert side["budget"]["text"] == "5 training steps for each fit"

    refused = cli("compare", "all/runs/vae.gaussian-0", "all/runs/flow.nsf-0", "--seeds", 3, "--steps", 9)
    assert refused.code == 2
    assert refused.err.endswith("compared as they are: leave training settings, --seeds out\n")

    copies = [shutil.copytree("all/runs/vae.gaussian-0", f"copy-{i}") for i in range(3)]
    three = cli("compare", *copies, "--json").json
    assert len(three["rows"]) == 5, "runs of one family keep a row each"


def test_an_interrupted_comparison_goes_on(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, steps = loop.train_step, []

    def interrupted(state: Any, rhythm: Any) -> dict[str, float]:
        steps.append(rhythm.stage)
        if len(steps) == 8:
            os.kill(os.getpid(), signal.SIGINT)
        return whole(state, rhythm)

    monkeypatch.setattr(loop, "train_step", interrupted)
    outcome = cli(*DIGITS, "--out", "all")
    assert outcome.code == 130
    assert "genloom: stopped at step 3 of 5; the same command goes on from there" in outcome.err
    assert not Path("all/results.json").exists()
    before = times("all")
    assert [path.parent.name for path in before] == ["vae.gaussian-0"]

    outcome = cli(*DIGITS, "--out", "all")
    assert outcome.code == 0
    assert "all/runs/vae.gaussian-0 is finished already" in outcome.err
    assert "resumed at step 3 of 5" in outcome.err
    assert len(steps) == 10, "no step is taken twice"
    assert before.items() <= times("all").items()
    assert Path("all/results.json").exists()


def test_what_goes_wrong_is_labelled(cli: Cli, toys: None) -> None:  # noqa: ARG001
    families = "toy.diverging,toy.copier,toy.lost,baseline.independent,ar.pixelcnn"
    outcome = cli(*MOONS, "--families", families, "--out", "all", "--json")
    assert outcome.code == 0, outcome
    rows = rows_by_name(outcome.json)
    assert (rows["toy.diverging"]["status"], rows["toy.diverging"]["rank"]) == ("failed", None)
    assert "square of phase pull is not finite at step" in rows["toy.diverging"]["why"]
    assert (rows["toy.lost"]["status"], rows["toy.lost"]["rank"]) == ("failed", None)
    assert rows["toy.lost"]["cost"]["steps"] == 5
    assert rows["toy.lost"]["why"].startswith("its samples cannot be measured: fake contains NaN")
    copier = rows["toy.copier"]
    assert (copier["status"], copier["rank"]) == ("copying", None)
    assert copier["figures"]["copying"]["value"] > 0.9
    assert "closer to training items" in copier["why"]
    assert (rows["baseline.independent"]["status"], rows["baseline.independent"]["rank"]) == ("ok", 1)
    assert outcome.json["skipped"] == [{"name": "ar.pixelcnn", "reason": "takes no view of vectors data"}]
    assert json.loads(Path("all/runs/toy.diverging-0/run.json").read_text())["state"] == "failed"
    page = Path("all/report.html").read_text()
    assert "is not finite at step" in page
    assert "takes no view of vectors data" in page
    shown = cli(*MOONS, "--families", families, "--out", "all")
    assert shown.code == 0
    assert "toy.copier" in shown.out


def test_a_dry_run_trains_nothing(cli: Cli) -> None:
    outcome = cli("compare", "two_moons", "--dry-run")
    assert outcome.code == 0
    assert "  flow.nsf\n" in outcome.out
    assert "  ar.pixelcnn: skipped, takes no view of vectors data" in outcome.out
    assert re.search(r"\d families, 1 seed\(s\) each: about [\d.]+ minutes", outcome.out)
    plan = cli(*MOONS, "--dry-run", "--json").json
    assert plan["seconds"] is None
    assert "flow.realnvp" in plan["skipped"]
    assert plan["skipped"]["flow.nice"] == "not shown unless named, or with --families all"
    every = cli(*MOONS, "--dry-run", "--json", "--families", "all").json
    assert set(every["families"]) | set(every["skipped"]) == set(registry.names())
    assert "flow.nice" in every["families"]
    assert every["skipped"].pop("ae.plain").startswith("draws no samples to compare")
    assert set(every["skipped"].values()) == {"takes no view of vectors data"}
    assert os.listdir() == []


def test_runs_on_other_data_refuse(cli: Cli) -> None:
    for name, points in (("a", 400), ("b", 401)):
        fit = ("fit", "baseline.kde", "two_moons", "--data.points", points, "--out", name)
        assert cli(*fit).code == 0
    outcome = cli("compare", "a", "b")
    assert outcome.code == 2
    assert "only runs on the same data compare" in outcome.err
    assert not Path("runs").exists()


def test_seeds_widen_the_interval(cli: Cli) -> None:
    flow = ("--families", "flow.nsf", "--model.flow.nsf.layers", 1, "--model.flow.nsf.hidden", "[8]")
    one = rows_by_name(cli(*MOONS, *flow, "--out", "one", "--json").json)["flow.nsf"]
    results = cli(*MOONS, *flow, "--seeds", 2, "--out", "two", "--json").json
    two = rows_by_name(results)["flow.nsf"]
    assert results["seeds"] == [0, 1]
    first, second = two["per_seed"]["frechet"]
    assert first == one["figures"]["frechet"]["value"] != second
    merged = two["figures"]["frechet"]
    assert merged["value"] == pytest.approx((first + second) / 2)
    assert merged["hi"] - merged["lo"] > abs(first - second)


def test_settings_from_a_file(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(
        "steps: 2\nfamilies: [flow.nsf, baseline.kde]\nmodel: {flow.nsf: {layers: 1, hidden: [8], bins: 5}}\n"
        "data:\n  points: 400\n"
    )
    outcome = cli("compare", "two_moons", "--config", "run.yaml", "--out", "all", "--json")
    assert set(rows_by_name(outcome.json)) == {"real", "copies", "flow.nsf", "baseline.kde"}
    config = json.loads(Path("all/runs/flow.nsf-0/run.json").read_text())["config"]
    assert (config["layers"], config["bins"]) == (1, 5)
