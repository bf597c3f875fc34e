"""Draw samples from a run and write them to files, with one picture of all."""

from dataclasses import dataclass
from pathlib import Path

from genloom.core.errors import ConfigError
from genloom.core.serial import to_json
from genloom.recipes.runs import Run, labels_for
from genloom.train.checkpoint import write_atomically

MARK = "samples.json"


@dataclass(frozen=True)
class Drawn:
    """Where samples were written: a file or more, and a picture of all."""

    picture: Path
    files: list[Path]


def write_samples(
    run: Run, n: int, *, seed: int = 0, label: str | int | None = None, out: Path | None = None
) -> Drawn:
    """Draw n samples and write each in the data's own form, by class where a label was given.

    Args:
        label: a class by name or number, or ``each`` in turn; drawn as in the training data if absent.
        out: a folder, new, empty or written by this before; below the run's ``samples`` if absent.

    Raises:
        ConfigError: n is not positive, there is no such class, or the folder holds something else.
    """
    if n < 1:
        raise ConfigError(f"-n must be at least 1, not {n}")
    labels = labels_for(run, label, n, seed)
    folder = check_folder(out or run.folder / "samples" / _name(seed, n, label), MARK)
    items = run.sample(run.load(), n, seed=seed, cond=labels)
    classes = None if labels is None else [run.classes[i] for i in labels.tolist()]
    files = run.modality.write(items, classes, folder)
    path = write_picture(folder / "all", *run.modality.draw(items))
    facts = {"run": str(run.folder), "family": run.family, "n": n, "seed": seed, "label": label}
    write_atomically(folder / MARK, to_json(facts).encode())
    return Drawn(path, files)


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


def _name(seed: int, n: int, label: str | int | None) -> str:
    return f"seed-{seed}-n-{n}{'' if label is None else f'-{label}'}".replace("/", "-")
