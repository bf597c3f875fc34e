"""Memory of tensors in training, which asks for the same sizes at every step."""

import contextlib
import ctypes
import sys
from collections.abc import Iterator

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"""Parameters of ``mallopt``. GNU C library manual, section 3.2.3.7."""

KEEPING = {TRIM_THRESHOLD: 2**31 - 1, MMAP_MAX: 0}

GIVING_BACK = {TRIM_THRESHOLD: 2**26, MMAP_THRESHOLD: 2**25, MMAP_MAX: 65_536}
"""What glibc comes to by itself once a tensor of 32 MiB was freed."""


@contextlib.contextmanager
def kept_memory() -> Iterator[None]:
    """Keep what tensors free for the next ones for the time of the block, where the C library is glibc.

    Large tensors would go back to the kernel, which clears their pages anew at each step. Not to be nested;
    of other threads than the first only tensors below 64 MiB gain.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        yield
        return
    _set(libc, KEEPING)
    try:
        yield
    finally:
        _set(libc, GIVING_BACK)
        libc.malloc_trim(0)


def _set(libc: ctypes.CDLL, values: dict[int, int]) -> None:
    for parameter, value in values.items():
        libc.mallopt(parameter, value)
