"""The scales of image flows: every value becomes code once, at the scale that is planned for it."""

import pytest
import torch

from genloom.nn.multiscale import plan_levels, squeeze, unsqueeze


def test_squeezing() -> None:
    x = torch.arange(2 * 4 * 6).view(1, 2, 4, 6)
    y = squeeze(x)
    assert y.shape == (1, 8, 2, 3)
    assert y[0, :4, 0, 0].tolist() == [0, 1, 6, 7]
    assert (unsqueeze(y) == x).all()


@pytest.mark.parametrize(
    ("shape", "scales", "expected"),
    [
        ((1, 8, 8), 2, [((4, 4, 4), 2), ((8, 2, 2), 8)]),
        ((1, 28, 28), 5, [((4, 14, 14), 2), ((8, 7, 7), 8)]),
        ((3, 32, 32), 3, [((12, 16, 16), 6), ((24, 8, 8), 12), ((48, 4, 4), 48)]),
        ((1, 7, 7), 3, [((1, 7, 7), 1)]),
    ],
)
def test_levels(shape, scales, expected) -> None:
    levels = plan_levels(shape, scales)
    assert [(level.shape, level.kept) for level in levels] == expected
    rest = (levels[-1].kept, *levels[-1].shape[1:])
    codes = [level.code for level in levels] + [rest]
    assert sum(c * h * w for c, h, w in codes) == shape[0] * shape[1] * shape[2]
