"""The evidence of latent-variable models by annealed importance sampling."""

import torch
from torch import Tensor, nn

from genloom.core.capabilities import LatentVariable, need
from genloom.core.events import tensor
from genloom.core.likelihood import Bound, LogProb, given
from genloom.core.randomness import SampleNoise
from genloom.core.watching import counted
from genloom.math.ais import anneal_codes, ladder, log_mean_exp


@torch.no_grad()
def annealed_log_prob(
    model: nn.Module,
    x: Tensor,
    cond: Tensor | None = None,
    *,
    seed: int = 0,
    chains: int = 16,
    temperatures: int = 500,
    leapfrogs: int = 5,
    batch: int = 32,
) -> LogProb:
    """Estimate log p(x) of a model with codes, for each item by chains of its own.

    The average of the weights is unbiased, so its logarithm lies below log p(x) in expectation, by less
    the more temperatures there are. The error is that of the average; it does not see modes of the posterior
    that no chain found.

    Args:
        x: items (n, *S).
        cond: (n,) labels.
        seed: keys the chains: the estimate of an item depends on its place in ``x`` and on nothing else.
        leapfrogs: steps of each trajectory; one trajectory a temperature.
        batch: items annealed together.

    Returns:
        (n,) nats, with standard errors.

    Raises:
        Unsupported: the model has no code.
    """
    coded = need(model, LatentVariable, "annealed_log_prob")
    model.eval()
    parts = []
    for start in counted("annealing", range(0, len(x), batch)):
        index = torch.arange(start, min(start + batch, len(x))).repeat_interleave(chains)
        items, label = tensor(x)[index], None if cond is None else cond[index]
        noise = SampleNoise(seed, torch.arange(start * chains, start * chains + len(index)))

        def log_prior(z: Tensor, label: Tensor | None = label) -> Tensor:
            return coded.log_prior(z, label)

        def log_likelihood(z: Tensor, items: Tensor = items, label: Tensor | None = label) -> Tensor:
            return coded.log_likelihood(items, z, label)

        starts = coded.draw_code(noise, label), coded.draw_code(noise, label)
        betas = ladder(temperatures)
        parts.append(
            anneal_codes(log_prior, log_likelihood, starts, betas, noise, chains=chains, leapfrogs=leapfrogs)
        )
    value, error = log_mean_exp(torch.cat(parts))
    return LogProb(value, Bound.ESTIMATE, given(cond), error)
