"""Laws of PixelCNN++: no blind spot through the scales, and dropout that is keyed and fair.

``test_raster.py`` has the laws of all models in raster order.
"""

import pytest
import torch

from genloom.core.events import Binary, Leaf
from genloom.core.objective import Clock
from genloom.core.randomness import TrainNoise, generator
from genloom.families.ar_pixelcnnpp import Config, Grow, dropout
from genloom.nn.causal_conv import ConvCache, ShiftedConv
from genloom.nn.raster import PixelModel


def train_noise(seed: int, rows: int = 4) -> TrainNoise:
    return TrainNoise(generator("test", seed), rows, 0, rows)


def test_every_pixel_sees_all_pixels_before_it() -> None:
    """Three scales of one block reach over the whole of 11x5 pixels, whose halves do not fit evenly."""
    torch.manual_seed(0)
    height, width = 11, 5
    model = Config(channels=4, scales=3, reach=1).build(Leaf((1, height, width), Binary()), None).double()
    x = torch.randn(1, height, width, 1, dtype=torch.float64, requires_grad=True)
    parameters = model.network(x, torch.zeros(1, dtype=torch.int64)).sum(-1).flatten()
    for place in (1, width, width + 4, 6 * width + 2, height * width - 1):
        (gradient,) = torch.autograd.grad(parameters[place], x, retain_graph=True)
        assert torch.equal(gradient.flatten() != 0, torch.arange(height * width) < place)


@pytest.mark.parametrize(("kernel", "stride"), [((2, 3), 1), ((2, 2), 1), ((2, 3), 2), ((2, 2), 2)])
def test_a_convolution_by_rows_and_pixels_is_the_convolution(kernel: tuple[int, int], stride: int) -> None:
    torch.manual_seed(0)
    conv = ShiftedConv(3, 5, kernel, above=1, left=1, stride=stride).double()
    x = torch.randn(2, 5, 7, 3, dtype=torch.float64)
    whole, rows, pixels = conv(x), ConvCache(conv, 2, 5, 7), ConvCache(conv, 2, 5, 7)
    for i in range(5):
        row = rows.row(i, x[:, i])
        if i % stride == 0:
            torch.testing.assert_close(row, whole[:, i // stride])
        for j in range(7 if kernel == (2, 2) else 0):
            pixel = pixels.pixel(i, j, x[:, i, j])
            if i % stride == 0 and j % stride == 0:
                torch.testing.assert_close(pixel, whole[:, i // stride, j // stride])


def test_growing_by_rows_and_pixels_is_growing() -> None:
    torch.manual_seed(0)
    grow, x, like = Grow(3).double(), torch.randn(2, 3, 4, 3).double(), torch.empty(2, 5, 7, 3)
    whole = grow(x, like)
    for i in range(5):
        torch.testing.assert_close(grow.row(i, x[:, i // 2], 7), whole[:, i])
        for j in range(7):
            torch.testing.assert_close(grow.pixel(i, j, x[:, i // 2, j // 2]), whole[:, i, j])


def test_dropout_zeroes_its_share_and_keeps_the_mean() -> None:
    x = torch.ones(4, 50, 50, 10, dtype=torch.float64)
    dropped = dropout(0.3, train_noise(0))(x)
    assert float((dropped == 0).double().mean()) == pytest.approx(0.3, abs=0.01)
    assert float(dropped.mean()) == pytest.approx(1, abs=0.02)
    assert torch.equal(dropped, dropout(0.3, train_noise(0))(x))


def test_only_the_loss_has_dropout() -> None:
    torch.manual_seed(0)
    config = Config(channels=4, scales=2, reach=1, dropout=0.5)
    model, x = config.build(Leaf((1, 4, 4), Binary()), None), torch.ones(4, 1, 4, 4, dtype=torch.int64)
    assert isinstance(model, PixelModel)
    (phase,) = config.stages(model)[0].objective.phases  # type: ignore[union-attr]
    assert phase.loss is not None
    losses = [phase.loss({"x": x}, train_noise(seed), Clock(0, 1)).total.item() for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    score = -model.log_density(x).mean().item()
    assert score == -model.train().log_density(x).mean().item()
    assert score not in losses
