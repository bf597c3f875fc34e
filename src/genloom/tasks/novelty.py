"""How foreign items are to a model with a likelihood: more than one score, as likelihood alone can fail.

Models rate some foreign data higher than their own (Nalisnick et al. 2019, arXiv:1810.09136): smooth images,
say, which any model finds easy. Each score here is larger for what is more foreign, in nats an item.
"""

import math
import zlib
from collections.abc import Mapping

import torch
from torch import Tensor


def typicality(nll: Tensor, train_nll: Tensor) -> Tensor:
    """Return the distance of each negative log-likelihood from the training items' mean, an entropy.

    Args:
        nll: (n,) nats of the items in question.
        train_nll: (m,) nats of training items.

    Source: Nalisnick et al. 2019, arXiv:1906.02994, equation 3, for single items.
    """
    return (nll - train_nll.mean()).abs()


def likelihood_ratio(nll: Tensor, background_nll: Tensor) -> Tensor:
    """Return how much better a background model explains each item than the model does, (n,) nats.

    Source: Ren et al. 2019, arXiv:1906.02845, equation 5, with the sign turned.
    """
    return nll - background_nll


def input_complexity(nll: Tensor, items: Tensor) -> Tensor:
    """Return the nats that the model needs for each item beyond those of a general-purpose compressor.

    Args:
        nll: (n,) nats.
        items: (n, ...) uint8, as they are in files.

    Source: Serra et al. 2020, arXiv:1909.11480, equation 3. Deviation: zlib of differences between
        neighbouring values, as PNG does, instead of PNG or JPEG 2000 files.
    """
    return nll - compressed_nats(items)


def compressed_nats(items: Tensor) -> Tensor:
    """Return the nats of each item (n, ...) uint8 when compressed: the shortest of four filters of PNG."""
    rows = items.flatten(1, -2).to(torch.int16)
    left, above = torch.roll(rows, 1, -1), torch.roll(rows, 1, -2)
    left[..., 0], above[:, 0] = 0, 0
    filtered = [rows, rows - left, rows - above, rows - (left + above) // 2]
    sizes = torch.tensor([[_size(part) for part in (f % 256).to(torch.uint8)] for f in filtered])
    return sizes.min(0).values.double() * 8 * math.log(2)


def _size(values: Tensor) -> int:
    return len(zlib.compress(values.numpy().tobytes(), 9))


def scores(
    nll: Tensor, train_nll: Tensor, background_nll: Tensor | None, items: Tensor
) -> Mapping[str, Tensor]:
    """Return every score that can be had of items, larger for what is more foreign, (n,) nats each.

    Args:
        nll, background_nll: (n,) nats of the items under the model and under a background model, if any.
        train_nll: (m,) nats of training items under the model.
        items: the items themselves; only bytes can be compressed.
    """
    found = {"likelihood": nll, "typicality": typicality(nll, train_nll)}
    if background_nll is not None:
        found["likelihood ratio"] = likelihood_ratio(nll, background_nll)
    if items.dtype == torch.uint8:
        found["input complexity"] = input_complexity(nll, items)
    return found
