"""A small image or vector classifier whose last hidden layer serves as features for metrics."""

import math

import torch
from torch import Tensor, nn


class Classifier(nn.Module):
    """A classifier of items (B, *S) float, with F features.

    Images (C, H, W) go through residual convolutions, vectors through a multilayer perceptron.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, features: int = 64, channels: int = 24) -> None:
        super().__init__()
        image = len(shape) == 3
        self.body = _convolutions(shape, channels, features) if image else _perceptron(shape, features)
        self.head = nn.Linear(features, classes)

    def features(self, x: Tensor) -> Tensor:
        """Return the activations before the last layer, (B, F)."""
        out: Tensor = self.body(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (B, classes)."""
        out: Tensor = self.head(self.features(x))
        return out


def _perceptron(shape: tuple[int, ...], features: int) -> nn.Sequential:
    hidden = 128
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(shape), hidden),
        nn.SiLU(),
        nn.Linear(hidden, features),
        nn.SiLU(),
    )


def _convolutions(shape: tuple[int, ...], channels: int, features: int) -> nn.Sequential:
    """Halve the image to 4 pixels or fewer, doubling the channels up to four times their number."""
    layers: list[nn.Module] = [nn.Conv2d(shape[0], channels, 3, padding=1), nn.ReLU()]
    side, width = max(shape[1:]), channels
    while side > 4:
        wider = min(2 * width, 4 * channels)
        layers += [nn.Conv2d(width, wider, 3, stride=2, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(wider, wider, 3, padding=1), nn.ReLU()]
        side, width = -(-side // 2), wider
    with torch.no_grad():
        flat = nn.Sequential(*layers)(torch.zeros(1, *shape)).numel()
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, features), nn.SiLU())
