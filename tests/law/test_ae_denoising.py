"""What denoising learns: the score of noisy data, and a chain that leaves the data as they are."""

import torch
from torch import Tensor, nn

from genloom.core.events import Binary, Categorical, Leaf, Real, Value, tensor
from genloom.core.randomness import SampleNoise, TrainNoise, generator
from genloom.families.ae_denoising import Config, Model, score

STD = 0.7
COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 2.0]], dtype=torch.float64)


class Posterior(nn.Module):
    """Mean and log standard deviation of x given x + noise, for independent normals of these variances."""

    def __init__(self, variances: Tensor) -> None:
        super().__init__()
        self.gain = nn.Parameter(variances / (variances + STD**2))
        self.log_std = nn.Parameter(0.5 * (STD**2 * self.gain.detach()).log())

    def forward(self, noisy: Tensor) -> Tensor:
        return torch.stack([self.gain * noisy, self.log_std.expand_as(noisy)], -1).flatten(1)


def make(leaf: Leaf, **settings: object) -> Model:
    torch.manual_seed(0)
    model = Config(hidden=8, latent_dim=4, **settings).build(leaf, None).double()  # type: ignore[arg-type]
    assert isinstance(model, Model)
    return model


def run(model: Model, n: int) -> Tensor:
    with torch.no_grad():
        drawn: Value = model.sample(SampleNoise(0, torch.arange(n)))
    return tensor(drawn).double()


def test_the_best_linear_denoiser_gives_the_score() -> None:
    """Alain & Bengio, theorem 1: training's gradient vanishes at S (S + s^2)^-1, whose residual is s^2 times
    the score of the noisy density, and nowhere near it."""
    noisy_covariance = COVARIANCE + STD**2 * torch.eye(2)
    best = COVARIANCE @ torch.linalg.inv(noisy_covariance)
    model = make(Leaf((2,), Real()), noise=STD)
    rows = 60_000
    chol = torch.linalg.cholesky(COVARIANCE)
    x = torch.randn(rows, 2, generator=generator("x"), dtype=torch.float64) @ chol.T

    def gradient(matrix: Tensor) -> float:
        network = nn.Linear(2, 2, bias=False).double()
        network.weight.data.copy_(matrix)
        fixed = nn.Linear(2, 4, bias=False).double()
        fixed.weight.data.copy_(torch.tensor([[1.0, 0], [0, 0], [0, 1.0], [0, 0]]))
        model.network.encoder, model.network.decoder = network, fixed.requires_grad_(False)
        model.error(x, TrainNoise(generator("noise"), rows, 0, rows)).mean().backward()
        assert network.weight.grad is not None
        return float(network.weight.grad.norm())

    assert gradient(best) < 0.03 < 0.2 < gradient(0.8 * best)
    noisy = torch.randn(5, 2, generator=generator("y"), dtype=torch.float64).requires_grad_()
    normal = torch.distributions.MultivariateNormal(torch.zeros(2).double(), noisy_covariance)
    (expected,) = torch.autograd.grad(normal.log_prob(noisy).sum(), noisy)
    torch.testing.assert_close(score(noisy @ best.T, noisy, STD), expected)


def test_the_chain_with_the_true_posterior_keeps_normals() -> None:
    """From a start of unit variance, it reaches the variances of the data, not those of the start."""
    variances = torch.tensor([0.25, 4.0], dtype=torch.float64)
    model = make(Leaf((2,), Real()), noise=STD, steps=60)
    model.network.encoder, model.network.decoder = nn.Identity(), Posterior(variances)
    x = run(model, 20_000)
    torch.testing.assert_close(x.var(0), variances, rtol=0.04, atol=0)
    assert float(torch.corrcoef(x.T)[0, 1].abs()) < 0.03


class Bits(nn.Module):
    """Logits of bits given a masked input: certain where seen, those of the data where not."""

    def __init__(self, probs: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(probs.logit())

    def forward(self, seen: Tensor) -> Tensor:
        return torch.where(seen == 0, self.logits, 40 * seen)


def test_the_chain_with_the_true_posterior_keeps_bits() -> None:
    probs = torch.tensor([0.1, 0.5, 0.8], dtype=torch.float64)
    model = make(Leaf((3,), Binary()), noise=0.6, steps=40)
    model.network.encoder, model.network.decoder = nn.Identity(), Bits(probs)
    torch.testing.assert_close(run(model, 20_000).mean(0), probs, rtol=0, atol=0.012)


def test_corruptions_hit_the_share_they_should() -> None:
    x = torch.full((20_000, 4), 2)
    for name, kept in (("masking", 0.7), ("replacing", 0.7 + 0.3 / 5)):
        model = make(Leaf((4,), Categorical(5)), corruption=name, noise=0.6)
        corrupted = model.corrupt(x, SampleNoise(1, torch.arange(len(x)))).view(-1, 4, 5)
        assert abs(float(corrupted[..., 2].mean()) - kept) < 0.01, name
