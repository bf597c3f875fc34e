"""Laws of linear measurements, and of restoring what is known in part."""

from typing import Any, get_args

import pytest
import torch
from test_denoising import VECTOR, Basis, Expectation, exact_model, gaussian, noise
from torch import Tensor
from torch.nn import functional as F

from genloom.core.events import Bounded, Leaf, Real, tensor
from genloom.core.measurements import Measurement
from genloom.core.randomness import SampleNoise, generator
from genloom.math.inverse import averaged, blurred, luminance, masked, posterior_means
from genloom.math.mixtures import Mixture
from genloom.math.particles import resampled, sound, twisted
from genloom.math.solvers import Grid, SamplerName
from genloom.nn.prompts import Prompts
from genloom.nn.walks import Restoring

TRIPLE = Leaf((3,), Real())
MEAN = torch.tensor([0.7, -0.4, 0.2]).double()
COV = torch.tensor([[1.0, 0.8, 0.3], [0.8, 1.5, -0.2], [0.3, -0.2, 0.6]]).double()
PART = torch.tensor([[1.0, 0.0, 0.0]]).double()
SUMS = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.5, -1.0]]).double()
MASK = torch.rand(2, 3, 8, 12, generator=generator(0)) < 0.5


def correlated(x: Tensor, seen: Mixture) -> Tensor:
    centred = x - seen.data * MEAN
    gain = seen.data[0] * COV @ (seen.data[0] ** 2 * COV + seen.noise[0] ** 2 * torch.eye(3)).inverse()
    return MEAN + centred @ gain.T


def weighing(rows: Tensor) -> Measurement:
    back = torch.linalg.pinv(rows)
    return Measurement(lambda x: x @ rows.T, lambda y: y @ back.T)


def conditional(rows: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and covariance of normal data of which rows @ x is known."""
    gain = COV @ rows.T @ (rows @ COV @ rows.T).inverse()
    return MEAN + gain @ (known - rows @ MEAN), COV - gain @ rows @ COV


class Units(SampleNoise):
    """The first row has no noise at all, each other a one in one of three scalars of one draw."""

    def __init__(self, draws: int) -> None:
        super().__init__(0, torch.arange(1 + 3 * draws))
        self.rows, self.draws = 1 + 3 * draws, 0

    def normal(self, *shape: int) -> Tensor:
        z = torch.zeros(self.rows, *shape, dtype=torch.float64)
        first = 1 + 3 * self.draws
        assert first < self.rows
        z[first : first + 3] = torch.eye(3)
        self.draws += 1
        return z


def restored(
    rows: Tensor, known: Tensor, restoring: Restoring, draws: int, **settings: Any
) -> tuple[Tensor, Tensor]:
    """Return mean and covariance of what is drawn, which is affine in the noise."""
    model = exact_model(TRIPLE, correlated, restoring=restoring, path="ve", grid="karras", **settings)
    units = Units(draws)
    drawn = tensor(model.restore(weighing(rows), known.expand(units.rows, -1), units))
    moved = drawn[1:] - drawn[0]
    return drawn[0], moved.T @ moved


@pytest.mark.parametrize(
    "measurement",
    [masked(MASK), averaged(8, 12, 4), blurred(8, 12, 0.7), luminance()],
    ids=["masked", "averaged", "blurred", "luminance"],
)
def test_what_is_spread_is_the_smallest_that_agrees(measurement: Measurement) -> None:
    x = torch.randn(2, 3, 8, 12, generator=generator(1)).double()
    known = measurement.measure(x)
    spread = measurement.spread(known)
    assert torch.allclose(measurement.measure(spread), known, atol=1e-8)
    assert torch.allclose(measurement.measure(measurement.agreeing(0 * x + 0.3, known)), known, atol=1e-8)
    assert abs(float(((x - spread) * spread).sum())) < 1e-6 * float(spread.square().sum())


def test_measurements_are_what_they_say() -> None:
    x = torch.randn(2, 3, 8, 12, generator=generator(2)).double()
    assert torch.allclose(averaged(8, 12, 4).measure(x), F.avg_pool2d(x, 4))
    assert torch.allclose(luminance().measure(x)[:, 0], 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2])
    flat = torch.ones(1, 1, 8, 12).double()
    assert torch.allclose(blurred(8, 12, 2.0).measure(flat), flat)
    spot = torch.zeros(1, 1, 21, 21).double()
    spot[0, 0, 10, 10] = 1
    across = blurred(21, 21, 1.5).measure(spot)[0, 0].sum(0)
    place = torch.arange(21).double() - 10
    assert float((across * place**2).sum().sqrt()) == pytest.approx(1.5, rel=0.01)


@pytest.mark.parametrize("rows", [PART, SUMS], ids=["part", "sums"])
def test_the_posterior_of_normal_data_is_drawn_to_a_percent(rows: Tensor) -> None:
    known = torch.tensor([1.9, -0.6]).double()[: len(rows)]
    settings = {"sampler": "dpm_solver_2m_sde", "sampling_steps": 150, "iterations": len(rows)}
    mean, cov = restored(rows, known, "posterior", 150, **settings)
    true_mean, true_cov = conditional(rows, known)
    assert torch.allclose(mean, true_mean, atol=0.01)
    assert torch.allclose(cov, true_cov, atol=0.01)


def test_particles_draw_the_posterior_of_a_mixture() -> None:
    """Two normals that differ in both places, of which the first is known: slopes alone misjudge which."""
    means, variances, first = torch.tensor([[-1.0, -2.0], [1.0, 2.0]]).double(), (0.49, 0.25), 0.2
    share = torch.tensor([-((first - mean) ** 2) / (2 * variances[0]) for mean in (-1, 1)]).softmax(0)[1]

    def mixture(x: Tensor, seen: Mixture) -> Tensor:
        data, noise = seen.data[0], seen.noise[0]
        spread = data**2 * torch.tensor(variances).double() + noise**2
        off = x[:, None] - data * means
        which = (-(off.square() / spread) / 2).sum(2).softmax(1)
        each = means + data * torch.tensor(variances).double() * off / spread
        return (which[..., None] * each).sum(1)

    gaps = {}
    for restoring in ("posterior", "particles"):
        settings = {"sampler": "ddpm", "sampling_steps": 60, "particles": 24, "iterations": 1}
        model = exact_model(VECTOR, mixture, restoring=restoring, **settings)
        known = torch.full((1000, 1), first).double()
        drawn = tensor(model.restore(weighing(torch.tensor([[1.0, 0.0]]).double()), known, noise(1000)))
        assert torch.allclose(drawn[:, :1], known)
        above = drawn[:, 1] > 0
        gaps[restoring] = abs(float(above.double().mean() - share))
    assert gaps["particles"] < 0.05 < gaps["posterior"]
    assert float(drawn[above, 1].mean()) == pytest.approx(2, abs=0.06)
    assert float(drawn[above, 1].std()) == pytest.approx(0.5, abs=0.06)


def test_particles_draw_the_posterior_of_normal_data() -> None:
    known = torch.tensor([1.9, -0.6]).double()
    settings = {"restoring": "particles", "sampling_steps": 60, "particles": 3, "iterations": 2}
    model = exact_model(TRIPLE, correlated, path="ve", grid="karras", **settings)
    drawn = tensor(model.restore(weighing(SUMS), known.expand(3000, -1), noise(3000)))
    mean, cov = conditional(SUMS, known)
    assert torch.allclose(drawn.mean(0), mean, atol=0.05)
    assert torch.allclose(drawn.T.cov(), cov, atol=0.05)
    assert torch.allclose(tensor(model.restore(weighing(SUMS), known.expand(5, -1), noise(5))), drawn[:5])


def test_one_particle_walks_by_posterior_means() -> None:
    """Where there is no move that draws, both take the first estimate."""
    known = torch.full((4, 1), 1.9).double()
    drawn = [
        exact_model(TRIPLE, correlated, restoring=restoring, sampler="ddpm", sampling_steps=1, particles=1)
        for restoring in ("posterior", "particles")
    ]
    one, other = (tensor(model.restore(weighing(PART), known, noise(4))) for model in drawn)
    assert torch.allclose(one, other)


def test_the_first_twist_counts() -> None:
    """With a single move, what is returned follows the twists of where particles begin."""
    grid = Grid(torch.tensor([0.6, 1.0]).double(), torch.tensor([0.8, 0.0]).double())
    x = torch.tensor([-1.0, 0.0, 1.0]).double().expand(4000, 3)[..., None]
    twist = torch.tensor([0.2, 0.5, 0.3]).double().log()

    def look(x: Tensor, place: int) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ARG001
        return x, x, twist.expand(len(x), -1)

    source = noise(4000)
    drawn = twisted(look, x, grid, lambda: torch.zeros_like(x), source.uniform)
    shares = torch.stack([(drawn == value).double().mean() for value in (-1, 0, 1)])
    assert torch.allclose(shares, twist.exp(), atol=0.03)


def test_twists_of_broken_particles_are_the_least() -> None:
    found = sound(torch.tensor([[-3.0, torch.nan, -1.0], [torch.nan, torch.nan, -torch.inf]]))
    assert found.tolist() == [[-3, -3, -1], [0, 0, 0]]
    backwards = posterior_means(
        lambda x: -x,
        torch.ones(2, 3),
        torch.tensor(1.0),
        masked(torch.ones(2, 3).bool()),
        torch.ones(2, 3),
        1,
    )
    assert backwards[2].isnan().all(), "slopes of no data"


def test_particles_that_count_go_on() -> None:
    even, one = torch.zeros(4).double(), torch.tensor([0.0, -50, -50, -50]).double()
    weight = torch.stack((even, one, torch.tensor([0.0, 0.0, -50, -50]).double()))
    chosen, left = resampled(weight, torch.tensor([0.3, 0.3, 0.3]))
    assert chosen.tolist() == [[0, 1, 2, 3], [0, 0, 0, 0], [0, 1, 2, 3]]
    assert torch.equal(left, torch.stack((even, 0 * even, weight[2])))
    u = (torch.arange(1000) + 0.5) / 1000
    shares = torch.tensor([0.05, 0.85, 0.06, 0.04]).double()
    chosen, _ = resampled(shares.log().expand(1000, -1), u)
    assert torch.allclose(chosen.flatten().bincount().double() / 4000, shares, atol=2e-3)


def test_revisits_bring_estimates_nearer_to_what_is_known() -> None:
    known = torch.tensor([2.5]).double()
    true_mean, _ = conditional(PART, known)
    gaps = []
    for revisits in (1, 4, 16):
        mean, _ = restored(PART, known, "repaint", 60 * revisits, sampling_steps=30, revisits=revisits)
        assert float(mean[0]) == pytest.approx(2.5, abs=1e-9)
        gaps.append(float((mean - true_mean).abs().max()))
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.15 * gaps[0]


@pytest.mark.parametrize("restoring", ["projection", "repaint", "posterior", "particles"])
def test_colours_have_the_luminance_of_the_grey_level_by_level(restoring: Restoring) -> None:
    event = Leaf((3, 6, 5), Bounded(-1, 1, levels=256))
    levels = torch.randint(0, 256, (4, 3, 6, 5), generator=generator(4))
    grey = luminance().measure(levels.double()).round()
    settings = {"restoring": restoring, "sampling_steps": 5, "particles": 4}
    model = exact_model(event, lambda x, seen: 0.9 * x.sin(), **settings)  # noqa: ARG005
    drawn = tensor(model.restore(luminance(), grey * (2 / 255) - 1, noise(4)))
    found = (drawn + 1) * 127.5
    assert torch.equal(found.round(), found.round().clamp(0, 255))
    assert torch.equal(luminance().measure(found).round(), grey)
    assert not torch.allclose(found[:, 0], found[:, 1]), "there is colour"


@pytest.mark.parametrize("restoring", ["projection", "repaint", "posterior"])
@pytest.mark.parametrize("sampler", get_args(SamplerName))
def test_every_sampler_restores(sampler: SamplerName, restoring: Restoring) -> None:
    settings = {"sampler": sampler, "restoring": restoring, "sampling_steps": 60, "revisits": 2}
    known = torch.full((5, 1), 1.9).double()
    drawn = tensor(exact_model(TRIPLE, correlated, **settings).restore(weighing(PART), known, noise(5)))
    assert drawn.isfinite().all()
    assert torch.allclose(drawn[:, :1], known)
    assert (drawn[:, 1].std() > 0.01) & (drawn[:, 1].abs() < 6).all()


def test_the_class_has_its_say_in_what_is_restored() -> None:
    """Two classes that differ in their mean: what is unknown follows that of the class."""
    model = exact_model(VECTOR, gaussian(torch.zeros(2).double(), torch.ones(2).double()), sampling_steps=50)
    model.prompts = Prompts(2)

    def output(x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        seen = model.course.seen(time).to(x)
        mean = torch.tensor([-3.0, 3.0, 0.0]).double()[label][:, None].expand(-1, 2)
        x0 = gaussian(mean, torch.ones(2).double())(x, seen)
        return model.course.told(time).to(x).of(x0, (x - seen.data * x0) / seen.noise)

    model.output = output  # type: ignore[method-assign]
    label, known = torch.arange(40) % 2, torch.tensor([True, False]).expand(40, -1)
    filled = tensor(model.infill(torch.zeros(40, 2).double(), known, noise(40), label))
    assert (filled[label == 0, 1] < 0.5).all()
    assert (filled[label == 1, 1] > -0.5).all()


def test_projection_draws_independent_values_as_they_are() -> None:
    independent: Expectation = gaussian(torch.tensor([0.7, -0.4]).double(), torch.tensor([0.5, 1.2]).double())
    model = exact_model(VECTOR, independent, restoring="projection", sampling_steps=100)
    rows = torch.tensor([[1.0, 0.0]]).double()
    drawn = model.restore(weighing(rows), torch.full((2000, 1), 0.3).double(), noise(2000))
    assert torch.allclose(drawn[:, 0], torch.full((2000,), 0.3).double())
    assert float(drawn[:, 1].mean()) == pytest.approx(-0.4, abs=0.1)
    assert float(drawn[:, 1].std()) == pytest.approx(1.2, rel=0.05)


@pytest.mark.parametrize("path", ["cosine", "ve", "straight"])
def test_codes_of_normal_data_are_their_distances_from_the_mean(path: str) -> None:
    mean, std = torch.tensor([0.7, -0.4]).double(), torch.tensor([0.5, 1.2]).double()
    model = exact_model(VECTOR, gaussian(mean, std), path=path, tolerance=1e-7)
    x = torch.randn(5, 2, generator=generator(3)).double()
    codes = model.encode(x)
    assert torch.allclose(codes, (x - mean) / std, atol=0.02)
    assert torch.allclose(model.decode(codes), x, atol=1e-5)


def test_items_are_redrawn_with_what_survives() -> None:
    """Of x at a ratio of noise to data s there is left what a normal prior and x in that noise say."""
    mean, std = torch.tensor([0.7, -0.4]).double(), torch.tensor([0.5, 1.2]).double()
    model = exact_model(VECTOR, gaussian(mean, std), sampler="ddpm", sampling_steps=200, variance="forward")
    x = mean + 2 * std
    for strength, ratio in [(0.25, 0.4142), (0.5, 1.0)]:
        centre = model.redraw(x.expand(203, -1), strength, Basis(203))[0]
        kept = std**2 / (std**2 + ratio**2)
        assert torch.allclose(centre, mean + kept * (x - mean), rtol=0.02)
    assert torch.allclose(model.redraw(x.expand(203, -1), 1.0, Basis(203))[0], mean, atol=0.02)
