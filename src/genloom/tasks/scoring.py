"""Log-likelihoods of many items, with or without conditions."""

import torch
from torch import Tensor, nn

from genloom.core.capabilities import Likelihood, need
from genloom.core.events import Value, rows, take
from genloom.core.likelihood import LogProb
from genloom.core.randomness import SampleNoise
from genloom.core.watching import counted


@torch.no_grad()
def log_prob(
    model: nn.Module, x: Value, cond: Value | None = None, *, seed: int = 0, batch: int = 256
) -> LogProb:
    """Score items in batches.

    Args:
        x: items of the model's event.
        cond: n conditions.
        seed: keys the noise of models whose likelihood is a bound or an estimate.

    Returns:
        (n,) nats of the event.

    Raises:
        Unsupported: the model has no likelihood.
    """
    scorer = need(model, Likelihood, "log_prob")
    model.eval()
    parts = []
    for start in counted("scoring", range(0, rows(x), batch)):
        piece = take(x, slice(start, start + batch))
        index = torch.arange(start, start + rows(piece))
        label = None if cond is None else take(cond, slice(start, start + batch))
        parts.append(scorer.log_prob(piece, label, noise=SampleNoise(seed, index)))
    spread = [p.stderr for p in parts if p.stderr is not None]
    return LogProb(
        torch.cat([p.value.double() for p in parts]),
        parts[0].kind,
        parts[0].given,
        torch.cat(spread) if spread else None,
        parts[0].bracket,
    )


def marginal_log_prob(
    model: nn.Module, x: Value, prior: Tensor, *, seed: int = 0, batch: int = 256
) -> LogProb:
    """Return log p(x) = log sum_y p(y) p(x|y) of a class-conditional model.

    A bound on every p(x|y) gives a bound on p(x) in the same direction. Where the bounds are themselves noisy
    estimates, the logarithm of their sum lies a little high in expectation (Jensen).

    Args:
        prior: (classes,) probabilities of the labels.
    """
    n = rows(x)
    joint = []
    for label, weight in enumerate(counted("scoring", prior.tolist())):
        part = log_prob(model, x, torch.full((n,), label), seed=seed, batch=batch)
        joint.append(part.value + torch.tensor(weight).double().log())
    return LogProb(torch.stack(joint).logsumexp(0), part.kind)
