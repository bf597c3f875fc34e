"""Small real objectives and a small real fit, for the tests of the engine."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from genloom.core.events import Batch, tensor
from genloom.core.objective import Average, Clock, Group, Loss, Objective, Optimiser, Phase, Stage
from genloom.core.randomness import Noise
from genloom.modalities.datasets import DataOptions
from genloom.recipes.fitting import FitConfig, fit
from genloom.recipes.runs import Run
from genloom.train import loop
from genloom.train.config import TrainConfig
from genloom.train.log import MetricLog, read
from genloom.train.signals import Stop
from genloom.train.state import State
from genloom.train.step import Rhythm
from genloom.train.stream import Order, Stream

ROWS, DIM, BATCH = 40, 3, 8


class Pair(nn.Module):
    """A generator, its critic, and a running mean of the data."""

    mean: Tensor

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.generator, self.critic = nn.Linear(2, DIM), nn.Linear(DIM, 1, bias=False)
        self.register_buffer("mean", torch.zeros(DIM))


def adversarial(model: Pair, average: Average | None = None) -> Objective:
    """Return two phases that pull against each other, after an update that tracks the mean of the data."""

    def fakes(noise: Noise) -> Tensor:
        return model.generator(noise.normal(2))

    def critic(batch: Batch, noise: Noise, clock: Clock) -> Loss:  # noqa: ARG001
        real, fake = model.critic(tensor(batch["x"]) - model.mean), model.critic(fakes(noise) - model.mean)
        return Loss({"gap": (fake - real).mean(), "size": real.square().mean() + fake.square().mean()})

    def generator(batch: Batch, noise: Noise, clock: Clock) -> Loss:  # noqa: ARG001
        return Loss({"score": -model.critic(fakes(noise) - model.mean).mean()})

    def track(batch: Batch, noise: Noise, clock: Clock) -> None:  # noqa: ARG001
        model.mean.lerp_(tensor(batch["x"]).mean(0), 1 / (clock.step + 1))

    return Objective(
        groups={
            "critic": Group(model.critic, Optimiser(0.05, clip=1.0)),
            "generator": Group(model.generator, Optimiser(0.05, schedule="linear", warmup=0.2)),
        },
        phases=[
            Phase("mean", update=track),
            Phase("critic", ("critic",), critic, repeats=2),
            Phase("generator", ("generator",), generator),
        ],
        average=average,
    )


def stream(rows: int = ROWS) -> Stream:
    """Return rows of numbers that are all different, with a little noise at every step."""
    x = torch.arange(rows * DIM, dtype=torch.float32).view(rows, DIM) / (rows * DIM)
    return Stream(x, None, lambda value, noise: tensor(value) + 0.01 * noise.normal(DIM))


def toy_rhythm(total: int = 10, **changes: object) -> Rhythm:
    """Return steps of ``BATCH`` rows."""
    settings: dict[str, object] = {"batch_size": BATCH, "seed": 0, "stage": "toy"} | changes
    data = stream()
    return Rhythm(stream=data, order=Order(len(data), 0, "toy"), total=total, **settings)  # type: ignore[arg-type]


def toy_stage(objective: Objective) -> Stage:
    """Return the only stage of a toy fit."""
    return Stage("toy", objective, BATCH)


def run_toy(
    state: State,
    folder: Path,
    steps: int = 10,
    validate: Callable[[nn.Module], Mapping[str, float]] = lambda model: {},  # noqa: ARG005
    **changes: object,
) -> None:
    """Train a toy with a checkpoint every four steps and a validation every three."""
    plan = loop.Plan(steps, validate_every=3, checkpoint_every=4)
    hooks = loop.Hooks(validate=validate, preview=lambda model, step: None)  # noqa: ARG005
    folder.mkdir(exist_ok=True)
    log = MetricLog(folder, "toy", state.step)
    loop.run(state, toy_rhythm(steps, **changes), plan, folder / "checkpoints", log, hooks, Stop())


def digits_fit(out: Path, **train: object) -> Run:
    """Fit a tiny autoencoder to a few digits: 24 steps, checkpoints every 5 and validations every 4."""
    settings = {"steps": 24, "checkpoint_every": 5, "validate_every": 4} | train
    config = FitConfig(
        family="vae.gaussian",
        source="digits",
        model={"hidden": 8, "latent_dim": 2, "importance_samples": 2, "batch_size": 16},
        train=TrainConfig(**settings),  # type: ignore[arg-type]
        data=DataOptions(limit=64),  # type: ignore[call-arg]
    )
    return fit(config, out, previews=False, progress=False)


def fingerprint(run: Path) -> str:
    """Return the hash of the weights that a run left."""
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()


def figures(run: Path) -> list[dict[str, float]]:
    """Return what a run logged, without the seconds."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read(run)]
