"""SIGTERM and Ctrl-C save the state and stop; the same call then goes on as if nothing had happened."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from engine_toys import digits_fit, figures, fingerprint

from genloom.core.errors import Interrupted
from genloom.recipes.runs import open_run
from genloom.train import loop
from genloom.train.signals import stop_on_signal


def signal_at(monkeypatch: pytest.MonkeyPatch, step: int, number: int) -> None:
    """Send this process a signal during a training step."""
    real = loop.train_step

    def train_step(state: Any, rhythm: Any) -> dict[str, float]:
        if state.step == step - 1:
            os.kill(os.getpid(), number)
        return real(state, rhythm)

    monkeypatch.setattr(loop, "train_step", train_step)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    digits_fit(out)
    return out


def require_same(run: Path, other: Path) -> None:
    """Compare the weights and the log of two runs."""
    assert fingerprint(run) == fingerprint(other)
    assert figures(run) == figures(other)


@pytest.mark.parametrize(("step", "number"), [(7, signal.SIGTERM), (8, signal.SIGINT)])
def test_signal_saves_and_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Path, step: int, number: int
) -> None:
    with monkeypatch.context() as patch:
        signal_at(patch, step, number)
        with pytest.raises(Interrupted, match=f"step {step} of 24"):
            digits_fit(tmp_path / "run")
    assert open_run(tmp_path / "run").facts["state"] == "interrupted"
    assert (tmp_path / "run" / "checkpoints" / "vae" / f"{step:08d}").is_dir()
    assert digits_fit(tmp_path / "run").facts["state"] == "finished"
    require_same(tmp_path / "run", undisturbed)


def test_signal_at_the_last_step_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Path
) -> None:
    signal_at(monkeypatch, 24, signal.SIGTERM)
    assert digits_fit(tmp_path / "run").facts["state"] == "finished"
    require_same(tmp_path / "run", undisturbed)


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signal() as stop:
        assert signal.getsignal(signal.SIGTERM) is stop
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_threads_keep_their_handlers() -> None:
    seen = []

    def work() -> None:
        with stop_on_signal() as stop:
            seen.append((stop.requested, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, signal.getsignal(signal.SIGTERM))]
