"""Long work says how far it is, to whom it may concern: to nobody, unless a program wants to show it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar

T = TypeVar("T")


class Watcher(Protocol):
    """Is told after every step."""

    def __call__(self, step: int, total: int, figures: Mapping[str, float]) -> None: ...


Show = Callable[[str], AbstractContextManager[Watcher]]
"""Begins to show work of a title."""

_show: ContextVar[Show | None] = ContextVar("show", default=None)


@contextmanager
def shown_by(show: Show | None) -> Iterator[None]:
    """Have the work that is done meanwhile shown, or not shown if by none."""
    before = _show.set(show)
    try:
        yield
    finally:
        _show.reset(before)


def counted(title: str, parts: Sequence[T]) -> Iterator[T]:
    """Yield parts of some work; what is work within one of them is not shown besides."""
    show = _show.get()
    if show is None or len(parts) < 2:
        yield from parts
        return
    with shown_by(None), show(title) as watch:
        for number, part in enumerate(parts, 1):
            yield part
            watch(number, len(parts), {})
