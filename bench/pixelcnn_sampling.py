"""Cached against naive PixelCNN sampling: 28x28, in turns; the naive loop runs the whole network for each
pixel. In float64 both must draw the same four images.

    OMP_NUM_THREADS=1 python bench/pixelcnn_sampling.py [--rounds 3] [--batch 64]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from genloom.core.events import Binary, Leaf
from genloom.core.randomness import SampleNoise
from genloom.families.ar_pixelcnn import Config
from genloom.nn.pixels import UNKNOWN
from genloom.nn.raster import PixelModel
from genloom.tasks.sampling import MICRO_BATCH


@torch.no_grad()
def naive_sample(model: PixelModel, noise: SampleNoise) -> Tensor:
    """Draw with one full pass of the network for each pixel."""
    channels, height, width = model.shape
    u = noise.uniform(height, width, model.pixel.uniforms_needed).to(next(model.parameters()))
    x = torch.zeros(len(u), channels, height, width, dtype=torch.int64)
    unknown = torch.full((len(u), channels), UNKNOWN)
    for i in range(height):
        for j in range(width):
            x[:, :, i, j] = model.pixel.draw(model(x)[:, i, j], u[:, i, j], unknown)
    return x


def seconds(draw: Callable[[SampleNoise], Tensor], count: int) -> tuple[float, Tensor]:
    """Return the wall time and the result of one draw of some images."""
    start = time.perf_counter()
    x = draw(SampleNoise(0, torch.arange(count)))
    return time.perf_counter() - start, x


def main(rounds: int, batch: int) -> None:
    """Print both times, their ratio with its spread, and whether float64 samples are equal."""
    event = Leaf((1, 28, 28), Binary())
    torch.manual_seed(0)
    model = Config.preset(event).build(event, None)
    assert isinstance(model, PixelModel)
    times = []
    for _ in range(rounds):
        cached, _ = seconds(model.sample, batch)
        naive, _ = seconds(lambda noise: naive_sample(model, noise), batch)
        times.append((cached, naive))
        print(f"cached {cached:.3f} s, naive {naive:.2f} s, ratio {naive / cached:.1f}", flush=True)
    ratios = sorted(naive / cached for cached, naive in times)
    print(
        f"float32, batches of {batch}, {torch.get_num_threads()} threads: "
        f"median ratio {statistics.median(ratios):.1f}, "
        f"from {ratios[0]:.1f} to {ratios[-1]:.1f} in {rounds} rounds"
    )
    model.double()
    same = torch.equal(seconds(model.sample, 4)[1], seconds(lambda noise: naive_sample(model, noise), 4)[1])
    print(f"float64 samples equal: {same}")
    if not same:
        raise SystemExit(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=MICRO_BATCH, help="as genloom sample draws, unless told")
    main(**vars(parser.parse_args()))
