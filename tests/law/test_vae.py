"""The Gaussian VAE's formulas against torch.distributions, enumeration and a linear-Gaussian closed form."""

import math

import pytest
import torch
from torch import Tensor, nn

from genloom.core.errors import Unsupported
from genloom.core.events import Binary, Bounded, Categorical, Circular, Event, Leaf, Real
from genloom.core.likelihood import Bound
from genloom.core.objective import Clock
from genloom.core.randomness import SampleNoise, TrainNoise, generator
from genloom.families.vae_gaussian import Config
from genloom.nn.autoencoders import ConvDecoder, ConvEncoder, halvings
from genloom.nn.gaussian_vae import (
    NormalPosterior,
    StandardNormal,
    active_units,
    elbo_terms,
    free_bits,
    kl_of_normals,
    normal_log_prob,
)
from genloom.nn.likelihoods import DiscretisedLogistic, Names, Normal, Output, Softmax, output_for, to_input
from genloom.nn.vae import VAE, importance_weighted_bound
from genloom.testing import draw, require_legal


def noise(rows: int, seed: int = 0) -> SampleNoise:
    return SampleNoise(seed, torch.arange(rows))


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator("vae"), dtype=torch.float64)


def test_kl_is_that_of_two_normals() -> None:
    q, p = (randn(20, 4), randn(20, 4)), (randn(20, 4), randn(20, 4))
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(q[0], q[1].exp()), torch.distributions.Normal(p[0], p[1].exp())
    )
    torch.testing.assert_close(kl_of_normals(*q, *p), expected)


def test_free_bits_floor_the_mean_of_each_unit() -> None:
    kl = torch.tensor([[0.1, 3.0, 0.0], [0.5, 1.0, 0.0]], requires_grad=True)
    found = free_bits(kl, 0.5)
    assert found.item() == pytest.approx(0.5 + 2.0 + 0.5)
    found.backward()
    assert kl.grad is not None
    assert kl.grad.tolist() == [[0, 0.5, 0], [0, 0.5, 0]]
    assert free_bits(kl, 0.0).item() == pytest.approx(kl.sum(1).mean().item())


def test_active_units_vary_with_the_item() -> None:
    mean = torch.tensor([[0.0, 5.0, 1.0], [0.21, 5.0, 1.1], [0.0, 5.0, 1.2]])
    assert active_units(mean).item() == 0
    assert active_units(mean * 10).item() == 2


def test_normal_log_density() -> None:
    z, mean, log_std = randn(20, 4), randn(20, 4), randn(20, 4)
    expected = torch.distributions.Normal(mean, log_std.exp()).log_prob(z).sum(1)
    torch.testing.assert_close(normal_log_prob(z, mean, log_std), expected)


def test_importance_weighted_bound_is_the_log_of_a_mean() -> None:
    weights = randn(8, 5)
    torch.testing.assert_close(importance_weighted_bound(weights), weights.exp().mean(0).log())


@pytest.mark.parametrize("k", [2, 3, 17, 256])
def test_discretised_logistic_sums_to_one(k: int) -> None:
    output = DiscretisedLogistic(k)
    parameters = 3 * randn(50, 2).clamp(-2, 2)
    levels = torch.arange(k)
    total = output.log_prob(parameters[:, None].expand(-1, k, -1), levels.expand(50, k)).exp().sum(1)
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-9, rtol=0)


def test_discretised_logistic_is_a_difference_of_sigmoids() -> None:
    output = DiscretisedLogistic(9)
    parameters = torch.tensor([[0.3, 1.0]], dtype=torch.float64)
    edges = (torch.arange(10).double() - 0.5) * (2 / 8) - 1
    edges[0], edges[-1] = -math.inf, math.inf
    cdf = torch.sigmoid((edges - 0.3) / math.exp(-1))
    found = output.log_prob(parameters.expand(9, -1), torch.arange(9)).exp()
    torch.testing.assert_close(found, cdf.diff())


OUTPUTS: list[tuple[Event, str]] = [
    (Leaf((2,), Binary()), "bernoulli"),
    (Leaf((2,), Categorical(4)), "softmax"),
    (Leaf((2,), Categorical(5, ordered=True)), "discretised_logistic"),
    (Leaf((2,), Real()), "gaussian"),
]


@pytest.mark.parametrize(("event", "name"), OUTPUTS, ids=[n for _, n in OUTPUTS])
def test_draws_have_the_density(event: Event, name: str) -> None:
    output, rows = output_for(event, name), 40_000
    parameters = randn(2, output_for(event, name).parameters_per_scalar).expand(rows, -1, -1)
    drawn = output.draw(parameters, noise(rows))
    require_legal(event, drawn, rows)
    nats = output.log_prob(parameters, drawn)
    assert nats.shape == (rows, 2)
    for scalar in range(2):
        entropy, spread = entropy_of(output, parameters[0, scalar], event)
        assert abs(-float(nats[:, scalar].mean()) - entropy) < 5 * spread / math.sqrt(rows) + 1e-6


def entropy_of(output: Output, parameters: Tensor, event: Event) -> tuple[float, float]:
    """Return the entropy of one scalar and the standard deviation of its log-probability."""
    if isinstance(output, Normal):
        return 0.5 * math.log(2 * math.pi * math.e) + float(parameters[1]), math.sqrt(0.5)
    assert isinstance(event, Leaf)
    k = event.kind.k if isinstance(event.kind, Categorical) else 2
    nats = output.log_prob(parameters.expand(k, -1), torch.arange(k))
    mean = (nats.exp() * nats).sum()
    return -float(mean), float((nats.exp() * (nats - mean) ** 2).sum().sqrt())


def test_outputs_are_chosen_by_kind() -> None:
    assert isinstance(output_for(Leaf((1,), Categorical(17, ordered=True))), Softmax)
    assert isinstance(output_for(Leaf((1,), Categorical(256, ordered=True))), DiscretisedLogistic)
    assert isinstance(output_for(Leaf((1,), Categorical(256))), Names)
    assert isinstance(output_for(Leaf((1,), Bounded(0, 1))), Normal)
    for event, name in ((Leaf((1,), Circular()), "auto"), (Leaf((1,), Real()), "softmax")):
        with pytest.raises(Unsupported, match="does not fit"):
            output_for(event, name)


def test_inputs_are_scaled_to_one() -> None:
    k = Leaf((3,), Categorical(5, ordered=True))
    assert to_input(k, torch.tensor([0, 2, 4]), torch.float64).tolist() == [-1, 0, 1]
    assert to_input(Leaf((2,), Binary()), torch.tensor([0, 1]), torch.float32).tolist() == [-1, 1]


class Slope(nn.Module):
    """A linear map that may ignore its input's last columns."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


def linear_gaussian(optimal: bool, samples: int) -> tuple[VAE, Tensor, Tensor]:
    """Return a linear VAE without gradients, items, and their exact log-densities.

    x = a z + b + s e with z and e standard normal, so x ~ N(b, a a' + s^2 I), and q(z|x) is normal.
    """
    a, b, s = (
        torch.tensor([[0.8, -0.5]], dtype=torch.float64),
        torch.tensor([0.3, 0.1], dtype=torch.float64),
        0.6,
    )
    variance = 1 / (1 + float((a**2).sum()) / s**2)
    gain = variance * a.T / s**2 if optimal else torch.zeros(2, 1, dtype=torch.float64)
    spread = 0.5 * math.log(variance) if optimal else 0.0
    encoder = Slope(
        torch.cat([gain, torch.zeros(2, 1)], 1),
        torch.stack([-(b @ gain)[0], torch.tensor(spread, dtype=torch.float64)]),
    )
    decoder = Slope(
        torch.stack([a[0], torch.zeros(2)], -1).view(1, 4).double(),
        torch.stack([b, torch.full((2,), math.log(s))], -1).view(4).double(),
    )
    event = Leaf((2,), Real())
    parts = NormalPosterior(encoder), StandardNormal(1), decoder, output_for(event)
    model = VAE(event, *parts, 0, samples, "typical").requires_grad_(False)
    x = randn(400, 1) @ a + b + s * randn(400, 2)
    exact = torch.distributions.MultivariateNormal(b, a.T @ a + s**2 * torch.eye(2, dtype=torch.float64))
    return model, x, exact.log_prob(x)


def test_bound_is_exact_where_the_posterior_is() -> None:
    model, x, exact = linear_gaussian(optimal=True, samples=1)
    scored = model.log_prob(x, noise=noise(len(x)))
    assert scored.kind is Bound.LOWER
    torch.testing.assert_close(scored.value, exact)
    terms = elbo_terms(model, x, None, noise(len(x)))
    assert abs(float((-terms.reconstruction - terms.kl.sum(1) - exact).mean())) < 0.15


def test_bound_is_below_and_rises_with_the_number_of_samples() -> None:
    means = []
    for samples in (1, 4, 32, 500):
        model, x, exact = linear_gaussian(optimal=False, samples=samples)
        means.append(float((model.log_prob(x, noise=noise(len(x))).value - exact).mean()))
    assert means == sorted(means)
    assert means[0] < -0.3
    assert -0.02 < means[-1] < 0.01
    terms = elbo_terms(model, x, None, noise(len(x), seed=1))
    assert float((-terms.reconstruction - terms.kl.sum(1) - exact).mean()) < means[1]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (1, 28, 28), (2, 9, 13), (1, 4, 5)])
def test_convolutions_keep_the_shape(shape: tuple[int, int, int]) -> None:
    encoder, decoder = ConvEncoder(shape, 4, 6, 2), ConvDecoder(shape, 4, 5, 3)
    assert encoder(torch.zeros(2, math.prod(shape) + 2)).shape == (2, 6)
    assert decoder(torch.zeros(2, 5)).shape == (2, math.prod(shape) * 3)
    assert min(shape[1:]) / 2 ** halvings(*shape[1:]) >= 2


def test_convolutional_decoder_places_parameters_at_their_pixel() -> None:
    shape = (2, 8, 8)
    decoder = ConvDecoder(shape, 4, 5, 3)
    parameters = decoder(torch.randn(1, 5)).view(*shape, 3)
    maps = decoder.convs(decoder.start(torch.zeros(1, 5)).view(1, -1, *decoder.small))
    again = decoder(torch.zeros(1, 5)).view(*shape, 3)
    assert parameters.shape == (2, 8, 8, 3)
    torch.testing.assert_close(again[1, 3, 4, 2], maps[0, 1 * 3 + 2, 3, 4])


@pytest.mark.parametrize("network", ["mlp", "conv"])
@pytest.mark.parametrize("classes", [0, 3])
def test_networks_train_sample_and_score(network: str, classes: int) -> None:
    event = Leaf((3, 8, 8), Categorical(5, ordered=True))
    config = Config(network=network, channels=4, hidden=16, latent_dim=3, importance_samples=2)  # type: ignore[call-arg, arg-type]
    model = config.build(event, Leaf((), Categorical(classes)) if classes else None)
    x = draw(event, 6)
    labels = torch.arange(6) % classes if classes else None
    (stage,) = config.stages(model)
    assert stage.objective is not None
    (phase,) = stage.objective.phases
    assert phase.loss is not None
    batch = {"x": x} if labels is None else {"x": x, "cond": labels}
    loss = phase.loss(batch, TrainNoise(generator("x"), 6, 0, 6), Clock(5, 10))
    assert set(loss.terms) == {"reconstruction", "kl"}
    assert bool(loss.total.isfinite())
    assert isinstance(model, VAE)
    require_legal(event, model.sample(noise(6), labels), 6)
    assert model.log_prob(x, labels, noise=noise(6)).value.shape == (6,)
    assert model.encode(x, labels).shape == (6, 3)


def test_beta_grows_over_the_warmup() -> None:
    event = Leaf((4,), Binary())
    config = Config(beta=0.5, warmup=0.2, hidden=8, latent_dim=2)  # type: ignore[call-arg]
    model = config.build(event, None)
    (stage,) = config.stages(model)
    assert stage.objective is not None
    loss = stage.objective.phases[0].loss
    assert loss is not None
    found = [
        loss({"x": draw(event, 6)}, TrainNoise(generator("x"), 6, 0, 6), Clock(step, 100))
        for step in (0, 10, 20, 90)
    ]
    rates = [(f.terms["kl"] / f.logs["rate"]).item() for f in found]
    assert rates == pytest.approx([0, 0.25, 0.5, 0.5])


def test_emitted_draws_differ_from_typical_items() -> None:
    event = Leaf((1, 8, 8), Binary())
    settings = {"hidden": 8, "latent_dim": 2}
    torch.manual_seed(0)
    typical = Config(**settings).build(event, None)  # type: ignore[arg-type]
    drawn = Config(**settings, emit="draw").build(event, None)  # type: ignore[arg-type]
    drawn.load_state_dict(typical.state_dict())
    assert isinstance(typical, VAE)
    assert isinstance(drawn, VAE)
    a, b = typical.sample(noise(8)), drawn.sample(noise(8))
    require_legal(event, b, 8)
    assert not torch.equal(a, b)  # type: ignore[arg-type]
