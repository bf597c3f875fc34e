"""The three players of a VAE-GAN: what each lowers, and that it moves alone."""

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from genloom.core.errors import ConfigError
from genloom.core.events import Bounded, Leaf
from genloom.core.objective import Clock, Loss, Objective
from genloom.core.randomness import TrainNoise, generator
from genloom.families.hybrid_vaegan import Config, Model, unit_power
from genloom.train.state import State
from genloom.train.step import Rhythm, train_step
from genloom.train.stream import Order, Stream

LEAF = Leaf((1, 2, 2), Bounded(-1, 1, levels=5))
CONFIG = Config(latent_dim=2, hidden=4, gamma=2.0, kl_weight=0.5, gradient_penalty=3.0, batch_size=6)
ROWS = 6


def made() -> tuple[Model, Objective]:
    torch.manual_seed(0)
    model = CONFIG.build(LEAF, None).double()
    assert isinstance(model, Model)
    objective = CONFIG.stages(model)[0].objective
    assert objective is not None
    return model, objective


def real() -> Tensor:
    return torch.randint(5, (ROWS, 1, 2, 2), generator=generator("vaegan")).double() / 2 - 1


def noise() -> TrainNoise:
    return TrainNoise(generator("noise"), ROWS, 0, ROWS)


def lowered(objective: Objective) -> dict[str, Loss]:
    """Return the loss of every phase, all with the same noise."""
    return {p.name: p.loss({"x": real()}, noise(), Clock(1, 2)) for p in objective.phases if p.loss}


def through(model: Model) -> tuple[Normal, Tensor, Tensor]:
    """Return the posterior, rebuilt items and drawn ones, from the same noise by another road."""
    mean, log_std = model.encoder(real().flatten(1)).chunk(2, 1)
    same, posterior = noise(), Normal(mean, log_std.exp())
    z = mean + log_std.exp() * same.normal(2).double()
    label = torch.zeros(ROWS, dtype=torch.int64)
    return posterior, model.decoder(z, label), model.decoder(same.normal(2).double(), label)


def first_layer(model: Model, x: Tensor) -> Tensor:
    linear = model.critic.body[1]  # type: ignore[index]
    assert isinstance(linear, nn.Linear)
    return unit_power(F.leaky_relu(linear(x.flatten(1)), 0.2))


def test_the_encoder_lowers_a_bound_with_normal_features() -> None:
    """Equation 8 without its adversarial term: KL, and half the squared distance of features."""
    model, objective = made()
    terms = lowered(objective)["encoder"].terms
    posterior, rebuilt, _ = through(model)
    kl = kl_divergence(posterior, Normal(torch.zeros(2).double(), 1.0)).sum(1).mean()
    torch.testing.assert_close(terms["kl"], 0.5 * kl)
    gap = Normal(first_layer(model, rebuilt), 1.0).log_prob(first_layer(model, real()))
    peak = Normal(0.0, 1.0).log_prob(torch.zeros(()))
    torch.testing.assert_close(terms["error"], (peak - gap).sum(1).mean())


def test_the_discriminator_tells_real_from_both_false() -> None:
    """Binary cross-entropy on real items and on an even mixture of rebuilt and drawn ones; and the slope."""
    model, objective = made()
    terms = lowered(objective)["discriminator"].terms
    _, rebuilt, drawn = through(model)
    false = torch.cat([model.judge(rebuilt), model.judge(drawn)])
    entropy = F.binary_cross_entropy_with_logits
    torch.testing.assert_close(terms["false"], entropy(false, torch.zeros_like(false)))
    judged = model.judge(real())
    torch.testing.assert_close(terms["real"], entropy(judged, torch.ones_like(judged)))
    slopes = [torch.autograd.functional.jacobian(lambda one: model.judge(one[None])[0], x) for x in real()]
    expected = 1.5 * torch.stack(slopes).square().flatten(1).sum(1).mean()
    torch.testing.assert_close(terms["slope"], expected)


def test_the_decoder_answers_both() -> None:
    model, objective = made()
    terms = lowered(objective)["decoder"].terms
    _, rebuilt, drawn = through(model)
    false = torch.cat([model.judge(rebuilt), model.judge(drawn)])
    fooled = F.binary_cross_entropy_with_logits(false, torch.ones_like(false))
    torch.testing.assert_close(terms["fooling"], fooled)
    gap = first_layer(model, rebuilt) - first_layer(model, real())
    torch.testing.assert_close(terms["error"], 2.0 * 0.5 * gap.square().mean())


@pytest.mark.parametrize("name", ["discriminator", "encoder", "decoder"])
def test_each_player_moves_alone(name: str) -> None:
    model, objective = made()
    alone = [phase for phase in objective.phases if phase.name == name]
    before = {n: p.clone() for n, p in model.named_parameters()}
    state = State.fresh(model, Objective(objective.groups, alone))
    stream = Stream(real(), None, lambda x, _: x)
    train_step(state, Rhythm(stream, Order(ROWS, 0), 0, "vaegan", 1, ROWS))
    moved = {n.split(".")[0] for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"critic" if name == "discriminator" else name}


def test_a_layer_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="3 hidden layers: layer cannot be 4"):
        Config(layer=4).build(LEAF, None)
