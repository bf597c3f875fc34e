"""Laws of the Wasserstein GAN: the penalty's value, the distance its critic measures, and its samples."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from genloom.core.errors import ConfigError, DataError
from genloom.core.events import Bounded, Categorical, Leaf, Real, nearest_level
from genloom.core.objective import Clock, Phase
from genloom.core.randomness import SampleNoise, TrainNoise, generator
from genloom.families.gan_wgan_gp import (
    CARD,
    Config,
    Model,
    gradient_penalty,
    interpolate,
)
from genloom.nn.adversarial import gradient_norm, widths
from genloom.train.state import State
from genloom.train.step import Rhythm, train_step
from genloom.train.stream import Order, Stream

LABEL = Leaf((), Categorical(3))
IMAGE = Leaf((1, 8, 8), Bounded(-1, 1, levels=17))
VECTOR = Leaf((5,), Real())
EVENTS = {
    "image": (IMAGE, Config(latent_dim=6, channels=(4, 8), batch_size=16)),
    "odd colour image": (Leaf((3, 7, 9), Bounded(0, 3, levels=4)), Config(latent_dim=6, channels=(4, 8))),
    "tiny image": (Leaf((1, 2, 3), Bounded(-1, 1, levels=2)), Config(latent_dim=6, hidden=16)),
    "vector": (VECTOR, Config(latent_dim=6, hidden=16, layers=2)),
    "real image": (Leaf((1, 4, 4), Real()), Config(latent_dim=6, hidden=16)),
}
every_event = pytest.mark.parametrize(("event", "config"), EVENTS.values(), ids=EVENTS)


def make(event: Leaf, config: Config, cond: Leaf | None = LABEL) -> Model:
    torch.manual_seed(0)
    return config.build(event, cond).double()


def train_noise(rows: int) -> TrainNoise:
    return TrainNoise(generator("test"), rows, 0, rows)


def rows_of(event: Leaf, count: int) -> Tensor:
    x = torch.randn(count, *event.extents, generator=generator("data"), dtype=torch.float64)
    kind = event.kind
    return nearest_level(x.clamp(kind.lo, kind.hi), kind) if isinstance(kind, Bounded) else x


def train(model: Model, config: Config, x: Tensor, steps: int, only: str | None = None) -> dict[str, float]:
    """Train by the phases, or only one of them; return the last figures."""
    objective = config.stages(model)[0].objective
    assert objective is not None
    objective = replace(objective, phases=[p for p in objective.phases if only in (None, p.name)])
    cond = torch.arange(len(x)) % LABEL.kind.k if model.classes else None
    rhythm = Rhythm(Stream(x, cond, lambda v, _: v), Order(len(x), 0), 0, "gan", steps, config.batch_size)
    state = State.fresh(model, objective)
    return [train_step(state, rhythm) for _ in range(steps)][-1]


def critic_phase(model: Model, config: Config) -> Phase:
    objective = config.stages(model)[0].objective
    assert objective is not None
    return objective.phases[0]


def test_penalty_of_a_linear_critic() -> None:
    w = torch.tensor([3.0, 0.0, -4.0], dtype=torch.float64, requires_grad=True)
    x = torch.randn(7, 3, dtype=torch.float64, generator=generator("x"))
    norm = gradient_norm(lambda x: x @ w + 2, x)
    penalty = gradient_penalty(norm)
    torch.testing.assert_close(norm, torch.full((7,), 5.0, dtype=torch.float64))
    torch.testing.assert_close(penalty.item(), 16.0)
    (slope,) = torch.autograd.grad(penalty, w)
    torch.testing.assert_close(slope, 2 * (5 - 1) * w.detach() / 5)


@pytest.mark.parametrize("name", ["image", "vector"])
def test_penalty_differentiates_twice_through_the_critic(name: str) -> None:
    event, config = EVENTS[name]
    critic = make(event, config).critic
    x, label = rows_of(event, 4), torch.arange(4)
    weight = critic.head.weight

    def penalty() -> Tensor:
        return gradient_penalty(gradient_norm(lambda points: critic(points, label), x))

    (slope,) = torch.autograd.grad(penalty(), weight)
    direction = torch.randn(weight.shape, generator=generator("direction"), dtype=torch.float64)
    sides = []
    for step in (1e-6, -1e-6):
        with torch.no_grad():
            weight += step * direction
        sides.append(penalty().item())
        with torch.no_grad():
            weight -= step * direction
    assert (slope * direction).sum().item() == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=1e-5)


def test_interpolation_runs_from_fake_to_real() -> None:
    x, fake = torch.randn(2, 3, 1, 2, 2, dtype=torch.float64)
    share = torch.tensor([0.0, 1.0, 0.25], dtype=torch.float64)
    expected = torch.stack([fake[0], x[1], 0.25 * x[2] + 0.75 * fake[2]])
    torch.testing.assert_close(interpolate(x, fake, share), expected)


@pytest.mark.parametrize("distance", [0.5, 2.0])
def test_critic_measures_the_distance_of_two_points(distance: float) -> None:
    """A slope s scores s d - weight (s - 1)^2, best at s = 1 + d / (2 weight): just above W1 = d.

    In three dimensions, as on a line the penalty's barrier at s = 0 would keep a critic of the wrong sign.
    """
    config = Config(hidden=32, layers=2, gradient_penalty_weight=10.0, lr=2e-2, batch_size=4)
    model = make(Leaf((3,), Real()), config, None)
    with torch.no_grad():
        for p in model.generator.parameters():
            p.zero_()
    x = torch.tensor([1.0, -2.0, 2.0], dtype=torch.float64).mul(distance / 3).expand(4, 3)
    figures = train(model, config, x, 150, only="critic")
    estimate = -figures["critic/negative_distance"]
    assert estimate == pytest.approx(distance * (1 + distance / 20), rel=0.02)
    assert figures["critic/gradient_norm"] == pytest.approx(1 + distance / 20, rel=0.02)


@every_event
@pytest.mark.parametrize(("trained", "other"), [("critic", "generator"), ("generator", "critic")])
def test_a_phase_moves_its_own_group_only(event: Leaf, config: Config, trained: str, other: str) -> None:
    model = make(event, config)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(model, config, rows_of(event, 64), 1, only=trained)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert not {name for name in moved if name.startswith(other)}
    assert moved == {name for name in before if name.startswith(trained)}


@every_event
def test_samples_do_not_depend_on_the_batch(event: Leaf, config: Config) -> None:
    model = make(event, config).eval()
    label = torch.arange(9) % 4
    together = model.sample(SampleNoise(3, torch.arange(9)), label)
    alone = [model.sample(SampleNoise(3, torch.tensor([i])), label[i : i + 1]) for i in range(9)]
    assert isinstance(together, Tensor)
    assert together.shape == (9, *event.extents)
    torch.testing.assert_close(together, torch.cat(alone))


@pytest.mark.parametrize("name", ["image", "odd colour image", "tiny image"])
def test_samples_are_levels_of_the_event(name: str) -> None:
    event, config = EVENTS[name]
    model = make(event, config).eval()
    with torch.no_grad():
        for p in model.generator.parameters():
            p *= 4
    x = model.sample(SampleNoise(3, torch.arange(50)))
    levels = torch.linspace(event.kind.lo, event.kind.hi, event.kind.levels, dtype=torch.float64)
    assert (x[..., None] - levels).abs().amin(-1).max() < 1e-12
    assert len(x.unique()) == event.kind.levels


@every_event
def test_class_changes_the_sample_of_the_same_noise(event: Leaf, config: Config) -> None:
    model = make(event, config).eval()
    noise = SampleNoise(3, torch.zeros(3, dtype=torch.int64))
    codes = model.generate(noise, torch.arange(3))
    assert min((codes[i] - codes[j]).abs().max() for i, j in [(0, 1), (0, 2), (1, 2)]) > 1e-3


def test_no_class_is_the_mixture_of_the_classes_seen() -> None:
    event, config = EVENTS["vector"]
    model = make(event, config).eval()
    model.counts.copy_(torch.tensor([0.0, 10.0, 30.0]))
    index = torch.arange(2000)
    free = model.sample(SampleNoise(3, index))
    null = model.sample(SampleNoise(3, index), torch.full((2000,), 3))
    of_class = torch.stack([model.sample(SampleNoise(3, index), torch.full((2000,), k)) for k in range(3)])
    share = (of_class == free).all(-1).double().mean(1)
    torch.testing.assert_close(free, null)
    assert share.sum() == 1
    assert share[0] == 0
    assert share[2].item() == pytest.approx(0.75, abs=0.04)


def test_training_counts_the_classes() -> None:
    config = Config(hidden=4, batch_size=48)
    model = make(VECTOR, config)
    train(model, config, rows_of(VECTOR, 48), 3)
    assert model.counts.tolist() == [49.0, 49.0, 49.0]


def test_critic_gradient_in_bfloat16_points_the_same_way() -> None:
    config = Config(latent_dim=6, channels=(8, 16))
    torch.manual_seed(0)
    model = config.build(IMAGE, LABEL)
    batch = {"x": rows_of(IMAGE, 64).float(), "cond": torch.arange(64) % 3}
    gradients = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = critic_phase(model, config).loss(batch, train_noise(64), Clock(0, 1))
        assert {term.dtype for term in loss.terms.values()} == {torch.float32}
        weights = [m.weight for m in model.critic.modules() if hasattr(m, "weight")]
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss.total, weights)]))
    assert torch.cosine_similarity(*gradients, dim=0) > 0.999


@pytest.mark.parametrize("side", [8, 16, 28, 32, 33, 64])
def test_preset_suits_the_size(side: int) -> None:
    event = Leaf((1, side, side), Bounded(-1, 1, levels=256))
    config = Config.preset(event)
    assert 2 <= side >> len(config.channels) <= 3
    model = config.build(event, None)
    assert model.sample(SampleNoise(0, torch.arange(2))).shape == (2, 1, side, side)
    assert model.critic(torch.zeros(2, 1, side, side), torch.zeros(2)).shape == (2,)


def test_vectors_and_small_images_get_dense_layers() -> None:
    assert widths(7) == ()
    assert Config.preset(VECTOR).channels == ()


def test_refusals() -> None:
    assert not any(accepts(Leaf((1, 8, 8), Categorical(17, ordered=True))) for accepts in CARD.events)
    with pytest.raises(DataError, match="needs scaled grey levels or real numbers"):
        Config().build(Leaf((1, 8, 8), Categorical(17, ordered=True)), None)
    with pytest.raises(ConfigError, match="give fewer channels"):
        Config(channels=(8, 8, 8, 8)).build(IMAGE, None)
    with pytest.raises(ConfigError, match="class label"):
        Config().build(VECTOR, VECTOR)
