"""A run that is killed at any moment and started again ends with the weights of an undisturbed one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from engine_toys import Pair, adversarial, digits_fit, figures, fingerprint, run_toy, toy_rhythm

from genloom.core.errors import RunError
from genloom.core.objective import Average
from genloom.train import loop
from genloom.train.state import State
from genloom.train.step import train_step


def killed_at(out: Path, place: str, count: int) -> None:
    """Run the small fit in a process that kills itself with SIGKILL."""
    command = [sys.executable, str(Path(__file__).with_name("engine_worker.py")), str(out), place, str(count)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == -signal.SIGKILL, finished.stderr


@pytest.mark.timeout(900)  # three processes that each import torch
def test_sigkill_changes_nothing(tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    digits_fit(undisturbed)
    killed_at(killed, "step", 8)
    assert checkpoints(killed) == ["00000005"]
    killed_at(killed, "write", 1)
    assert checkpoints(killed) == [".00000010.tmp", "00000005"]
    killed_at(killed, "keep", 1)
    assert checkpoints(killed) == ["00000020", "00000024"]
    (killed / "model.safetensors").unlink()
    run = digits_fit(killed)
    assert run.facts["state"] == "finished"
    assert fingerprint(killed) == fingerprint(undisturbed)
    assert figures(killed) == figures(undisturbed)


def checkpoints(out: Path) -> list[str]:
    """Return the names of the checkpoint folders, finished or not."""
    return sorted(p.name for p in (out / "checkpoints" / "vae").iterdir())


def test_finished_run_is_left_alone(tmp_path: Path) -> None:
    digits_fit(tmp_path / "run")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*") if p.is_file()}
    digits_fit(tmp_path / "run")
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*") if p.is_file()} == before


def test_other_settings_are_not_resumed(tmp_path: Path) -> None:
    digits_fit(tmp_path / "run")
    with pytest.raises(RunError, match="another train"):
        digits_fit(tmp_path / "run", steps=25)


def test_best_weights_and_averages_resume(tmp_path: Path) -> None:
    def validate(model: torch.nn.Module) -> dict[str, float]:
        return {"loss": abs(float(next(model.parameters()).sum()) - 0.1)}

    model = Pair()
    straight = State.fresh(model, adversarial(model, Average()))
    run_toy(straight, tmp_path / "a", validate=validate)
    model = Pair()
    first = State.fresh(model, adversarial(model, Average()))
    run_toy(first, tmp_path / "b", steps=4, validate=validate)
    model = Pair(seed=1)
    second = State.fresh(model, adversarial(model, Average()))
    assert loop.resume(second, tmp_path / "b" / "checkpoints") is not None
    assert (second.step, second.best.step) == (4, first.best.step)
    assert second.best.value == first.best.value
    for key, value in first.tensors().items():
        assert torch.equal(second.tensors()[key], value), key


def test_steps_are_keyed_by_their_number() -> None:
    model, again = Pair(), Pair()
    state, other = State.fresh(model, adversarial(model)), State.fresh(again, adversarial(again))
    for _ in range(4):
        train_step(state, toy_rhythm())
    for _ in range(2):
        train_step(other, toy_rhythm())
    torch.manual_seed(99)
    torch.randn(7)
    for _ in range(2):
        train_step(other, toy_rhythm())
    assert all(torch.equal(v, other.tensors()[k]) for k, v in state.tensors().items())
