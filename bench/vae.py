"""Time the training of VAEs against Pythae: bare steps, and steps as each library's own trainer makes them.

    python bench/vae.py              # about 6 minutes on two idle cores
    python bench/vae.py --quick      # eager only, few repetitions

Both have the same layers (784-512-512-Z and back, SiLU, Bernoulli pixels), see the same 10,000 binary images
in batches of 128, and use Adam. A bare step is forward, backward and a fused Adam step on a batch at hand.
A trainer's step is all that its training does for a batch: genloom's draws rows by key, clips, and averages
the weights; Pythae's collates rows with a DataLoader. Every contender is tried in float32 and bfloat16
(autocast), each eager and compiled; the fastest variant of each then takes part in rounds of alternating
repetitions, each of 40 steps. Ratios are taken within a round.
"""

import itertools
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version

import torch
from pythae.data.datasets import BaseDataset
from pythae.models import IWAE, VAE, IWAEConfig, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from racing import attempt, compare, fastest, parser
from torch import Tensor, nn

from genloom.core.events import Binary, Leaf
from genloom.core.objective import Clock, Stage
from genloom.core.randomness import TrainNoise, generator
from genloom.families import vae_gaussian, vae_iwae
from genloom.modalities.binaries import BitView
from genloom.recipes.stages import compile_parts
from genloom.train.config import TrainConfig
from genloom.train.loop import make_rhythm
from genloom.train.state import State
from genloom.train.step import train_step
from genloom.train.stream import Stream

BATCH, DIM, HIDDEN, Z, ROWS, STEPS, SAMPLES = 128, 784, 512, 32, 10_000, 40, 10
FORMS = ("vae", "iwae")


def ours(form: str, compiled: bool) -> tuple[nn.Module, Stage]:
    """Return this library's model and how it is trained."""
    if form == "vae":
        config = vae_gaussian.Config(latent_dim=Z, hidden=HIDDEN)
    else:
        config = vae_iwae.Config(latent_dim=Z, hidden=HIDDEN, samples=SAMPLES, estimator="iwae")
    model = config.build(Leaf((DIM,), Binary()), None)
    if compiled:
        compile_parts(model)
    return model, config.stages(model)[0]


class Encoder(BaseEncoder):
    """The encoder of this library's dense VAE, for Pythae."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(DIM, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, 2 * Z)
        )

    def forward(self, x: Tensor) -> ModelOutput:
        mean, log_variance = self.net(x.flatten(1)).float().chunk(2, 1)
        return ModelOutput(embedding=mean, log_covariance=log_variance)


class Decoder(BaseDecoder):
    """The decoder of this library's dense VAE, for Pythae."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(Z, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, DIM)
        )

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.net(z).float().sigmoid())


def theirs(form: str, compiled: bool) -> nn.Module:
    """Return Pythae's model of the same layers; its ``forward`` as a whole cannot be compiled."""
    shape = {"input_dim": (DIM,), "latent_dim": Z, "reconstruction_loss": "bce"}
    if form == "vae":
        model = VAE(VAEConfig(**shape), Encoder(), Decoder())
    else:
        model = IWAE(IWAEConfig(**shape, number_samples=SAMPLES), Encoder(), Decoder())
    if compiled:
        model.encoder.net.compile()
        model.decoder.net.compile()
        model.loss_function = torch.compile(model.loss_function)
    return model


def repeated(step: Callable[[], object]) -> Callable[[], None]:
    """Return a call of many steps."""

    def steps() -> None:
        for _ in range(STEPS):
            step()

    return steps


def our_bare_step(form: str, rows: Tensor, compiled: bool, bf16: bool) -> Callable[[], None]:
    model, stage = ours(form, compiled)
    optimiser = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    loss = stage.objective.phases[0].loss
    noise = TrainNoise(generator("bench"), BATCH, 0, BATCH)

    def step() -> None:
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            total = loss({"x": rows[:BATCH]}, noise, Clock(50, 100)).total
        total.backward()
        optimiser.step()

    return repeated(step)


def their_bare_step(form: str, rows: Tensor, compiled: bool, bf16: bool) -> Callable[[], None]:
    model = theirs(form, compiled)
    optimiser = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    batch = {"data": rows[:BATCH].float()}

    def step() -> None:
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            total = model(batch).loss
        total.backward()
        optimiser.step()

    return repeated(step)


def our_trainer(form: str, rows: Tensor, compiled: bool, bf16: bool) -> Callable[[], None]:
    model, stage = ours(form, compiled)
    state = State.fresh(model, stage.objective)
    view = BitView(DIM)
    stream = Stream(view.encode(rows), None, view.perturb)
    rhythm = make_rhythm(stage, stream, TrainConfig(steps=1), 0, bf16, total=1_000_000)
    return repeated(lambda: train_step(state, rhythm))


def their_trainer(form: str, rows: Tensor, compiled: bool, bf16: bool) -> Callable[[], None]:
    """Return steps of Pythae's trainer, with the body of its ``train_step`` for each batch of its loader."""
    folder = tempfile.mkdtemp()
    config = BaseTrainerConfig(output_dir=folder, per_device_train_batch_size=BATCH, no_cuda=True)
    data = BaseDataset(rows, torch.zeros(len(rows)))
    trainer = BaseTrainer(theirs(form, compiled), data, training_config=config)
    trainer.set_optimizer()
    batches = forever(trainer)

    def step() -> None:
        inputs = trainer._set_inputs_to_device(next(batches))
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            found = trainer.model({"data": inputs["data"]})
        trainer._optimizers_step(found)

    return repeated(step)


def forever(trainer: BaseTrainer) -> Iterator[dict[str, Tensor]]:
    """Yield full batches of its loader, epoch after epoch."""
    for _ in itertools.count():
        yield from (batch for batch in trainer.train_loader if len(batch["data"]) == BATCH)


TASKS = {
    "bare step": {"genloom": our_bare_step, "pythae": their_bare_step},
    "trainer": {"genloom": our_trainer, "pythae": their_trainer},
}


def race(form: str, task: str, rows: Tensor, quick: bool, rounds: int, trials: int) -> None:
    """Compare both at their best, in one form and task."""
    print(f"\n{form}, {task}: all variants, least time of {trials}, {STEPS} steps", flush=True)
    chosen = {}
    for name, build in TASKS[task].items():
        variants = [
            variant
            for compiled in ([False] if quick else [False, True])
            for bf16 in (False, True)
            for variant in attempt(
                f"{'bf16' if bf16 else 'fp32'} {'compiled' if compiled else 'eager'}",
                partial(build, form)(rows, compiled, bf16),
            )
        ]
        chosen[name] = fastest(name, variants, trials)
    compare(f"{form}, {task}", chosen, rounds)


def main() -> None:
    options = parser(__doc__).parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.INFO)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rows = (torch.rand(ROWS, DIM) < 0.2).long()
    print(__doc__)
    print(f"torch {torch.__version__}, pythae {version('pythae')}; {options.threads} threads", flush=True)
    rounds, trials = (3, 2) if options.quick else (options.rounds, 3)
    for form, task in itertools.product(FORMS, TASKS):
        race(form, task, rows, options.quick, rounds, trials)


if __name__ == "__main__":
    main()
