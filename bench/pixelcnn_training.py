"""Time the training of a gated PixelCNN against the same model of plain masked layers.

    python bench/pixelcnn_training.py            # about 5 minutes on two idle cores
    python bench/pixelcnn_training.py --quick    # eager only, few repetitions

Both have two stacks of 32 channels, a 7x7 start, six layers and a head, on binary 28x28 images in batches of
32: 171k parameters here, 184k there, of which the masks hide some. The plain model is the paper's (van den
Oord et al. 2016): 3x3 and 1x3 convolutions whose weights are masked, tanh and sigmoid gates. A step is
forward, backward and a fused Adam step. Each is tried in float32 and bfloat16 (autocast), eager and compiled,
the plain one also in the channels-last layout; the fastest variant of each then takes part in rounds of
alternating repetitions, each of 5 steps. Ratios are taken within a round.
"""

import itertools
import warnings
from collections.abc import Callable

import torch
from racing import attempt, compare, fastest, parser
from torch import Tensor, nn
from torch.nn import functional as F

from genloom.core.events import Binary, Leaf
from genloom.families.ar_pixelcnn import Config

CHANNELS, LAYERS, BATCH, SIDE, STEPS = 32, 6, 32, 28, 5


class Masked(nn.Conv2d):
    """A convolution that sees rows above, and of its own row what ``own`` leaves of the window's left."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int], own: int) -> None:
        super().__init__(inputs, outputs, kernel, padding=(kernel[0] // 2, kernel[1] // 2))
        mask = torch.ones(kernel)
        mask[kernel[0] // 2, own:] = 0
        mask[kernel[0] // 2 + 1 :] = 0
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding)


class Layer(nn.Module):
    """Figure 2 of the paper."""

    def __init__(self) -> None:
        super().__init__()
        self.vertical = Masked(CHANNELS, 2 * CHANNELS, (3, 3), 3)
        self.horizontal = Masked(CHANNELS, 2 * CHANNELS, (1, 3), 2)
        self.link = nn.Conv2d(2 * CHANNELS, 2 * CHANNELS, 1)
        self.out = nn.Conv2d(CHANNELS, CHANNELS, 1)

    def forward(self, v: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        raw = self.vertical(v)
        return gated(raw), h + self.out(gated(self.horizontal(h) + self.link(F.pad(raw, (0, 0, 1, -1)))))


def gated(x: Tensor) -> Tensor:
    a, b = x.chunk(2, 1)
    return a.tanh() * b.sigmoid()


class Plain(nn.Module):
    """A gated PixelCNN as one writes it down."""

    def __init__(self) -> None:
        super().__init__()
        self.above = Masked(1, CHANNELS, (7, 7), 7)
        self.left = Masked(1, CHANNELS, (1, 7), 3)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.head = nn.Sequential(
            nn.ReLU(), nn.Conv2d(CHANNELS, 2 * CHANNELS, 1), nn.ReLU(), nn.Conv2d(2 * CHANNELS, 1, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the negative log-likelihood of images (B, 1, H, W) of zeros and ones."""
        v, h = self.above(2 * x - 1), self.left(2 * x - 1)
        for layer in self.layers:
            v, h = layer(v, h)
        return F.binary_cross_entropy_with_logits(self.head(h).float(), x, reduction="sum") / len(x)


class Ours(nn.Module):
    """This library's."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Config().build(Leaf((1, SIDE, SIDE), Binary()), None)

    def forward(self, x: Tensor) -> Tensor:
        return -self.model.log_density(x).mean()


def training(model: nn.Module, x: Tensor, compiled: bool, bf16: bool) -> Callable[[], None]:
    """Return some training steps."""
    optimiser = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    score = torch.compile(model) if compiled else model

    def steps() -> None:
        for _ in range(STEPS):
            optimiser.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = score(x)
            loss.backward()
            optimiser.step()

    return steps


def main() -> None:
    options = parser(__doc__).parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(__doc__)
    print(f"torch {torch.__version__}; {options.threads} threads", flush=True)
    x = (torch.rand(BATCH, 1, SIDE, SIDE) < 0.2).float()
    ways = list(itertools.product([False] if options.quick else [False, True], [False, True]))
    last = torch.channels_last
    tried: dict[str, list[tuple[str, Callable[[], nn.Module], Tensor]]] = {
        "genloom": [("", Ours, x.long())],
        "plain": [
            ("", Plain, x),
            (" last", lambda: Plain().to(memory_format=last), x.to(memory_format=last)),
        ],
    }
    chosen = {}
    for name, forms in tried.items():
        counted = sum(p.numel() for p in forms[0][1]().parameters())
        print(f"    {name}: {counted:,} parameters", flush=True)
        variants = [
            variant
            for layout, make, values in forms
            for compiled, bf16 in ways
            for variant in attempt(
                f"{'bf16' if bf16 else 'fp32'} {'compiled' if compiled else 'eager'}{layout}",
                training(make(), values, compiled, bf16),
            )
        ]
        chosen[name] = fastest(name, variants, 2 if options.quick else 3)
    compare("gated PixelCNN, training", chosen, 3 if options.quick else options.rounds)


if __name__ == "__main__":
    main()
