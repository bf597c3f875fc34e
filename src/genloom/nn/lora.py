"""Linear maps and convolutions that stay as they are, and a small change of each that is learnt.

Hu et al. 2021, arXiv:2106.09685.
"""

from typing import Any

from torch import Tensor, nn


class Adapted(nn.Module):
    """A frozen map and a change of low rank, nothing at first (equation 3).

    A convolution's change is one to ``rank`` channels with the same kernel, then one of single pixels.

    Args:
        rank: r, of the change.
        alpha: the change counts alpha / r.
    """

    def __init__(self, base: nn.Linear | nn.Conv2d, rank: int, alpha: float) -> None:
        super().__init__()
        self.base, self.scale = base.requires_grad_(False), alpha / rank
        self.down: nn.Module
        self.up: nn.Linear | nn.Conv2d
        if isinstance(base, nn.Linear):
            self.down = nn.Linear(base.in_features, rank, bias=False)
            self.up = nn.Linear(rank, base.out_features, bias=False)
        else:
            same: dict[str, Any] = {n: getattr(base, n) for n in ("kernel_size", "stride", "padding")}
            self.down = nn.Conv2d(base.in_channels, rank, **same, bias=False)
            self.up = nn.Conv2d(rank, base.out_channels, 1, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map what the map itself does."""
        changed: Tensor = self.base(x) + self.up(self.down(x)) * self.scale
        return changed


def plain(linear: nn.Module) -> nn.Linear:
    """Return a linear map itself, without what is learnt beside it."""
    found = linear.base if isinstance(linear, Adapted) else linear
    assert isinstance(found, nn.Linear)
    return found


def adapt(network: nn.Module, rank: int, alpha: float) -> None:
    """Freeze a network, and adapt each linear map and each convolution in it."""
    network.requires_grad_(False)
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear | nn.Conv2d):
                setattr(module, name, Adapted(child, rank, alpha))


def learnt(network: nn.Module) -> nn.ModuleList:
    """Return what is learnt of an adapted network."""
    adapted = [module for module in network.modules() if isinstance(module, Adapted)]
    return nn.ModuleList(part for one in adapted for part in (one.down, one.up))
