"""What a symbol costs by its place: families of texts with and without a memory that grows.

Eight texts of untrained presets are read a symbol at a time, in float32; medians over 256 places.

    python bench/places.py [--threads 2]
"""

import argparse
import statistics
import time

import torch

from genloom.core import registry
from genloom.core.events import Categorical, Leaf

KINDS, LENGTH, ROWS, WIDTH = 65, 2048, 8, 256
FAMILIES = ("seq.ssm", "seq.lstm", "seq.gpt")
PLACES = (0, 768, 1792)


@torch.no_grad()
def seconds(family: str) -> list[float]:
    """Return what each of the symbols takes."""
    torch.manual_seed(0)
    model = registry.load(family).config().build(Leaf((LENGTH,), Categorical(KINDS)), None).eval()
    reader, symbols = model.reader(ROWS, LENGTH), torch.zeros(ROWS, 1, dtype=torch.int64)
    found = []
    for _ in range(LENGTH):
        began = time.perf_counter()
        reader.read(symbols)
        found.append(time.perf_counter() - began)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    torch.set_num_threads(parser.parse_args().threads)
    for family in FAMILIES:
        found = seconds(family)
        parts = (1e3 * statistics.median(found[place : place + WIDTH]) for place in PLACES)
        told = zip(PLACES, parts, strict=True)
        print(family, ", ".join(f"{a + 1:,} to {a + WIDTH:,}: {ms:.1f} ms" for a, ms in told), flush=True)


if __name__ == "__main__":
    main()
