"""Fit, sample and evaluate, as they are typed."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from cli_kit import SMALL, VAE, Cli

from genloom.cli.settings import with_config
from genloom.core.serial import to_json

Fitted = Callable[..., Path]

MOONS = ("--data.points", 400, "--model.layers", 2, "--model.hidden", "[8]", "--steps", 2)


def test_the_same_seed_gives_the_same_bytes(fitted: Fitted) -> None:
    first, again, other = fitted("first"), fitted("again"), fitted("other", "--seed", 1)
    weights = [(run / "model.safetensors").read_bytes() for run in (first, again, other)]
    assert weights[0] == weights[1] != weights[2]


def test_what_a_fit_leaves(cli: Cli, fitted: Fitted) -> None:
    run = fitted()
    assert "Variational autoencoder" in (run / "CARD.md").read_text()
    assert {p.name for p in run.iterdir()} >= {
        "run.json", "model.safetensors", "metrics.jsonl", "checkpoints", "samples", "CARD.md"
    }  # fmt: skip
    again = cli("fit", "vae.gaussian", "digits", *SMALL, *VAE, "--steps", 2, "--out", "run")
    assert again.code == 0
    assert "run is finished already; nothing to do" in again.err


def test_digits_from_fit_to_figures(cli: Cli, fitted: Fitted) -> None:
    run = fitted()
    drawn = cli("sample", run, "-n", 5, "--label", "each", "--json").json
    assert (drawn["n"], drawn["seed"]) == (5, 0)
    assert [Path(f).parent.name for f in drawn["files"]] == ["0", "1", "2", "3", "4"]
    assert Path(drawn["picture"]).read_bytes().startswith(b"\x89PNG")
    measured = cli("evaluate", run, "--limit", 40, "--json", "--out", "figures").json
    assert {"frechet", "nll", "bits_per_dim", "copying", "inception"} <= set(measured["figures"])
    nll = measured["figures"]["nll"]
    assert nll["kind"] == "lower_bound"
    assert nll["lo"] < nll["value"] < nll["hi"]
    assert json.loads(Path("figures/evaluation.json").read_text()) == measured
    shown = cli("evaluate", run, "--limit", 40)
    assert "frechet" in shown.out
    assert measured["figures"]["nll"]["digest"] in shown.out


def test_moons_from_fit_to_figures(cli: Cli) -> None:
    facts = cli("fit", "flow.nsf", "two_moons", *MOONS, "--out", "run", "--json").json
    assert (facts["state"], facts["steps"], facts["view"]) == ("finished", 2, "standardised")
    assert cli("evaluate", "run", "--json").json["figures"]["nll"]["kind"] == "exact"
    assert cli("sample", "run", "-n", 6).out.startswith(
        "run/samples/seed-0-n-6/all.svg: 6 samples of flow.nsf"
    )


def rows_of(folder: str) -> list[list[str]]:
    """Return the lines of a folder's table."""
    with Path(folder, "items.csv").open(newline="") as file:
        return list(csv.reader(file))[1:]


def test_fewer_samples_are_the_first_of_more(cli: Cli) -> None:
    assert cli("fit", "flow.nsf", "two_moons", *MOONS, "--out", "run").code == 0
    for n in (3, 70):
        assert cli("sample", "run", "-n", n, "--out", f"few{n}").code == 0
    assert cli("sample", "run", "-n", 3, "--out", "other", "--seed", 1).code == 0
    assert len(rows_of("few70")) == 70
    assert rows_of("few3") == rows_of("few70")[:3]
    assert rows_of("few3") != rows_of("other")


def test_labels_by_name_and_number(cli: Cli, tmp_path: Path) -> None:
    lines = [f"{x},{x * x % 7},{'red' if x % 2 else 'blue'}" for x in range(80)]
    (tmp_path / "table.csv").write_text("\n".join(["x,y,colour", *lines]))
    fit = ("fit", "flow.nsf", "table.csv", "--data.label", "colour", *MOONS[2:], "--out", "run")
    assert cli(*fit).code == 0
    blue, red = "blue", "red"
    for label, expected in (("red", [red] * 4), ("0", [blue] * 4), ("each", [blue, red] * 2)):
        assert cli("sample", "run", "-n", 4, "--label", label, "--out", label).code == 0
        assert [row[-1] for row in rows_of(label)] == expected


def test_flags_win_over_the_file(cli: Cli, tmp_path: Path) -> None:
    settings = {
        "steps": 3,
        "seed": 7,
        "train": {"batch_size": 9, "accumulate": 3},
        "data": {"limit": 120, "valid_fraction": 0.05},
        "model": {"hidden": 8, "latent_dim": 3, "network": "mlp", "lr": 1e-4},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    fit = ("fit", "vae.gaussian", "digits", "--config", "run.yaml", "--json")
    facts = cli(*fit, "--out", "one").json
    assert (facts["train"]["steps"], facts["train"]["batch_size"], facts["train"]["accumulate"]) == (3, 9, 3)
    assert (facts["seed"], facts["data"]["options"]["limit"]) == (7, 120)
    assert (facts["config"]["latent_dim"], facts["config"]["lr"]) == (3, 1e-4)
    facts = cli(
        *fit, "--out", "two", "--steps=2", "--model.latent_dim", 2, "--data.limit", 100, "--batch_size", 8
    ).json
    assert (facts["train"]["steps"], facts["train"]["batch_size"]) == (2, 8)
    assert (facts["config"]["latent_dim"], facts["config"]["hidden"]) == (2, 8)
    assert facts["data"]["options"]["limit"] == 100


@pytest.mark.parametrize(
    ("text", "given", "expected"),
    [
        ("steps: 5", ["--budget", "3s"], ["--budget", "3s"]),
        ("compile: true", [], ["--compile=true"]),
        ("compile: true", ["--no-compile"], ["--no-compile"]),
        ("families: [flow.nsf, vae.gaussian]", [], ["--families=flow.nsf,vae.gaussian"]),
        ("model: {flow.nsf: {bins: 4}}", [], ["--model.flow.nsf.bins=4"]),
        ("model: {flow: {nsf: {hidden: [4, 4]}}}", [], ["--model.flow.nsf.hidden=[4, 4]"]),
        ("model: {network: auto, bins:}", [], ['--model.network="auto"']),
        ("model: {prior: {family: ar.made}}", [], ['--model.prior={"family": "ar.made"}']),
        ("model: {vae.vq: {prior: {family: ar.made}}}", [], ['--model.vae.vq.prior={"family": "ar.made"}']),
        ("budget: 10m", [], ["--budget=10m"]),
        ("", ["--steps", "3"], ["--steps", "3"]),
    ],
)
def test_settings_become_flags(tmp_path: Path, text: str, given: list[str], expected: list[str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    assert with_config([*given, f"--config={file}"]) == expected
    assert with_config(["--config", str(file), *given]) == expected
    assert with_config(given) == given


def test_machines_get_strict_json(cli: Cli, toys: None) -> None:  # noqa: ARG001
    assert "flow.nsf" in [c["name"] for c in cli("list", "--json").json]
    assert cli("info", "flow.nsf", "--json").json["settings"]["bins"]["default"] > 0
    assert set(cli("doctor", "--json").json["families"].values()) == {"ok"}
    run = ("fit", "toy.copier", "two_moons", "--data.points", 200, "--out", "run", "--json")
    assert cli(*run).json["stages"]["fit"]["figures"] == {"unseen": "inf"}
    assert json.loads(to_json({"a": [float("nan"), -float("inf"), 1.5], "b": (None,)})) == {
        "a": ["nan", "-inf", 1.5],
        "b": [None],
    }


def test_people_get_tables(cli: Cli) -> None:
    assert "baseline.gmm" in cli("list").out
    assert "--model.NAME VALUE" in cli("info", "flow.nsf").out
    assert "families" in cli("doctor").out


def test_a_run_finds_its_data_from_another_folder(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["a,b", *(f"{math.sin(i)},{math.cos(2 * i)}" for i in range(200))]
    Path("table.csv").write_text("\n".join(lines))
    run = Path("run").resolve()
    assert cli("fit", "baseline.independent", "table.csv", "--out", run).code == 0
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert cli("evaluate", run, "--limit", 20).code == 0
