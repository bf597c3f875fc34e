"""Checkpoints survive what happens to files: corruption, a full disk, a crash in the middle."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_toys import Pair, adversarial, digits_fit, fingerprint, run_toy
from torch import Tensor

from genloom.core.errors import RunError
from genloom.recipes.runs import open_run
from genloom.train import checkpoint, loop
from genloom.train.checkpoint import existing, load, newest, save, write_atomically
from genloom.train.state import State


def tensors(step: int) -> dict[str, Tensor]:
    return {"model/w": torch.full((4,), float(step)), "count": torch.tensor(step)}


def saved(folder: Path, *steps: int) -> list[str]:
    for step in steps:
        save(folder, step, tensors(step), {"step": step})
    return [p.name for p in existing(folder)]


def test_round_trip(tmp_path: Path) -> None:
    found, facts = load(save(tmp_path, 7, tensors(7), {"step": 7}))
    assert facts == {"step": 7}
    assert found.keys() == tensors(7).keys()
    assert all(torch.equal(found[k], v) for k, v in tensors(7).items())


def test_only_the_last_two_are_kept(tmp_path: Path) -> None:
    assert saved(tmp_path, 1, 2, 10, 100) == ["00000010", "00000100"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000010", "00000100"]


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


HARMS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a flipped bit": ("tensors.safetensors", flip_a_byte),
    "a lost end": ("tensors.safetensors", truncate),
    "a lost file": ("tensors.safetensors", Path.unlink),
    "an empty manifest": ("manifest.json", lambda p: p.write_text("")),
    "other facts": ("facts.json", lambda p: p.write_text('{"step": 3}')),
    "no manifest": ("manifest.json", Path.unlink),
}


@pytest.mark.parametrize("harm", HARMS)
def test_corrupted_newest_falls_back(tmp_path: Path, harm: str) -> None:
    saved(tmp_path, 1, 2)
    name, damage = HARMS[harm]
    damage(tmp_path / "00000002" / name)
    found = newest(tmp_path)
    assert found is not None
    assert found[1] == {"step": 1}
    (warning,) = found[2]
    assert "00000002" in warning
    assert "falling back" in warning


def test_nothing_good_left_is_an_error(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    for path in existing(tmp_path):
        flip_a_byte(path / "tensors.safetensors")
    with pytest.raises(RunError, match="no good checkpoint is left"):
        newest(tmp_path)


def test_no_checkpoint_is_no_error(tmp_path: Path) -> None:
    assert newest(tmp_path) is None
    assert newest(tmp_path / "missing") is None


def fail(error: OSError) -> Callable[..., Any]:
    def call(*args: object, **kwargs: object) -> None:  # noqa: ARG001
        raise error

    return call


@pytest.mark.parametrize("place", ["save_file", "sync"])
def test_full_disk_keeps_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    saved(tmp_path, 1, 2)
    monkeypatch.setattr(checkpoint, place, fail(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(RunError, match="the disk is full: free some space and resume"):
        save(tmp_path, 3, tensors(3), {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000001", "00000002"]
    assert load(tmp_path / "00000002")[1] == {"step": 2}


def test_full_disk_in_a_fit_is_one_error_and_resumable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits_fit(tmp_path / "undisturbed")
    with monkeypatch.context() as patch:
        real = checkpoint.save_file

        def save_file(tensors: dict[str, Tensor], path: Path) -> None:
            if "00000010" in str(path):
                raise OSError(errno.ENOSPC, "No space left on device")
            real(tensors, path)

        patch.setattr(checkpoint, "save_file", save_file)
        with pytest.raises(RunError, match="disk is full"):
            digits_fit(tmp_path / "run")
    facts = open_run(tmp_path / "run").facts
    assert facts["state"] == "failed"
    assert "disk is full" in facts["why"]
    digits_fit(tmp_path / "run")
    assert fingerprint(tmp_path / "run") == fingerprint(tmp_path / "undisturbed")


def test_crash_before_the_rename_keeps_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail(KeyboardInterrupt()))  # type: ignore[arg-type]
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, 2, tensors(2), {"step": 2})
    assert (tmp_path / ".00000002.tmp").is_dir()
    found = newest(tmp_path)
    assert found is not None
    assert (found[1], found[2]) == ({"step": 1}, [])
    assert saved(tmp_path, 2) == ["00000001", "00000002"]
    assert not (tmp_path / ".00000002.tmp").exists()


def test_everything_is_on_the_disk_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    real_sync, real_rename = checkpoint.sync, Path.rename
    monkeypatch.setattr(checkpoint, "sync", lambda p: (done.append(p.name), real_sync(p)))
    monkeypatch.setattr(Path, "rename", lambda p, to: (done.append("rename"), real_rename(p, to))[1])
    save(tmp_path, 1, tensors(1), {})
    at = done.index("rename")
    assert set(done[:at]) == {"tensors.safetensors", "facts.json", "manifest.json", ".00000001.tmp"}
    assert done[at + 1 :] == [tmp_path.name]


def test_writing_a_file_replaces_it_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.json"
    write_atomically(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail(OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(RunError, match="disk is full"):
            write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


def test_unwritable_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "save_file", fail(PermissionError(errno.EACCES, "Permission denied")))
    with pytest.raises(RunError, match=f"cannot write to {tmp_path}"):
        save(tmp_path, 1, tensors(1), {})


def test_checkpoint_of_another_model_does_not_fit(tmp_path: Path) -> None:
    model = Pair()
    run_toy(State.fresh(model, adversarial(model)), tmp_path, steps=4)
    other = Pair()
    other.critic = torch.nn.Linear(5, 1)
    with pytest.raises(RunError, match="does not fit this model"):
        loop.resume(State.fresh(other, adversarial(other)), tmp_path / "checkpoints")


def test_resuming_past_a_corrupted_checkpoint_warns_and_goes_on(tmp_path: Path) -> None:
    model = Pair()
    straight = State.fresh(model, adversarial(model))
    run_toy(straight, tmp_path)
    flip_a_byte(tmp_path / "checkpoints" / "00000010" / "tensors.safetensors")
    model = Pair(seed=1)
    state = State.fresh(model, adversarial(model))
    found = loop.resume(state, tmp_path / "checkpoints")
    assert found is not None
    assert state.step == 8
    assert len(found) == 1
    run_toy(state, tmp_path)
    assert all(torch.equal(v, state.tensors()[k]) for k, v in straight.tensors().items())
