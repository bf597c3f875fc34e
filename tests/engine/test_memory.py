"""Memory that training keeps."""

import ctypes
import resource
import sys

import pytest
import torch

from genloom.train.memory import kept_memory

GLIBC = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_trim")

pytestmark = pytest.mark.skipif(not GLIBC, reason="the C library is not glibc")

BYTES = 2**26


def faults(times: int) -> int:
    """Return how many pages the kernel hands out while tensors of the same size come and go."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(BYTES, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_the_kernel_hands_out_pages_once() -> None:
    with kept_memory():
        faults(5)
        kept = faults(10)
    assert kept < faults(10) / 3


def test_memory_goes_back_at_the_end() -> None:
    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    before = resident()
    with kept_memory():
        torch.ones(4 * BYTES, dtype=torch.uint8)
        assert resident() > before + 3 * BYTES
    assert resident() < before + BYTES
