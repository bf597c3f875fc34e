"""Items that are completed, restored or drawn anew: as files, with a picture of all and figures if asked."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genloom.core.capabilities import Infill, Redrawer, Restorer, need
from genloom.core.errors import ConfigError, DataError
from genloom.core.events import Value, flat_leaf, nearest_level, take, tensor
from genloom.core.measurements import Measurement
from genloom.core.randomness import generator
from genloom.math.inverse import averaged, blurred, luminance
from genloom.metrics import wilson
from genloom.metrics.fidelity import psnr
from genloom.modalities.base import Split
from genloom.modalities.images import Images
from genloom.recipes.drawing import check_folder, prompted, remove_former
from genloom.recipes.evaluating import data_of, seen
from genloom.recipes.features import features_for
from genloom.recipes.runs import Run, labels_for
from genloom.recipes.walking import MARK, Walk, items_of, keep_walk
from genloom.tasks import infilling, restoring

Hidden = Literal["last", "first", "left", "right", "centre", "surroundings", "scattered"]
"""Which places of items are drawn anew: by raster order, by side, a square in the middle or all but one, or
places anywhere."""

Given = Literal["small", "blurred", "grey"]
"""What is known of images: averages of squares, Gaussian averages, or luminance."""


MAX_BLUR = 100.0


@dataclass(frozen=True)
class Wanted:
    """What every edit takes.

    Args:
        n: items.
        draws: of each.
        label: ``own`` gives a model the item's own class or caption, ``none`` nothing, else a class's name.
        prompt: a text that a model is given instead.
        measure: compare with the items as they were.
    """

    n: int
    draws: int
    label: str
    measure: bool
    seed: int
    prompt: str | None = None


@dataclass(frozen=True)
class Damage:
    """What is known of images.

    Args:
        plain: makes whole images (B, C, H, W) of what is known, without a model.
    """

    measurement: Measurement
    plain: Callable[[Tensor], Tensor]


def damage(given: Given, shape: tuple[int, ...], factor: int, blur: float) -> Damage:
    """Return what is known of images of a shape (C, H, W).

    Args:
        factor: side of the squares of which ``small`` is the averages.
        blur: deviation in pixels of ``blurred``.

    Raises:
        ConfigError: images of this shape have no such thing.
    """
    if given not in get_args(Given):
        raise ConfigError(f"what is given must be {' or '.join(get_args(Given))}, not {given!r}")
    if not 0 < blur <= MAX_BLUR:
        raise ConfigError(f"blur must be above 0 and at most {MAX_BLUR:.0f} pixels, not {blur}")
    channels, *size = shape
    height, width = size
    if given == "grey":
        if channels != 3:
            raise ConfigError(f"grey is for images of 3 colours, and these have {channels}")
        return Damage(luminance(), lambda y: y.expand(-1, 3, -1, -1))
    if given == "blurred":
        return Damage(blurred(height, width, blur), lambda y: y)
    if height % factor or width % factor:
        raise ConfigError(f"squares of side {factor} do not divide the sides {height} and {width}")
    return Damage(averaged(height, width, factor), lambda y: F.interpolate(y, tuple(size), mode="bicubic"))


def known_places(hidden: Hidden, shape: tuple[int, ...], keep: float, seed: int = 0) -> Tensor:
    """Return booleans (*shape), true at about this share of places, at least one, and not at all.

    Channels of images, (C, H, W), are alike. The squares ``centre`` and ``surroundings``, and sides, are of
    images.

    Raises:
        ConfigError: items of this shape have no such places.
    """
    places = shape[1:] if len(shape) == 3 else shape
    count = torch.Size(places).numel()
    if count < 2:
        raise ConfigError("items of one value have no part to keep")
    number = min(max(1, round(keep * count)), count - 1)
    if hidden in ("last", "first", "scattered"):
        order = torch.arange(count)
        if hidden == "scattered":
            order = torch.randperm(count, generator=generator("scattered", seed)).argsort()
        rank = count - 1 - order if hidden == "first" else order
        return (rank < number).view(places).expand(shape)
    if len(shape) != 3 or min(shape[1:]) < 2:
        raise ConfigError(f"--hide {hidden} is for images: hide last, first or scattered places")
    return _part(hidden, shape[1], shape[2], keep).expand(shape)


def _part(hidden: Hidden, height: int, width: int, keep: float) -> Tensor:
    """Return what is known of images of which a part in the middle, or all but that, or a side is hidden."""
    if hidden in ("left", "right"):
        across = torch.arange(width).expand(height, -1)
        across = across.flip(1) if hidden == "left" else across
        return across < min(max(1, round(keep * width)), width - 1)
    share = (1 - keep if hidden == "centre" else keep) ** 0.5
    inside = torch.zeros(height, width, dtype=torch.bool)
    tall, wide = (min(max(1, round(share * side)), side - 1) for side in (height, width))
    top, left = (height - tall) // 2, (width - wide) // 2
    inside[top : top + tall, left : left + wide] = True
    return ~inside if hidden == "centre" else inside


def write_infills(
    run: Run, source: str | None, hidden: Hidden, keep: float, wanted: Wanted, out: Path | None
) -> Walk:
    """Write items with hidden places drawn anew.

    A row of the picture shows what is kept (nothing where unknown), the draws, and the item itself.

    Args:
        keep: the share of places that are kept.

    Raises:
        ConfigError: items have no such places, or the run no such class.
        Unsupported: the family cannot infill.
    """
    folder = check_folder(out or run.folder / "infills", MARK)
    model = run.load()
    need(model, Infill, "infill")
    split, x, cond = _opened(run, source, wanted)
    known = known_places(hidden, tuple(x.shape[1:]), keep, wanted.seed)
    filled = run.view.decode(infilling.infill(model, x, known, seed=wanted.seed, cond=cond))
    items = split.items
    kept = items.masked_fill(~known_places(hidden, tuple(items.shape[1:]), keep, wanted.seed), 0)
    return _kept(run, folder, kept, filled, split, wanted, {"hidden": hidden, "keep": keep})


def write_restorations(
    run: Run, source: str | None, given: Given, factor: int, blur: float, wanted: Wanted, out: Path | None
) -> Walk:
    """Write images of which only this is given, restored.

    A row of the picture shows what can be had without a model (cubic interpolation, where small ones are
    given), the draws, and the image itself.

    Raises:
        ConfigError: images have no such thing, or the run no such class.
        Unsupported: the family cannot restore.
    """
    folder = check_folder(out or run.folder / "restorations", MARK)
    model = run.load()
    need(model, Restorer, "restore")
    split, x, cond = _opened(run, source, wanted)
    harm = damage(given, image_shape(run), factor, blur)
    known = nearest_level(harm.measurement.measure(x), flat_leaf(run.view.event).kind)
    drawn = tensor(restoring.restore(model, harm.measurement, known, seed=wanted.seed, cond=cond))
    plain = run.view.decode(harm.plain(known[:: wanted.draws]))
    again = nearest_level(harm.measurement.measure(drawn), flat_leaf(run.view.event).kind)
    kept = float(torch.isclose(again, known, atol=1e-4).double().mean())
    settings: dict[Given, dict[str, float]] = {"small": {"factor": factor}, "blurred": {"blur": blur}}
    facts = {"given": given, **settings.get(given, {}), "known_kept": kept}
    return _kept(run, folder, plain, run.view.decode(drawn), split, wanted, facts)


def restored(
    run: Run, model: nn.Module, known: Tensor, given: Given, blur: float, cond: Value | None, seed: int
) -> Tensor:
    """Return images of which this is known, (n, C, H, W).

    Args:
        known: pixels of small (n, C, h, w), blurred (n, C, H, W) or grey images (n, 1, H, W), in the units of
            the data, whole numbers or not.

    Raises:
        ConfigError: images have no such thing, or the run no such class.
        DataError: what is known does not fit the run's images.
        Unsupported: the family cannot restore.
    """
    need(model, Restorer, "restore")
    shape, modality = image_shape(run), run.modality
    assert isinstance(modality, Images)
    if known.dim() != 4 or not known.numel():
        raise DataError(f"what is known must be images (n, C, H, W), not {tuple(known.shape)}")
    factor = max(1, shape[-1] // known.shape[-1])
    measurement = damage(given, shape, factor, blur).measurement
    expected = measurement.measure(torch.zeros(1, *shape)).shape[1:]
    if known.shape[1:] != expected:
        raise DataError(f"{given} images of this run are {tuple(expected)}, not {tuple(known.shape[1:])}")
    scaled = known.float() * (2 / (modality.levels - 1)) - 1
    if not bool((scaled.abs() <= 1).all()):
        raise DataError(f"what is known must be pixels from 0 to {modality.levels - 1}")
    return run.view.decode(restoring.restore(model, measurement, scaled, seed=seed, cond=cond))


def image_shape(run: Run) -> tuple[int, ...]:
    """Return the shape (C, H, W) of a run's images.

    Raises:
        ConfigError: its items are no images.
    """
    if not isinstance(run.modality, Images):
        raise ConfigError("restore is for images: infill completes items of other sorts")
    return flat_leaf(run.view.event).extents


def write_redrawings(run: Run, source: str | None, strength: float, wanted: Wanted, out: Path | None) -> Walk:
    """Write items drawn anew from what noise leaves of them.

    A row of the picture shows the item and the draws.

    Raises:
        ConfigError: there is no such strength, or the run has no such class.
        Unsupported: the family cannot redraw.
    """
    folder = check_folder(out or run.folder / "redrawings", MARK)
    model = run.load()
    need(model, Redrawer, "redraw")
    split, x, cond = _opened(run, source, wanted)
    drawn = run.view.decode(restoring.redraw(model, x, strength, seed=wanted.seed, cond=cond))
    return _kept(run, folder, None, drawn, split, wanted, {"strength": strength})


def _opened(run: Run, source: str | None, wanted: Wanted) -> tuple[Split, Tensor, Value | None]:
    """Return items, the same as the model sees them, once for each draw, and what it is given with them.

    Items that the view makes others, such as black or white ones, count as what it makes.
    """
    if wanted.measure and run.untrained:
        raise ConfigError(f"{run.facts['data']['name']} has no data to be measured by: leave --measure out")
    split = items_of(run, source)[0].some(wanted.n)
    whole = of_fixed_size(seen(run, split.items))
    split, x = replace(split, items=run.view.decode(whole)), whole.repeat_interleave(wanted.draws, 0)
    return split, x, _told(run, split, wanted, len(x))


def _told(run: Run, split: Split, wanted: Wanted, count: int) -> Value | None:
    """Return what a model is given with so many draws of items."""
    if wanted.prompt is not None:
        return prompted(run, wanted.prompt, count)
    if wanted.label == "own":
        own = run.conditions(split)
        return None if own is None else take(own, torch.arange(len(split)).repeat_interleave(wanted.draws))
    return None if wanted.label == "none" else labels_for(run, wanted.label, count, 0)


def of_fixed_size(x: Value) -> Tensor:
    """Return what a model sees of items that are all of one size.

    Raises:
        ConfigError: they vary in length.
    """
    if not isinstance(x, Tensor):
        raise ConfigError("only items of one size have places to keep: genloom continue goes on with texts")
    return x


def _kept(
    run: Run,
    folder: Path,
    before: Tensor | None,
    drawn: Tensor,
    split: Split,
    wanted: Wanted,
    facts: Mapping[str, Any],
) -> Walk:
    """Write what was drawn, its picture and the facts."""
    draws = drawn.unflatten(0, (-1, wanted.draws))
    parts = ([] if before is None else [before[:, None]]) + [draws, split.items[:, None]]
    rows = torch.cat(parts if before is not None else parts[::-1], 1)
    picture = run.modality.draw(rows.flatten(0, 1), columns=rows.shape[1])
    about = {"n": len(split), "draws": wanted.draws, "label": wanted.label, "seed": wanted.seed}
    about |= {} if wanted.prompt is None else {"prompt": wanted.prompt}
    anew = run.facts.get("set_anew", {})
    told = {**about, **facts, **({"settings": anew} if anew else {})}
    sets = {"drawn": drawn}
    if wanted.draws > 2 and isinstance(run.modality, Images):
        index = most_typical(draws)
        told["most_typical"] = index.tolist()
        sets["typical"] = draws[torch.arange(len(draws)), index]
    sets |= {} if before is None else {"before": before}
    if wanted.measure:
        told |= _measured(run, sets, split)
    remove_former(folder, MARK)
    return keep_walk(run, folder, drawn, picture, told, [])


def most_typical(draws: Tensor) -> Tensor:
    """Return which of the draws of each item, (n, K, *S), is nearest to their mean, (n,).

    It is the one of least mean squared distance to all: the least risk among them, see Kumar & Byrne 2004,
    https://aclanthology.org/N04-1022, equation 5.
    """
    draws = draws.double().flatten(2)
    return (draws - draws.mean(1, keepdim=True)).square().sum(2).argmin(1)


def _measured(run: Run, sets: Mapping[str, Tensor], split: Split) -> dict[str, Any]:
    """Compare images drawn, had without a model, and most typical of their draws with those that were."""
    found = dict[str, Any]()
    if isinstance(run.modality, Images):
        top = run.modality.levels - 1
        found["psnr"] = {n: psnr(x, _beside(split.items, x), top) for n, x in sets.items()}
    features = features_for(data_of(run))
    if features.probs is not None and split.labels is not None:
        for name, items in {**sets, "real": split.items}.items():
            right = features.probs(items).argmax(1) == _beside(split.labels, items)
            share = float(right.double().mean())
            kept = {"share": share, "interval": wilson(share, len(split))}
            found.setdefault("class_kept", {})[name] = kept
    return found


def _beside(whole: Tensor, drawn: Tensor) -> Tensor:
    """Return what belongs to each of several draws of an item."""
    return whole.repeat_interleave(len(drawn) // len(whole), 0)
