"""Train spline and masked affine flows beside zuko's on continuous tables, and compare test likelihoods.

    python bench/density.py                     # about 25 minutes on two idle cores
    python bench/density.py --seconds 10 --sets banknote --seeds 1

Rows are split as genloom splits them. Columns of fewer than 50 values are left out, and values of the others
are blurred once, uniformly within the least gap between two of them, as they are rounded in the files: no
density can then win by spikes. Both sides see the same rows, standardised, and have equal networks (5 layers,
hidden 128 and 128, 8 bins), batches of 256, Adam with a cosine schedule and clipped gradients, float32, and
the same seconds, zuko compiled where that is faster, its compilation not counted; both keep the weights that
validate best on 256 rows. Fits alternate. Printed are mean test nats a row.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import zuko
from torch import Tensor

import genloom
from genloom.modalities.base import Dataset
from genloom.modalities.vectors import write_rows

SETS = ("wine_red", "wine_white", "abalone", "banknote", "parkinsons")
LEAST_VALUES = 50
LAYERS, HIDDEN, BATCH = 5, (128, 128), 256
VALIDATED = 256
"""Rows that choose the weights, as many as genloom takes."""
FLOWS = {"flow.nsf": ("NSF", 2e-3, 1.0), "flow.maf": ("MAF", 1e-3, 10.0)}


def prepared(name: str) -> dict[str, Tensor]:
    """Return blurred rows (n, D) float64 of every split, standardised by the training rows."""
    dataset: Dataset = genloom.open_data(name)
    rows = {split: getattr(dataset, split).items.double() for split in ("train", "valid", "test")}
    every = torch.cat(list(rows.values()))
    kept = [i for i in range(every.shape[1]) if len(every[:, i].unique()) >= LEAST_VALUES]
    gaps = torch.stack([every[:, i].unique().diff().min() for i in kept])
    source = torch.Generator().manual_seed(0)
    blurred = {
        split: part[:, kept] + gaps * (torch.rand(len(part), len(kept), generator=source).double() - 0.5)
        for split, part in rows.items()
    }
    mean, sd = blurred["train"].mean(0), blurred["train"].std(0, correction=0)
    return {split: (part - mean) / sd for split, part in blurred.items()}


def ours(family: str, rows: dict[str, Tensor], seconds: float, seed: int, folder: Path) -> float:
    """Return mean test nats of a family trained through the public interface."""
    columns = [f"x{i}" for i in range(rows["train"].shape[1])]
    for split, part in rows.items():
        write_rows(part, None, columns, folder / split)
        (folder / split / "items.csv").rename(folder / f"{split}.csv")
        (folder / split).rmdir()
    model = {"layers": LAYERS, "hidden": HIDDEN, "batch_size": BATCH}
    model |= {"bins": 8} if family == "flow.nsf" else {}
    train = {"budget": seconds, "precision": "fp32"}
    trained = genloom.fit(family, folder, out=folder / "run", model=model, train=train, seed=seed)
    return float(trained.log_prob(rows["test"]).value.mean())


def faster(model: torch.nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the mean negative log-likelihood, eager or compiled, whichever is faster; both are warmed up."""

    def eager(x: Tensor) -> Tensor:
        return -model().log_prob(x).mean()

    def cost(call: Callable[[Tensor], Tensor]) -> float:
        for repeat in range(13):
            if repeat == 3:
                began = time.perf_counter()
            call(x).backward()
        return time.perf_counter() - began

    return min(eager, torch.compile(eager), key=cost)


def theirs(flow: str, rate: float, clip: float, rows: dict[str, Tensor], seconds: float, seed: int) -> float:
    """Return mean test nats of zuko's flow, trained by a plain loop."""
    torch.manual_seed(seed)
    train, test = rows["train"].float(), rows["test"].float()
    valid = rows["valid"][:VALIDATED].float()
    more = {"bins": 8} if flow == "NSF" else {}
    model = getattr(zuko.flows, flow)(train.shape[1], transforms=LAYERS, hidden_features=HIDDEN, **more)
    optimiser = torch.optim.Adam(model.parameters(), rate, fused=True)
    loss_of = faster(model, train[:BATCH])
    began, best, kept, steps = time.perf_counter(), math.inf, model.state_dict(), 0
    while (share := (time.perf_counter() - began) / seconds) < 1:
        for group in optimiser.param_groups:
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * share))
        order = torch.randint(len(train), (BATCH,))
        optimiser.zero_grad()
        loss_of(train[order]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimiser.step()
        steps += 1
        if steps % 200 == 0 or time.perf_counter() - began > seconds:
            with torch.no_grad():
                loss = float(-model().log_prob(valid).mean())
            if loss < best:
                best, kept = loss, {name: w.clone() for name, w in model.state_dict().items()}
    model.load_state_dict(kept)
    with torch.no_grad():
        return float(model().log_prob(test).mean())


def main() -> None:
    """Print a line for every set, family and seed, and JSON at the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=45)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--sets", default=",".join(SETS))
    options = parser.parse_args()
    found = []
    for name in options.sets.split(","):
        rows = prepared(name)
        for family, (flow, rate, clip) in FLOWS.items():
            for seed in range(options.seeds):
                with tempfile.TemporaryDirectory() as folder:
                    mine = ours(family, rows, options.seconds, seed, Path(folder))
                peer = theirs(flow, rate, clip, rows, options.seconds, seed)
                found.append({"set": name, "family": family, "seed": seed, "genloom": mine, "zuko": peer})
                print(f"{name:12} {family} seed {seed}: genloom {mine:.3f}, zuko {peer:.3f}", flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
