"""Help is instant and says everything."""

import subprocess
import sys

import pytest
from cli_kit import Cli

from genloom.cli.main import COMMANDS

PROGRAM = """
import sys
import genloom
assert "torch" not in sys.modules, "import genloom"
from genloom.cli.main import main
try:
    main({arguments})
except SystemExit as stop:
    assert not stop.code
assert "torch" not in sys.modules, "help"
"""


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], []])
def test_help_does_not_wait_for_torch(arguments: list[str]) -> None:
    program = PROGRAM.format(arguments=arguments)
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")
    if arguments != ["--version"]:
        assert all(command in found.stdout for command in COMMANDS)
        assert "genloom compare digits" in found.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_parameter_is_explained(cli: Cli, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    outcome = cli(command, "--help")
    assert outcome.code == 0
    rows = [line.strip("│ *").strip() for line in outcome.out.splitlines() if "--" in line and "│" in line]
    assert rows
    for row in rows:
        words = row.split("  ", 1)
        assert len(words) == 2, row
        assert not words[1].strip().startswith("["), f"no help: {row}"


@pytest.mark.parametrize("command", ["fit", "compare"])
def test_config_is_mentioned(cli: Cli, command: str) -> None:
    assert "--config FILE" in cli(command, "--help").out
