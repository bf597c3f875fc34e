"""Glow: its convolution, and what the first batch sets."""

import pytest
import torch
from torch.nn import functional as F

from genloom.core.errors import DataError
from genloom.core.events import Leaf, Real
from genloom.core.randomness import generator
from genloom.families.flow_glow import ChannelNorm, Config, Mix


def test_mixing_is_a_convolution() -> None:
    mix = Mix(4).double()
    for parameter in mix.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator("mix"), dtype=torch.float64) / 3
    x = torch.randn(2, 4, 3, 5, generator=generator("image"), dtype=torch.float64)
    kernel = mix.matrix(torch.eye(4).double())[0][:, :, None, None]
    y, log_det = mix(x)
    torch.testing.assert_close(y, F.conv2d(x, kernel))
    torch.testing.assert_close(log_det, 15 * kernel[:, :, 0, 0].slogdet().logabsdet)


def test_the_first_batch_standardises_every_step() -> None:
    torch.manual_seed(0)
    model = Config(steps=2, channels=4).build(Leaf((1, 8, 8), Real()), None).double()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    scale = torch.linspace(0.1, 5, 64).view(1, 8, 8).double()
    x = 3 + scale * torch.randn(500, 1, 8, 8, generator=generator("first"), dtype=torch.float64)
    model.initialise(x, None)
    seen = []
    norms = [module for module in model.modules() if isinstance(module, ChannelNorm)]
    for norm in norms:
        norm.register_forward_hook(lambda *call: seen.append(call[2][0]))
    model.encode(x)
    assert len(seen) == len(norms) == 4
    for channels in seen:
        values = channels.transpose(0, 1).flatten(1)
        torch.testing.assert_close(values.mean(1), torch.zeros(len(values)).double(), atol=1e-9, rtol=0)
        torch.testing.assert_close(values.std(1, correction=0), torch.ones(len(values)).double())


def test_odd_sides_are_refused() -> None:
    with pytest.raises(DataError, match="even sides, not 7x8"):
        Config().build(Leaf((1, 8, 7), Real()), None)
