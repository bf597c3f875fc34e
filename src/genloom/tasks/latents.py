"""Codes of items: encode, reconstruct, walk between two codes, and along one coordinate.

n items, *Z the shape of a code.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from genloom.core.capabilities import Latent, LatentVariable, need
from genloom.core.events import Value, rows, stack, take
from genloom.core.randomness import SampleNoise

BATCH = 256
"""Rows computed together."""

Path = Literal["linear", "spherical"]


@torch.no_grad()
def encode(model: nn.Module, x: Value, cond: Value | None = None) -> Tensor:
    """Return the code of every item, (n, *Z).

    Args:
        x: n items of the model's event.
        cond: (n,) conditions, None for unconditional.

    Raises:
        Unsupported: the model has no codes.
    """
    coder = need(model, Latent, "encode")
    model.eval()
    parts = [slice(start, start + BATCH) for start in range(0, rows(x), BATCH)]
    return torch.cat([coder.encode(take(x, p), None if cond is None else take(cond, p)) for p in parts])


@torch.no_grad()
def decode(model: nn.Module, z: Tensor, cond: Value | None = None) -> Value:
    """Return the most typical item for every code (n, *Z).

    Raises:
        Unsupported: the model has no codes.
    """
    coder = need(model, Latent, "decode")
    model.eval()
    parts = [slice(start, start + BATCH) for start in range(0, len(z), BATCH)]
    return stack([coder.decode(z[p], None if cond is None else take(cond, p)) for p in parts])


@torch.no_grad()
def rates(model: nn.Module, x: Value, cond: Value | None = None, *, seed: int = 0) -> Tensor:
    """Estimate KL(q(z|x) || p(z)) by a draw for each item, (n,) nats: what its code says of it.

    Raises:
        Unsupported: the model explains items by no random code.

    Source: Alemi et al. 2018, arXiv:1711.00464, equation 3.
    """
    coder = need(model, LatentVariable, "rates")
    model.eval()
    parts = []
    for start in range(0, rows(x), BATCH):
        piece = slice(start, start + BATCH)
        given = None if cond is None else take(cond, piece)
        items = take(x, piece)
        noise = SampleNoise(seed, torch.arange(start, start + rows(items)))
        z, log_q = coder.infer(items, noise, given)
        parts.append((log_q - coder.log_prior(z, given)).double())
    return torch.cat(parts)


def reconstruct(model: nn.Module, x: Value, cond: Value | None = None) -> Value:
    """Return what is left of every item after encoding and decoding it."""
    return decode(model, encode(model, x, cond), cond)


def interpolate(start: Tensor, end: Tensor, steps: int, path: Path = "spherical") -> Tensor:
    """Return codes on the paths from ``start`` to ``end`` (n, *Z), ends included, (n, steps, *Z).

    A spherical path turns at a constant rate from one direction to the other, as suits codes that are normal
    in many dimensions, which all have about the same length; it is linear where the two point alike, and
    where they are opposite, so that no plane is given.

    Source: Shoemake 1985, SIGGRAPH, section 3.3; for codes White 2016, arXiv:1609.04468.
    """
    a, b = start.flatten(1)[:, None], end.flatten(1)[:, None]
    t = torch.linspace(0, 1, steps).to(a)[:, None]
    first, second = 1 - t, t
    if path == "spherical":
        angle = torch.nn.functional.cosine_similarity(a, b, dim=2).clamp(-1, 1).acos()[..., None]
        straight = angle.sin() < 1e-4
        sine = torch.where(straight, 1.0, angle.sin())
        first = torch.where(straight, first, ((1 - t) * angle).sin() / sine)
        second = torch.where(straight, second, (t * angle).sin() / sine)
    return (first * a + second * b).view(len(start), steps, *start.shape[1:])


def traverse(code: Tensor, coordinate: int, values: Tensor) -> Tensor:
    """Return copies of a code (*Z), one coordinate of which (of the flat code) takes each value (steps,).

    Returns:
        (steps, *Z).
    """
    flat = code.flatten().repeat(len(values), 1)
    flat[:, coordinate] = values
    return flat.view(len(values), *code.shape)


def direction(codes: Tensor, labels: Tensor, away: int, towards: int) -> Tensor:
    """Return the mean code (*Z) of one class minus that of another.

    Args:
        codes: (n, *Z).
        labels: (n,) classes.

    Source: Larsen et al. 2016, arXiv:1512.09300, who call it a visual attribute vector.
    """
    return codes[labels == towards].mean(0) - codes[labels == away].mean(0)
