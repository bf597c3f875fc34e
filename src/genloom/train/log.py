"""Metrics as lines of JSON, and optionally as TensorBoard events."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genloom.core.errors import MissingExtra
from genloom.core.serial import to_json
from genloom.train import ranks
from genloom.train.checkpoint import write_atomically


class MetricLog:
    """Appends to ``metrics.jsonl``; a resumed stage drops its lines after the step it resumes from.

    Only rank 0 touches the files.
    """

    def __init__(self, folder: Path, stage: str, step: int, tensorboard: bool = False) -> None:
        self._path, self._stage = folder / "metrics.jsonl", stage
        mine = ranks.rank() == 0
        self._writer: Any = _tensorboard(folder / "tensorboard" / stage) if tensorboard and mine else None
        if mine:
            self._keep_until(step)

    def _keep_until(self, step: int) -> None:
        if self._path.exists():
            kept = [r for r in read(self._path.parent) if r["stage"] != self._stage or r["step"] <= step]
            write_atomically(self._path, "".join(_line(r) for r in kept).encode())

    def write(self, step: int, seconds: float, figures: dict[str, float]) -> None:
        """Add one line of figures at a step."""
        with self._path.open("a") as file:
            file.write(_line({"stage": self._stage, "step": step, "seconds": round(seconds, 3), **figures}))
        if self._writer is not None:
            for name, value in figures.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush what TensorBoard still holds."""
        if self._writer is not None:
            self._writer.close()


def read(folder: Path) -> list[dict[str, Any]]:
    """Return the logged lines of a run, oldest first, without what a crash cut off or others wrote."""
    path = folder / "metrics.jsonl"
    records = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and {"stage", "step"} <= set(record):
            records.append(record)
    return records


def _line(record: Mapping[str, Any]) -> str:
    return to_json(record, indent=None) + "\n"


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtra("tensorboard", "tensorboard") from error
    return SummaryWriter(str(folder))
