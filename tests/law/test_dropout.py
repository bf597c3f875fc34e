"""Dropout by bytes: shares, means, rows, and order."""

import pytest
import torch

from genloom.core.randomness import Noise, SampleNoise, TrainNoise, generator
from genloom.nn.dropout import dropout, identity, planned_dropout


def noises() -> list[Noise]:
    return [TrainNoise(generator("bytes"), 64, 0, 64), SampleNoise(0, torch.arange(64))]


@pytest.mark.parametrize("noise", noises())
def test_bytes_are_uniform(noise: Noise) -> None:
    drawn = noise.bytes(50, 40)
    assert (drawn.shape, drawn.dtype) == ((64, 50, 40), torch.uint8)
    counts = drawn.flatten().bincount(minlength=256).double()
    expected = drawn.numel() / 256
    assert float(((counts - expected) ** 2 / expected).sum()) < 350
    places = torch.arange(drawn.numel()) % 8
    means = torch.stack([drawn.flatten()[places == p].double().mean() for p in range(8)])
    assert (means - 127.5).abs().max() < 2


def test_bytes_of_shorter_rows_are_those_of_the_whole() -> None:
    whole, part = TrainNoise(generator("bytes"), 7, 0, 7), TrainNoise(generator("bytes"), 7, 2, 4)
    for _ in range(2):
        assert torch.equal(part.bytes(3, 5), whole.bytes(9, 5)[2:4, :3])
    long, short = (SampleNoise(0, torch.arange(3)) for _ in range(2))
    for _ in range(2):
        assert torch.equal(short.bytes(3, 5), long.bytes(9, 5)[:, :3])


@pytest.mark.parametrize("share", [0.0001, 0.1, 0.3, 0.999])
def test_a_share_is_gone_and_the_mean_stays(share: float) -> None:
    x = torch.ones(64, 200, 40)
    y = dropout(share, TrainNoise(generator("dropout"), 64, 0, 64))(x)
    assert float((y == 0).double().mean()) == pytest.approx(share, abs=0.004)
    assert float(y.mean()) == pytest.approx(1, abs=0.05)
    assert dropout(share, None) is dropout(0, noises()[0]) is identity


def test_planned_dropout_is_dropout() -> None:
    shapes = [(5, 4), (3,), (5, 4)]
    first, second = (TrainNoise(generator("planned"), 6, 0, 6) for _ in range(2))
    planned, each = planned_dropout(0.4, first, shapes), dropout(0.4, second)
    tensors = [torch.ones(6, *shape) for shape in shapes]
    assert all(torch.equal(planned(x), each(x)) for x in tensors)
    assert planned_dropout(0.4, None, shapes) is identity
