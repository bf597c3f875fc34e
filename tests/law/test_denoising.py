"""Laws of diffusion models, with exact denoisers in place of the network."""

import itertools
import math
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from genloom.core.errors import GenloomError
from genloom.core.events import Bounded, Categorical, Leaf, Real
from genloom.core.likelihood import Bound
from genloom.core.objective import Clock
from genloom.core.randomness import SampleNoise, TrainNoise, generator
from genloom.math import bounds
from genloom.math.mixtures import Mixture, PredictionName
from genloom.math.paths import PATHS, PathName
from genloom.math.solvers import SamplerName
from genloom.nn.courses import Course, Weighting
from genloom.nn.denoising import Diffusion, traced
from genloom.nn.diffusing import Settings
from genloom.nn.walks import GridName, places

MEAN, STD = torch.tensor([0.7, -0.4]).double(), torch.tensor([0.5, 1.2]).double()
VECTOR, CLASSES = Leaf((2,), Real()), Leaf((), Categorical(3))
CHANCES = torch.tensor([0.6, 0.1, 0.3]).double()
PIXEL = Leaf((1, 1, 1), Bounded(-1, 1, levels=3))
IMAGE = Leaf((1, 5, 6), Bounded(-1, 1, levels=9))
COURSES: list[tuple[PathName, PredictionName]] = [
    ("cosine", "v"),
    ("cosine", "velocity"),
    ("vp", "epsilon"),
    ("subvp", "x0"),
    ("ve", "v"),
    ("straight", "velocity"),
]

Expectation = Callable[[Tensor, Mixture], Tensor]
"""Returns E[x_0 | x] for x and how it was mixed."""


def gaussian(mean: Tensor, std: Tensor) -> Expectation:
    def expectation(x: Tensor, seen: Mixture) -> Tensor:
        gain = std**2 * seen.data / (seen.data**2 * std**2 + seen.noise**2)
        return mean + gain * (x - seen.data * mean)

    return expectation


def discrete(x: Tensor, seen: Mixture) -> Tensor:
    levels = torch.tensor([-1.0, 0.0, 1.0], dtype=x.dtype)
    gap = x.unsqueeze(-1) - seen.data.unsqueeze(-1) * levels
    log_p = CHANCES.log() - gap**2 / (2 * seen.noise**2).unsqueeze(-1)
    return (log_p.softmax(-1) * levels).sum(-1)


def even(x: Tensor, seen: Mixture) -> Tensor:
    """Data spread evenly between -1.25 and 1.25: the mean of a normal that is cut off at both ends."""
    centre, std = x / seen.data, seen.noise / seen.data
    low, high = (-1.25 - centre) / std, (1.25 - centre) / std
    normal = torch.distributions.Normal(torch.zeros_like(x), torch.ones_like(x))
    mass = (normal.cdf(high) - normal.cdf(low)).clamp_min(1e-300)
    mean = centre + std * (normal.log_prob(low).exp() - normal.log_prob(high).exp()) / mass
    return mean.clamp(-1.25, 1.25)


def exact_model(event: Leaf, expectation: Expectation, **settings: Any) -> Diffusion:
    """Return a model whose network says what follows from a formula."""
    small: dict[str, Any] = {"widths": (16,), "depths": (1,), "hidden": 8, "layers": 1, "embedding": 8}
    model = Settings(**small, **settings).build(event, None).double()

    def output(x: Tensor, time: Tensor, label: Tensor) -> Tensor:  # noqa: ARG001
        seen = model.course.seen(time).to(x)
        x0 = expectation(x, seen)
        return model.course.told(time).to(x).of(x0, (x - seen.data * x0) / seen.noise)

    model.output = output  # type: ignore[method-assign]
    return model


def noise(rows: int, seed: int = 0) -> SampleNoise:
    return SampleNoise(seed, torch.arange(rows))


class Basis(SampleNoise):
    """The first row has no noise at all, the others a one in all scalars of one draw."""

    def __init__(self, rows: int) -> None:
        super().__init__(0, torch.arange(rows))
        self.rows, self.draws = rows, 0

    def normal(self, *shape: int) -> Tensor:
        z = torch.zeros(self.rows, *shape, dtype=torch.float64)
        self.draws += 1
        assert self.draws < self.rows
        z[self.draws] = 1
        return z


@pytest.mark.parametrize("sampler", get_args(SamplerName))
@pytest.mark.parametrize(("path", "predicted"), [COURSES[0], COURSES[-1]])
def test_every_sampler_draws_gaussian_data_to_a_percent(
    sampler: SamplerName, path: PathName, predicted: PredictionName
) -> None:
    """Samples are affine in the noise, so that their moments follow without a draw."""
    settings = {"path": path, "prediction": predicted, "sampler": sampler, "sampling_steps": 200}
    model = exact_model(VECTOR, gaussian(MEAN, STD), variance="forward", eta=0.3, **settings)
    centre, *moved = model.sample(Basis(203))
    assert ((centre - MEAN).abs() < 0.01 * STD).all()
    assert (((torch.stack(moved) - centre).square().sum(0).sqrt() / STD - 1).abs() < 0.01).all()


@pytest.mark.parametrize("grid", get_args(GridName))
@pytest.mark.parametrize(("path", "predicted"), COURSES)
def test_every_path_and_grid_leads_to_the_data(
    grid: GridName, path: PathName, predicted: PredictionName
) -> None:
    settings = {"path": path, "prediction": predicted, "grid": grid, "sampling_steps": 100}
    centre, above = exact_model(VECTOR, gaussian(MEAN, STD), **settings).sample(Basis(103))[:2]
    assert ((centre - MEAN).abs() < 0.02 * STD).all()
    assert (((above - centre) / STD - 1).abs() < 0.01).all()


@pytest.mark.parametrize("grid", get_args(GridName))
@pytest.mark.parametrize("moves", [1, 2, 7])
def test_grids_fall_from_noise_to_data(grid: GridName, moves: int) -> None:
    for path, _ in COURSES:
        times = places(grid, path, moves)
        assert len(times) == moves + 1
        assert (times[:-1].diff() < 0).all()
        assert float(times[-1]) == 0


@pytest.mark.parametrize(("path", "predicted"), [COURSES[0], COURSES[-1]])
@pytest.mark.parametrize("std", [1.0, 0.5])
def test_densities_of_gaussian_data_are_exact(path: PathName, predicted: PredictionName, std: float) -> None:
    """To a thousandth of a nat on average, which the path's end at a ratio of 2,000 costs."""
    settings = {"path": path, "prediction": predicted, "data_std": std, "likelihood": "ode"}
    model = exact_model(VECTOR, gaussian(MEAN, STD), tolerance=1e-6, **settings)
    x = MEAN + STD * torch.randn(20, 2, generator=generator("x")).double()
    off = model.log_prob(x, noise=noise(20)).value - torch.distributions.Normal(MEAN, STD).log_prob(x).sum(1)
    assert off.abs().mean() < 1e-3
    assert off.abs().max() < 2e-3


def test_a_density_bounds_the_probability_of_levels() -> None:
    event = Leaf((3,), Bounded(-1, 1, levels=5))
    model = exact_model(event, even, likelihood="ode", tolerance=1e-5, clip=False)
    x = torch.tensor([[-0.5, 0, 0.5], [0.5, 0.5, 0]]).double()
    found = model.log_prob(x, noise=noise(2))
    assert found.kind is Bound.LOWER
    torch.testing.assert_close(found.value, torch.full((2,), 3 * math.log(0.2)).double(), atol=0.02, rtol=0)


def test_the_network_sees_and_says_things_of_one_scale() -> None:
    """Of data of the stated deviation; c_in of Karras et al. 2022, table 1."""
    model, seen = Settings(path="ve", data_std=0.5, hidden=8).build(VECTOR, None).double(), list[Tensor]()
    model.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x, time = torch.randn(5, 2, generator=generator("seen")).double(), torch.linspace(0, 1, 5).double()
    sigma = model.course.seen(time).noise
    model.output(x, time, torch.zeros(5).long())
    torch.testing.assert_close(seen[0], x / (sigma**2 + 0.25).sqrt()[:, None])


def test_grids_are_those_of_the_papers() -> None:
    """Karras et al. 2022, equation 5; even steps of the logarithm as in Lu et al. 2022, arXiv:2206.00927."""
    seen = PATHS["ve"].at(places("karras", "ve", 18))
    i = torch.arange(18).double()
    expected = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(seen.noise[:-1], expected)
    even = PATHS["cosine"].at(places("log_snr", "cosine", 10))
    steps = (even.noise / even.data)[:-1].log().diff()
    torch.testing.assert_close(steps, steps[:1].expand(9))
    assert float((even.noise / even.data)[0]) == pytest.approx(80)


@pytest.mark.parametrize("sampler", get_args(SamplerName))
def test_calls_of_the_network_are_as_many_as_asked_for(sampler: SamplerName) -> None:
    model, calls = exact_model(VECTOR, gaussian(MEAN, STD), sampler=sampler, sampling_steps=35), [0]
    plain = model.output

    def counted(x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        calls[0] += 1
        return plain(x, time, label)

    model.output = counted  # type: ignore[method-assign]
    model.sample(noise(2))
    assert calls == [35]


def test_estimates_of_bounded_data_stay_inside() -> None:
    event = Leaf((2,), Bounded(-1, 1))
    for clip, most in ((True, 1.0), (False, 3.0)):
        model = exact_model(event, lambda x, seen: torch.full_like(x, 3.0), clip=clip)  # noqa: ARG005
        found = model.denoise(torch.zeros(4, 2).double(), torch.full((4,), 0.5))
        torch.testing.assert_close(found, torch.full_like(found, most))


def test_a_bound_counts_the_data_that_are_left_at_the_end() -> None:
    """Along ve the last sigma is 80: a mean of 200 costs (200 / 80)^2 / 2 nats."""
    far = torch.tensor([200.0, 0.0]).double()
    settings = {"path": "ve", "timesteps": 200, "bound_terms": 200, "variance": "forward"}
    values = [
        exact_model(VECTOR, gaussian(mean, STD), **settings).log_prob(mean.expand(400, 2), noise=noise(400))
        for mean in (far, 0 * far)
    ]
    lost = values[1].value.mean() - values[0].value.mean()
    assert float(lost) == pytest.approx((200 / 80) ** 2 / 2, abs=0.3)


def test_densities_of_many_values_are_estimated_without_bias() -> None:
    """65 values, of which pairs are correlated: the trace is of no diagonal matrix."""
    mixing = torch.eye(65).double() + torch.diag(torch.full((64,), 0.5).double(), 1)
    covariance = mixing @ mixing.t()
    values, vectors = torch.linalg.eigh(covariance)

    def expectation(x: Tensor, seen: Mixture) -> Tensor:
        gain = values * seen.data / (seen.data**2 * values + seen.noise**2)
        return (x @ vectors * gain) @ vectors.t()

    model = exact_model(Leaf((65,), Real()), expectation, likelihood="ode", probes=4, tolerance=1e-4)
    x = torch.randn(1, 65, generator=generator("many")).double() @ mixing.t()
    found = model.log_prob(x.expand(100, 65), noise=noise(100)).value
    normal = torch.distributions.MultivariateNormal(torch.zeros(65).double(), covariance)
    assert abs(found.mean() - normal.log_prob(x)[0]) < 4 * found.std() / 10 + 0.01
    assert found.std() > 0


def test_estimates_of_a_trace_average_to_it() -> None:
    matrix = torch.randn(3, 3, generator=generator("matrix")).double()
    y = torch.randn(4, 3, generator=generator("y")).double()

    def move(y: Tensor) -> Tensor:
        return y.square() @ matrix.t()

    moved, trace = traced(move, y, None)
    torch.testing.assert_close(moved, move(y))
    torch.testing.assert_close(trace, (2 * y * matrix.diagonal()).sum(1))
    ways = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3))).double()
    _, estimated = traced(move, y, ways[:, None].expand(-1, 4, -1))
    torch.testing.assert_close(estimated, trace)


@pytest.mark.parametrize("weighting", get_args(Weighting))
@pytest.mark.parametrize(("path", "predicted"), COURSES)
def test_weights_make_errors_those_of_another_prediction(
    weighting: Weighting, path: PathName, predicted: PredictionName
) -> None:
    course, times = Course(path, predicted, 0.7, None, weighting), torch.tensor([0.2, 0.6]).double()
    seen, told, weight = course.seen(times), course.told(times), course.weight(times)
    x0, eps, error = (torch.randn(2, generator=generator(i)).double() for i in range(3))
    x, y = seen.of(x0, eps), told.of(x0, eps)
    scale = seen.data * told.noise - seen.noise * told.data
    wrong_x0 = (told.noise * x - seen.noise * (y + error)) / scale
    wrong_eps = (x - seen.data * wrong_x0) / seen.noise
    if weighting == "own":
        expected = error.square()
    elif weighting == "min_snr":
        expected = (seen.data / seen.noise).square().clamp_max(5) * (wrong_x0 - x0).square()
    else:
        other = course.told(times, weighting)
        expected = (other.of(wrong_x0, wrong_eps) - other.of(x0, eps)).square()
    torch.testing.assert_close(weight * error.square(), expected)


def bound_and_truth(places: int) -> tuple[Tensor, Tensor]:
    settings = {"timesteps": places, "variance": "forward", "bound_terms": places}
    model = exact_model(VECTOR, gaussian(MEAN, STD), **settings)
    x = MEAN + STD * torch.tensor([0.5, -1.0]).double()
    log_p = model.log_prob(x.expand(500, 2), noise=noise(500))
    assert log_p.kind is Bound.LOWER
    return log_p.value, torch.distributions.Normal(MEAN, STD).log_prob(x).sum()


def test_bound_approaches_the_log_likelihood_from_below() -> None:
    coarse, truth = bound_and_truth(20)
    fine, _ = bound_and_truth(400)
    allowance = 4 * float(fine.std()) / math.sqrt(500)
    assert coarse.mean() < fine.mean() < truth + allowance
    assert fine.mean() > truth - 0.15 - allowance


@pytest.mark.parametrize("path", ["vp", "ve", "straight"])
def test_bounds_along_every_path_stay_below(path: PathName) -> None:
    settings = {"path": path, "timesteps": 100, "bound_terms": 100, "variance": "forward"}
    model = exact_model(VECTOR, gaussian(MEAN, STD), **settings)
    x = MEAN + STD * torch.tensor([0.5, -1.0]).double()
    value = model.log_prob(x.expand(500, 2), noise=noise(500)).value
    truth = torch.distributions.Normal(MEAN, STD).log_prob(x).sum()
    assert truth - 1.5 < value.mean() < truth + 4 * value.std() / math.sqrt(500)


def test_few_strata_estimate_the_same_bound() -> None:
    x = MEAN.expand(4000, 2)
    few, all_terms = (
        exact_model(VECTOR, gaussian(MEAN, 0.5 * STD), timesteps=60, bound_terms=k).log_prob(
            x, noise=noise(4000)
        )
        for k in (6, 60)
    )
    error = math.sqrt(float(few.value.var() + all_terms.value.var()) / 4000)
    assert abs(few.value.mean() - all_terms.value.mean()) < 4 * error
    assert len(bounds.strata(2, 60, 6).count) <= 6


def test_bound_of_discrete_data_approaches_its_probabilities_from_below() -> None:
    model = exact_model(PIXEL, discrete, timesteps=300, bound_terms=300, path="vp")
    x = torch.tensor([-1.0, 0.0, 1.0]).double().repeat_interleave(300).view(-1, 1, 1, 1)
    value = model.log_prob(x, noise=noise(900)).value.view(3, 300)
    allowance = 4 * value.std(1) / math.sqrt(300)
    assert (value.mean(1) < CHANCES.log() + allowance).all()
    assert (value.mean(1) > CHANCES.log() - 0.15 - allowance).all()


@pytest.mark.parametrize(("path", "predicted"), COURSES)
def test_training_error_vanishes_for_a_perfect_denoiser(path: PathName, predicted: PredictionName) -> None:
    model = exact_model(
        VECTOR,
        lambda x, seen: MEAN.expand_as(x),  # noqa: ARG005
        path=path,
        prediction=predicted,
    )
    error = model.denoising_error(MEAN.expand(64, 2), torch.zeros(64).long(), noise(64))
    assert error.max() < 1e-6


def perturbed(event: Leaf, **settings: Any) -> Diffusion:
    """Return a model with random weights everywhere, so that its labels matter."""
    torch.manual_seed(0)
    small: dict[str, Any] = {"widths": (16, 16), "depths": (1, 1), "hidden": 16, "embedding": 16}
    model = Settings(**small, sampling_steps=4, **settings).build(event, CLASSES).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("event", [IMAGE, VECTOR])
def test_guidance_runs_from_unconditional_to_conditional(event: Leaf) -> None:
    x, time, label = (
        torch.randn(4, *event.extents).double(),
        torch.tensor([0.001, 0.1, 0.5, 1.0]).double(),
        torch.arange(4) % 3,
    )
    model = perturbed(event)
    told, without = model.output(x, time, label), model.output(x, time, torch.full((4,), 3))
    assert not torch.allclose(told, without)
    for scale, expected in ((1.0, told), (0.0, without), (2.5, 2.5 * told - 1.5 * without)):
        torch.testing.assert_close(model.guided(x, time, label, scale), expected)


def test_guidance_outside_its_interval_is_none() -> None:
    cond, drawn = torch.arange(3), {}
    for scale, interval in ((3.0, (0.0, 1e9)), (3.0, (1e8, 1e9)), (3.0, (0.0, 1e-9)), (1.0, (0.0, 1e9))):
        model = perturbed(VECTOR, guidance_scale=scale, guidance_interval=interval)
        drawn[scale, *interval] = model.sample(noise(3), cond)
    for outside in ((1e8, 1e9), (0.0, 1e-9)):
        torch.testing.assert_close(drawn[3.0, *outside], drawn[1.0, 0.0, 1e9])
    assert not torch.allclose(drawn[3.0, 0.0, 1e9], drawn[1.0, 0.0, 1e9])


@pytest.mark.parametrize("sampler", ["ddpm", "heun"])
def test_a_linear_reward_moves_normal_data_by_its_covariance(sampler: SamplerName) -> None:
    settings = {"sampler": sampler, "sampling_steps": 200, "variance": "forward"}
    model, wanted = exact_model(VECTOR, gaussian(MEAN, STD), **settings), torch.tensor([2.0, -0.5]).double()
    centre, *moved = model.sample_towards(lambda x: x @ wanted, Basis(203))
    assert torch.allclose(centre, MEAN + STD**2 * wanted, atol=0.02)
    assert (((torch.stack(moved) - centre).square().sum(0).sqrt() / STD - 1).abs() < 0.01).all()


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_a_guide_is_led_away_from(scale: float) -> None:
    strong = exact_model(VECTOR, gaussian(MEAN, STD))
    strong.guides = (exact_model(VECTOR, gaussian(MEAN + 1, 2 * STD), prediction="epsilon"),)
    x, time = torch.randn(4, 2, generator=generator(1)).double(), torch.tensor([0.05, 0.2, 0.5, 0.9]).double()
    x0, _ = strong.separated(x, time, strong.guided(x, time, torch.zeros(4, dtype=torch.int64), scale))
    seen = strong.course.seen(time).to(x)
    weak, own = gaussian(MEAN + 1, 2 * STD)(x, seen), gaussian(MEAN, STD)(x, seen)
    torch.testing.assert_close(x0, torch.lerp(weak, own, scale))


@pytest.mark.parametrize("event", [IMAGE, VECTOR])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "heun", "churn"])
def test_samples_do_not_depend_on_their_batch(event: Leaf, sampler: SamplerName) -> None:
    model, cond, some = (
        perturbed(event, sampler=sampler, guidance_scale=1.5),
        torch.arange(6) % 3,
        torch.tensor([4, 1]),
    )
    whole = model.sample(noise(6), cond)
    assert isinstance(whole, Tensor)
    torch.testing.assert_close(model.sample(SampleNoise(0, some), cond[some]), whole[some])
    assert whole.shape == (6, *event.extents)


def test_samples_lie_on_the_levels() -> None:
    x = perturbed(IMAGE).sample(noise(5))
    assert isinstance(x, Tensor)
    torch.testing.assert_close((x + 1) * 4, ((x + 1) * 4).round())
    assert x.abs().max() <= 1


@pytest.mark.parametrize("ratios", [None, (-0.5, 0.7)])
def test_training_draws_times_and_hides_labels_as_stated(ratios: tuple[float, float] | None) -> None:
    config = Settings(hidden=8, embedding=8, label_dropout=0.25, ratios=ratios)
    model, seen = config.build(VECTOR, CLASSES), list[Tensor]()
    model.embedding.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    objective = config.stages(model)[0].objective
    assert objective is not None
    (phase,) = objective.phases
    assert phase.loss is not None
    batch = {"x": torch.randn(4000, 2), "cond": torch.zeros(4000).long()}
    loss = phase.loss(batch, TrainNoise(generator(0), 4000, 0, 4000), Clock(0, 1)).total
    assert loss.isfinite()
    angle, label = seen
    assert abs((label == 3).double().mean() - 0.25) < 0.03
    if ratios is None:
        assert (torch.histc(angle, 10, 0, 1) / 400 - 1).abs().max() < 0.25
    else:
        log_ratio = (angle.double() * math.pi / 2).tan().log()
        assert float(log_ratio.mean()) == pytest.approx(ratios[0], abs=0.05)
        assert float(log_ratio.std()) == pytest.approx(ratios[1], abs=0.05)


def test_dequantised_training_spreads_data_within_their_levels() -> None:
    event, errors = Leaf((2,), Bounded(-1, 1, levels=3)), list[Tensor]()
    for dequantise in (False, True):
        config = Settings(hidden=8, embedding=8, dequantise=dequantise)
        model = config.build(event, None)

        def kept(x0: Tensor, label: Tensor, noise: object) -> Tensor:  # noqa: ARG001
            errors.append(x0)
            return x0.sum(1)

        model.denoising_error = kept  # type: ignore[method-assign]
        objective = config.stages(model)[0].objective
        assert objective is not None
        assert objective.phases[0].loss is not None
        batch = {"x": torch.zeros(1000, 2)}
        objective.phases[0].loss(batch, TrainNoise(generator(0), 1000, 0, 1000), Clock(0, 1))
    plain, spread = errors
    assert (plain == 0).all()
    assert 0.45 < spread.max() <= 0.5
    assert -0.5 <= spread.min() < -0.45


def test_refuses_what_it_cannot_model() -> None:
    with pytest.raises(GenloomError, match="real or scaled"):
        Settings().build(Leaf((1, 8, 8), Categorical(17, ordered=True)), None)
    with pytest.raises(ValueError, match="levels"):
        Settings(widths=(16,), depths=(1, 1))
    with pytest.raises(GenloomError, match="models with labels"):
        Settings(guidance_scale=2.0).build(VECTOR, None)
    with pytest.raises(ValueError, match="guidance_interval must rise"):
        Settings(guidance_interval=(1.0, 0.5))
    with pytest.raises(ValueError, match="predict v for densities"):
        Settings(prediction="x0", likelihood="ode")
    with pytest.raises(ValueError, match="predict epsilon"):
        Settings(path="ve", prediction="velocity")
