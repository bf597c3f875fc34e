"""Laws of PixelRNN: both LSTMs against loops over pixels, and what they see.

``test_raster.py`` has the laws of all models in raster order.
"""

import torch
from torch import Tensor

from genloom.families.ar_pixelrnn import DiagonalBiLstm, LstmLayer, RowLstm, lstm, skew, unskew

HEIGHT, WIDTH, UNITS = 5, 4, 3


def inputs() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, HEIGHT, WIDTH, 2 * UNITS, dtype=torch.float64)


def seen_from(layer: LstmLayer, row: int, column: int) -> Tensor:
    """Return which inputs a state depends on, (H, W)."""
    x = inputs().requires_grad_()
    (gradient,) = torch.autograd.grad(layer(x)[0, row, column].sum(), x)
    return gradient[0].abs().sum(-1) > 0


def test_skewing_puts_diagonals_in_columns_and_back() -> None:
    x = inputs()
    skewed = skew(x)
    for i in range(HEIGHT):
        assert torch.equal(skewed[:, i, i : i + WIDTH], x[:, i])
    assert int((skewed != 0).sum()) == x.numel()
    assert torch.equal(unskew(skewed), x)


def test_row_lstm_is_a_loop_over_pixels() -> None:
    """Equation 3: gates from the input here and to the left, and from the three states above."""
    torch.manual_seed(0)
    layer, x = RowLstm(UNITS).double(), inputs()
    now, left = layer.enter.weight[:, :, 0, 1].t(), layer.enter.weight[:, :, 0, 0].t()
    zeros = torch.zeros(2, UNITS, dtype=torch.float64)
    state, memory = dict[tuple[int, int], Tensor](), dict[tuple[int, int], Tensor]()
    for i in range(HEIGHT):
        for j in range(WIDTH):
            gates = layer.enter.bias + x[:, i, j] @ now
            gates = gates + x[:, i, j - 1] @ left if j else gates
            above = [state.get((i - 1, k), zeros) for k in (j - 1, j, j + 1)]
            taps = layer.recur.weight.unflatten(1, (UNITS, 3))
            gates = gates + sum(s @ taps[:, :, k].t() for k, s in enumerate(above))
            state[i, j], memory[i, j] = lstm(gates, memory.get((i - 1, j), zeros))
    expected = torch.stack(list(state.values()), 1).view(2, HEIGHT, WIDTH, UNITS)
    torch.testing.assert_close(layer(x), expected)


def test_diagonal_lstm_is_two_loops_over_pixels() -> None:
    torch.manual_seed(0)
    layer, x = DiagonalBiLstm(UNITS).double(), inputs()
    zeros = torch.zeros(2, UNITS, dtype=torch.float64)
    found = []
    for side, columns in ((0, range(WIDTH)), (1, range(WIDTH)[::-1])):
        back = -1 if side == 0 else 1
        state, memory = dict[tuple[int, int], Tensor](), dict[tuple[int, int], Tensor]()
        for i in range(HEIGHT):
            for j in columns:
                around = [state.get((i, j + back), zeros), state.get((i - 1, j), zeros)]
                gates = layer.enter(x[:, i, j]).chunk(2, -1)[side] + torch.cat(around, -1) @ layer.recur[side]
                state[i, j], memory[i, j] = lstm(gates, memory.get((i, j + back), zeros))
        found.append(state)
    for i in range(HEIGHT):
        for j in range(WIDTH):
            torch.testing.assert_close(layer(x)[:, i, j], found[0][i, j] + found[1].get((i - 1, j), 0))


def test_diagonal_sees_all_pixels_so_far_and_row_a_triangle() -> None:
    torch.manual_seed(0)
    rows, columns = torch.arange(HEIGHT)[:, None], torch.arange(WIDTH)[None]
    row, column = 3, 1
    so_far = (rows < row) | ((rows == row) & (columns <= column))
    assert torch.equal(seen_from(DiagonalBiLstm(UNITS).double(), row, column), so_far)
    height = row - rows
    triangle = (height >= 0) & (columns - column <= height) & (column - columns <= height + 1)
    assert torch.equal(seen_from(RowLstm(UNITS).double(), row, column), triangle)
