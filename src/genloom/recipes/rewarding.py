"""Tuning a model of texts towards what is rewarded, near to what it was."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from genloom.core.errors import ConfigError, DataError, Unsupported
from genloom.core.events import Value
from genloom.core.objective import Optimiser, Stage
from genloom.core.randomness import SampleNoise, key
from genloom.modalities.characters import TextView, to_texts
from genloom.modalities.patterns import expression, matched
from genloom.nn.decoding import draw_items
from genloom.nn.policy import Reward, policy_gradient, weighed
from genloom.nn.sequences import SequenceModel
from genloom.recipes.evaluating import data_of
from genloom.recipes.fitting import complete, make_folder, same_run
from genloom.recipes.runs import Run, open_run
from genloom.recipes.stages import Job, run_stage
from genloom.tasks import sampling
from genloom.train.config import TrainConfig
from genloom.train.loop import Validate
from genloom.train.signals import stop_on_signal

VALIDATED = 256
"""Texts that are drawn anew to see what the model has come to."""

STEPS, BATCH = 300, 128
"""Of a tuning, unless told otherwise."""

Judge = Callable[[Sequence[str]], Sequence[float]]
"""Returns a reward for each text."""


@dataclass(frozen=True)
class Tuning:
    """How a model is tuned.

    Args:
        beta: what a nat of divergence from what the model was costs, in units of the reward.
        lr: peak rate of AdamW.
        name: what the reward is called in ``run.json``.
    """

    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=STEPS))
    beta: float = 0.1
    lr: float = 1e-3
    batch_size: int = BATCH
    seed: int = 0
    name: str = "a function"

    def __post_init__(self) -> None:
        if not (self.beta > 0 and self.lr > 0 and self.batch_size > 1):
            raise ConfigError("beta and lr must be above 0, and batch_size above 1")


def matches(pattern: str) -> Judge:
    """Return a judge that gives 1 to texts that a regular expression matches as a whole, else 0.

    Raises:
        ConfigError: it is no regular expression.
    """
    found = expression(pattern)
    return lambda texts: [float(matched(found, text) is not None) for text in texts]


def reinforce(
    run: Run,
    judge: Judge,
    out: Path,
    tuning: Tuning,
    *,
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> Run:
    """Tune a run's model by policy gradients, and leave it in ``out`` as a run of its own.

    The same call goes on with what ``out`` holds.

    Args:
        judge: the reward; it is asked for the texts of each step, and must give the same for the same text.

    Raises:
        Unsupported: the run is no neural model of texts.
        RunError: ``out`` holds something else.
        DataError: the data are gone, or the reward is not one finite number a text.
    """
    model, prior, view = _loaded(run), _loaded(run), run.view
    if not isinstance(view, TextView):
        raise Unsupported(f"{run.folder} is a model of {run.modality.name}: only texts can be rewarded")
    prior.eval().requires_grad_(False)

    def reward(x: Value) -> Tensor:
        return judged(judge, to_texts(view.decode(x)))

    moved = Optimiser(tuning.lr, "adamw", (0.9, 0.95), schedule="linear", warmup=0.05, clip=1.0)
    stage = Stage("policy", policy_gradient(model, prior, reward, tuning.beta, moved), tuning.batch_size)
    with stop_on_signal() as stop:
        made = _begun(run, out, tuning)
        if made.facts["state"] == "finished":
            say(f"{out} is finished already; nothing to do")
            return made
        gain = _gain(made, prior, reward, tuning.beta)
        job = Job(made, data_of(run), stop, previews=False, progress=progress, say=say, validate=gain)
        complete(made, lambda: run_stage(job, model, stage))
    return made


def judged(judge: Judge, texts: Sequence[str]) -> Tensor:
    """Return the rewards of texts (n,).

    Raises:
        DataError: they are not one finite number a text.
    """
    found = torch.as_tensor([float(value) for value in judge(texts)], dtype=torch.float32)
    if found.shape != (len(texts),) or not bool(found.isfinite().all()):
        shown = found.flatten()[:4].tolist()
        raise DataError(f"the reward of {len(texts)} texts must be as many finite numbers, not {shown}")
    return found


def _loaded(run: Run) -> SequenceModel:
    """Return a run's model as it is trained, its frozen parts frozen."""
    model = run.build()
    if not isinstance(model, SequenceModel) or not any(True for _ in model.parameters()):
        raise Unsupported(f"{run.family} is not tuned by rewards: fit seq.lstm, seq.gpt or seq.ssm")
    model.load_state_dict(run.load().state_dict())
    return model


def _begun(run: Run, out: Path, tuning: Tuning) -> Run:
    """Return the run that ``out`` holds already, or a new one."""
    wanted = {
        "rewarded": {
            "by": tuning.name,
            "beta": tuning.beta,
            "lr": tuning.lr,
            "batch_size": tuning.batch_size,
            "from": run.facts["weights_sha256"],
        },
        "train": tuning.train.model_dump(),
        "seed": tuning.seed,
    }
    wanted = json.loads(json.dumps(wanted))
    if (out / "run.json").exists():
        return same_run(open_run(out), wanted)
    make_folder(out)
    gone = ("stages", "best", "weights_sha256")
    kept = {name: value for name, value in run.facts.items() if name not in gone}
    made = Run(out, {**kept, **wanted, "state": "running"})
    made.update()
    return made


def _gain(run: Run, prior: SequenceModel, reward: Reward, beta: float) -> Validate:
    """Return what scores a model: the reward of fresh texts, and what their divergence costs."""
    index = torch.arange(VALIDATED)
    cond = sampling.drawn_labels(VALIDATED, run.label_counts, 1) if run.classes else None

    @torch.no_grad()
    def score(model: nn.Module) -> dict[str, float]:
        assert isinstance(model, SequenceModel)
        x = draw_items(model, SampleNoise(key(run.facts["seed"], "rewarded"), index), cond)
        rewards, apart = weighed(model, prior, reward, x, cond)
        found = {"reward": rewards, "divergence": apart, "loss": beta * apart - rewards}
        return {name: float(value.mean()) for name, value in found.items()}

    return score
