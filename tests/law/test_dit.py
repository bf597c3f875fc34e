"""Laws of the transformer of patches."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from genloom.core.events import Bounded, Leaf
from genloom.core.randomness import generator
from genloom.families import diffusion_ddpm
from genloom.nn.dit import DiT, grid_angles


def test_squares_are_those_of_the_network() -> None:
    """Images that are not small are seen pixel by pixel by the U-Net, and by squares of two by the other."""
    digit, photo = (Leaf((1, side, side), Bounded(-1, 1, 256)) for side in (28, 64))
    small = Leaf((1, 8, 8), Bounded(-1, 1, 17))
    found = [diffusion_ddpm.Config.preset(event) for event in (small, digit, photo)]
    assert [one.patch for one in found] == [1, 1, 2]
    assert [one.dit_patch for one in found] == [1, 2, 2]
    assert [len(one.widths) for one in found] == [2, 3, 3]
    for network, idle, other in (("dit", "patch", "unet"), ("unet", "dit_patch", "dit")):
        given = {"network": network, idle: 4}
        with pytest.raises(ValidationError, match=f"{idle} is for network {other}: set that too"):
            diffusion_ddpm.Config.model_validate(given, context={"asked": set(given)})


def awake(patch: int = 2) -> DiT:
    """Return a network of which every weight is random."""
    made = DiT(1, 8, 16, 2, 2, patch).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator(parameter.numel()))
    return made


def image(rows: int, columns: int) -> Tensor:
    return torch.randn(3, 1, rows, columns, generator=generator(rows, columns)).double()


EMBEDDING = torch.randn(3, 8, generator=generator(0)).double()


@pytest.mark.parametrize(("rows", "columns", "patch"), [(8, 8, 2), (7, 5, 2), (9, 4, 3), (1, 1, 2)])
def test_images_of_any_size_keep_it(rows: int, columns: int, patch: int) -> None:
    assert awake(patch)(image(rows, columns), EMBEDDING).shape == (3, 1, rows, columns)


def test_it_starts_by_saying_nothing() -> None:
    assert (DiT(1, 8, 16, 2, 2, 2)(image(8, 8).float(), EMBEDDING.float()) == 0).all()


def test_every_place_hears_of_every_other_and_of_the_embedding() -> None:
    network, x = awake(), image(8, 8).requires_grad_()
    corner = network(x, EMBEDDING)[0, 0, 0, 0]
    (slope,) = torch.autograd.grad(corner, x)
    assert (slope[0] != 0).all()
    assert (slope[1:] == 0).all()
    assert not torch.allclose(network(x, EMBEDDING), network(x, EMBEDDING.flip(0)))


def test_places_are_told_apart_by_rows_and_by_columns() -> None:
    network, x = awake(), torch.zeros(1, 1, 8, 8).double()
    x[..., 2, 3] = 1
    said, turned = network(x, EMBEDDING[:1]), network(x.transpose(2, 3), EMBEDDING[:1])
    assert not torch.allclose(said, said.roll(2, 2))
    assert not torch.allclose(turned.transpose(2, 3), said)


def test_looks_depend_on_distances_alone() -> None:
    """Products of turned queries and keys are the same for pairs of places that are as far apart."""
    source, turn = generator(5), grid_angles(4, 6, 8).double()
    query, key = torch.randn(8, generator=source).double(), torch.randn(8, generator=source).double()

    def turned(x: Tensor) -> Tensor:
        cos, sin = turn
        return (x * cos + x.roll(4) * sin).view(4, 6, 8)

    products = torch.einsum("ijd,kld->ijkl", turned(query), turned(key))
    torch.testing.assert_close(products[0, 0, 1, 2], products[2, 3, 3, 5])
    assert not torch.isclose(products[0, 0, 1, 2], products[0, 0, 2, 1])
