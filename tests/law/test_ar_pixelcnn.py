"""Laws of the gated PixelCNN: no blind spot and no gap. ``test_raster.py`` has those of all such models."""

import pytest
import torch
from torch import Tensor

from genloom.math.logistic import discretised_logistic
from genloom.nn.causal_conv import GatedLayer, pixels_left, rows_above
from genloom.nn.pixels import scale_levels


def test_network_sees_all_pixels_before_and_none_after() -> None:
    torch.manual_seed(0)
    size, d = 7, 4
    above, left = rows_above(1, d, 3).double(), pixels_left(1, d, 3).double()
    layers = [GatedLayer(d, dilation).double() for dilation in (1, 2, 4)]

    def features(x: Tensor) -> Tensor:
        v, h = above(x.view(1, size, size, 1)), left(x.view(1, size, size, 1))
        for layer in layers:
            v, h = layer(v, h)
        return h.sum(-1).flatten()

    jacobian = torch.autograd.functional.jacobian(features, torch.randn(size * size, dtype=torch.float64))
    seen = jacobian != 0
    assert torch.equal(seen, torch.ones_like(seen).tril(-1))


@pytest.mark.parametrize("dilations", [(1, 1, 1, 1), (1, 2, 4, 1, 2, 4)])
def test_preset_layers_leave_no_gap_in_the_receptive_field(dilations: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    above, left = rows_above(1, 2, 3).double(), pixels_left(1, 2, 3).double()
    layers = [GatedLayer(2, dilation).double() for dilation in dilations]
    size, row, column = 28, 20, 14
    x = torch.randn(1, size, size, 1, dtype=torch.float64, requires_grad=True)
    v, h = above(x), left(x)
    for layer in layers:
        v, h = layer(v, h)
    (gradient,) = torch.autograd.grad(h[0, row, column].sum(), x)
    reach = 3 + sum(dilations)
    seen = gradient[0, :, :, 0] != 0
    rows, columns = torch.arange(size)[:, None], torch.arange(size)[None]
    before = (rows < row) | ((rows == row) & (columns < column))
    within = (rows >= row - reach) & ((columns - column).abs() <= reach)
    assert torch.equal(seen, before & within)


def test_discretised_logistic_is_a_difference_of_cdfs() -> None:
    x = scale_levels(torch.arange(256), 256, torch.float64)
    mean, log_scale = torch.tensor(0.3).double(), torch.tensor(-2.0).double()
    edges = (torch.arange(1, 256).double() - 0.5) * (2 / 255) - 1
    cdf = torch.cat([torch.zeros(1), ((edges - mean) / log_scale.exp()).sigmoid(), torch.ones(1)])
    found = discretised_logistic(x, mean, log_scale, 256).exp()
    assert torch.allclose(found, cdf.diff(), rtol=1e-9, atol=1e-15)
    far = discretised_logistic(x, torch.tensor(0.0).double(), torch.tensor(-7.0).double(), 256)
    assert far.isfinite().all()
