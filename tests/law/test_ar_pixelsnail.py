"""Laws of PixelSNAIL's attention: chunks change nothing, its weights are those of pixels before, it sees far.

``test_raster.py`` has the laws of all models in raster order.
"""

import pytest
import torch

from genloom.families import ar_pixelsnail
from genloom.families.ar_pixelsnail import Attention, attend, coordinates


@pytest.mark.parametrize("chunk", [1, 3, 4, 10, 112])
def test_attention_in_chunks_is_masked_attention(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ar_pixelsnail, "CHUNK", chunk)
    torch.manual_seed(0)
    queries, keys, values = (torch.randn(2, 10, n, dtype=torch.float64) for n in (3, 3, 5))
    expected = torch.nn.functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
    torch.testing.assert_close(attend(queries, keys, values), expected)


def test_a_pixel_finds_the_values_of_pixels_before_it() -> None:
    """With equal scores, pixel n finds the sum of the values of n pixels before it, over n + 1 places."""
    torch.manual_seed(0)
    shape, width = (2, 3, 4), 5
    attention = Attention(shape, width, keys=3).double()
    with torch.no_grad():
        attention.query.weight.zero_()
        attention.query.bias.zero_()
    x, h = torch.randn(2, 3, 4, 2).double(), torch.randn(2, 3, 4, width).double()
    flat = torch.cat([h.flatten(1, 2), x.flatten(1, 2), attention.place.expand(2, -1, -1)], -1)
    values = attention.memory(flat)[..., 3:]
    before = torch.cat([torch.zeros_like(values[:, :1]), values.cumsum(1)[:, :-1]], 1)
    found = before / torch.arange(1, 13)[:, None]
    torch.testing.assert_close(attention(x, h), attention.mixed(h, found.view_as(h)))


def test_one_layer_sees_the_whole_past() -> None:
    torch.manual_seed(0)
    attention = Attention((1, 6, 7), 4, keys=3).double()
    x = torch.randn(1, 6, 7, 1, dtype=torch.float64, requires_grad=True)
    out = attention(x, torch.randn(1, 6, 7, 4).double()).sum(-1).flatten()
    for place in (0, 1, 7, 20, 41):
        (gradient,) = torch.autograd.grad(out[place], x, retain_graph=True)
        assert torch.equal(gradient.flatten() != 0, torch.arange(42) < place)


def test_coordinates_span_half_to_half() -> None:
    place = coordinates(3, 5)
    assert place[0, 0].tolist() == [-0.5, -0.5]
    assert place[2, 4].tolist() == [0.5, 0.5]
    assert place[1, 1].tolist() == [0, -0.25]
