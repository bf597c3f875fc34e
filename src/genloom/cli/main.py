"""The command line's front door: names and help only; torch is loaded by the command that needs it."""

import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError
from cyclopts.config import Yaml

from genloom.core.errors import GenloomError, Interrupted

COMMANDS = {
    "compare": "Train every suitable family at one budget and rank them; or compare finished runs.",
    "fit": "Train one family on a data set, a file or a folder.",
    "sample": "Draw from a trained run.",
    "evaluate": "Measure a trained run on its held-out data.",
    "list": "List the families.",
    "info": "Show what a family is, takes and offers.",
    "doctor": "Check this installation and machine.",
}


def app() -> App:
    """Return the command line's application."""
    made = App(
        name="genloom",
        help="Every family of deep generative model on any data.",
        help_epilogue="Start with:  genloom compare digits",
        version=_version,
        exit_on_error=False,
        print_error=False,
        result_action="return_value",
    )
    for name, text in COMMANDS.items():
        made.command(f"genloom.cli.commands:{name}_command", name=name, help=text)
    return made


def _version() -> str:
    from importlib.metadata import version

    return version("genloom")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an expected failure becomes one line on standard error and exit code 2."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _run(tokens)
    except Interrupted as error:
        print(f"genloom: {error}", file=sys.stderr)
        sys.exit(130)
    except (GenloomError, CycloptsError) as error:
        print(f"genloom: {one_line(error)}", file=sys.stderr)
        sys.exit(2)


def _run(tokens: list[str]) -> None:
    command = app()
    path = _take_config(tokens)
    if path is not None:
        command.config = [Yaml(path, must_exist=True, use_commands_as_keys=False)]
    command(tokens)


def _take_config(tokens: list[str]) -> str | None:
    """Remove ``--config FILE`` from the tokens and return FILE."""
    for place, token in enumerate(tokens):
        if token == "--config" and place + 1 < len(tokens):
            path = tokens[place + 1]
            del tokens[place : place + 2]
            return path
        if token.startswith("--config="):
            del tokens[place]
            return token.removeprefix("--config=")
    return None


def one_line(error: Exception) -> str:
    """Return an error's text on one line."""
    return " ".join(str(error).split())
