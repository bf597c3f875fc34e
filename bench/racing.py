"""What benchmarks share: variants of a contender, the fastest of them, and rounds in turn."""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser of what every race can be told."""
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--quick", action="store_true", help="eager only, few repetitions")
    found.add_argument("--threads", type=int, default=2)
    found.add_argument("--rounds", type=int, default=9, help="alternating repetitions")
    return found


@dataclass(frozen=True)
class Variant:
    """One way to run a contender: how, and the seconds of its first call, compilation included."""

    how: str
    call: Callable[[], object]
    first_call: float


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def attempt(how: str, call: Callable[[], object]) -> list[Variant]:
    """Return the variant, or nothing if it cannot run."""
    try:
        return [Variant(how, call, seconds(call))]
    except Exception as error:
        print(f"    {how} fails: {type(error).__name__}", flush=True)
        return []


def fastest(name: str, variants: Sequence[Variant], trials: int) -> Variant:
    """Return the variant with the least time over some trials."""
    best = {v.how: min(seconds(v.call) for _ in range(trials)) for v in variants}
    told = ", ".join(f"{how} {1e3 * t:.1f} ms" for how, t in best.items())
    print(f"    {name}: {told}", flush=True)
    return min(variants, key=lambda v: best[v.how])


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    lower, middle, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, middle, upper


def compare(title: str, chosen: dict[str, Variant], rounds: int) -> None:
    """Run all in turn and print each one's time and its ratio to genloom's."""
    times: dict[str, list[float]] = {name: [] for name in chosen}
    for variant in chosen.values():
        variant.call()
    for _ in range(rounds):
        for name, variant in chosen.items():
            times[name].append(seconds(variant.call))
    print(f"\n{title}, {rounds} alternating repetitions: median [quartiles]")
    print(f"  {'':10} {'at its best':14} {'first call':>10}  {'milliseconds':24} times genloom's")
    for name, variant in chosen.items():
        ms = quartiles([1e3 * t for t in times[name]])
        ratio = quartiles([t / ours for t, ours in zip(times[name], times["genloom"], strict=True)])
        shown = f"{ms[1]:8.2f} [{ms[0]:.2f}, {ms[2]:.2f}]"
        times_ours = f"{ratio[1]:.2f} [{ratio[0]:.2f}, {ratio[2]:.2f}]"
        print(
            f"  {name:10} {variant.how:14} {variant.first_call:8.1f} s  {shown:24} {times_ours}", flush=True
        )
