"""How well the class of an MNIST digit can be known when its middle, 14 x 14 pixels, is hidden.

A classifier is trained on digits without their middle. The mean probability that it gives the true class,
calibrated (a temperature is chosen on validation), is at most how often a draw from the exact posterior would
be of the true class: the more a classifier knows, the surer it is.

    python bench/hidden_middle.py [--epochs 8]
"""

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genloom.core.randomness import generator
from genloom.modalities.base import Split
from genloom.modalities.datasets import open_data
from genloom.recipes.editing import known_places

BATCH = 128


def visible(split: Split) -> tuple[Tensor, Tensor]:
    known = known_places("centre", tuple(split.items.shape[1:]), 0.75, 0)
    assert split.labels is not None
    return split.items.where(known, 0) / 255, split.labels


def network() -> nn.Sequential:
    parts: list[nn.Module] = []
    for old, new in ((1, 32), (32, 64), (64, 128)):
        parts += [nn.Conv2d(old, new, 3, 1 if old == 1 else 2, 1), nn.BatchNorm2d(new), nn.ReLU()]
    head = (
        nn.Flatten(),
        nn.Dropout(0.4),
        nn.Linear(128 * 49, 256),
        nn.ReLU(),
        nn.Dropout(0.4),
        nn.Linear(256, 10),
    )
    return nn.Sequential(*parts, *head)


def trained(x: Tensor, labels: Tensor, epochs: int) -> nn.Sequential:
    torch.manual_seed(0)
    net, draws, steps = network(), generator("hidden middle"), epochs * (len(x) // BATCH)
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=draws).split(BATCH)[: len(x) // BATCH]:
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(net(x[rows]), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return net.eval()


@torch.no_grad()
def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--epochs", type=int, default=8)
    data = open_data("mnist")
    with torch.enable_grad():
        net = trained(*visible(data.train), options.parse_args().epochs)
    (valid, known), (test, truth) = visible(data.valid), visible(data.test)
    logits, told = (torch.cat([net(part) for part in x.split(1000)]) for x in (valid, test))
    scale = min(torch.linspace(0.5, 2, 31), key=lambda t: float(F.cross_entropy(logits / t, known)))
    shares = (told / scale).softmax(1).gather(1, truth[:, None])
    right = (told.argmax(1) == truth).float()
    for name, n in (("all test digits", len(test)), ("the first 256", 256)):
        print(
            f"{name}: right on {right[:n].mean():.3f}, the truth has a probability of {shares[:n].mean():.3f}"
        )


if __name__ == "__main__":
    main()
