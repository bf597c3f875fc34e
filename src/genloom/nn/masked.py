"""Masked networks whose output d sees inputs before d only. Germain et al. 2015, arXiv:1502.03509.

Features lead: values are (features, B), so that a unit is one contiguous row. D inputs, P outputs for each.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn


def affine(layer: nn.Linear, x: Tensor) -> Tensor:
    """Apply a linear layer to columns: (in, B) -> (out, B)."""
    return torch.addmm(layer.bias.unsqueeze(1), layer.weight, x)


class MaskedLinear(nn.Module):
    """A linear layer on columns whose weight is multiplied by a mask (out, in) of zeros and ones."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        reach = mask.sum(1, keepdim=True).clamp_min(1).rsqrt()
        self.register_buffer("mask", mask, persistent=False)
        self.weight = nn.Parameter((2 * torch.rand_like(mask) - 1) * reach * mask)
        self.bias = nn.Parameter((2 * torch.rand(mask.shape[0]) - 1) * reach.squeeze(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output: (in, B) -> (out, B)."""
        return torch.addmm(self.bias.unsqueeze(1), self.weight * self.mask, x)

    def part(self, rows: slice, x: Tensor) -> Tensor:
        """Return some rows of the output, of which the inputs ``x`` (n, B) are all that they see."""
        return torch.addmm(self.bias[rows].unsqueeze(1), self.weight[rows, : x.shape[0]], x)


class Made(nn.Module):
    """A masked ReLU network with P outputs for each of D inputs, which depend on earlier inputs only.

    A hidden unit of degree m sees inputs before m. Units are ordered by degree, so what an input adds to a
    layer is a contiguous slice of it (see ``Prefix``).

    Args:
        features: D.
        outputs: P.
        hidden: the width of each hidden layer, at least one.
        context: there will be a context, which all outputs may see.
    """

    def __init__(self, features: int, outputs: int, hidden: Sequence[int], *, context: bool) -> None:
        super().__init__()
        lowest = 0 if context or features == 1 else 1
        degrees = [torch.arange(1, features + 1)]
        degrees += [lowest + torch.arange(width) * (features - lowest) // width for width in hidden]
        masks = [(after[:, None] >= before).float() for before, after in pairwise(degrees)]
        last = (torch.arange(features)[:, None] >= degrees[-1]).float().repeat(outputs, 1)
        self.features, self.outputs = features, outputs
        self.counts = [[int((d <= m).sum()) for m in range(features)] for d in degrees]
        layers = [MaskedLinear(mask) for mask in [*masks, last]]
        nn.init.zeros_(layers[-1].weight)
        nn.init.zeros_(layers[-1].bias)
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return all outputs.

        Args:
            x: (D, B).
            context: (hidden[0], B), added to the first hidden layer before its activation.

        Returns:
            (P, D, B).
        """
        first, *middle, last = self.layers
        h = first(x) if context is None else first(x) + context
        for layer in middle:
            h = layer(h.relu())
        return last(h.relu()).unflatten(0, (self.outputs, self.features))


class Prefix:
    """A ``Made`` that has read the first inputs and keeps its hidden units, each computed once.

    Reading all D inputs costs one forward pass, not D.
    """

    def __init__(self, made: Made, like: Tensor, context: Tensor | None = None) -> None:
        """Start before the first input; ``like`` (D, B) gives the batch size and dtype."""
        self._layers, self._counts = cast(list[MaskedLinear], list(made.layers)), made.counts
        self._context, self._features = context, made.features
        widths = [layer.mask.shape[1] for layer in self._layers]
        self._units = [like.new_empty(width, like.shape[1]) for width in widths]
        self._known = 0
        self._extend([0] * len(widths))

    def outputs(self) -> Tensor:
        """Return the outputs (P, B) for the next input."""
        seen = self._units[-1][: self._counts[-1][self._known]]
        return self._layers[-1].part(slice(self._known, None, self._features), seen)

    def read(self, x: Tensor) -> None:
        """Take the next input (B,)."""
        self._append(0, self._known, x[None])
        before = [count[self._known] for count in self._counts]
        self._known += 1
        if self._known < self._features:
            self._extend(before)

    def _extend(self, before: list[int]) -> None:
        """Compute the hidden units whose degree is the number of known inputs."""
        after = [count[self._known] for count in self._counts]
        for depth, layer in enumerate(self._layers[:-1], 1):
            rows = slice(before[depth], after[depth])
            if rows.start < rows.stop:
                units = layer.part(rows, self._units[depth - 1][: after[depth - 1]])
                if depth == 1 and self._context is not None:
                    units = units + self._context[rows]
                self._append(depth, rows.start, units.relu())

    def _append(self, depth: int, start: int, units: Tensor) -> None:
        """Keep units; in place where no gradient is wanted, as copies make drawing a third slower."""
        if torch.is_grad_enabled():
            self._units[depth] = torch.cat((self._units[depth][:start], units))
        else:
            self._units[depth][start : start + len(units)] = units


def blind_weights(model: nn.Module) -> frozenset[str]:
    """Name the weights that their mask removes entirely, as where there is a single value."""
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, MaskedLinear)]
    return frozenset(f"{name}.weight" for name, layer in layers if not layer.mask.any())
