"""Laws of the gated PixelCNN: probabilities sum to one, causality without a blind spot, cached = naive."""

import itertools

import pytest
import torch
from torch import Tensor

from genloom.core.errors import DataError
from genloom.core.events import Binary, Categorical, Leaf, Real
from genloom.core.likelihood import Bound
from genloom.core.objective import Clock
from genloom.core.randomness import SampleNoise, TrainNoise, generator
from genloom.families.ar_pixelcnn import Config, Model, discretised_logistic, scale_levels
from genloom.nn.causal_conv import GatedLayer, pixels_left, rows_above

LABEL = Leaf((), Categorical(3))
EVENTS = {
    "levels": Leaf((1, 2, 2), Categorical(3, ordered=True)),
    "binary": Leaf((1, 2, 2), Binary()),
    "two binary channels": Leaf((2, 2, 1), Binary()),
    "three channels": Leaf((3, 1, 2), Categorical(2, ordered=True)),
    "many levels": Leaf((1, 1, 2), Categorical(40, ordered=True)),
    "two mixture channels": Leaf((2, 1, 1), Categorical(33, ordered=True)),
}
SAMPLED = {
    "levels": Leaf((1, 5, 6), Categorical(4, ordered=True)),
    "binary": Leaf((1, 6, 5), Binary()),
    "colour levels": Leaf((3, 4, 4), Categorical(4, ordered=True)),
    "colour mixture": Leaf((3, 4, 5), Categorical(256, ordered=True)),
}
CONFIG = Config(channels=6, dilations=(1, 2), reach=2, mixtures=3)


def make(event: Leaf, cond: Leaf | None = None) -> Model:
    """Return a float64 model with random weights everywhere, so that every dependence shows."""
    torch.manual_seed(0)
    model = CONFIG.build(event, cond).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.3)
    return model


def noise(*index: int) -> SampleNoise:
    return SampleNoise(7, torch.tensor(index))


def naive_sample(model: Model, source: SampleNoise, cond: Tensor | None = None) -> Tensor:
    """Draw with one full pass of the network for each pixel."""
    channels, height, width = model.shape
    u = source.uniform(height, width, model.pixel.uniforms_needed).double()
    x = torch.zeros(len(u), channels, height, width, dtype=torch.int64)
    with torch.no_grad():
        for i, j in itertools.product(range(height), range(width)):
            x[:, :, i, j] = model.pixel.draw(model(x, cond)[:, i, j], u[:, i, j])
    return x


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
def test_probabilities_of_all_images_sum_to_one(event: Leaf) -> None:
    model = make(event, LABEL)
    levels = range(event.kind.k if isinstance(event.kind, Categorical) else 2)
    images = torch.tensor(list(itertools.product(levels, repeat=event.dim))).view(-1, *event.extents)
    for cond in (None, torch.full((len(images),), 1)):
        log_prob = model.log_prob(images, cond, noise=noise(0))
        assert log_prob.kind is Bound.EXACT
        assert log_prob.value.exp().sum().item() == pytest.approx(1, abs=1e-10)


def test_network_sees_all_pixels_before_and_none_after() -> None:
    torch.manual_seed(0)
    size, d = 7, 4
    above, left = rows_above(1, d, 3).double(), pixels_left(1, d, 3).double()
    layers = [GatedLayer(d, dilation).double() for dilation in (1, 2, 4)]

    def features(x: Tensor) -> Tensor:
        v, h = above(x.view(1, size, size, 1)), left(x.view(1, size, size, 1))
        for layer in layers:
            v, h = layer(v, h)
        return h.sum(-1).flatten()

    jacobian = torch.autograd.functional.jacobian(features, torch.randn(size * size, dtype=torch.float64))
    seen = jacobian != 0
    assert torch.equal(seen, torch.ones_like(seen).tril(-1))


@pytest.mark.parametrize("dilations", [(1, 1, 1, 1), (1, 2, 4, 1, 2, 4)])
def test_preset_layers_leave_no_gap_in_the_receptive_field(dilations: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    above, left = rows_above(1, 2, 3).double(), pixels_left(1, 2, 3).double()
    layers = [GatedLayer(2, dilation).double() for dilation in dilations]
    size, row, column = 28, 20, 14
    x = torch.randn(1, size, size, 1, dtype=torch.float64, requires_grad=True)
    v, h = above(x), left(x)
    for layer in layers:
        v, h = layer(v, h)
    (gradient,) = torch.autograd.grad(h[0, row, column].sum(), x)
    reach = 3 + sum(dilations)
    seen = gradient[0, :, :, 0] != 0
    rows, columns = torch.arange(size)[:, None], torch.arange(size)[None]
    before = (rows < row) | ((rows == row) & (columns < column))
    within = (rows >= row - reach) & ((columns - column).abs() <= reach)
    assert torch.equal(seen, before & within)


@pytest.mark.parametrize("event", SAMPLED.values(), ids=SAMPLED)
def test_colour_and_pixel_order_is_causal(event: Leaf) -> None:
    model = make(event)
    x = model.sample(noise(0))
    _, height, width = event.extents
    for i, j in ((0, 0), (1, 2), (height - 1, width - 1)):
        changed = x.clone()
        changed[:, :, i, j] = (changed[:, :, i, j] + 1) % model.levels
        different = (model(x) - model(changed)).abs().sum(-1)[0] > 0
        position = torch.arange(height * width).view(height, width)
        assert not different[position <= i * width + j].any()
        if j + 1 < width:
            assert different[i, j + 1]


@pytest.mark.parametrize("event", SAMPLED.values(), ids=SAMPLED)
def test_cached_samples_equal_naive_samples(event: Leaf) -> None:
    model = make(event, LABEL)
    index = range(5)
    assert torch.equal(model.sample(noise(*index)), naive_sample(model, noise(*index)))
    labels = torch.tensor([0, 1, 2, 3, 1])
    conditional = model.sample(noise(*index), labels)
    assert torch.equal(conditional, naive_sample(model, noise(*index), labels))
    assert not torch.equal(conditional, model.sample(noise(*index)))


def test_a_sample_depends_only_on_its_own_noise() -> None:
    model = make(SAMPLED["colour mixture"])
    together = model.sample(noise(*range(6)))
    assert torch.equal(together[[4, 1]], model.sample(noise(4, 1)))
    assert len(together.unique(dim=0)) == 6


@pytest.mark.parametrize("name", ["levels", "two mixture channels"])
def test_samples_follow_log_prob(name: str) -> None:
    event = EVENTS[name]
    model = make(event)
    count = 10_000
    x = model.sample(noise(*range(count)))
    images, counts = x.unique(dim=0, return_counts=True)
    p = model.log_prob(images, noise=noise(0)).value.exp()
    frequent = p * count > 50
    deviation = (counts - p * count)[frequent] / (p * count * (1 - p)).sqrt()[frequent]
    assert frequent.sum() >= 5
    assert deviation.abs().max() < 4.5


def test_log_prob_differs_by_class_and_null_means_no_class() -> None:
    model = make(SAMPLED["binary"], LABEL)
    x = model.sample(noise(0, 1))
    values = [model.log_prob(x, torch.full((2,), c), noise=noise(0)) for c in range(4)]
    assert (values[0].value - values[1].value).abs().min() > 1e-6
    free = model.log_prob(x, noise=noise(0))
    assert torch.equal(values[3].value, free.value)
    assert (values[0].given, free.given) == ("class", "")


def test_discretised_logistic_is_a_difference_of_cdfs() -> None:
    x = scale_levels(torch.arange(256), 256, torch.float64)
    mean, log_scale = torch.tensor(0.3).double(), torch.tensor(-2.0).double()
    edges = (torch.arange(1, 256).double() - 0.5) * (2 / 255) - 1
    cdf = torch.cat([torch.zeros(1), ((edges - mean) / log_scale.exp()).sigmoid(), torch.ones(1)])
    found = discretised_logistic(x, mean, log_scale, 256).exp()
    assert torch.allclose(found, cdf.diff(), rtol=1e-9, atol=1e-15)
    far = discretised_logistic(x, torch.tensor(0.0).double(), torch.tensor(-7.0).double(), 256)
    assert far.isfinite().all()


@pytest.mark.parametrize("event", SAMPLED.values(), ids=SAMPLED)
def test_training_improves_and_reaches_every_parameter(event: Leaf) -> None:
    torch.manual_seed(0)
    model = CONFIG.build(event, LABEL)
    (stage,) = CONFIG.stages(model)
    assert stage.objective is not None
    (phase,) = stage.objective.phases
    assert phase.loss is not None
    rows = torch.arange(event.extents[1]).view(1, 1, -1, 1)
    x = (rows % 2 * torch.ones(16, *event.extents)).long()
    batch = {"x": x, "cond": torch.arange(16) % 3}
    reached: set[str] = set()
    losses = []
    for step in range(20):
        source = TrainNoise(generator("test", step), 16, 0, 16)
        loss = phase.loss(batch, source, Clock(step, 20)).total
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for name, p in model.named_parameters():
                assert p.grad is not None
                reached |= {name} if p.grad.any() else set()
                p -= 0.01 * p.grad.sign()
        losses.append(loss.item())
    assert reached == {n for n, _ in model.named_parameters()}
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("event", [Leaf((4,), Binary()), Leaf((1, 4, 4), Real())])
def test_other_events_are_refused(event: Leaf) -> None:
    with pytest.raises(DataError, match=r"ar\.pixelcnn needs an image"):
        Config().build(event, None)
