"""The scan in chunks equals the recurrence, place by place."""

import pytest
import torch

from genloom.core.events import Categorical, Leaf
from genloom.families.seq_ssm import CHUNK, Config, scan


@pytest.mark.parametrize("length", [1, 7, CHUNK, 3 * CHUNK])
def test_the_scan_is_the_recurrence(length: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, length, 3, 4, dtype=torch.float64)
    decay = -torch.rand(2, length, 3, dtype=torch.float64)
    key, query = torch.randn(2, 2, length, 5, dtype=torch.float64)
    state = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    found, last = scan(x, decay, key, query, state)
    for t in range(length):
        taken = torch.einsum("bn,bhp->bhnp", key[:, t], x[:, t])
        state = decay[:, t].exp()[..., None, None] * state + taken
        expected = torch.einsum("bn,bhnp->bhp", query[:, t], state)
        assert torch.allclose(found[:, t], expected, atol=1e-10, rtol=0)
    assert torch.allclose(last, state, atol=1e-10, rtol=0)


@pytest.mark.parametrize("length", [CHUNK + 1, 2 * CHUNK + 9])
def test_texts_of_several_chunks_are_read_alike_in_parts(length: int) -> None:
    torch.manual_seed(0)
    event = Leaf((length,), Categorical(5))
    model = Config(width=8, layers=2, head=8, keys=4).build(event, None).double()
    symbols = torch.randint(5, (2, length))
    with torch.no_grad():
        whole = model.network(symbols)
        reader = model.reader(2, length)
        parts = [reader.read(part) for part in symbols.split([CHUNK - 3, 1, length - CHUNK + 2], 1)]
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-10, rtol=0)
