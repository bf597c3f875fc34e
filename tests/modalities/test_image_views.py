"""Every view of an image gives the data the same likelihood, or a bound with the right gap."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Binomial

from genloom.core.errors import DataError
from genloom.core.events import Binary, Bounded, Categorical, Leaf, Real, tensor
from genloom.core.likelihood import Bound, LogProb
from genloom.core.randomness import SampleNoise
from genloom.modalities.base import View
from genloom.modalities.datasets import from_json
from genloom.modalities.images import Images, fixed_draw

SHAPE = (1, 3, 2)


def noise(count: int, seed: int = 0) -> SampleNoise:
    return SampleNoise(seed, torch.arange(count))


def grey_items(levels: int, count: int = 40) -> Tensor:
    source = torch.Generator().manual_seed(levels)
    return torch.randint(0, levels, (count, *SHAPE), generator=source, dtype=torch.uint8)


def view_of(images: Images, name: str) -> View:
    return next(view for view in images.views() if view.name == name)


def unit_of(x: Tensor, alpha: float) -> Tensor:
    return (torch.sigmoid(x) - alpha) / (1 - 2 * alpha)


def model_log_density(view: View, x: Tensor, log_pmf: Tensor, alpha: float) -> Tensor:
    """Score x, on the view's own event, under the density that is constant within each level's bin."""
    levels = log_pmf.shape[1]

    def mass(v: Tensor) -> Tensor:
        index = v.long().flatten(1).clamp(0, levels - 1)
        return log_pmf.T.gather(0, index)

    if view.name in ("levels", "binary"):
        return mass(x).sum(1)
    if view.name == "scaled":
        return mass(((x.double() + 1) * (levels - 1) / 2).round()).sum(1)
    if view.name == "unit":
        return (mass(x.double() * levels) + math.log(levels)).sum(1)
    real = x.double().requires_grad_()
    unit = unit_of(real, alpha)
    (slope,) = torch.autograd.grad(unit.sum(), real)
    density = mass((unit.detach() * levels).floor()) + math.log(levels) + slope.log().flatten(1)
    return density.sum(1)


@pytest.mark.parametrize("binarise", ["none", "dynamic"])
@pytest.mark.parametrize("levels", [2, 17, 256])
def test_every_view_gives_the_same_likelihood_of_the_data(levels: int, binarise: str) -> None:
    images = Images(SHAPE, levels, binarise, alpha=0.03)
    items = grey_items(levels)
    count = 2 if binarise == "dynamic" else levels
    source = torch.Generator().manual_seed(5)
    log_pmf = torch.randn(6, count, generator=source, dtype=torch.float64).log_softmax(1)
    if binarise == "dynamic":
        items = fixed_draw(items, levels, "test")
    values = (items > 0).long() if binarise == "dynamic" else items.long()
    expected = log_pmf.T.gather(0, values.flatten(1)).sum(1)
    for view in images.views():
        x = tensor(view.perturb(view.encode(items), noise(len(items))))
        density = LogProb(model_log_density(view, x, log_pmf, images.alpha), Bound.EXACT)
        scored = view.to_data(density, x)
        torch.testing.assert_close(scored.value, expected, rtol=0, atol=1e-9)
        assert scored.kind is (Bound.LOWER if view.name in ("unit", "logit") else Bound.EXACT)


def kumaraswamy(y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distribution function and log-density of a smooth law on (0, 1)."""
    a, b = 2.5, 1.7
    return 1 - (1 - y**a) ** b, math.log(a * b) + (a - 1) * y.log() + (b - 1) * torch.log1p(-(y**a))


def logistic(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distribution function and log-density of a logistic law with mean 0.4 and scale 0.6."""
    z = (x - 0.4) / 0.6
    log_density = torch.nn.functional.logsigmoid(z) + torch.nn.functional.logsigmoid(-z) - math.log(0.6)
    return torch.sigmoid(z), log_density


@pytest.mark.parametrize("name", ["unit", "logit"])
def test_a_smooth_density_is_a_lower_bound_with_jensens_gap(name: str) -> None:
    levels, alpha = 5, 0.05
    images = Images(SHAPE, levels, alpha=alpha)
    view = view_of(images, name)
    item = torch.tensor([0, 1, 2, 3, 4, 4], dtype=torch.uint8).reshape(1, *SHAPE)
    nodes, weights = np.polynomial.legendre.leggauss(120)
    u, w = torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)

    def to_model(y: Tensor) -> Tensor:
        return y if name == "unit" else torch.logit(alpha + (1 - 2 * alpha) * y)

    law = kumaraswamy if name == "unit" else logistic
    edges = item.double().flatten()[None] + torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    low, high = law(to_model(edges / levels))[0]
    log_mass = (high - low).log().sum()

    y = ((item.double() + u[:, None, None, None]) / levels).requires_grad_()
    x = to_model(y)
    (slope,) = torch.autograd.grad(x.sum(), y)
    x = x.detach()
    log_q = law(x)[1]
    scored = view.to_data(LogProb(log_q.flatten(1).sum(1), Bound.EXACT), x)
    bound = w @ scored.value

    log_unit = (log_q + slope.log()).flatten(1)
    gap = ((w @ log_unit.exp()).log() - w @ log_unit).sum()
    assert gap > 1e-3
    torch.testing.assert_close(log_mass - bound, gap, rtol=0, atol=1e-7)

    rows = 20_000
    drawn = tensor(view.perturb(view.encode(item.expand(rows, *SHAPE)), noise(rows))).double()
    value = view.to_data(LogProb(law(drawn)[1].flatten(1).sum(1), Bound.EXACT), drawn).value
    assert abs(value.mean() - bound) < 5 * value.std() / rows**0.5


@pytest.mark.parametrize("kind", list(Bound))
def test_dequantised_views_weaken_every_kind(kind: Bound) -> None:
    view = view_of(Images(SHAPE), "unit")
    x = torch.rand(2, *SHAPE)
    given = LogProb(torch.zeros(2), kind, "class", torch.ones(2))
    scored = view.to_data(given, x)
    expected = {
        Bound.EXACT: Bound.LOWER,
        Bound.LOWER: Bound.LOWER,
        Bound.UNNORMALISED: Bound.UNNORMALISED,
    }
    assert scored.kind is expected.get(kind, Bound.ESTIMATE)
    assert scored.given == "class"
    assert scored.stderr is given.stderr


@pytest.mark.parametrize("binarise", ["none", "dynamic"])
@pytest.mark.parametrize("levels", [2, 17, 256])
def test_decode_undoes_perturb_and_values_belong_to_the_event(levels: int, binarise: str) -> None:
    images = Images(SHAPE, levels, binarise)
    items = grey_items(levels)
    if binarise == "dynamic":
        items = fixed_draw(items, levels, "valid")
    for view in images.views():
        assert isinstance(view.event, Leaf)
        assert view.event.shape == SHAPE
        x = tensor(view.perturb(view.encode(items), noise(len(items), seed=3)))
        discrete = isinstance(view.event.kind, Categorical | Binary)
        assert x.dtype == (torch.int64 if discrete else torch.float32)
        if isinstance(view.event.kind, Bounded):
            assert view.event.kind.lo <= x.min()
            assert x.max() <= view.event.kind.hi
        torch.testing.assert_close(view.decode(x), items, rtol=0, atol=0)


def test_views_and_kinds() -> None:
    plain = {v.name: v.event.kind for v in Images(SHAPE, 17).views() if isinstance(v.event, Leaf)}
    assert plain == {
        "levels": Categorical(17, ordered=True),
        "scaled": Bounded(-1.0, 1.0, levels=17),
        "unit": Bounded(0.0, 1.0),
        "logit": Real(),
    }
    drawn = {v.name: v.event.kind for v in Images(SHAPE, 17, "dynamic").views() if isinstance(v.event, Leaf)}
    assert list(drawn) == ["binary", "scaled", "unit", "logit"]
    assert drawn["binary"] == Binary()
    assert drawn["scaled"] == Bounded(-1.0, 1.0, levels=2)


@pytest.mark.parametrize("name", ["levels", "scaled", "unit", "logit"])
def test_decode_clamps_what_a_model_may_emit(name: str) -> None:
    view = view_of(Images(SHAPE, 17), name)
    wild = torch.full((1, *SHAPE), 90 if name == "levels" else 1e4)
    assert (view.decode(wild.long() if name == "levels" else wild) == 16).all()
    assert (view.decode(-wild.long() if name == "levels" else -wild) == 0).all()


def test_dequantisation_stays_strictly_inside_the_unit_interval() -> None:
    class Extreme(SampleNoise):
        def uniform(self, *shape: int) -> Tensor:
            return torch.full((1, *shape), 1 - 2**-24)

    view = view_of(Images(SHAPE), "unit")
    x = tensor(view.perturb(torch.full((1, *SHAPE), 255, dtype=torch.uint8), Extreme(0, torch.arange(1))))
    assert x.max() < 1


def test_dynamic_binarisation_tosses_coins_with_the_grey_levels() -> None:
    view = view_of(Images(SHAPE, 17, "dynamic"), "binary")
    item = torch.tensor([0, 1, 4, 8, 15, 16], dtype=torch.uint8).reshape(1, *SHAPE)
    rows = 20_000
    encoded = view.encode(item.expand(rows, *SHAPE))
    drawn = tensor(view.perturb(encoded, noise(rows)))
    share, p = drawn.double().mean(0).flatten(), item.double().flatten() / 16
    spread = (Binomial(rows, p).variance / rows**2).sqrt()
    assert ((share - p).abs() <= 5 * spread).all()
    assert not torch.equal(drawn, tensor(view.perturb(encoded, noise(rows, seed=1))))


def test_the_fixed_draw_depends_on_split_and_position_only() -> None:
    items = grey_items(17, 1_500)
    drawn = fixed_draw(items, 17, "test")
    assert set(drawn.unique().tolist()) == {0, 16}
    assert torch.equal(drawn[:7], fixed_draw(items[:7], 17, "test"))
    assert not torch.equal(drawn, fixed_draw(items, 17, "valid"))
    view = view_of(Images(SHAPE, 17, "dynamic"), "binary")
    for seed in (1, 2):
        assert torch.equal(view.perturb(view.encode(drawn), noise(1_500, seed)), (drawn > 0).long())


@pytest.mark.parametrize("binarise", ["none", "dynamic"])
def test_a_modality_is_rebuilt_from_json(binarise: str) -> None:
    import json

    images = Images(SHAPE, 17, binarise, alpha=0.01)
    again = from_json(json.loads(json.dumps(images.describe())))
    items = grey_items(17)
    for old, new in zip(images.views(), again.views(), strict=True):
        assert (old.name, old.event) == (new.name, new.event)
        x = tensor(old.perturb(old.encode(items), noise(40)))
        assert torch.equal(x, tensor(new.perturb(new.encode(items), noise(40))))
        zero = LogProb(torch.zeros(40, dtype=torch.float64), Bound.EXACT)
        assert torch.equal(old.to_data(zero, x).value, new.to_data(zero, x).value)
    with pytest.raises(DataError, match="no modality 'smells'"):
        from_json({"modality": "smells"})


def test_units_and_features_are_pixels_in_their_own_scale() -> None:
    images = Images((3, 4, 5))
    assert (images.units, images.count_units(torch.zeros(1)).tolist()) == ("pixels", [60])
    items = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    features = images.features(items)
    assert features.dtype == torch.float32
    assert torch.equal(features, items.reshape(2, 60).float())
    with pytest.raises(DataError, match="1 \\(grey\\) or 3"):
        Images((2, 4, 5))
