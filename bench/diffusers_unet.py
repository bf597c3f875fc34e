"""diffusion.ddpm beside the package diffusers: U-Nets of 1.6 to 1.8 M parameters for MNIST, 28x28.

Both are told ten classes and learn v along the cosine path from the same data, times and noise, by the same
Adam; the peer is its UNet2DModel, and only the network differs. A step is forward, backward and optimiser on
128 images. Drawing is 64 images in 20 calls, the peer's by its DPM-Solver++ scheduler as its pipeline does
it. Each side runs at its best of float32, bfloat16, layout and compilation.

With --steps both train for as many steps by three seeds, the peer at the best of three rates, and the mean
loss on 2,048 test images is told.

    python bench/diffusers_unet.py [--quick] [--threads 2] [--rounds 9] [--steps 300]
"""

import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, UNet2DModel
from racing import Variant, attempt, compare, fastest, parser
from torch import Tensor, nn

from genloom.core.capabilities import Sampler
from genloom.core.events import Bounded, Categorical, Leaf
from genloom.core.randomness import SampleNoise, TrainNoise, generator
from genloom.families.diffusion_ddpm import Config
from genloom.modalities.datasets import DataOptions, open_data
from genloom.nn.denoising import Diffusion
from genloom.train.memory import kept_memory

SIDE, BATCH, DRAWN, CALLS = 28, 128, 64, 20
EVENT, CLASSES = Leaf((1, SIDE, SIDE), Bounded(-1, 1, levels=256)), Leaf((), Categorical(10))


class Label(nn.Module):
    """Hands angles and labels on to a network that embeds them itself."""

    def forward(self, angle: Tensor, label: Tensor) -> Tensor:
        return torch.stack((1000 * angle, label.to(angle)), 1)


class Peer(nn.Module):
    """The peer's network as ours is called."""

    def __init__(self, channels_last: bool) -> None:
        super().__init__()
        self.unet = unet(classes=11)
        if channels_last:
            self.unet.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        found: Tensor = self.unet(x, given[:, 0], given[:, 1].long()).sample
        return found


def unet(classes: int | None) -> UNet2DModel:
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=SIDE,
        in_channels=1,
        out_channels=1,
        layers_per_block=2,
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        norm_num_groups=16,
        num_class_embeds=classes,
    )


def model_of(network: nn.Module | None = None, **settings: Any) -> Diffusion:
    """Return genloom's model, or the same with another network in it."""
    torch.manual_seed(0)
    made = Config.preset(EVENT).model_copy(update=settings).build(EVENT, CLASSES)
    if network is not None:
        made.network, made.embedding = network, Label()
    return made


def half(on: bool) -> AbstractContextManager[object]:
    return torch.autocast("cpu", torch.bfloat16) if on else nullcontext()


def step_of(model: Diffusion, bf16: bool, lr: float = 2e-3) -> Callable[[int], None]:
    """Return a function that makes training step number n."""
    optimiser = torch.optim.Adam(model.parameters(), lr, fused=True)
    train = open_data("mnist", DataOptions()).train
    assert train.labels is not None

    def step(number: int) -> None:
        index = torch.randint(len(train), (BATCH,), generator=generator("bench", number))
        x0 = train.items[index].float() * (2 / 255) - 1
        noise = TrainNoise(generator("noise", number), BATCH, 0, BATCH)
        with half(bf16):
            loss = model.denoising_error(x0, train.labels[index], noise).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def variants_of(make: Callable[..., Diffusion], layouts: tuple[bool, ...], quick: bool) -> list[Variant]:
    """Return a training step in every precision, layout and with and without compilation."""
    found: list[Variant] = []
    for bf16 in (False, True):
        for last in layouts:
            for compiled in (False,) if quick else (False, True):
                model = make(last)
                if compiled:
                    model.compile()
                step = step_of(model, bf16)
                how = f"{'bf16' if bf16 else 'fp32'}{', channels last' * last}{', compiled' * compiled}"
                found += attempt(how, lambda step=step: step(0))
    return found


def drawing_of_ours(bf16: bool, compiled: bool) -> Callable[[], object]:
    model = model_of(sampler="dpm_solver_2m", sampling_steps=CALLS, precision="bf16" if bf16 else "fp32")
    model = model.eval().requires_grad_(False)
    if compiled:
        model.compile()
    assert isinstance(model, Sampler)
    noise = SampleNoise(0, torch.arange(DRAWN))
    label = torch.arange(DRAWN) % 10
    return lambda: model.sample(noise, label)


def drawing_of_theirs(dtype: torch.dtype, channels_last: bool, compiled: bool) -> Callable[[], object]:
    """Return what draws as the peer's unconditional pipeline does, with labels besides."""
    network = unet(classes=11).eval().requires_grad_(False).to(dtype)
    if channels_last:
        network.to(memory_format=torch.channels_last)
    if compiled:
        network.compile()
    scheduler = DPMSolverMultistepScheduler(num_train_timesteps=1000, prediction_type="v_prediction")
    label = torch.arange(DRAWN) % 10

    @torch.no_grad()
    def draw() -> Tensor:
        scheduler.set_timesteps(CALLS)
        x = torch.randn(DRAWN, 1, SIDE, SIDE, dtype=dtype)
        for time in scheduler.timesteps:
            x = scheduler.step(network(x, time, label).sample, time, x).prev_sample
        return x

    return draw


@torch.no_grad()
def test_loss(model: Diffusion) -> float:
    """Return the mean squared error of v on test images, at the same times and noise for all."""
    test = open_data("mnist", DataOptions()).test.some(2048)
    assert test.labels is not None
    found = []
    for start in range(0, len(test), 256):
        part = slice(start, start + 256)
        rows = len(test.items[part])
        noise = TrainNoise(generator("test", start), rows, 0, rows)
        x0 = test.items[part].float() * (2 / 255) - 1
        found.append(model.denoising_error(x0, test.labels[part], noise).mean())
    return float(torch.stack(found).mean())


def trained(model: Diffusion, bf16: bool, lr: float, steps: int, seed: int) -> float:
    """Train and return the loss on test images."""
    optimiser_step = step_of(model, bf16, lr)
    for number in range(steps):
        optimiser_step(seed * 1_000_000 + number)
    return test_loss(model)


def learn(steps: int) -> None:
    """Train both sides by three seeds and print their losses."""
    tried = {lr: trained(model_of(Peer(False)), True, lr, steps // 3, 9) for lr in (2e-3, 1e-3, 4e-4)}
    best = min(tried, key=lambda lr: tried[lr])
    print(f"the peer's loss after {steps // 3} steps by rate: {tried}", flush=True)
    sides = {"genloom": (model_of, 2e-3), "diffusers": (lambda: model_of(Peer(False)), best)}
    for name, (make, lr) in sides.items():
        losses = [trained(make(), True, lr, steps, seed) for seed in range(3)]
        told = ", ".join(f"{loss:.4f}" for loss in losses)
        print(f"{name}: loss after {steps} steps {told}, mean {statistics.mean(losses):.4f}", flush=True)


def drawings(quick: bool) -> tuple[list[Variant], list[Variant]]:
    """Return both sides' ways to draw, in every precision, layout and with and without compilation."""
    own, other = list[Variant](), list[Variant]()
    for bf16 in (False, True):
        for compiled in (False,) if quick else (False, True):
            how = f"{'bf16' if bf16 else 'fp32'}{', compiled' * compiled}"
            own += attempt(how, drawing_of_ours(bf16, compiled))
            for last in (False, True):
                dtype = torch.bfloat16 if bf16 else torch.float32
                draw = drawing_of_theirs(dtype, last, compiled)
                other += attempt(f"{how}{', channels last' * last}", draw)
    return own, other


def race(title: str, own: list[Variant], other: list[Variant], trials: int, rounds: int) -> None:
    """Let each side's fastest variant run in turn with the other's."""
    print(title, flush=True)
    sides = {"genloom": own, "diffusers": other}
    compare(title, {name: fastest(name, found, trials) for name, found in sides.items()}, rounds)


def main() -> None:
    """Print each side's best variant, the ratios and, if asked for, the losses."""
    arguments = parser(__doc__)
    arguments.add_argument("--steps", type=int, default=0, help="train so long and compare losses")
    told = arguments.parse_args()
    torch.set_num_threads(told.threads)
    for name, model in (("genloom", model_of()), ("diffusers", Peer(False))):
        print(f"{name}: {sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    trials = 2 if told.quick else 5
    with kept_memory():
        ours = variants_of(lambda last: model_of(), (True,), told.quick)  # noqa: ARG005
        theirs = variants_of(lambda last: model_of(Peer(last)), (False, True), told.quick)
        race("training step", ours, theirs, trials, told.rounds)
        race(f"{DRAWN} images in {CALLS} calls", *drawings(told.quick), trials, told.rounds)
        if told.steps:
            learn(told.steps)


if __name__ == "__main__":
    main()
