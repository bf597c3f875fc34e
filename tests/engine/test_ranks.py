"""Two processes train as one does, to rounding, and agree with each other exactly."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from engine_toys import digits_fit
from ranks_worker import SMALL, small_fit, train_toy
from safetensors.torch import load_file
from torch import Tensor

from genloom.recipes.runs import open_run
from genloom.train import ranks
from genloom.train.log import read

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the worker on two processes."""
    out = tmp_path_factory.mktemp("ranks")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    worker = [str(Path(__file__).with_name("ranks_worker.py")), str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        [*launcher, *worker], env=environment, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return out


def left_by(out: Path, rank: int) -> dict[str, Tensor]:
    return load_file(out / f"rank{rank}.safetensors")


def test_two_ranks_equal_one(two_ranks: Path) -> None:
    alone, together = train_toy().tensors(), left_by(two_ranks, 0)
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_ranks_agree_exactly(two_ranks: Path) -> None:
    first, second = left_by(two_ranks, 0), left_by(two_ranks, 1)
    assert first.keys() == second.keys()
    assert all(torch.equal(v, second[k]) for k, v in first.items() if k != "helpers/share")


def test_helpers(two_ranks: Path) -> None:
    first, second = left_by(two_ranks, 0), left_by(two_ranks, 1)
    assert first["helpers/sum"].tolist() == [3, 3]
    assert first["helpers/double"].tolist() == [[3]]
    assert first["helpers/agree"].item() == 0
    assert first["helpers/any"].tolist() == [True, False]
    assert (first["helpers/share"].tolist(), second["helpers/share"].tolist()) == ([0, 3], [3, 7])


def test_fit_on_two_ranks_equals_fit_on_one(two_ranks: Path, tmp_path: Path) -> None:
    alone = digits_fit(tmp_path / "run")
    together = open_run(two_ranks / "run")
    assert together.facts["state"] == "finished"
    assert together.facts["best"]["value"] == pytest.approx(alone.facts["best"]["value"], rel=1e-4)
    assert [r["step"] for r in read(two_ranks / "run")] == [r["step"] for r in read(tmp_path / "run")]
    weights, expected = (load_file(f / "model.safetensors") for f in (two_ranks / "run", tmp_path / "run"))
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("family", SMALL)
def test_every_family_trains_on_two_ranks_as_on_one(two_ranks: Path, tmp_path: Path, family: str) -> None:
    small_fit(family, tmp_path / family)
    weights, expected = (load_file(out / family / "model.safetensors") for out in (two_ranks, tmp_path))
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_alone_every_helper_is_trivial() -> None:
    x = torch.tensor([2.0])
    ranks.sum_([x])
    ranks.barrier()
    assert (ranks.rank(), ranks.world(), ranks.share(7), x.item()) == (0, 1, (0, 7), 2)
    assert ranks.agree(3.0) == 3
    assert ranks.any_rank(True)
    assert not ranks.any_rank(False)
