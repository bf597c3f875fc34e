"""The game of codes and prior: its best discriminator, its value at rest, and who moves in which phase."""

import math

import torch
from torch import Tensor

from genloom.core.events import Leaf, Real
from genloom.core.objective import Clock, Loss, Objective
from genloom.core.randomness import TrainNoise, generator
from genloom.families.hybrid_aae import Config, Model, mistakes


def normals(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator("aae"), dtype=torch.float64)


def test_the_best_logit_is_the_log_ratio_of_densities() -> None:
    """Logistic regression on (1, z, z^2) finds log N(z; 0, 1) - log N(z; 1, 2^2)."""
    prior, codes = normals(30_000), 1 + 2 * normals(30_000)
    weights = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def logit(z: Tensor) -> Tensor:
        return weights[0] + weights[1] * z + weights[2] * z**2

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = mistakes(logit(prior), logit(codes))
        loss.backward()
        return loss

    optimiser.step(closure)
    expected = torch.tensor([math.log(2) + 1 / 8, -1 / 4, -3 / 8], dtype=torch.float64)
    torch.testing.assert_close(weights.detach(), expected, rtol=0, atol=0.05)


def test_the_value_is_twice_log_two_less_twice_the_divergence() -> None:
    """At the best logit (Goodfellow et al., theorem 1), here for three points with exact weights."""
    p, q = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.1, 0.3, 0.6]).double()
    logit, middle = (p / q).log(), (p + q) / 2
    each = [mistakes(logit[[i]], logit[[j]]) * p[i] * q[j] for i in range(3) for j in range(3)]
    divergence = 0.5 * (p * (p / middle).log()).sum() + 0.5 * (q * (q / middle).log()).sum()
    torch.testing.assert_close(torch.stack(each).sum(), 2 * math.log(2) - 2 * divergence)


def made() -> tuple[Model, Objective]:
    torch.manual_seed(0)
    config = Config(hidden=8, latent_dim=2, weight=3.0)
    model = config.build(Leaf((4,), Real()), None).double()
    assert isinstance(model, Model)
    objective = config.stages(model)[0].objective
    assert objective is not None
    return model, objective


def losses(objective: Objective, x: Tensor) -> dict[str, Loss]:
    noise = TrainNoise(generator("noise"), len(x), 0, len(x))
    return {p.name: p.loss({"x": x}, noise, Clock(1, 2)) for p in objective.phases if p.loss is not None}


def test_the_players_pull_codes_in_opposite_directions() -> None:
    """Where the discriminator cannot tell, fooling pulls each code as hard as judging pushes it away."""
    model, objective = made()
    model.discriminator[-1].weight.data.mul_(1e-6)  # type: ignore[index, union-attr, operator]
    model.discriminator[-1].bias.data.zero_()  # type: ignore[index, union-attr, operator]
    found = losses(objective, normals(6, 4))
    encoder = list(model.network.encoder.parameters())
    judged = torch.autograd.grad(found["discriminator"].terms["mistakes"], encoder)
    fooled = torch.autograd.grad(found["autoencoder"].terms["fooling"], encoder)
    for a, b in zip(judged, fooled, strict=True):
        torch.testing.assert_close(b, -3.0 * a, rtol=1e-4, atol=1e-12)
