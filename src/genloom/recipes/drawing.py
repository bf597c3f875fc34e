"""Draw samples from a run and write them to files, with one picture of all."""

import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genloom.core.errors import ConfigError
from genloom.core.events import Value, take, tensor
from genloom.core.randomness import key
from genloom.core.serial import json_object, to_json
from genloom.modalities.base import Split
from genloom.modalities.prompts import PromptedView
from genloom.modalities.vectors import Vectors
from genloom.recipes.evaluating import data_of
from genloom.recipes.runs import Run, labels_for
from genloom.train.checkpoint import write_atomically

MARK = "samples.json"

LONGEST = 48
"""Characters of a prompt in a folder's name."""

UNFIT = re.compile(r"[^\w .,;!()'-]")
"""Characters that are not in it."""

MOST_BYTES = 1 << 26
"""Of a mark."""


@dataclass(frozen=True)
class Drawn:
    """Where samples were written, a file or more and a picture of all, and the seconds that drawing took."""

    picture: Path
    files: list[Path]
    seconds: float


def conditions_for(
    run: Run,
    n: int,
    seed: int,
    label: str | int | None,
    given: Mapping[str, float] | None,
    prompt: str | None = None,
) -> Value | None:
    """Return what n samples are given.

    Args:
        prompt: a text.
        label: a class by name or number, or ``each`` in turn; drawn as in the training data if absent.
        given: the values of the given columns; what is given of the test items in turn if absent.

    Raises:
        ConfigError, DataError: the run knows no such class or column, or no texts, or its data are gone.
    """
    if prompt is not None:
        if label is not None or given:
            raise ConfigError("a prompt says all that samples are given: leave --label and --given out")
        return prompted(run, prompt, n)
    modality = run.modality
    if given and isinstance(modality, Vectors) and modality.given and label is None:
        return run.view.conditions(Split(modality.given_row(given).expand(n, -1)))
    if run.untrained and label is None and not given:
        return None
    if run.view.given is not None and not given and label is None:
        test = data_of(run).test
        return run.view.conditions(test.some(len(test)).take(torch.arange(n) % len(test)))
    if given:
        raise ConfigError(f"{run.folder} is not given columns: leave --given out")
    return labels_for(run, label, n, seed)


def prompted(run: Run, prompt: str, n: int) -> Value:
    """Return a text as what n samples are given.

    Raises:
        ConfigError: the run is not given texts.
        DataError: the text is too long.
    """
    view = run.view
    if not isinstance(view, PromptedView):
        raise ConfigError(f"{run.folder} is not given texts: leave --prompt out, or fit with --data.captions")
    return take(view.read([prompt]), torch.zeros(n, dtype=torch.int64))


def write_samples(
    run: Run,
    n: int,
    *,
    seed: int = 0,
    label: str | int | None = None,
    given: Mapping[str, float] | None = None,
    prompt: str | None = None,
    out: Path | None = None,
) -> Drawn:
    """Draw n samples and write each in the data's own form, by class where a label was given.

    Args:
        label, given, prompt: what they are given, as in ``conditions_for``.
        out: a folder, new, empty or written by this before; below the run's ``samples`` if absent.

    Raises:
        ConfigError: n is not positive, there is no such class, or the folder holds something else.
    """
    if n < 1:
        raise ConfigError(f"-n must be at least 1, not {n}")
    conditions = conditions_for(run, n, seed, label, given, prompt)
    anew = run.facts.get("set_anew", {})
    told = {**(given or {}), **anew, **({} if prompt is None else {"prompt": _short(prompt)})}
    folder = check_folder(out or run.folder / "samples" / _name(seed, n, label, told), MARK)
    model, began = run.load(), time.perf_counter()
    items = run.sample(model, n, seed=seed, cond=conditions)
    seconds = time.perf_counter() - began
    labels = tensor(conditions).tolist() if run.classes and conditions is not None else None
    classes = None if labels is None else [run.classes[i] for i in labels]
    facts = {"n": n, "seed": seed, "label": label, "given": dict(given or {})}
    facts |= {"prompt": prompt, "settings": anew}
    remove_former(folder, MARK)
    path, files, _ = keep_items(run, folder, MARK, items, classes, run.modality.draw(items), facts)
    return Drawn(path, files, seconds)


def keep_items(
    run: Run,
    folder: Path,
    mark: str,
    items: Tensor,
    classes: Sequence[str] | None,
    picture: tuple[str, bytes],
    facts: Mapping[str, Any],
    beside: Sequence[Path] = (),
) -> tuple[Path, list[Path], dict[str, Any]]:
    """Write items, each of a class if there are any, their picture and the facts.

    Args:
        beside: files of the folder that are written already.

    Returns:
        The path of the picture, those of all other files, and the facts with those of the run.
    """
    files = [*run.modality.write(items, classes, folder), *beside]
    path = write_picture(folder / "all", *picture)
    told = {"run": str(run.folder), "family": run.family, **facts}
    names = [str(one.relative_to(folder)) for one in (path, *files)]
    write_atomically(folder / mark, to_json({**told, "files": names}).encode())
    return path, files, told


def remove_former(folder: Path, mark: str) -> None:
    """Remove the files of a folder that its mark names, as far as they can be."""
    try:
        names = json_object(folder / mark, MOST_BYTES).get("files")
    except ValueError:
        return
    home = folder.resolve()
    for name in names if isinstance(names, list) else ():
        with suppress(OSError, ValueError):
            if (home / str(name)).resolve().is_relative_to(home):
                (home / str(name)).unlink()


def check_folder(folder: Path, mark: str) -> Path:
    """Return a folder that is new, empty, or holds this mark of what was written into it before.

    Raises:
        ConfigError: it holds something else.
    """
    if folder.exists() and (not folder.is_dir() or (not (folder / mark).exists() and any(folder.iterdir()))):
        raise ConfigError(f"{folder} holds something else: choose another --out")
    return folder


def write_picture(stem: Path, media: str, picture: bytes) -> Path:
    """Write a picture with the suffix of its media type, .svg or .png, and return its path."""
    path = stem.with_name(f"{stem.name}.{'svg' if 'svg' in media else 'png'}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, picture)
    return path


def _short(text: str) -> str:
    """Return a text that can be in a folder's name, and like no other."""
    plain = UNFIT.sub("-", text)
    return text if plain == text and len(text) <= LONGEST else f"{plain[:LONGEST]}-{key(text):x}"


def _name(seed: int, n: int, label: str | int | None, more: Mapping[str, Any]) -> str:
    what = [] if label is None else [str(label)]
    what += [f"{name}={f'{value:g}' if isinstance(value, float) else value}" for name, value in more.items()]
    return "-".join([f"seed-{seed}-n-{n}", *what]).replace("/", "-")
