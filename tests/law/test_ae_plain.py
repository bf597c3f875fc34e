"""A linear autoencoder finds the principal components, and names survive a wide enough code."""

import torch

from genloom.core.events import Categorical, Leaf, Real
from genloom.core.objective import Clock
from genloom.core.randomness import TrainNoise, generator
from genloom.families.ae_plain import Config
from genloom.nn.autoencoders import Autoencoder

NOISE = TrainNoise(generator("ae"), 1, 0, 1)


def make(leaf: Leaf) -> Autoencoder:
    torch.manual_seed(0)
    model = Config(latent_dim=2, hidden=16).build(leaf, None).double()
    assert isinstance(model, Autoencoder)
    return model


def minimise(model: Autoencoder, x: torch.Tensor, steps: int) -> float:
    """Return the loss of all items after full-batch quasi-Newton steps."""
    objective = Config().stages(model)[0].objective
    assert objective is not None
    (loss,) = (phase.loss for phase in objective.phases)
    assert loss is not None
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        total = loss({"x": x}, NOISE, Clock(1, 2)).total
        total.backward()
        return total

    optimiser.step(closure)
    return float(closure().detach())


def test_a_linear_autoencoder_spans_the_principal_components() -> None:
    """The least squared error of rank 2 is the sum of the other eigenvalues (Baldi & Hornik 1989)."""
    source = generator("components")
    x = torch.randn(300, 5, generator=source, dtype=torch.float64) * torch.tensor([3.0, 2.0, 1.0, 0.5, 0.3])
    x = (x - x.mean(0)) @ torch.linalg.qr(torch.randn(5, 5, generator=source, dtype=torch.float64))[0]
    model = make(Leaf((5,), Real()))
    model.encoder, model.decoder = torch.nn.Linear(5, 2).double(), torch.nn.Linear(2, 5).double()
    minimise(model, x, 300)
    error = (model.decode(model.encode(x)) - x).square().sum(1).mean()
    left = torch.linalg.eigvalsh(x.T @ x / len(x))[:3].sum()
    torch.testing.assert_close(error, left, rtol=1e-6, atol=0)


def test_names_come_back_whatever_their_numbers() -> None:
    x = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    model = make(Leaf((2,), Categorical(3)))
    minimise(model, x, 300)
    assert torch.equal(model.decode(model.encode(x)), x)
