"""Errors a user can act on: one line that says what is wrong and what to do."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class GenloomError(Exception):
    """Base of every expected failure; the command line prints it as one line and exits with 2."""


class ConfigError(GenloomError):
    """A setting, flag or name is unknown or out of range."""


class DataError(GenloomError):
    """Data cannot be read, or does not suit what was asked."""


class RunError(GenloomError):
    """A run directory is missing, of another version, or corrupted."""


class Unsupported(GenloomError):
    """A model lacks the capability that a verb needs."""


class MissingExtra(GenloomError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed: run  pip install 'genloom[{extra}]'")


class Diverged(GenloomError):
    """A loss term or gradient became NaN or infinite; the last good state is kept."""

    def __init__(self, term: str, phase: str, step: int) -> None:
        super().__init__(
            f"{term} of phase {phase} is not finite at step {step}; the last good state was saved"
        )
        self.term, self.phase, self.step = term, phase, step


class Interrupted(GenloomError):
    """Training was stopped by a signal after its state was saved."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean X?`` for the closest known word, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def complaint(details: Sequence[Mapping[str, Any]], prefix: str = "") -> str:
    """Return the first of pydantic's complaints as one line such as ``steps must be at least 1, not 0``.

    Args:
        details: what ``ValidationError.errors()`` returned.
        prefix: is put before the name of the setting.
    """
    first = details[0]
    name = prefix + ".".join(map(str, first["loc"])).replace("_", "-" if prefix else "_")
    text = first["msg"].removeprefix("Value error, ").split(", unable")[0]
    if first["type"] == "extra_forbidden":
        return f"there is no setting {name}"
    text = text.replace("Tuple should", "Input should").replace(" after validation", "")
    text = text.replace("a valid tuple", "a list such as [64, 64]")
    if not text.startswith("Input should"):
        return f"{name}: {text}" if first["loc"] else text
    text = text.replace("Input should", "must").replace("greater than or equal to", "at least")
    return f"{name} {text.replace('less than or equal to', 'at most')}, not {first['input']!r}"
