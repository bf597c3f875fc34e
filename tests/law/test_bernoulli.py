"""The blockwise Bernoulli likelihood against torch.distributions and autograd."""

import pytest
import torch
from torch.distributions import Bernoulli

from genloom.core.events import Binary, Categorical, Leaf
from genloom.core.randomness import generator
from genloom.math.bernoulli import ROWS, bernoulli_log_prob
from genloom.nn.likelihoods import output_for


@pytest.mark.parametrize(("rows", "draws"), [(3, 1), (3, 4), (ROWS + 5, 2), (0, 1)])
def test_values_and_gradients(rows: int, draws: int) -> None:
    source = generator("logits", rows, draws)
    logits = 4 * torch.randn(rows * draws, 7, generator=source, dtype=torch.float64)
    x = torch.randint(2, (rows, 7), generator=source)
    weights = torch.rand(rows * draws, generator=source, dtype=torch.float64)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    found = bernoulli_log_prob(ours, x)
    expected = Bernoulli(logits=theirs).log_prob(x.double().repeat(draws, 1)).sum(1)
    torch.testing.assert_close(found, expected)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_half_precision_is_summed_in_float32() -> None:
    logits = torch.randn(4, 2000, generator=generator("half")).bfloat16().requires_grad_()
    x = torch.ones(4, 2000, dtype=torch.int64)
    found = bernoulli_log_prob(logits, x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, bernoulli_log_prob(logits.float(), x))
    found.sum().backward()
    assert logits.grad is not None
    assert logits.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("kind", [Binary(), Categorical(5, ordered=True), Categorical(40, ordered=True)])
def test_draws_of_parameters_are_scored_one_after_another(kind: Binary | Categorical) -> None:
    event, source = Leaf((2, 3), kind), generator("draws")
    output = output_for(event)
    parameters = torch.randn(4 * 5, 2, 3, output.parameters_per_scalar, generator=source)
    x = torch.randint(2, (5, 2, 3), generator=source)
    each = [output(part, x) for part in parameters.split(5)]
    torch.testing.assert_close(output(parameters, x), torch.cat(each))
    torch.testing.assert_close(each[0], output.log_prob(parameters[:5], x).flatten(1).sum(1))
