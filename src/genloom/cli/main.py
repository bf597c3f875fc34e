"""The command line's front door: names and help only; torch is loaded by the command that needs it."""

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import NoReturn

from cyclopts import App, CycloptsError

from genloom.cli.settings import with_config
from genloom.core.errors import GenloomError, Interrupted, complaint
from genloom.core.watching import Watcher, shown_by

COMMANDS = {
    "compare": "Train every suitable family at one budget and rank them; or compare finished runs.",
    "fit": "Train one family on a data set, a file or a folder.",
    "sample": "Draw from a trained run.",
    "continue": "Go on writing where a text ends.",
    "translate": "Turn texts into others.",
    "chat": "Talk with a model of conversations.",
    "reinforce": "Tune a model of texts towards what a pattern rewards.",
    "encode": "Write the codes of items to a file.",
    "reconstruct": "Encode and decode items, and measure what is lost.",
    "interpolate": "Walk between the codes of pairs of items.",
    "traverse": "Vary single coordinates of an item's code.",
    "infill": "Keep a part of items and draw the rest anew.",
    "restore": "Restore images that are small, blurred or grey.",
    "redraw": "Draw items anew from what noise leaves of them.",
    "edit": "Move the codes of items from one class towards another.",
    "evaluate": "Measure a trained run on its held-out data.",
    "average": "Choose over which length of training weights are averaged.",
    "samplers": "Set a diffusion model's samplers against one another, by network calls.",
    "novelty": "Tell foreign data from a run's own by its likelihood, in several ways.",
    "reproduce": "Train towards a published result and set what was reached beside it.",
    "toys": "Fit families to points in the plane and draw what each learned, in one picture.",
    "list": "List the families.",
    "info": "Show what a family is, takes and offers.",
    "doctor": "Check this installation and machine.",
}

ROOMS = {
    **dict.fromkeys(("continue", "translate", "chat", "reinforce"), "writing"),
    **dict.fromkeys(
        ("encode", "reconstruct", "interpolate", "traverse", "edit", "infill", "restore", "redraw"), "editing"
    ),
}
"""Modules of commands that are not in ``commands``."""

EPILOGUES = dict.fromkeys(
    ("compare", "fit"), "--config FILE reads any of these from YAML; flags beside it win."
)


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
        suppress_keyboard_interrupt=False,
    )
    for name, text in COMMANDS.items():
        made.command(
            f"genloom.cli.{ROOMS.get(name, 'commands')}:{name}_command",
            name=name,
            help=text,
            help_epilogue=EPILOGUES.get(name, ""),
        )
    return made


def _version() -> str:
    from importlib.metadata import version

    return version("genloom")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an expected failure becomes one line on standard error and exit code 2.

    Ctrl-C and SIGTERM end it with one line and exit code 130; a closed pipe, as of ``| head``, in silence.
    """
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with shown_by(None if "--json" in tokens else _bar):
            app()(with_config(tokens))
    except (Interrupted, KeyboardInterrupt) as error:
        _fail(str(error) or "interrupted", 130)
    except (GenloomError, CycloptsError) as error:
        _fail(_explained(error), 2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), 2)
    finally:
        signal.signal(signal.SIGTERM, before)


def _bar(title: str) -> AbstractContextManager[Watcher]:
    """Begin to show work of a title on standard error."""
    from genloom.train.progress import watcher

    return watcher(title)


def _fail(text: str, code: int) -> NoReturn:
    """Print one line on standard error and exit."""
    print(f"genloom: {' '.join(text.split())}", file=sys.stderr)
    sys.exit(code)


def _explained(error: GenloomError | CycloptsError) -> str:
    """Return an error's text; of a refused setting, the flag and what is wrong with it."""
    argument, details = getattr(error, "argument", None), getattr(error.__cause__, "errors", None)
    if argument is not None and argument.name == "--model":
        return f"--model takes a setting and its value: {argument.parameter.help}"
    if argument is None or details is None:
        return str(error)
    return complaint(details(), "--" if argument.name == "*" else f"{argument.name}.")
