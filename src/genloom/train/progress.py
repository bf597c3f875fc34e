"""What a waiting person sees: a bar with an ETA on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def silent(step: int, total: int, figures: Mapping[str, float]) -> None:
    """Show nothing."""


class Bar:
    """A progress bar on standard error."""

    def __init__(self, title: str) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task(title, total=None, note="")

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def __call__(self, step: int, total: int, figures: Mapping[str, float]) -> None:
        self._progress.update(self._task, completed=step, total=total, note=brief(figures))


class Lines:
    """A line on standard error at most every ``interval`` seconds."""

    def __init__(self, title: str, interval: float = 10.0) -> None:
        self._title, self._interval = title, interval
        self._start = self._last = time.monotonic()
        self._first: int | None = None

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __call__(self, step: int, total: int, figures: Mapping[str, float]) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first, self._start = step, now
        if self._first == step or now - self._last < self._interval:
            return
        self._last = now
        left = (now - self._start) / (step - self._first) * (total - step)
        print(
            f"{self._title}  step {step:,}/{total:,}  {left:.0f} s left  {brief(figures)}",
            file=sys.stderr,
            flush=True,
        )


def watcher(title: str) -> Bar | Lines:
    """Return a bar on a terminal and lines elsewhere."""
    return Bar(title) if sys.stderr.isatty() else Lines(title)


def brief(figures: Mapping[str, float]) -> str:
    """Return the loss terms and the first figures beside them in a few characters."""
    shown = [f"{k.split('/')[-1]} {v:.4g}" for k, v in figures.items() if "grad_norm" not in k]
    return "  ".join(shown[:5])
