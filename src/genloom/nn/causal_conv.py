"""Causal image layers without a blind spot, and the same layers one row and one pixel at a time.

Shapes: B batch, H height, W width, C channels; images are channels-last, (B, H, W, C).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ShiftedConv(nn.Module):
    """A small dense convolution whose window is shifted by padding, in place of a masked larger one.

    Output (i, j) sees rows i - above, i - above + dilation, ... and columns j - left, j - left + dilation,
    ..., as many as the kernel has taps.

    Args:
        kernel: taps along rows and columns.
        above, left: how far before the output the first tap lies.
        stride: keeps the outputs at multiples of it, along rows and columns.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int],
        above: int,
        left: int,
        dilation: int = 1,
        stride: int = 1,
    ) -> None:
        super().__init__()
        bound = (inputs * kernel[0] * kernel[1]) ** -0.5
        self.weight = nn.Parameter(torch.empty(outputs, inputs, *kernel).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.dilation, self.stride = dilation, stride
        right, below = (kernel[1] - 1) * dilation - left, (kernel[0] - 1) * dilation - above
        self.padding = (0, 0, left, right, above, below)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, inputs) to (B, H, W, outputs)."""
        return self.windowed(F.pad(x, self.padding))

    def halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two halves of the output channels as separate, contiguous tensors.

        Splitting the weight is faster than splitting the output: elementwise operations on strided
        bfloat16 take the scalar path.
        """
        padded = F.pad(x, self.padding).permute(0, 3, 1, 2)
        first, second = (
            F.conv2d(padded, w, b, dilation=self.dilation).permute(0, 2, 3, 1)
            for w, b in zip(self.weight.chunk(2), self.bias.chunk(2), strict=True)
        )
        return first, second

    def windowed(self, padded: Tensor) -> Tensor:
        """Convolve an image that is padded already."""
        x = padded.permute(0, 3, 1, 2)
        y = F.conv2d(x, self.weight, self.bias, stride=self.stride, dilation=self.dilation)
        return y.permute(0, 2, 3, 1)


class ConvCache:
    """The known part of a ``ShiftedConv``'s input, for outputs one row or one pixel at a time.

    The window ends at the output's own row and, for pixels, at its own column.
    """

    def __init__(self, conv: ShiftedConv, batch: int, height: int, width: int) -> None:
        _, inputs, *kernel = conv.weight.shape
        _, _, self.left, right, self.above, _ = conv.padding
        self.conv = conv
        self.rows, self.columns = ((taps - 1) * conv.dilation + 1 for taps in kernel)
        self.canvas = conv.weight.new_zeros(batch, height + self.above, width + self.left + right, inputs)
        self.weight = conv.weight.permute(2, 3, 1, 0).flatten(0, 2)

    def row(self, i: int, x: Tensor) -> Tensor:
        """Take row i of the input, (B, W, inputs), and return that of the output, (B, W', outputs)."""
        self.canvas[:, i + self.above, self.left : self.left + x.shape[1]] = x
        return self.conv.windowed(self.canvas[:, i : i + self.rows]).squeeze(1)

    def pixel(self, i: int, j: int, x: Tensor) -> Tensor:
        """Take pixel (i, j) of the input, (B, inputs), and return what the window ending there gives."""
        self.canvas[:, i + self.above, j + self.left] = x
        d = self.conv.dilation
        window = self.canvas[:, i : i + self.rows : d, j : j + self.columns : d]
        return torch.addmm(self.conv.bias, window.flatten(1), self.weight)


def rows_above(inputs: int, outputs: int, reach: int) -> ShiftedConv:
    """Return a convolution over the ``reach`` rows strictly above, ``reach`` columns to both sides."""
    return ShiftedConv(inputs, outputs, (reach, 2 * reach + 1), above=reach, left=reach)


def pixels_left(inputs: int, outputs: int, reach: int) -> ShiftedConv:
    """Return a convolution over the ``reach`` pixels strictly to the left in the same row."""
    return ShiftedConv(inputs, outputs, (1, reach), above=0, left=reach)


class Stem(nn.Module):
    """Starts a vertical stack, which sees rows above, and a horizontal one, which sees pixels to the left.

    Class labels and learned positions (van den Oord et al. 2016, arXiv:1606.05328, section 2.3:
    location-dependent bias) are added once: residual streams carry them to every layer.

    Args:
        shape: channels, height and width of the image.
        width: channels of each stack.
        reach: how many rows and pixels are seen; 3 makes the 7x7 window of the papers.
        classes: the number of labels, 0 for none.
    """

    def __init__(self, shape: tuple[int, int, int], width: int, reach: int, classes: int) -> None:
        super().__init__()
        self.reach = reach
        self.above = rows_above(shape[0], width, reach)
        self.left = pixels_left(shape[0], width, reach)
        self.position = nn.Parameter(torch.zeros(*shape[1:], 2 * width))
        self.label = nn.Embedding(classes + 1, 2 * width) if classes else None

    def bias(self, label: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is added to the vertical and the horizontal stack, (B or 1, H, W, width)."""
        start = self.position[None]
        if self.label is not None:
            start = start + self.label(label)[:, None, None]
        v, h = start.chunk(2, -1)
        return v, h

    def forward(self, x: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Map pixels (B, H, W, C) and labels (B,) to both stacks, (B, H, W, width)."""
        v, h = self.above(x), self.left(x)
        bias_v, bias_h = self.bias(label)
        return v + bias_v.to(v.dtype), h + bias_h.to(h.dtype)


class StemCache:
    """The pixels that have been read so far, and what a ``Stem`` makes of them."""

    def __init__(self, stem: Stem, label: Tensor) -> None:
        weight, reach = stem.above.weight, stem.reach
        height, width, _ = stem.position.shape
        self.stem = stem
        self.canvas = weight.new_zeros(len(label), height + reach, width + 2 * reach, weight.shape[1])
        self.left = stem.left.weight.permute(2, 3, 1, 0).flatten(0, 2)
        self.bias_v, self.bias_h = stem.bias(label)
        self.offset: Sequence[Tensor] = ()

    def row(self, i: int) -> Tensor:
        """Return row i of the vertical stack, (B, W, width)."""
        self.offset = (self.bias_h[:, i] + self.stem.left.bias).unbind(1)
        return (
            self.stem.above.windowed(self.canvas[:, i : i + self.stem.reach]).squeeze(1) + self.bias_v[:, i]
        )

    def pixel(self, i: int, j: int) -> Tensor:
        """Return pixel (i, j) of the horizontal stack, (B, width)."""
        reach = self.stem.reach
        return self.canvas[:, i + reach, j : j + reach].flatten(1) @ self.left + self.offset[j]

    def read(self, i: int, j: int, pixel: Tensor) -> None:
        """Take pixel (i, j), (B, C)."""
        self.canvas[:, i + self.stem.reach, j + self.stem.reach] = pixel


class GatedLayer(nn.Module):
    """One layer of the vertical and horizontal stacks of a gated PixelCNN.

    The vertical stack sees whole rows, the pixel's own included, so its input must already be shifted down
    by one row; the horizontal stack sees the pixel, one to its left, and the vertical stack.

    Source: van den Oord et al. 2016, arXiv:1606.05328, figure 2 and equation 2. Deviations, each for speed:
    the gate is a * sigmoid(b) without the tanh, the vertical stack is residual too, its link to the
    horizontal stack is taken after the gate, and windows may be dilated.
    """

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.dilation = dilation
        self.vertical = ShiftedConv(channels, 2 * channels, (2, 3), dilation, dilation, dilation)
        self.mix = nn.Linear(3 * channels, 2 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, v: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Advance both stacks, each (B, H, W, C)."""
        a, b = self.vertical.halves(v)
        v = torch.addcmul(v, a, b.sigmoid())
        earlier = F.pad(h, (0, 0, self.dilation, 0))[:, :, : h.shape[2]]
        inputs = torch.cat([earlier, h, v], -1)
        a, b = (
            F.linear(inputs, w, bias)
            for w, bias in zip(self.mix.weight.chunk(2), self.mix.bias.chunk(2), strict=True)
        )
        return v, h + self.out(a * b.sigmoid())


class GatedLayerCache:
    """What a ``GatedLayer`` remembers while an image is drawn pixel by pixel.

    ``row`` computes the vertical stack and its link to the horizontal one for a whole row, once;
    ``pixel`` computes only the newest activation of the horizontal stack.
    """

    def __init__(self, layer: nn.Module, batch: int, height: int, width: int) -> None:
        assert isinstance(layer, GatedLayer)
        weight, d = layer.mix.weight, layer.dilation
        channels = weight.shape[1] // 3
        self.layer = layer
        self.vertical = ConvCache(layer.vertical, batch, height, width)
        self.left = weight.new_zeros(batch, width + d, channels)
        self.from_horizontal = weight[:, : 2 * channels].t().contiguous()
        self.from_vertical = weight[:, 2 * channels :].contiguous()
        self.out = layer.out.weight.t().contiguous()
        self.link: Sequence[Tensor] = ()

    def row(self, i: int, v: Tensor) -> Tensor:
        """Advance row i of the vertical stack, (B, W, C), and start the horizontal stack's row."""
        a, b = self.vertical.row(i, v).chunk(2, -1)
        v = v + a * b.sigmoid()
        self.link = F.linear(v, self.from_vertical, self.layer.mix.bias).unbind(1)
        return v

    def pixel(self, j: int, h: Tensor) -> Tensor:
        """Advance pixel j of the current row of the horizontal stack, (B, C)."""
        d = self.layer.dilation
        self.left[:, j + d] = h
        window = self.left[:, j : j + d + 1 : d].flatten(1)
        gated = F.glu(torch.addmm(self.link[j], window, self.from_horizontal))
        return torch.addmm(h, gated, self.out).add_(self.layer.out.bias)
