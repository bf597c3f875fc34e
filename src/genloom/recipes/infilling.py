"""Items whose last part is drawn anew, given the first: as files, with a picture of all."""

from pathlib import Path

import torch
from torch import Tensor

from genloom.core.capabilities import Infill, need
from genloom.core.events import tensor
from genloom.recipes.drawing import check_folder
from genloom.recipes.evaluating import seen
from genloom.recipes.runs import Run
from genloom.recipes.walking import MARK, Walk, items_of, keep_walk
from genloom.tasks import infilling


def first_places(shape: tuple[int, ...], share: float) -> Tensor:
    """Return booleans (*shape), true at the first share of places, at least one, in raster order.

    Channels of images, (C, H, W), are alike.
    """
    places = shape[1:] if len(shape) == 3 else shape
    count = torch.Size(places).numel()
    first = torch.arange(count) < max(1, round(share * count))
    return first.view(places).expand(shape)


def write_infills(
    run: Run, source: str | None, n: int, draws: int, keep: float, seed: int, out: Path | None
) -> Walk:
    """Write n items with all but their first places drawn anew, ``draws`` times each.

    A row of the picture shows what is kept (nothing where unknown), the draws, and the item itself. A
    class-conditional model is given the item's class.

    Args:
        keep: the share of places that are kept, in raster order.

    Raises:
        Unsupported: the family cannot infill.
    """
    folder = check_folder(out or run.folder / "infills", MARK)
    model = run.load()
    need(model, Infill, "infill")
    split = items_of(run, source)[0].some(n)
    whole = tensor(seen(run, split.items)).repeat_interleave(draws, 0)
    labels = split.labels.repeat_interleave(draws, 0) if run.classes and split.labels is not None else None
    known = first_places(tuple(whole.shape[1:]), keep)
    filled = run.view.decode(infilling.infill(model, whole, known, seed=seed, cond=labels))
    items = run.view.decode(whole[::draws])
    kept = items.masked_fill(~first_places(tuple(items.shape[1:]), keep), 0)
    rows = torch.cat([kept[:, None], filled.unflatten(0, (-1, draws)), items[:, None]], 1)
    picture = run.modality.draw(rows.flatten(0, 1), columns=draws + 2)
    facts = {"n": len(items), "draws": draws, "keep": keep, "seed": seed}
    return keep_walk(run, folder, filled, picture, facts, [])
