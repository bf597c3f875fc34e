"""Long work says how far it is, once, and to those who ask alone."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from genloom.core.capabilities import Sampler
from genloom.core.randomness import Noise
from genloom.core.watching import Watcher, counted, shown_by
from genloom.tasks import sampling


class Tape:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told = list[tuple[str, int, int]]()

    @contextmanager
    def __call__(self, title: str) -> Iterator[Watcher]:
        def watch(step: int, total: int, figures: Mapping[str, float]) -> None:
            assert not figures
            self.told.append((title, step, total))

        yield watch


def test_parts_are_counted_and_work_within_them_is_not() -> None:
    tape = Tape()
    with shown_by(tape):
        for _ in counted("outer", range(2)):
            assert list(counted("inner", "abc")) == ["a", "b", "c"]
        assert list(counted("single", [1])) == [1]
        assert list(counted("next", [1, 2])) == [1, 2]
    assert list(counted("unseen", [1, 2])) == [1, 2]
    assert tape.told == [("outer", 1, 2), ("outer", 2, 2), ("next", 1, 2), ("next", 2, 2)]


def broken_off() -> None:
    for part in counted("broken", [1, 2]):
        raise KeyError(part)


def test_work_that_is_broken_off_is_shown_no_more() -> None:
    tape = Tape()
    with shown_by(tape):
        with pytest.raises(KeyError):
            broken_off()
        assert list(counted("next", [1, 2])) == [1, 2]
    assert tape.told == [("next", 1, 2), ("next", 2, 2)]


class Zeros(nn.Module, Sampler):
    def sample(self, noise: Noise, cond: object = None) -> Tensor:  # noqa: ARG002
        return 0 * noise.uniform(1)


def test_drawing_is_counted_by_passes() -> None:
    tape = Tape()
    with shown_by(tape):
        drawn = sampling.sample(Zeros(), 5, micro_batch=2)
    assert torch.equal(drawn, torch.zeros(5, 1))
    assert tape.told == [("drawing", number, 3) for number in (1, 2, 3)]
