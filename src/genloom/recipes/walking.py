"""What a run's codes show: reconstructions and walks between codes, as files with a picture of all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor, nn

from genloom.core.capabilities import Latent, need
from genloom.core.errors import ConfigError
from genloom.core.serial import to_csv
from genloom.modalities.base import Split
from genloom.modalities.datasets import DataOptions, open_data
from genloom.modalities.drawing import animation
from genloom.recipes.drawing import check_folder, keep_items, remove_former
from genloom.recipes.evaluating import check_form, data_of, reconstructed, seen
from genloom.recipes.runs import Run
from genloom.tasks import latents
from genloom.train.checkpoint import write_atomically

MARK = "walk.json"
SUFFIXES = (".csv", ".safetensors")
Part = Literal["test", "valid", "train", "all"]


@dataclass(frozen=True)
class Walk:
    """What was written: a picture of all, the files beside it, and what they show, as in ``walk.json``."""

    picture: Path
    files: list[Path]
    facts: dict[str, Any]


def model_of(run: Run, verb: str) -> nn.Module:
    """Return a run's model if it has codes.

    Raises:
        RunError: the run is not finished.
        Unsupported: the family has no codes.
    """
    model = run.load()
    need(model, Latent, verb)
    return model


def walked(run: Run, verb: str) -> nn.Module:
    """Return a run's model if one can walk between its codes.

    Raises:
        ConfigError: codes mean something only together with given columns, which differ between items.
    """
    if run.view.given is not None:
        raise ConfigError(
            f"{verb} needs codes that stand for themselves: fit a run that is given no columns or texts"
        )
    return model_of(run, verb)


def items_of(run: Run, source: str | None, part: Part = "test") -> tuple[Split, tuple[str, ...]]:
    """Return items of the run's own data, or of another source of the same form, and their classes' names.

    Labels of classes that a conditional run does not know are left out.

    Raises:
        DataError: the data cannot be read, have changed, or are of another form.
    """
    if source is None:
        dataset = data_of(run)
    else:
        options = DataOptions(**run.facts["data"]["options"])
        dataset = open_data(source, options.model_copy(update={"captions": None}))
    splits = (dataset.train, dataset.valid, dataset.test)
    chosen = splits if part == "all" else (getattr(dataset, part),)
    whole = reduce(Split.joined, chosen)
    check_form(run, dataset.modality, whole.items, dataset.name)
    known = run.classes in ((), dataset.classes)
    return (whole if known else replace(whole, labels=None)), dataset.classes


def write_codes(run: Run, source: str | None, part: Part, out: Path | None) -> tuple[Path, Tensor]:
    """Write the code of every item, a row each, and return the file and the codes (n, *Z).

    Args:
        out: a new file, .csv or .safetensors; the run's ``codes.csv`` if absent.

    Raises:
        ConfigError: the file exists, or is of another kind.
    """
    path = out or run.folder / "codes.csv"
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"codes are written as .csv or .safetensors, not as {path.name}")
    if out is not None and out.exists():
        raise ConfigError(f"{out} exists: choose another --out")
    model = model_of(run, "encode")
    split, classes = items_of(run, source, part)
    codes = latents.encode(model, seen(run, split.items), run.conditions(split))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        flat = codes.flatten(1)
        names = [f"z{i}" for i in range(flat.shape[1])]
        write_atomically(path, to_csv(names, flat.tolist(), named(split.labels, classes)))
    else:
        labels = {} if split.labels is None else {"labels": split.labels.contiguous()}
        write_atomically(path, save({"codes": codes.contiguous(), **labels}))
    return path, codes


def write_reconstructions(run: Run, source: str | None, n: int, out: Path | None) -> Walk:
    """Write n items after encoding and decoding them, the originals, and the error of each."""
    folder = check_folder(out or run.folder / "reconstructions", MARK)
    model = model_of(run, "reconstruct")
    split, classes = items_of(run, source)
    split = split.some(n)
    items, errors = reconstructed(model, run, split)
    remove_former(folder, MARK)
    originals = run.modality.write(split.items, None, folder / "originals")
    write_atomically(
        folder / "errors.csv", to_csv(["error"], errors[:, None].tolist(), named(split.labels, classes))
    )
    picture = run.modality.draw(items, reference=split.items)
    facts = {"n": len(items), "mean_squared_error": float(errors.mean())}
    return keep_walk(run, folder, items, picture, facts, [*originals, folder / "errors.csv"])


def write_interpolations(
    run: Run, source: str | None, pairs: int, steps: int, path: latents.Path, out: Path | None
) -> Walk:
    """Write the items on the way between the codes of pairs of items, a row of the picture each.

    A conditional model is asked without a class, as the two items may be of different ones.
    """
    folder = check_folder(out or run.folder / "interpolations", MARK)
    model = walked(run, "interpolate")
    split = items_of(run, source)[0].some(2 * pairs)
    count = len(split) // 2
    codes = latents.encode(model, seen(run, split.items[: 2 * count]))
    ways = latents.interpolate(codes[:count], codes[count:], steps, path)
    facts = {"pairs": count, "steps": steps, "path": path}
    return _decoded(run, model, folder, ways, split, facts)


def write_traversals(
    run: Run, source: str | None, item: int, coordinates: int, steps: int, reach: float, out: Path | None
) -> Walk:
    """Write what one item becomes as single coordinates of its code vary, a row of the picture each.

    The coordinates are those that vary most over the items; each goes ``reach`` standard deviations to either
    side of its mean. A conditional model is asked without a class.

    Raises:
        ConfigError: there is no such item.
    """
    folder = check_folder(out or run.folder / "traversals", MARK)
    model = walked(run, "traverse")
    split, _ = items_of(run, source)
    if not 0 <= item < len(split):
        raise ConfigError(f"--item must be from 0 to {len(split) - 1}, not {item}")
    codes = latents.encode(model, seen(run, split.items))
    mean, spread = codes.flatten(1).mean(0), codes.flatten(1).std(0, correction=0)
    chosen = spread.argsort(descending=True)[:coordinates].tolist()
    unit = torch.linspace(-reach, reach, steps).to(codes)
    ways = [latents.traverse(codes[item], c, mean[c] + spread[c] * unit) for c in chosen]
    facts = {"item": item, "coordinates": chosen, "steps": steps, "reach": reach}
    return _decoded(run, model, folder, torch.stack(ways), split, facts)


def write_edits(
    run: Run,
    source: str | None,
    away: str,
    towards: str,
    n: int,
    steps: int,
    strength: float,
    out: Path | None,
) -> Walk:
    """Write n items of one class as their codes move towards another, a row of the picture each.

    They move along the difference of the two classes' mean codes, up to ``strength`` times its length. A
    conditional model is asked without a class.

    Raises:
        ConfigError: there are no such classes, or none of their items.
    """
    folder = check_folder(out or run.folder / "edits", MARK)
    model = walked(run, "edit")
    split, classes = items_of(run, source)
    if split.labels is None:
        raise ConfigError("the items have no classes to move between")
    if away == towards:
        raise ConfigError(f"--from and --to are both {away}: name two classes")
    start, end = (_class(name, classes, split.labels) for name in (away, towards))
    codes = latents.encode(model, seen(run, split.items))
    way = latents.direction(codes, split.labels, start, end)
    unit = torch.linspace(0, strength, steps).to(codes)
    chosen = codes[split.labels == start][:n]
    ways = chosen[:, None] + unit.view(-1, *[1] * way.dim()) * way
    facts = {"from": away, "to": towards, "n": len(chosen), "steps": steps, "strength": strength}
    return _decoded(run, model, folder, ways, split, facts)


def _class(name: str, classes: Sequence[str], labels: Tensor) -> int:
    if name not in classes:
        raise ConfigError(f"no class is called {name!r}  (there are {', '.join(classes)})")
    number = classes.index(name)
    if not (labels == number).any():
        raise ConfigError(f"the items hold none of class {name!r}")
    return number


def _decoded(
    run: Run, model: nn.Module, folder: Path, ways: Tensor, split: Split, facts: Mapping[str, Any]
) -> Walk:
    """Write the items of codes (ways, steps, *Z); numbers are drawn over the data, pictures by themselves.

    Pictures move too, all ways at once, in ``moving.png``.
    """
    items = run.view.decode(latents.decode(model, ways.flatten(0, 1)))
    backdrop = split.items if items.is_floating_point() else None
    picture = run.modality.draw(items, columns=ways.shape[1], reference=backdrop)
    remove_former(folder, MARK)
    moving = [folder / "moving.png"] if picture[0] == "image/png" else []
    for path in moving:
        frames = items.unflatten(0, ways.shape[:2]).unbind(1)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, animation([run.modality.draw(frame)[1] for frame in frames]))
    return keep_walk(run, folder, items, picture, facts, moving)


def keep_walk(
    run: Run,
    folder: Path,
    items: Tensor,
    picture: tuple[str, bytes],
    facts: Mapping[str, Any],
    beside: Sequence[Path],
) -> Walk:
    """Write items, their picture and the facts about them."""
    return Walk(*keep_items(run, folder, MARK, items, None, picture, facts, beside))


def named(labels: Tensor | None, classes: Sequence[str]) -> list[str] | None:
    """Return the class names of labels (n,)."""
    return None if labels is None else [classes[i] for i in labels.tolist()]
