"""Kill training at random moments, resume, and compare the weights with an uninterrupted run.

A fit that ends before its moment does not count, and shortens the next wait.

python bench/kills.py [--kills 50] [--steps 60]
"""

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from genloom.core import registry


def command(family: str, steps: int, out: Path) -> list[str]:
    """Return a short fit with frequent checkpoints."""
    every = ["--checkpoint-every", "5", "--validate-every", "10"]
    return [
        sys.executable,
        "-m",
        "genloom",
        "fit",
        family,
        "digits",
        "--steps",
        str(steps),
        *every,
        "--out",
        str(out),
    ]


def run(family: str, steps: int, out: Path) -> float:
    """Fit to the end and return the seconds it took."""
    began = time.monotonic()
    subprocess.run(command(family, steps, out), check=True, capture_output=True)
    return time.monotonic() - began


def killed(family: str, steps: int, out: Path, after: float) -> bool:
    """Start a fit, kill it after some seconds, and tell whether it was still running."""
    process = subprocess.Popen(
        command(family, steps, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


def digest(out: Path) -> str:
    """Return the hash of the final weights."""
    return hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()


def main() -> None:
    """Run the trials and print how many resumes ended with the same weights."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    families = list(registry.BUILT_IN)
    random.seed(0)
    same = total = 0
    with tempfile.TemporaryDirectory() as base:
        whole = {f: run(f, options.steps, Path(base) / f"{f}-whole") for f in families}
        while total < options.kills:
            family = families[total % len(families)]
            moment = random.uniform(0.3, 1.0) * whole[family]
            out = Path(base) / f"{family}-{total}-{moment:.3f}"
            if not killed(family, options.steps, out, moment):
                whole[family] *= 0.8
                continue
            run(family, options.steps, out)
            equal = digest(out) == digest(Path(base) / f"{family}-whole")
            same, total = same + equal, total + 1
            verdict = "same" if equal else "DIFFERENT"
            print(f"{total:3d} {family:22s} killed at {moment:5.1f} s: {verdict}", flush=True)
    print(f"{same} of {total} resumed runs ended with the weights of the uninterrupted run")
    sys.exit(same != total)


if __name__ == "__main__":
    main()
