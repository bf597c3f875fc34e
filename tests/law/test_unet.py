"""Laws of the U-Net."""

import shutil

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from genloom.core.randomness import generator
from genloom.nn.unet import UNet, doubled

ROUNDED = 0.003
"""Of sums that nearly cancel."""


def test_pixels_are_doubled_as_torch_does() -> None:
    x = torch.randn(2, 3, 4, 5, generator=generator("pixels"))
    assert torch.equal(doubled(x), F.interpolate(x, scale_factor=2))


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling takes g++")
def test_compiled_gradients_are_those_of_eager_code() -> None:
    """In bfloat16, in which a compiler once dropped all of the coarse level's."""
    torch.manual_seed(0)
    network = UNet(1, 16, (16, 32), (1, 1))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x, embedding = torch.randn(4, 1, 8, 8), torch.randn(4, 16)

    def gradients() -> dict[str, Tensor]:
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = (network(x, embedding) - x).square().mean()
        loss.backward()
        return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}

    eager = gradients()
    network.compile()
    found = gradients()
    assert found.keys() == eager.keys()
    for name, grad in eager.items():
        assert float(grad.norm()) > 2 * ROUNDED or grad.numel() == 1, name
        assert float((found[name] - grad).norm()) < 0.1 * float(grad.norm()) + ROUNDED, name
