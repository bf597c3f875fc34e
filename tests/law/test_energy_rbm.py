"""Laws of the restricted Boltzmann machine, by enumeration of every state."""

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Binomial

from genloom.core.events import Binary, Bounded, Categorical, Leaf
from genloom.core.objective import Clock
from genloom.core.randomness import Noise, SampleNoise, TrainNoise, generator
from genloom.families.energy_rbm import CARD, Config, Model, Weights, binomial, free_energy, gibbs

SHAPE, HIDDEN = (2, 2), 5
TOPS = [1, 2]


def all_states(top: int, dim: int) -> Tensor:
    return torch.tensor(list(itertools.product(range(top + 1), repeat=dim)), dtype=torch.float64)


def tiny(top: int, scale: float = 1.0) -> Model:
    torch.manual_seed(3)
    leaf = Leaf(SHAPE, Binary() if top == 1 else Categorical(top + 1, ordered=True))
    config = Config(hidden=HIDDEN, particles=300, temperatures=100, sample_temperatures=30, sample_steps=10)
    model = config.build(leaf, None).double()
    assert isinstance(model, Model)
    with torch.no_grad():
        model.w.normal_(0, scale)
        model.b.normal_(0, 0.5)
        model.c.normal_(0, 0.5)
        model.mean.copy_(torch.tensor([0.2, 0.4, 0.6, 0.7]) * top)
    return model


def exact(model: Model) -> tuple[Tensor, float]:
    """Return p(v) of all states and log Z."""
    minus = -model.energy(all_states(model.top, 4)).detach()
    return minus.softmax(0), float(minus.logsumexp(0))


def noise(rows: int, seed: int = 0) -> Noise:
    return SampleNoise(seed, torch.arange(rows))


@pytest.mark.parametrize("top", TOPS)
def test_free_energy_is_the_marginal_over_hidden_states(top):
    model = tiny(top)
    rbm = model.weights()
    v, h = all_states(top, 4), all_states(1, HIDDEN)
    joint = (v @ rbm.b)[:, None] + h @ rbm.c + v @ rbm.w @ h.T
    fair = Binomial(top, probs=torch.tensor(0.5, dtype=torch.float64))
    ways = fair.log_prob(v).sum(1) + 4 * top * math.log(2)
    marginal = joint.logsumexp(1) + ways
    torch.testing.assert_close(model.energy(v), -marginal)
    torch.testing.assert_close(model.energy(v.long().view(-1, *SHAPE)), -marginal)


@pytest.mark.parametrize("top", TOPS)
def test_log_z_by_annealing_is_exact_to_a_tenth_of_a_nat(top):
    model = tiny(top)
    p, log_z = exact(model)
    found = model.log_partition()
    assert abs(found.estimate - log_z) < 0.1
    assert found.lower < log_z < found.upper
    assert found.upper - found.lower < 0.5
    states = all_states(top, 4).long().view(-1, *SHAPE)
    scored = model.log_prob(states, noise=noise(len(states)))
    assert not scored.value.requires_grad
    assert abs(float(scored.value.exp().sum()) - 1) < 0.1
    torch.testing.assert_close(scored.value, p.log(), atol=0.1, rtol=0)
    assert scored.stderr is not None
    assert 0 < float(scored.stderr[0]) < 0.1


def test_log_z_follows_the_weights():
    model = tiny(1)
    before = model.known_log_partition()
    assert model.known_log_partition() is before
    with torch.no_grad():
        model.b += 0.5
    _, log_z = exact(model)
    assert abs(model.known_log_partition().estimate - log_z) < 0.1
    assert abs(before.estimate - log_z) > 0.2


@pytest.mark.parametrize("top", TOPS)
def test_gibbs_conditionals_are_in_detailed_balance(top):
    model = tiny(top)
    rbm, v, h = model.weights(), all_states(top, 4), all_states(1, HIDDEN)
    given_v = Binomial(1, logits=rbm.hidden(v)[:, None]).log_prob(h).sum(2).exp()
    given_h = Binomial(top, logits=rbm.visible(h)[:, None]).log_prob(v).sum(2).exp()
    flow = exact(model)[0][:, None] * (given_v @ given_h)
    torch.testing.assert_close(flow, flow.T)
    torch.testing.assert_close(flow.sum(), torch.tensor(1.0, dtype=torch.float64))


@pytest.mark.parametrize("top", TOPS)
def test_gibbs_keeps_the_model_distribution(top):
    model = tiny(top, scale=0.7)
    p, _ = exact(model)
    rows = 20_000
    source = TrainNoise(generator("test"), rows, 0, rows)
    v = all_states(top, 4)[source.categorical(p.log().expand(rows, -1))]
    after = gibbs(v, model.weights(), source, 3)
    assert distance(after, p, top) < 0.04


@pytest.mark.parametrize("top", TOPS)
def test_samples_follow_the_model(top):
    model = tiny(top)
    p, _ = exact(model)
    x = model.sample(noise(6_000))
    assert x.dtype == torch.int64
    assert x.shape == (6_000, *SHAPE)
    assert distance(x.flatten(1), p, top) < 0.06


def distance(v: Tensor, p: Tensor, top: int) -> float:
    """Return the total variation between states (B, 4) and probabilities of all states."""
    code = (v.double() @ torch.tensor([float((top + 1) ** i) for i in (3, 2, 1, 0)]).double()).long()
    seen = torch.bincount(code, minlength=len(p)).double() / len(v)
    return 0.5 * float((seen - p).abs().sum())


def test_a_sample_does_not_depend_on_its_neighbours():
    model = tiny(2)
    assert torch.equal(model.sample(noise(7))[:3], model.sample(noise(3)))


class Fixed(Noise):
    """Uniforms given in advance."""

    def __init__(self, u: Tensor) -> None:
        self.u = u

    def uniform(self, *shape: int) -> Tensor:
        return self.u.view(-1, *shape)

    def normal(self, *shape: int) -> Tensor:
        raise NotImplementedError


@pytest.mark.parametrize("top", [2, 16, 255])
@pytest.mark.parametrize("logit", [-40.0, -3.0, -0.1, 0.0, 0.7, 5.0, 40.0])
def test_binomial_draws_invert_the_distribution(top, logit):
    u = torch.linspace(0.0005, 0.9995, 500, dtype=torch.float64)
    drawn = binomial(torch.full((500, 1), logit, dtype=torch.float64), top, Fixed(u))[:, 0]
    law = Binomial(top, logits=torch.tensor(logit, dtype=torch.float64))
    cumulative = law.log_prob(torch.arange(top + 1, dtype=torch.float64)).exp().cumsum(0)
    quantile = torch.searchsorted(cumulative, u).double()
    expected = quantile if logit <= 0 else quantile.flip(0)
    assert (drawn - expected).abs().max() <= (0 if abs(logit) < 30 else 1e-9)


@pytest.mark.parametrize("top", TOPS)
def test_persistent_gradient_is_that_of_the_likelihood(top):
    model = tiny(top, scale=0.5)
    config = Config(hidden=HIDDEN, chains=20_000, k=3, batch_size=64)
    objective = config.stages(model)[0].objective
    assert objective is not None
    chains, contrast = (p for p in objective.phases if p.name in ("chains", "contrast"))
    x = all_states(top, 4)[torch.arange(64) % 16].view(-1, *SHAPE)
    for step in range(8):
        assert chains.update is not None
        with torch.no_grad():
            chains.update({"x": x}, noise(64, step), Clock(step, 8))
    assert contrast.loss is not None
    loss = contrast.loss({"x": x}, noise(64), Clock(0, 1)).total
    found = torch.autograd.grad(loss, list(model.parameters()))
    likelihood = -model.energy(x).mean() - (-model.energy(all_states(top, 4))).logsumexp(0)
    for a, b in zip(found, torch.autograd.grad(-likelihood, list(model.parameters())), strict=True):
        torch.testing.assert_close(a, b, atol=0.02 * top, rtol=0)


@pytest.mark.parametrize("algorithm", ["cd", "pcd"])
def test_training_brings_the_model_to_the_data(algorithm):
    torch.manual_seed(0)
    leaf = Leaf((4,), Binary())
    x = torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 1], [0, 0, 1, 1]]).repeat(16, 1)
    config = Config(hidden=6, algorithm=algorithm, k=2, chains=64, batch_size=64, lr=0.03)
    model = config.build(leaf, None)
    assert isinstance(model, Model)
    objective = config.stages(model)[0].objective
    assert objective is not None
    optimiser = torch.optim.Adam(model.parameters(), config.lr)
    nats = []
    for step in range(200):
        optimiser.param_groups[0]["lr"] = config.lr * (1 - step / 200)
        for phase in objective.phases:
            own = TrainNoise(generator(algorithm, phase.name, step), 64, 0, 64)
            if phase.update is not None:
                with torch.no_grad():
                    phase.update({"x": x}, own, Clock(step, 200))
            if phase.loss is not None:
                optimiser.zero_grad()
                phase.loss({"x": x}, own, Clock(step, 200)).total.backward()
                optimiser.step()
        with torch.no_grad():
            log_z = (-model.energy(all_states(1, 4))).logsumexp(0)
            nats.append(float(model.energy(x).mean() + log_z))
    entropy = 1.5 * math.log(2)
    assert nats[0] - entropy > 1.0
    assert nats[-1] - entropy < 0.35


def test_the_untrained_model_is_independent_units_with_the_mean_of_the_data():
    model = Config(hidden=4).build(Leaf((3,), Binary()), None)
    assert isinstance(model, Model)
    with torch.no_grad():
        model.w.zero_()
        model.mean.copy_(torch.tensor([0.1, 0.5, 0.9]))
    p = (-model.energy(all_states(1, 3)).detach()).softmax(0).double()
    torch.testing.assert_close((p @ all_states(1, 3)).float(), model.mean)


def test_state_survives_saving():
    model, other = tiny(2), tiny(2, scale=0.1)
    other.load_state_dict(model.state_dict())
    x = all_states(2, 4).long().view(-1, *SHAPE)
    assert torch.equal(
        model.log_prob(x, noise=noise(len(x))).value, other.log_prob(x, noise=noise(len(x))).value
    )


def test_card_takes_levels_and_bits_only():
    first = [accepts(Leaf((1, 8, 8), Categorical(17, ordered=True))) for accepts in CARD.events]
    assert first[0]
    assert not any(accepts(Leaf((3,), Categorical(5))) for accepts in CARD.events)
    assert not any(accepts(Leaf((3,), Bounded(0, 1))) for accepts in CARD.events)


def test_pure_free_energy_of_zero_weights_counts_states():
    rbm = Weights(torch.zeros(3, 2), torch.zeros(3), torch.zeros(2), 4)
    total = (-free_energy(all_states(4, 3).float(), rbm)).logsumexp(0)
    torch.testing.assert_close(total, torch.tensor(2.0).log() * (3 * 4 + 2))
