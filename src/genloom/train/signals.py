"""SIGTERM and Ctrl-C become a flag that the loop reads between steps."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Set once a signal asked for the end; a second signal does not wait."""

    def __init__(self) -> None:
        self.requested = False
        self._waits = True

    def __call__(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        at_once = self.requested or not self._waits
        self.requested = True
        if at_once:
            raise KeyboardInterrupt

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let the first signal end the block, where there is nothing to save."""
        if self.requested:
            raise KeyboardInterrupt
        self._waits = False
        try:
            yield
        finally:
            self._waits = True


@contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """Collect SIGINT and SIGTERM for the time of the block (in the main thread only).

    A block around this one learns of them too, when this one ends.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
            if stop.requested and isinstance(handler, Stop):
                handler.requested = True
