"""The command line in this process: what it printed and how it ended."""

from collections.abc import Callable
from pathlib import Path

import pytest
from cli_kit import SMALL, VAE, Cli, Outcome
from cli_toys import TOYS

from genloom.cli.main import main
from genloom.core import registry


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Return a function that runs a command in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Outcome:
        capsys.readouterr()
        try:
            main([str(word) for word in words])
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        caught = capsys.readouterr()
        return Outcome(code, caught.out, caught.err)

    return run


@pytest.fixture
def refused(cli: Cli) -> Callable[..., str]:
    """Return a function that runs a command which must end in one line and code 2; it returns the line."""

    def run(*words: object) -> str:
        outcome = cli(*words)
        assert outcome.code == 2, outcome
        assert outcome.out == ""
        (line,) = outcome.err.splitlines()
        assert line.startswith("genloom: ")
        return line.removeprefix("genloom: ")

    return run


@pytest.fixture
def fitted(cli: Cli, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that fits a small autoencoder to a few digits."""

    def run(out: str = "run", *more: object) -> Path:
        steps = () if "--steps" in more else ("--steps", 2)
        outcome = cli("fit", "vae.gaussian", "digits", *SMALL, *VAE, *steps, "--out", out, *more)
        assert outcome.code == 0, outcome
        return tmp_path / out

    return run


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the families of ``cli_toys``."""
    for name, module in TOYS.items():
        monkeypatch.setitem(registry.BUILT_IN, name, module)  # type: ignore[arg-type]
