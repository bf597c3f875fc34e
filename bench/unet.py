"""A training step of the U-Net that diffusion.ddpm gives MNIST (batch 128), by precision and by norm.

All variants run in turn in one process; each is compared with bf16, the default where the CPU has it.
Times are of the process's CPU, so that a busy machine disturbs them less; with one thread they equal wall
time on an idle one. "32 groups" is the usual GroupNorm, whose groups here hold 2 to 4 channels.

    OMP_NUM_THREADS=1 python bench/unet.py [rounds] [--compile]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from genloom.core.events import Bounded, Leaf
from genloom.families.diffusion_ddpm import Config

BATCH, EVENT = 128, Leaf((1, 28, 28), Bounded(-1, 1, levels=256))


def network(groups: int | None = None, channels_last: bool = True) -> nn.Module:
    """Return the network and its embedding, with another number of groups or layout if asked for."""
    torch.manual_seed(0)
    model = Config.preset(EVENT).build(EVENT, None)
    for module in list(model.modules()) if groups else ():
        for name, child in module.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.GroupNorm(groups, child.num_channels))
    if not channels_last:
        model.network.stem.register_forward_hook(lambda _, inputs, out: out.contiguous())  # noqa: ARG005
    return model


def step_of(model: nn.Module, autocast: bool, compiled: bool = False) -> Callable[[], None]:
    """Return a function that makes one training step."""
    predict = torch.compile(model.output) if compiled else model.output
    optimiser = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    x, time_, label = torch.randn(BATCH, 1, 28, 28), torch.rand(BATCH).double(), torch.zeros(BATCH).long()

    def step() -> None:
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss: Tensor = (predict(x, time_, label) - x).square().mean()
        loss.backward()
        optimiser.step()

    return step


def seconds(step: Callable[[], None]) -> float:
    """Return the CPU time of one step."""
    start = time.process_time()
    step()
    return time.process_time() - start


def main(rounds: int, compile_too: bool) -> None:
    """Print the median step of each variant, and its ratio to bf16 with the spread over rounds."""
    steps = {
        "bf16": step_of(network(), True),
        "fp32": step_of(network(), False),
        "bf16, 32 groups, channels-last": step_of(network(groups=32), True),
        "bf16, 32 groups, contiguous": step_of(network(groups=32, channels_last=False), True),
    }
    if compile_too:
        steps["bf16, compiled"] = step_of(network(), True, compiled=True)
    for name, step in steps.items():
        print(f"{name}: first step {seconds(step):.2f} s", flush=True)
        step()
    table = [{name: seconds(step) for name, step in steps.items()} for _ in range(rounds)]
    for name in steps:
        ratios = sorted(row[name] / row["bf16"] for row in table)
        median = statistics.median(row[name] for row in table)
        print(
            f"{name}: {1000 * median:.0f} ms, {statistics.median(ratios):.2f} times bf16 "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rounds", type=int, nargs="?", default=7)
    parser.add_argument("--compile", action="store_true")
    chosen = parser.parse_args()
    main(chosen.rounds, chosen.compile)
