"""Memory that training keeps."""

import ctypes
import resource
import subprocess
import sys

import pytest
import torch

from genloom.train.memory import kept_memory

GLIBC = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_trim")

pytestmark = pytest.mark.skipif(not GLIBC, reason="the C library is not glibc")

BYTES = 2**26


FAULTS = """
import resource, torch
from genloom.train.memory import kept_memory

def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(2**26, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults(24))
with kept_memory():
    print(faults(24))
"""
"""How many pages the kernel hands out while tensors of the same size come and go."""


def test_the_kernel_hands_out_pages_once() -> None:
    """In a process of its own: what others left free in this one would serve the tensors, kept or not."""
    shown = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True).stdout
    given_back, kept = map(int, shown.split())
    assert kept < given_back / 2


def test_memory_goes_back_at_the_end() -> None:
    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    before = resident()
    with kept_memory():
        torch.ones(4 * BYTES, dtype=torch.uint8)
        assert resident() > before + 3 * BYTES
    assert resident() < before + BYTES
