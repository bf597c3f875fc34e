"""Whatever a person gets wrong ends in one line on standard error that says what to do, and exit code 2."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cli_kit import SMALL, VAE, Cli
from PIL import Image

from genloom.families import baseline_gmm
from genloom.recipes import fitting
from genloom.recipes.runs import open_run

Refused = Callable[..., str]
Fitted = Callable[..., Path]

FIT = ("fit", "vae.gaussian", "digits", "--steps", 1)
TABLE = ("fit", "baseline.independent", "table.csv")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["fti"], 'Did you mean "fit"?'),
        (["fit", "vae.gausian", "digits"], "no family is called 'vae.gausian'; did you mean vae.gaussian?"),
        (["info", "flow.nfs"], "did you mean flow.nsf?"),
        (["reproduce", "mnist-vea"], "no recipe is called 'mnist-vea'; did you mean mnist-vae?"),
        (["reproduce"], "name a recipe that genloom reproduce --list shows, or give --quick"),
        (["compare", "digits", "--families", "flow.nfs"], "did you mean flow.nsf?"),
        ([*FIT[:2], "digts"], "called 'digts' and no file or folder is there; did you mean digits?"),
        ([*FIT[:2], "pictures/of/cats"], "no file or folder is there"),
        ([*FIT, "--stepz", "3"], "Unknown option: --stepz. Did you mean --steps?"),
        ([*FIT, "--data.limitt", "3"], "Did you mean --data.limit?"),
        ([*FIT, "--model.hiden", "3"], "vae.gaussian has no setting 'hiden'; did you mean hidden?"),
        ([*FIT, "--model.hidden", "many"], "vae.gaussian: hidden must be a valid integer, not 'many'"),
        ([*FIT, "--model.hidden", "[1"], "setting hidden: '[1' is not a value"),
        ([*FIT, "--model", "3"], "such as --model.channels 64"),
        ([*FIT, "--view", "lvels"], "images data have no view 'lvels'; did you mean levels?"),
        (["fit", "flow.realnvp", "digits", "--view", "levels"], "does not take the view 'levels'"),
        ([*FIT, "--budget", "3s"], "give only one of steps and budget"),
        ([*FIT, "--seed", "x"], 'Invalid value for --seed: unable to convert "x" into int'),
        ([*FIT, "--resume", "maybe"], 'Choose from: "auto", "never"'),
        ([*FIT[:3], "--steps", "0"], "--steps must be at least 1, not '0'"),
        ([*FIT[:3], "--steps", "-5"], "--steps must be at least 1, not '-5'"),
        ([*FIT[:3], "--steps", "x"], "--steps must be a valid integer, not 'x'"),
        ([*FIT[:3], "--budget", "3x"], "--budget: '3x' is not a time such as 90s, 10m or 1.5h"),
        ([*FIT[:3], "--budget", "0s"], "--budget must be greater than 0"),
        ([*FIT[:3], "--flops", "inf"], "--flops must be a finite number"),
        ([*FIT, "--batch-size", "0"], "--batch-size must be at least 1"),
        ([*FIT, "--data.test-fraction", "0.9"], "must leave something for training"),
        ([*FIT, "--data.points", "3"], "--data.points must be at least 10, not '3'"),
        (["fit", "flow.realnvp", "two_moons"], "flow.realnvp does not take two_moons data"),
        (["fit", "baseline.kde", "two_moons", "--conditional", "yes"], "takes no condition"),
        (["fit", "ar.pixelcnn", "checkerboard", "--view", "levels"], "have no view 'levels'"),
        (["fit", "flow.nsf", "iris", "--model.hidden", "[-4]"], "hidden.0 must be greater than 0, not -4"),
        (["fit", "flow.nsf", "iris", "--model.hidden", "16"], "must be a list such as [64, 64], not 16"),
        (["fit", "flow.nsf", "iris", "--model.hidden", "[]"], "hidden must have at least 1 item, not 0"),
        (["fit", "flow.cnf", "iris", "--model.tolerance", "1e-30"], "tolerance must be at least 0.0000001"),
        (["fit", "flow.nsf", "iris", "--model.lr", ".inf"], "lr must be a finite number"),
        (["toys", "--families", "flow.foo"], "no family is called 'flow.foo'"),
        (["infill", "nowhere"], "nowhere is not a run directory (no run.json)"),
        (["compare"], "genloom compare digits"),
        (["compare", "digits", "--seeds", "0"], "--seeds must be at least 1, not 0"),
        (["compare", "digits", "--seeds", "-2"], "--seeds must be at least 1, not -2"),
        (["compare", "digits", "--model.flow.nsf.bns", "7"], "flow.nsf has no setting 'bns'; did you mean"),
        (["compare", "digits", "--model.flow.nsf.bins", "x"], "flow.nsf: bins must be a valid integer"),
        (["compare", "digits", "--model.flow.nfs.bins", "7"], "did you mean flow.nsf?"),
        (["compare", "digits", "--model.flow", "7"], "such as --model.flow.nsf.bins 16"),
        (
            ["compare", "digits", "--families", "baseline.kde", "--model.flow.nsf.bins", "7"],
            "there are settings for flow.nsf, which takes no part here",
        ),
        (
            ["compare", "two_moons", "--families", "flow.realnvp,ar.pixelcnn"],
            "can be compared on two_moons data: flow.realnvp takes no view of vectors data",
        ),
        (["encode", "nowhere"], "nowhere is not a run directory (no run.json)"),
        (["reconstruct", "nowhere"], "nowhere is not a run directory (no run.json)"),
        (["interpolate", "nowhere", "--path", "round"], 'Choose from: "linear", "spherical"'),
        (["traverse", "nowhere", "--reach", "nan"], "--reach must be a number above 0, not nan"),
        (["sample", "nowhere"], "nowhere is not a run directory (no run.json)"),
        (["evaluate", "nowhere"], "nowhere is not a run directory (no run.json)"),
        (["evaluate", "nowhere", "--limit", "3"], "nowhere is not a run directory"),
        ([*FIT, "extra"], "extra"),
        (["fit"], "--family requires an argument"),
    ],
)  # fmt: skip
def test_a_slip_is_one_line(refused: Refused, words: list[str], line: str) -> None:
    assert line in refused(*words)
    assert os.listdir() == [], "nothing is left behind"


CONFIGS = {
    "stepz: 3": "Unknown option: --stepz. Did you mean --steps?",
    "data: {limitt: 3}": "Unknown option: --data.limitt. Did you mean --data.limit?",
    "model: {hiden: 3}": "vae.gaussian has no setting 'hiden'; did you mean hidden?",
    "model: 3": "--model takes a setting and its value",
    "steps: 0": "--steps must be at least 1, not '0'",
    "steps: [2\n a: b": "run.yaml is not valid YAML: line 2",
    "steps: !!python/object/apply:os.getcwd []": "run.yaml is not valid YAML",
    "- 1\n- 2": "run.yaml must hold settings such as steps: 2000, not a list",
    "steps: \x01": "run.yaml is not valid YAML",
}


@pytest.mark.parametrize("text", CONFIGS)
def test_bad_config(refused: Refused, tmp_path: Path, text: str) -> None:
    (tmp_path / "run.yaml").write_text(text)
    assert CONFIGS[text] in refused("fit", "vae.gaussian", "digits", "--config", "run.yaml")


def test_missing_config(refused: Refused, tmp_path: Path) -> None:
    assert refused(*FIT, "--config", "none.yaml") == "none.yaml: No such file or directory"
    assert "--config takes one YAML file" in refused(*FIT, "--config")
    (tmp_path / "latin.yaml").write_bytes(b"out: caf\xe9")
    assert "latin.yaml is not valid YAML" in refused(*FIT, "--config=latin.yaml")


def pictures(folder: Path, good: int, bad: int = 0, size: int = 4) -> Path:
    """Fill a folder with noise, and with files that break off in the middle."""
    folder.mkdir(exist_ok=True)
    source = np.random.default_rng(size)
    for i in range(good):
        Image.fromarray(source.integers(0, 256, (size, size), np.uint8)).save(
            folder / f"good{size}-{i:03d}.png"
        )
    whole = (folder / f"good{size}-000.png").read_bytes()
    for i in range(bad):
        (folder / f"bad{i}.png").write_bytes(whole[: len(whole) // 2])
    return folder


def test_broken_pictures_are_skipped_named_and_counted(cli: Cli, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pictures", good=40, bad=2)
    outcome = cli("fit", "baseline.independent", folder, "--out", "run")
    assert outcome.code == 0, outcome
    assert "data: skipped 2 of 42 images that cannot be read: bad0.png, bad1.png" in outcome.err


def test_too_many_broken_pictures(refused: Refused, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pictures", good=20, bad=2)
    assert "2 of 22 images cannot be read, bad0.png, bad1.png" in refused("fit", "vae.gaussian", folder)


def test_pictures_of_several_sizes(refused: Refused, tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", good=3)
    folder = pictures(tmp_path / "pictures", good=2, size=5)
    line = refused("fit", "vae.gaussian", folder)
    assert "images have 2 sizes, 4x4 (3), 5x5 (2): make them equal with --data.size" in line


def test_an_empty_folder(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty holds no images" in refused("fit", "vae.gaussian", "empty")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a,b\n1,2\n3,red\n", "table.csv:3: column 'b': 'red' is not a number"),
        ("a,b\n1,2\n3,nan\n", "table.csv:3: column 'b': nan is not a finite number"),
        ("a,b\n1,2\n3,\n", "table.csv:3: column 'b': the cell is empty"),
        ("a,b\n1,2\n3\n", "table.csv:3: 1 cells, but the first line has 2"),
        ("a,b\n", "table.csv has no rows"),
        ("", "table.csv has no column of numbers"),
    ],
)
def test_a_table_with_holes(refused: Refused, tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "table.csv").write_text(text)
    assert line in refused(*TABLE)


def test_an_unknown_label_column(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("a,kind\n1,red\n")
    assert "has no column 'knd'; did you mean kind?" in refused(*TABLE, "--data.label", "knd")


def test_classes_and_counts_of_samples(refused: Refused, fitted: Fitted) -> None:
    run = fitted()
    assert "no class 'ten' (there are 0, 1, 2" in refused("sample", run, "--label", "ten")
    assert "no class '10'; did you mean 1" in refused("sample", run, "--label", "10")
    assert refused("sample", run, "-n", 0) == "-n must be at least 1, not 0"
    assert refused("sample", run, "--n=-4") == "-n must be at least 1, not -4"
    assert refused("evaluate", run, "--limit", -1) == "--limit must be at least 20, not -1"
    plain = fitted("plain", "--conditional", "no")
    assert "plain is not conditional on classes: leave the label out" in refused(
        "sample", plain, "--label", "1"
    )


def test_an_occupied_folder(refused: Refused, fitted: Fitted, tmp_path: Path) -> None:
    fitted()
    assert "run holds a run with another seed (0, not 1): choose another --out" in refused(
        *FIT[:3], "--steps", 2, *SMALL, *VAE, "--out", "run", "--seed", 1
    )
    assert "--resume auto" in refused(
        *FIT[:3], "--steps", 2, *SMALL, *VAE, "--out", "run", "--resume", "never"
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    assert "mine exists and is not a run directory" in refused(*FIT, "--out", "mine")


def test_a_place_that_cannot_be_written(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "file/run: Not a directory" in refused(*FIT, "--out", "file/run")
    assert "file/run: Not a directory" in refused("compare", "iris", "--steps", 1, "--out", "file/run")


def edit(run: Path, **facts: object) -> None:
    """Change ``run.json`` behind genloom's back."""
    path = run / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


@pytest.mark.parametrize("command", ["sample", "evaluate", "compare"])
def test_damaged_runs(refused: Refused, fitted: Fitted, tmp_path: Path, command: str) -> None:
    run = fitted()
    other = [] if command != "compare" else [run]

    def copy(name: str) -> Path:
        return Path(shutil.copytree(run, tmp_path / name))

    edit(copy("old"), format=0)
    assert "old was written in run format 0, this genloom reads 1" in refused(command, *other, "old")
    (copy("cut") / "run.json").write_text('{"format": 1, "fam')
    assert "run.json is not valid JSON" in refused(command, *other, "cut")
    (copy("list") / "run.json").write_text("[1, 2]")
    assert "run.json is not a JSON object" in refused(command, *other, "list")
    (copy("poor") / "run.json").write_text('{"format": 1, "family": "vae.gaussian"}')
    assert "run.json: state: Field required" in refused(command, *other, "poor")
    for name, value in (("label_counts", ["a"]), ("sample_batch", 0), ("data", {}), ("stages", 3)):
        edit(copy(f"bad-{name}"), **{name: value})
        assert f"run.json: {name}" in refused(command, *other, f"bad-{name}")
    edit(copy("other"), config={"gone": 1})
    assert "there is no setting gone" in refused(command, *other, "other")
    edit(copy("stranger"), family="vae.gausian")
    assert "did you mean vae.gaussian?" in refused(command, *other, "stranger")
    weights = copy("bits") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert "bits/model.safetensors does not match the hash" in refused(command, *other, "bits")
    edit(tmp_path / "bits", weights_sha256="")
    assert "bits/model.safetensors does not fit its run.json" in refused(command, *other, "bits")
    edit(copy("unfinished"), state="interrupted")
    (tmp_path / "unfinished" / "model.safetensors").unlink()
    assert "its state is 'interrupted': finish it" in refused(command, *other, "unfinished")


def test_data_that_changed(refused: Refused, cli: Cli, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(60, 2))
    np.savetxt(tmp_path / "table.csv", rows, delimiter=",")
    assert cli(*TABLE, "--out", "run").code == 0
    np.savetxt(tmp_path / "table.csv", rows + 1, delimiter=",")
    assert "restore the data, or fit again" in refused("evaluate", "run")
    shutil.copytree("run", "copy")
    assert "restore the data, or fit again" in refused("compare", "run", "copy")
    assert "run holds a run with another data" in refused(*TABLE, "--out", "run")
    (tmp_path / "table.csv").unlink()
    assert "no file or folder is there" in refused("evaluate", "run")


def test_too_few_items_to_measure(refused: Refused, cli: Cli, tmp_path: Path) -> None:
    np.savetxt(tmp_path / "table.csv", np.random.default_rng(0).normal(size=(40, 2)), delimiter=",")
    assert cli(*TABLE, "--out", "run").code == 0
    assert "20 of each are needed to measure anything" in refused("evaluate", "run")


def test_feature_weights_that_do_not_fit(refused: Refused, fitted: Fitted, tmp_path: Path) -> None:
    run = fitted()
    assert "no feature weights at none" in refused("evaluate", run, "--features", "none")
    (tmp_path / "junk").write_bytes(b"junk")
    assert "junk is not a sound safetensors file" in refused("evaluate", run, "--features", "junk")
    line = refused("evaluate", run, "--features", run / "model.safetensors")
    assert "neither Inception-v3 nor DINOv2 has weights named" in line


def test_a_comparison_that_may_not_resume(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "comparison.json").write_text("{}")
    line = refused("compare", "iris", "--out", tmp_path / "both", "--resume", "never")
    assert "holds a comparison already" in line


def test_files_of_others_are_not_overwritten(refused: Refused, fitted: Fitted, tmp_path: Path) -> None:
    run, mine = fitted(), tmp_path / "mine"
    mine.mkdir()
    (mine / "report.html").write_text("mine")
    for words in (("compare", "iris"), ("compare", run)):
        assert "holds something that is no comparison" in refused(*words, "--out", mine)
    assert "holds something else" in refused("sample", run, "--out", mine)
    assert (mine / "report.html").read_text() == "mine"


def test_what_names_no_data_and_no_families(
    refused: Refused, cli: Cli, fitted: Fitted, tmp_path: Path
) -> None:
    assert "--families names none" in refused("compare", "iris", "--families", ",")
    assert cli("compare", "iris", "--families", "baseline.kde", "--out", "both").code == 0
    assert "both is a comparison: name its runs, as in both/runs/*" in refused("compare", "both")
    run = fitted()
    assert "a run is named twice" in refused("compare", run, f"{tmp_path}/./{run.name}")


def test_too_few_items_are_found_before_training(refused: Refused, tmp_path: Path) -> None:
    np.savetxt(tmp_path / "table.csv", np.random.default_rng(0).normal(size=(40, 2)), delimiter=",")
    assert "20 of each are needed" in refused("compare", "table.csv", "--dry-run")
    assert "more than 20 are needed" in refused("compare", "iris", "--data.limit", 10, "--dry-run")


def test_lost_or_damaged_weights_are_made_again(cli: Cli, fitted: Fitted) -> None:
    run = fitted("run", "--steps", 6, "--checkpoint-every", 2)
    weights = run / "model.safetensors"
    whole = weights.read_bytes()
    again = (*FIT[:3], *SMALL, *VAE, "--steps", 6, "--checkpoint-every", 2, "--out", run)
    for damage in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:50], None):
        weights.unlink()
        if damage is not None:
            weights.write_bytes(damage)
        outcome = cli(*again)
        assert outcome.code == 0, outcome
        assert "made again from the last checkpoint" in outcome.err
        assert weights.read_bytes() == whole


def test_two_processes_do_not_train_in_one_folder(cli: Cli) -> None:
    fcntl = pytest.importorskip("fcntl")
    words = (*FIT[:3], *SMALL, "--steps", 2, "--out", "run")
    assert cli(*words).code == 0
    Path("run/model.safetensors").unlink()
    with Path("run/.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        outcome = cli(*words)
    assert outcome.code == 2
    assert "another process trains in run: wait for it" in outcome.err


def test_a_corrupted_checkpoint_is_passed_over(cli: Cli, fitted: Fitted) -> None:
    run = fitted("run", "--steps", 6, "--checkpoint-every", 2)
    whole = (run / "model.safetensors").read_bytes()
    (run / "model.safetensors").unlink()
    edit(run, state="running")
    newest = run / "checkpoints" / "vae" / "00000006" / "tensors.safetensors"
    assert newest.exists(), list(run.rglob("*"))
    newest.write_bytes(newest.read_bytes()[:-1] + b"!")
    again = (
        "fit",
        "vae.gaussian",
        "digits",
        *SMALL,
        *VAE,
        "--steps",
        6,
        "--checkpoint-every",
        2,
        "--out",
        "run",
    )
    outcome = cli(*again)
    assert outcome.code == 0, outcome
    assert "00000006 is corrupted" in outcome.err
    assert "falling back to the one before" in outcome.err
    assert "resumed at step 4 of 6" in outcome.err
    assert (run / "model.safetensors").read_bytes() == whole


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_data_are_read(cli: Cli, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(fitting, "open_data", lambda *_: os.kill(os.getpid(), number))
    outcome = cli(*FIT)
    assert (outcome.code, outcome.err) == (130, "genloom: interrupted\n")


def test_a_signal_during_a_closed_form_fit(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = baseline_gmm.Model.fit

    def interrupted(*parts: object) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        return whole(*parts)  # type: ignore[arg-type]

    monkeypatch.setattr(baseline_gmm.Model, "fit", interrupted)
    again = ("compare", "iris", "--families", "baseline.kde,baseline.gmm", "--out", "both")
    outcome = cli(*again)
    assert (outcome.code, outcome.err.splitlines()[-1]) == (130, "genloom: interrupted")
    assert Path("both/runs/baseline.kde-0/model.safetensors").exists()
    assert open_run("both/runs/baseline.gmm-0").facts["state"] == "interrupted"
    monkeypatch.setattr(baseline_gmm.Model, "fit", whole)
    assert cli(*again).code == 0


def test_a_closed_pipe_is_silent() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "genloom", "list", "--json"]
    with os.fdopen(writer, "w") as closed:
        found = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (found.returncode, found.stderr) == (1, "")
