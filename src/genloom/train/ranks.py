"""Several processes that train one model: a thin layer over ``torch.distributed`` on gloo."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """Return this process's number, 0 when alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def launched() -> int:
    """Return how many processes ``torchrun`` started, 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def speaks() -> bool:
    """Tell whether this process is the one that prints, before a group is joined and after it is left too."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def process_group() -> Iterator[None]:
    """Join the group that ``torchrun`` describes in the environment, if any, and leave it at the end."""
    if launched() < 2 or dist.is_initialized():
        yield
        return
    dist.init_process_group("gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def barrier() -> None:
    """Wait until every rank is here."""
    if world() > 1:
        dist.barrier()


def share(total: int) -> tuple[int, int]:
    """Return the rows ``lo, hi`` of a global batch that belong to this rank."""
    return total * rank() // world(), total * (rank() + 1) // world()


def sum_(tensors: Sequence[Tensor]) -> None:
    """Add up tensors over ranks in place, in one flattened message per dtype."""
    if world() == 1:
        return
    for dtype in sorted({t.dtype for t in tensors}, key=str):
        same = [t for t in tensors if t.dtype == dtype]
        flat = torch.cat([t.detach().reshape(-1) for t in same])
        dist.all_reduce(flat)
        for t, part in zip(same, torch.split(flat, [t.numel() for t in same]), strict=True):
            t.detach().copy_(part.view_as(t))


def agree(value: float) -> float:
    """Return rank 0's value on every rank."""
    if world() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def any_rank(flag: bool) -> bool:
    """Tell whether the flag is set on any rank."""
    if world() == 1:
        return flag
    t = torch.tensor(float(flag))
    dist.all_reduce(t, op=cast("dist.ReduceOp", dist.ReduceOp.MAX))
    return bool(t.item())
