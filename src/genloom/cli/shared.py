"""What the commands share: flags that several take, checks of numbers, and where things are printed."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import yaml
from cyclopts import Parameter

from genloom.core.errors import ConfigError
from genloom.core.serial import to_json
from genloom.train import ranks
from genloom.train.config import TrainConfig

Json = Annotated[
    bool,
    Parameter(
        name="--json", negative=(), show_default=False, help="Print JSON for machines on standard output."
    ),
]
Seed = Annotated[int, Parameter(help="Decides all that is random.")]
Out = Annotated[Path | None, Parameter(help="Where the result is kept.")]
Prompt = Annotated[
    str | None, Parameter(help="A text that says what is wanted, for a model that is given texts.")
]
Training = Annotated[TrainConfig, Parameter(name="*")]
Anew = Annotated[
    dict[str, str],
    Parameter(
        name="model", help="Settings of how the model draws and scores, such as --model.sampling-steps 10."
    ),
]


def at_least(least: int, value: int, name: str) -> int:
    """Return a number that is large enough, or raise ``ConfigError``."""
    if value < least:
        raise ConfigError(f"{name} must be at least {least}, not {value}")
    return value


MOST = 100_000
"""Of texts, and of symbols of a text, that are written at one time."""


def within(least: int, value: int, most: int, name: str) -> int:
    """Return a number that is neither too small nor too large, or raise ``ConfigError``."""
    if not least <= value <= most:
        raise ConfigError(f"{name} must be from {least:,} to {most:,}, not {value:,}")
    return value


def speaker() -> Callable[[str], None]:
    """Return where notices go: standard error, of one process among several."""
    return (lambda text: print(text, file=sys.stderr, flush=True)) if ranks.speaks() else lambda text: None  # noqa: ARG005


def spoken() -> str:
    """Return the command line as it was typed."""
    return " ".join(["genloom", *map(shlex.quote, sys.argv[1:])])


def emit(value: Any) -> None:
    """Print strict JSON."""
    print(to_json(value))


def parsed(values: dict[str, str]) -> dict[str, Any]:
    """Read texts such as ``64``, ``true`` or ``[1, 2]`` as the values they spell; pydantic checks them."""
    return {name.replace("-", "_"): _literal(name, text) for name, text in values.items()}


def _literal(name: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"setting {name}: {text!r} is not a value") from error
