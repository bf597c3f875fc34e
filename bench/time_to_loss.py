"""seq.gpt beside the package transformers: seconds of training until the same validation loss.

The same layers (10.6 M parameters, see transformers_gpt.py), the same batches of 32 x 256 characters of
tinyshakespeare, both in bfloat16, rates constant after a warm-up. genloom trains as seq.gpt does, by Muon and
AdamW, and validates the average of its weights; transformers by fused AdamW with nanoGPT's settings for this
text (rate 1e-3, decay 0.1, betas 0.9 and 0.99, gradients of norm 1 at most). Both are compiled where asked,
with memory kept as genloom keeps it; neither drops anything. They see the same batches in turn; validation
and the first step do not count.

    GENLOOM_DATA=data python bench/time_to_loss.py [--seconds 240] [--threads 2] [--compiled]
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers_gpt import BATCH, KINDS, LENGTH, ours, theirs

from genloom.core.objective import Clock
from genloom.core.randomness import SampleNoise, TrainNoise, generator
from genloom.families.seq_gpt import Config
from genloom.modalities.datasets import open_data
from genloom.train.memory import kept_memory
from genloom.train.state import State

LOSSES = (2.0, 1.8, 1.7, 1.65, 1.6)
EVERY = 20
WARMUP = 40

Step = Callable[[Tensor, int], None]
Score = Callable[[Tensor], Tensor]
"""Returns the nats of each character of texts."""


def genloom(compiled: bool) -> tuple[Step, Score]:
    model = ours()
    if compiled:
        model.network.compile()
    (stage,) = Config(width=384, heads=6, groups=6, dropout=0.0).stages(model)
    objective = stage.objective
    assert objective is not None
    groups = {
        name: replace(group, optimiser=replace(group.optimiser, schedule="constant"))
        for name, group in objective.groups.items()
    }
    state, loss = State.fresh(model, replace(objective, groups=groups)), objective.phases[0].loss
    assert loss is not None
    assert state.average is not None

    def step(x: Tensor, number: int) -> None:
        noise = TrainNoise(generator("bench", number), BATCH, 0, BATCH)
        with torch.autocast("cpu", torch.bfloat16):
            total = loss({"x": x}, noise, Clock(number, 10**6)).total
        total.backward()
        for name, optimiser in state.optimisers.items():
            for group in optimiser.param_groups:
                group["lr"] = groups[name].optimiser.lr * min(1.0, (number + 1) / WARMUP)
            optimiser.step()
            optimiser.zero_grad()
        state.step += 1
        state.update_average()

    def score(x: Tensor) -> Tensor:
        noise = SampleNoise(0, torch.arange(len(x)))
        return -state.average.log_prob(x, noise=noise).value / LENGTH  # type: ignore[union-attr,operator]

    return step, score


def transformers(compiled: bool) -> tuple[Step, Score]:
    model = theirs(attn_implementation="sdpa").train()
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3, (0.9, 0.99), weight_decay=0.1, fused=True)
    call = torch.compile(model) if compiled else model

    def nats(x: Tensor, network: Callable[..., object]) -> Tensor:
        starts = torch.full((len(x), 1), KINDS)
        logits = network(input_ids=torch.cat((starts, x[:, :-1]), 1)).logits  # type: ignore[attr-defined]
        return F.cross_entropy(logits.float().flatten(0, 1), x.flatten(), reduction="none")

    def step(x: Tensor, number: int) -> None:
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * min(1.0, (number + 1) / WARMUP)
        with torch.autocast("cpu", torch.bfloat16):
            total = nats(x, call).mean()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()

    return step, lambda x: nats(x, model).view_as(x).mean(1)


def batches(text: Tensor) -> Iterator[Tensor]:
    source = generator("batches")
    while True:
        start = torch.randint(len(text) - LENGTH, (BATCH, 1), generator=source)
        yield text[start + torch.arange(LENGTH)]


@dataclass
class Side:
    """One contender: what it does, the seconds it has trained, and those after which it reached each loss."""

    name: str
    step: Step
    score: Score
    spent: float = 0.0
    found: dict[float, float] = field(default_factory=dict)

    def train(self, x: Tensor, number: int) -> None:
        began = time.perf_counter()
        self.step(x, number)
        self.spent += (time.perf_counter() - began) if number else 0.0

    def validate(self, held: Tensor, number: int) -> None:
        with torch.no_grad():
            loss = float(torch.cat([self.score(part) for part in held.split(32)]).mean())
        self.found |= {one: self.spent for one in LOSSES if loss <= one and one not in self.found}
        print(f"  {self.name}: {loss:.3f} nats after {self.spent:.0f} s and {number + 1:,} steps", flush=True)

    def over(self, limit: float) -> bool:
        return len(self.found) == len(LOSSES) or self.spent > limit


def race(sides: list[Side], text: Tensor, held: Tensor, limit: float) -> None:
    """Train all in turn, batch by batch, each until the lowest loss or the limit."""
    for number, x in enumerate(batches(text)):
        running = [side for side in sides if not side.over(limit)]
        if not running:
            return
        for side in running:
            side.train(x, number)
            if number % EVERY == EVERY - 1 or side.over(limit):
                side.validate(held, number)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=240.0, help="of training each, at most")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compiled", action="store_true", help="compile both networks")
    told = parser.parse_args()
    torch.set_num_threads(told.threads)
    data = open_data("shakespeare")
    view = data.modality.views()[0]
    train, held = (
        view.perturb(part.items, SampleNoise(0, torch.arange(len(part)))) for part in (data.train, data.valid)
    )
    assert isinstance(train, Tensor)
    assert isinstance(held, Tensor)
    text, held = train.flatten().clamp_max(KINDS - 1), held.clamp_max(KINDS - 1)
    ours_, peers = (
        Side("genloom", *genloom(told.compiled)),
        Side("transformers", *transformers(told.compiled)),
    )
    with kept_memory():
        race([ours_, peers], text, held, told.seconds)
    for loss in (one for one in LOSSES if one in ours_.found):
        seconds = ours_.found[loss]
        reached = (
            f"{peers.found[loss] / seconds:.2f}" if loss in peers.found else f"> {peers.spent / seconds:.2f}"
        )
        print(f"{loss:.2f} nats: genloom {seconds:.1f} s, transformers {reached} times as long")


if __name__ == "__main__":
    main()
