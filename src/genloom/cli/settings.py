"""A YAML file of settings, read as the flags that it stands for."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from genloom.core.errors import ConfigError

LENGTHS = frozenset(("--steps", "--budget", "--flops"))
"""Flags of which one replaces any other."""


def with_config(tokens: Sequence[str]) -> list[str]:
    """Return a command line with ``--config FILE`` replaced by its settings; flags given beside it win.

    Raises:
        ConfigError: the file is not a YAML mapping.
        OSError: it cannot be read.
    """
    given, path = _split(tokens)
    if path is None:
        return given
    flags = {t.split("=")[0].replace("_", "-") for t in given if t.startswith("--")}
    flags |= {f.replace("--no-", "--", 1) for f in flags}
    if flags & LENGTHS:
        flags |= LENGTHS
    settings = _flags(read(path))
    return given + [f"{name}={text}" for name, text in settings if name.replace("_", "-") not in flags]


def read(path: Path) -> Mapping[str, Any]:
    """Return the mapping that a YAML file holds, empty for an empty file."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ConfigError(f"{path} is not valid YAML: line {line}: {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise ConfigError(f"{path} must hold settings such as  steps: 2000, not a {type(found).__name__}")
    return found


def _split(tokens: Sequence[str]) -> tuple[list[str], Path | None]:
    """Take ``--config FILE`` or ``--config=FILE`` out of the tokens."""
    rest, path = list[str](), None
    words = iter(tokens)
    for word in words:
        if word == "--config" or word.startswith("--config="):
            name = word.partition("=")[2] or next(words, None)
            if name is None or path is not None:
                raise ConfigError("--config takes one YAML file")
            path = Path(name)
        else:
            rest.append(word)
    return rest, path


def _flags(settings: Mapping[str, Any], prefix: str = "--") -> Iterator[tuple[str, str]]:
    """Yield a dotted flag and its text for every setting; those under ``train`` need no prefix.

    A mapping that names its ``family`` is a model within a model, and one setting.
    """
    for name, value in settings.items():
        if isinstance(value, Mapping) and "family" not in value:
            yield from _flags(value, prefix if prefix == "--" and name == "train" else f"{prefix}{name}.")
        elif name == "conditional" and isinstance(value, bool):
            yield f"{prefix}{name}", "yes" if value else "no"
        elif value is not None:
            yield f"{prefix}{name}", _text(value, prefix.startswith("--model."))


def _text(value: Any, literal: bool) -> str:
    """Return a value as a flag spells it: a literal for a family's setting, else plain, lists with commas."""
    if literal or isinstance(value, bool):
        return json.dumps(value, default=str)
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
