"""Laws of every model in raster order: sums, causality at every pixel, cached = naive draws, infilling."""

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from genloom.core import registry
from genloom.core.errors import DataError
from genloom.core.events import Binary, Categorical, Leaf, Real, categories
from genloom.core.likelihood import Bound
from genloom.core.randomness import SampleNoise
from genloom.nn.raster import PixelModel

FAMILIES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "pixelcnn": ("ar.pixelcnn", {"channels": 6, "dilations": (1, 2), "reach": 2, "mixtures": 3}),
    "pixelcnnpp": ("ar.pixelcnnpp", {"channels": 4, "scales": 3, "reach": 1, "mixtures": 3}),
    "row lstm": ("ar.pixelrnn", {"recurrence": "row", "units": 3, "layers": 2, "reach": 1, "mixtures": 3}),
    "diagonal lstm": ("ar.pixelrnn", {"units": 3, "layers": 2, "reach": 1, "mixtures": 3}),
    "pixelsnail": (
        "ar.pixelsnail",
        {"channels": 5, "blocks": 2, "dilations": (1,), "keys": 3, "reach": 1, "mixtures": 3},
    ),
}
LABEL = Leaf((), Categorical(3))
TINY = {
    "levels": Leaf((1, 2, 2), Categorical(3, ordered=True)),
    "binary": Leaf((1, 2, 2), Binary()),
    "two binary channels": Leaf((2, 2, 1), Binary()),
    "three channels": Leaf((3, 1, 2), Categorical(2, ordered=True)),
    "many levels": Leaf((1, 1, 2), Categorical(40, ordered=True)),
    "two mixture channels": Leaf((2, 1, 1), Categorical(33, ordered=True)),
}
SAMPLED = {
    "binary": Leaf((1, 6, 5), Binary()),
    "colour levels": Leaf((3, 4, 4), Categorical(4, ordered=True)),
    "colour mixture": Leaf((3, 4, 5), Categorical(256, ordered=True)),
}
every_family = pytest.mark.parametrize("family", FAMILIES)


def make(family: str, event: Leaf, cond: Leaf | None = None) -> PixelModel:
    """Return a float64 model with random weights everywhere, so that every dependence shows."""
    torch.manual_seed(0)
    name, settings = FAMILIES[family]
    model = registry.load(name).config(**settings).build(event, cond).double()
    assert isinstance(model, PixelModel)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.3)
    return model


def smooth(model: PixelModel) -> PixelModel:
    """Return the model without the ReLUs, whose gradient may vanish by chance."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, torch.nn.ReLU):
                setattr(parent, name, torch.nn.Softplus())
    return model


def noise(*index: int) -> SampleNoise:
    return SampleNoise(7, torch.tensor(index))


def naive_complete(
    model: PixelModel, x: Tensor, known: Tensor, source: SampleNoise, cond: Tensor | None = None
) -> Tensor:
    """Draw the unknown values with one full pass of the network for each pixel."""
    _, height, width = model.shape
    u = source.uniform(height, width, model.pixel.uniforms_needed).double()
    given, x = x.masked_fill(~known, -1), x.masked_fill(~known, 0)
    with torch.no_grad():
        for i, j in itertools.product(range(height), range(width)):
            x[:, :, i, j] = model.pixel.draw(model(x, cond)[:, i, j], u[:, i, j], given[:, :, i, j])
    return x


def nothing(model: PixelModel, rows: int) -> tuple[Tensor, Tensor]:
    """Return blank images, and that nothing of them is known."""
    blank = torch.zeros(rows, *model.shape, dtype=torch.int64)
    return blank, blank.bool()


def states(event: Leaf) -> Tensor:
    """Return every image of a tiny event."""
    levels = range(categories(event.kind))
    return torch.tensor(list(itertools.product(levels, repeat=event.dim))).view(-1, *event.extents)


@every_family
@pytest.mark.parametrize("event", TINY.values(), ids=TINY)
def test_probabilities_of_all_images_sum_to_one(family: str, event: Leaf) -> None:
    model, images = make(family, event, LABEL), states(event)
    for cond in (None, torch.full((len(images),), 1)):
        with torch.no_grad():
            log_prob = model.log_prob(images, cond, noise=noise(0))
        assert log_prob.kind is Bound.EXACT
        assert log_prob.value.exp().sum().item() == pytest.approx(1, abs=1e-10)


@every_family
@pytest.mark.parametrize("size", [(5, 6), (6, 5), (1, 4), (4, 1)], ids=str)
def test_a_pixel_sees_those_before_it_and_no_other(family: str, size: tuple[int, int]) -> None:
    """The whole Jacobian: none sees itself or a later one, and all see those to the left and above."""
    height, width = size
    model = smooth(make(family, Leaf((1, *size), Binary())))
    label = torch.zeros(1, dtype=torch.int64)

    def parameters(x: Tensor) -> Tensor:
        return model.network(x.view(1, height, width, 1), label).sum(-1).flatten()

    x = torch.randn(height * width, dtype=torch.float64)
    seen = torch.autograd.functional.jacobian(parameters, x) != 0
    assert not seen.triu().any()
    place = torch.arange(height * width).view(height, width)
    assert seen[place[:, 1:].flatten(), place[:, :-1].flatten()].all()
    assert seen[place[1:].flatten(), place[:-1].flatten()].all()


@every_family
@pytest.mark.parametrize("event", SAMPLED.values(), ids=SAMPLED)
def test_cached_samples_equal_naive_samples(family: str, event: Leaf) -> None:
    model, index = make(family, event, LABEL), range(4)
    blank, unknown = nothing(model, 4)
    assert torch.equal(model.sample(noise(*index)), naive_complete(model, blank, unknown, noise(*index)))
    labels = torch.tensor([0, 1, 2, 3])
    conditional = model.sample(noise(*index), labels)
    assert torch.equal(conditional, naive_complete(model, blank, unknown, noise(*index), labels))
    assert not torch.equal(conditional, model.sample(noise(*index)))


@every_family
def test_cached_infilling_equals_naive_infilling(family: str) -> None:
    model, index = make(family, SAMPLED["colour mixture"], LABEL), range(4)
    x = model.sample(SampleNoise(1, torch.arange(4)))
    known = noise(*index).uniform(*model.shape) < 0.5
    labels = torch.tensor([0, 1, 2, 3])
    filled = model.infill(x, known, noise(*index), labels)
    assert torch.equal(filled[known], x[known])
    assert torch.equal(filled, naive_complete(model, x, known, noise(*index), labels))
    nowhere = torch.zeros_like(known)
    assert torch.equal(model.infill(x, nowhere, noise(*index)), model.sample(noise(*index)))


@every_family
def test_a_sample_depends_only_on_its_own_noise(family: str) -> None:
    model = make(family, SAMPLED["colour mixture"])
    together = model.sample(noise(*range(6)))
    assert torch.equal(together[[4, 1]], model.sample(noise(4, 1)))
    assert len(together.unique(dim=0)) == 6


@pytest.mark.parametrize("name", ["levels", "two mixture channels"])
def test_samples_follow_log_prob(name: str) -> None:
    model, count = make("pixelcnn", TINY[name]), 10_000
    x = model.sample(noise(*range(count)))
    images, counts = x.unique(dim=0, return_counts=True)
    with torch.no_grad():
        p = model.log_prob(images, noise=noise(0)).value.exp()
    frequent = p * count > 50
    deviation = (counts - p * count)[frequent] / (p * count * (1 - p)).sqrt()[frequent]
    assert frequent.sum() >= 5
    assert deviation.abs().max() < 4.5


@pytest.mark.parametrize("name", ["levels", "two mixture channels"])
def test_what_follows_known_values_is_drawn_from_the_exact_conditional(name: str) -> None:
    model, count, images = make("pixelcnn", TINY[name]), 10_000, states(TINY[name])
    first = torch.zeros(model.shape, dtype=torch.bool)
    first[0, 0, 0] = True
    known, x = first.expand(count, *model.shape), torch.full((count, *model.shape), 1)
    drawn, counts = model.infill(x, known, noise(*range(count))).unique(dim=0, return_counts=True)
    with torch.no_grad():
        joint = model.log_prob(images, noise=noise(0)).value.exp()
        p = model.log_prob(drawn, noise=noise(0)).value.exp() / joint[images[:, 0, 0, 0] == 1].sum()
    frequent = p * count > 50
    deviation = (counts - p * count)[frequent] / (p * count * (1 - p)).sqrt()[frequent]
    assert frequent.sum() >= 5
    assert deviation.abs().max() < 4.5


@every_family
def test_log_prob_differs_by_class_and_null_means_no_class(family: str) -> None:
    model = make(family, SAMPLED["binary"], LABEL)
    x = model.sample(noise(0, 1))
    values = [model.log_prob(x, torch.full((2,), c), noise=noise(0)) for c in range(4)]
    assert (values[0].value - values[1].value).abs().min() > 1e-6
    free = model.log_prob(x, noise=noise(0))
    assert torch.equal(values[3].value, free.value)
    assert (values[0].given, free.given) == ("class", "")


@every_family
@pytest.mark.parametrize("event", [Leaf((4,), Binary()), Leaf((1, 4, 4), Real())])
def test_other_events_are_refused(family: str, event: Leaf) -> None:
    name, settings = FAMILIES[family]
    with pytest.raises(DataError, match=f"{name} needs an image"):
        registry.load(name).config(**settings).build(event, None)
