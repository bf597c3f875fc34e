"""Laws of diffusion.ddpm, with exact denoisers in place of the network."""

import math

import pytest
import torch
from torch import nn

from genloom.core.errors import GenloomError
from genloom.core.events import Bounded, Categorical, Leaf, Real
from genloom.core.likelihood import Bound
from genloom.core.objective import Clock
from genloom.core.randomness import SampleNoise, TrainNoise, generator
from genloom.families.diffusion_ddpm import Config, mixture
from genloom.math import schedules
from genloom.math.mixtures import prediction

MEAN, STD = torch.tensor([0.7, -0.4]).double(), torch.tensor([0.5, 1.2]).double()
VECTOR, CLASSES = Leaf((2,), Real()), Leaf((), Categorical(3))
CHANCES = torch.tensor([0.6, 0.1, 0.3]).double()
PIXEL = Leaf((1, 1, 1), Bounded(-1, 1, levels=3))


class Fraction(nn.Module):
    """An embedding that passes the time on."""

    def forward(self, time, label):  # noqa: ARG002
        return time


class Exact(nn.Module):
    """The output that follows from a formula for E[x_0 | x_t]."""

    def __init__(self, expectation, alpha_bar, predicted):
        super().__init__()
        self.expectation, self.alpha_bar, self.predicted = expectation, alpha_bar, predicted

    def forward(self, x, fraction):
        time = (fraction * (len(self.alpha_bar) - 1)).round().long()
        abar = self.alpha_bar[time].view(-1, *(1,) * (x.dim() - 1))
        x0 = self.expectation(x, abar)
        eps = (x - abar.sqrt() * x0) / (1 - abar).sqrt()
        return prediction(self.predicted, mixture(abar)).of(x0, eps)


def gaussian(mean, std):
    def expectation(x, abar):
        gain = std**2 * abar.sqrt() / (abar * std**2 + 1 - abar)
        return mean + gain * (x - abar.sqrt() * mean)

    return expectation


def discrete(x, abar):
    levels = torch.tensor([-1.0, 0.0, 1.0], dtype=x.dtype)
    log_p = CHANCES.log() - (x.unsqueeze(-1) - abar.sqrt().unsqueeze(-1) * levels) ** 2 / (
        2 * (1 - abar)
    ).unsqueeze(-1)
    return (log_p.softmax(-1) * levels).sum(-1)


def exact_model(event, expectation, **settings):
    config = Config(widths=(16,), depths=(1,), hidden=8, layers=1, embedding=8, **settings)
    model = config.build(event, None).double()
    model.network = Exact(expectation, model.alpha_bar, model.predicted)
    model.embedding = Fraction()
    model.register_parameter("dtype", nn.Parameter(torch.zeros(1).double()))
    return model


def noise(rows, seed=0):
    return SampleNoise(seed, torch.arange(rows))


class Fixed(SampleNoise):
    """Normals that are given."""

    def __init__(self, z):
        super().__init__(0, torch.arange(len(z)))
        self.z = z

    def normal(self, *shape):  # noqa: ARG002
        return self.z


@pytest.mark.parametrize(
    ("predicted", "schedule"),
    [("v", "cosine"), ("v", "linear"), ("epsilon", "linear"), ("x0", "cosine")],
)
def test_ddim_maps_the_normal_onto_gaussian_data(predicted, schedule):
    settings = {"prediction": predicted, "schedule": schedule, "sampling_steps": 500}
    model = exact_model(VECTOR, gaussian(MEAN, STD), **settings)
    centre, above = model.sample(Fixed(torch.tensor([[0.0, 0.0], [1.0, 1.0]]).double()))
    torch.testing.assert_close(centre, MEAN, atol=0.02, rtol=0)
    torch.testing.assert_close(above - centre, STD, atol=0.02, rtol=0)


@pytest.mark.parametrize(
    "settings", [{"sampler": "ddpm", "variance": "forward"}, {"sampler": "ddim", "eta": 0.7}]
)
def test_random_samplers_reproduce_gaussian_data(settings):
    model = exact_model(VECTOR, gaussian(MEAN, STD), sampling_steps=200, **settings)
    x = model.sample(noise(8000))
    error = STD / math.sqrt(8000)
    assert ((x.mean(0) - MEAN).abs() < 4 * error + 0.01).all()
    assert ((x.std(0) - STD).abs() < 4 * error + 0.015).all()


def bound_and_truth(steps):
    model = exact_model(VECTOR, gaussian(MEAN, STD), timesteps=steps, variance="forward", bound_terms=steps)
    x = MEAN + STD * torch.tensor([0.5, -1.0]).double()
    log_p = model.log_prob(x.expand(500, 2), noise=noise(500))
    assert log_p.kind is Bound.LOWER
    return log_p.value, torch.distributions.Normal(MEAN, STD).log_prob(x).sum()


def test_bound_approaches_the_log_likelihood_from_below():
    coarse, truth = bound_and_truth(20)
    fine, _ = bound_and_truth(400)
    allowance = 4 * fine.std() / math.sqrt(500)
    assert coarse.mean() < fine.mean() < truth + allowance
    assert fine.mean() > truth - 0.15 - allowance


def test_bound_counts_the_noise_that_is_left_at_the_end():
    model = exact_model(
        VECTOR, gaussian(0 * MEAN, 1 + 0 * STD), timesteps=300, variance="forward", bound_terms=300
    )
    model.alpha_bar, model.timesteps = model.alpha_bar[:151], 150
    model.embedding.register_forward_hook(lambda _, inputs, time: time / 2)  # noqa: ARG005
    x = torch.tensor([1.5, -0.2]).double()
    value = model.log_prob(x.expand(500, 2), noise=noise(500)).value
    truth = torch.distributions.Normal(0, 1).log_prob(x).sum()
    assert abs(value.mean() - truth) < 4 * value.std() / math.sqrt(500) + 0.02


def test_few_strata_estimate_the_same_bound():
    x = MEAN.expand(4000, 2)
    few, all_terms = (
        exact_model(VECTOR, gaussian(MEAN, 0.5 * STD), timesteps=60, bound_terms=k).log_prob(
            x, noise=noise(4000)
        )
        for k in (6, 60)
    )
    error = math.sqrt((few.value.var() + all_terms.value.var()) / 4000)
    assert abs(few.value.mean() - all_terms.value.mean()) < 4 * error
    assert len(schedules.strata(2, 60, 6).count) <= 6


def test_bound_of_discrete_data_approaches_its_probabilities_from_below():
    model = exact_model(PIXEL, discrete, timesteps=300, bound_terms=300, cosine_offset=0.1)
    x = torch.tensor([-1.0, 0.0, 1.0]).double().repeat_interleave(300).view(-1, 1, 1, 1)
    value = model.log_prob(x, noise=noise(900)).value.view(3, 300)
    allowance = 4 * value.std(1) / math.sqrt(300)
    assert (value.mean(1) < CHANCES.log() + allowance).all()
    assert (value.mean(1) > CHANCES.log() - 0.1 - allowance).all()


@pytest.mark.parametrize("predicted", ["v", "epsilon", "x0"])
def test_training_error_vanishes_for_a_perfect_denoiser(predicted):
    model = exact_model(VECTOR, lambda x, abar: MEAN.expand_as(x), prediction=predicted)  # noqa: ARG005
    error = model.denoising_error(MEAN.expand(64, 2), torch.zeros(64).long(), noise(64))
    assert error.max() < 1e-8


def perturbed(event, **settings):
    """Return a model with random weights everywhere, so that its labels matter."""
    torch.manual_seed(0)
    config = Config(widths=(16, 16), depths=(1, 1), hidden=16, embedding=16, sampling_steps=4, **settings)
    model = config.build(event, CLASSES).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


IMAGE = Leaf((1, 5, 6), Bounded(-1, 1, levels=9))


@pytest.mark.parametrize("event", [IMAGE, VECTOR])
def test_guidance_runs_from_unconditional_to_conditional(event):
    x, time, label = (
        torch.randn(4, *event.extents).double(),
        torch.tensor([1, 9, 500, 1000]),
        torch.arange(4) % 3,
    )
    model = perturbed(event)
    given, without = model.predict(x, time, label), model.predict(x, time, torch.full((4,), 3))
    assert not torch.allclose(given, without)
    for scale, expected in ((1.0, given), (0.0, without), (2.5, 2.5 * given - 1.5 * without)):
        model.guidance_scale = scale
        torch.testing.assert_close(model.guided(x, time, label), expected)


@pytest.mark.parametrize("event", [IMAGE, VECTOR])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_samples_do_not_depend_on_their_batch(event, sampler):
    model, cond, some = (
        perturbed(event, sampler=sampler, guidance_scale=1.5),
        torch.arange(6) % 3,
        torch.tensor([4, 1]),
    )
    whole = model.sample(noise(6), cond)
    torch.testing.assert_close(model.sample(SampleNoise(0, some), cond[some]), whole[some])
    assert whole.shape == (6, *event.extents)


def test_samples_lie_on_the_levels():
    x = perturbed(IMAGE).sample(noise(5))
    torch.testing.assert_close((x + 1) * 4, ((x + 1) * 4).round())
    assert x.abs().max() <= 1


def test_training_draws_every_time_and_hides_labels_at_the_stated_rate():
    config = Config(hidden=8, embedding=8, label_dropout=0.25, timesteps=10)
    model = config.build(VECTOR, CLASSES)
    seen = []
    model.embedding.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    phase = config.stages(model)[0].objective.phases[0]
    batch = {"x": torch.randn(4000, 2), "cond": torch.zeros(4000).long()}
    loss = phase.loss(batch, TrainNoise(generator(0), 4000, 0, 4000), Clock(0, 1)).total
    assert loss.isfinite()
    time, label = seen
    assert (time * 10).round().unique().tolist() == list(range(1, 11))
    assert abs((label == 3).double().mean() - 0.25) < 0.03


def test_refuses_what_it_cannot_model():
    with pytest.raises(GenloomError, match="real or scaled"):
        Config().build(Leaf((1, 8, 8), Categorical(17, ordered=True)), None)
    with pytest.raises(GenloomError, match="levels"):
        Config(widths=(16,), depths=(1, 1)).build(IMAGE, None)
