"""Time neural spline flows against zuko, nflows and normflows: training steps, and drawing samples.

    python bench/flows.py            # about 8 minutes on two idle cores, most of it compilation
    python bench/flows.py --quick    # eager only, few repetitions

All flows have the same layers: 5 rational-quadratic splines of 8 bins on 16 values, networks with hidden
layers 128 and 128, values reversed between layers, batches of 1,024. A training step is forward, backward
and a fused Adam step on the mean negative log-likelihood. Every contender is tried in float32 and bfloat16
(autocast), each eager and compiled; the fastest variant of each then takes part in a round of alternating
repetitions, so that all meet the same load on the machine. Ratios are taken within a round. Drawing is
compiled for genloom and zuko, by hand: a whole layer of genloom, a pass through one of zuko.
"""

import math
import warnings
from collections.abc import Callable
from functools import partial

import normflows
import torch
import zuko
from nflows.transforms.autoregressive import MaskedPiecewiseRationalQuadraticAutoregressiveTransform
from nflows.transforms.coupling import PiecewiseRationalQuadraticCouplingTransform
from normflows.flows.neural_spline.autoregressive import MaskedPiecewiseRationalQuadraticAutoregressive
from normflows.flows.neural_spline.coupling import PiecewiseRationalQuadraticCoupling
from racing import attempt, compare, fastest, parser
from torch import Tensor, nn

from genloom.core.events import Leaf, Real
from genloom.families.flow_nsf import Config

LAYERS, DIM, BATCH, HIDDEN, BINS, BOUND = 5, 16, 1024, 128, 8, 4.0


class Ours(nn.Module):
    """This library's flow."""

    def __init__(self, form: str) -> None:
        super().__init__()
        config = Config(transform=form, layers=LAYERS, hidden=(HIDDEN, HIDDEN), bins=BINS, mixing="reverse")
        self.model = config.build(Leaf((DIM,), Real()), None)

    def forward(self, x: Tensor) -> Tensor:
        return self.model.log_density(x)

    def draw(self, z: Tensor) -> Tensor:
        return self.model.decode(z)

    def draw_compiled(self, z: Tensor) -> Tensor:
        """Draw with one compiled function for each layer."""
        h = z.t().contiguous()
        for mix, spline in zip(reversed(self.model.mixers), reversed(self.model.layers), strict=True):
            h = mix.inverse(layer_inverse(spline, h))
        return self.model.norm.inverse(h.t())


@torch.compile
def layer_inverse(layer: nn.Module, y: Tensor) -> Tensor:
    return layer.inverse(y, None)


class Zuko(nn.Module):
    """zuko.flows.NSF; two passes make it a coupling."""

    def __init__(self, form: str) -> None:
        super().__init__()
        passes = 2 if form == "coupling" else None
        self.flow = zuko.flows.NSF(
            DIM, transforms=LAYERS, bins=BINS, hidden_features=(HIDDEN, HIDDEN), passes=passes
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.flow().log_prob(x)

    def draw(self, z: Tensor) -> Tensor:
        return self.flow().transform.inv(z)

    def draw_compiled(self, z: Tensor) -> Tensor:
        """Draw with one compiled function for each pass of a layer."""
        for layer in reversed(self.flow.transform.transforms):
            y, z = z, torch.zeros_like(z)
            for _ in range(layer.passes):
                z = zuko_pass(layer, z, y)
        return z


@torch.compile
def zuko_pass(layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return layer.meta(None, x).inv(y)


class Perceptron(nn.Module):
    """A network for the couplings of nflows and normflows, equal to the one in this library."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(inputs, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, outputs),
        )

    def forward(self, x: Tensor, context: None = None) -> Tensor:  # noqa: ARG002
        return self.net(x)


class Chain(nn.Module):
    """Layers of nflows or normflows, which share an interface."""

    def __init__(
        self, autoregressive: Callable[..., nn.Module], coupling: Callable[..., nn.Module], form: str
    ) -> None:
        super().__init__()
        spline = {"num_bins": BINS, "tails": "linear", "tail_bound": BOUND}
        if form == "coupling":
            mask = torch.arange(DIM) >= DIM // 2
            make = partial(coupling, mask, Perceptron, **spline)
        else:
            shape = {"num_blocks": 1, "use_residual_blocks": False}
            make = partial(autoregressive, DIM, HIDDEN, **shape, **spline)
        self.layers = nn.ModuleList(make() for _ in range(LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        total = x.new_zeros(len(x))
        for layer in self.layers:
            x, log_det = layer(x.flip(-1))
            total = total + log_det
        return total - 0.5 * (x.square() + math.log(2 * math.pi)).sum(1)

    def draw(self, z: Tensor) -> Tensor:
        for layer in reversed(self.layers):
            z = layer.inverse(z)[0].flip(-1)
        return z


CONTENDERS: dict[str, Callable[[str], nn.Module]] = {
    "genloom": Ours,
    "zuko": Zuko,
    "nflows": partial(
        Chain,
        MaskedPiecewiseRationalQuadraticAutoregressiveTransform,
        PiecewiseRationalQuadraticCouplingTransform,
    ),
    "normflows": partial(
        Chain, MaskedPiecewiseRationalQuadraticAutoregressive, PiecewiseRationalQuadraticCoupling
    ),
}


def training(make: Callable[[], nn.Module], x: Tensor, compiled: bool, bf16: bool) -> Callable[[], None]:
    """Return one training step of a fresh flow."""
    flow = make()
    optimiser = torch.optim.Adam(flow.parameters(), 1e-4, fused=True)
    score = torch.compile(flow) if compiled else flow

    def step() -> None:
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = -score(x).mean()
        loss.backward()
        optimiser.step()

    return step


def drawing(make: Callable[[], nn.Module], z: Tensor, compiled: bool, bf16: bool) -> Callable[[], None]:
    """Return a draw of one batch from a fresh flow."""
    flow = make()
    method = flow.draw_compiled if compiled else flow.draw

    def draw() -> None:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            method(z)

    return draw


def ways(how: list[bool], name: str, task: str) -> list[tuple[str, bool, bool]]:
    """Return (name, compiled, bf16) of the variants to try."""
    compiled = [c for c in how if not c or task == "training" or name in ("genloom", "zuko")]
    return [
        (f"{'bf16' if bf16 else 'fp32'} {'compiled' if c else 'eager'}", c, bf16)
        for c in compiled
        for bf16 in (False, True)
    ]


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--forms", nargs="+", default=["autoregressive", "coupling"])
    options = arguments.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rounds, trials = (3, 2) if options.quick else (options.rounds, 3)
    print(__doc__)
    versions = f"torch {torch.__version__}, zuko {zuko.__version__}, normflows {normflows.__version__}"
    print(f"{versions}; {options.threads} threads", flush=True)
    for form in options.forms:
        race(form, options.quick, rounds, trials)


def race(form: str, quick: bool, rounds: int, trials: int) -> None:
    """Compare training, training eager against eager, and drawing, of one form of flow."""
    x, z = torch.randn(2, BATCH, DIM)
    makers = {name: partial(make, form) for name, make in CONTENDERS.items()}
    for task, build, values in (("training", training, x), ("drawing", drawing, z)):
        print(f"\n{form}, {task}: all variants, least time of {trials}", flush=True)
        variants = {
            name: [
                variant
                for how, compiled, bf16 in ways([False] if quick else [False, True], name, task)
                for variant in attempt(how, build(make, values, compiled, bf16))
            ]
            for name, make in makers.items()
        }
        chosen = {name: fastest(name, options, trials) for name, options in variants.items()}
        compare(f"{form}, {task}", chosen, rounds)
        if task == "training":
            eager = {name: [v for v in options if "eager" in v.how] for name, options in variants.items()}
            chosen = {name: fastest(name, options, trials) for name, options in eager.items()}
            compare(f"{form}, {task}, eager against eager", chosen, rounds)


if __name__ == "__main__":
    main()
