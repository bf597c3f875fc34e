"""Laws of models that are told parts of items, and draw the rest."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_denoising import CLASSES, IMAGE, exact_model, noise
from test_inverse import PART, TRIPLE, Units, conditional, correlated
from torch import Tensor

import genloom
from genloom.core.errors import ConfigError, DataError
from genloom.core.events import Bounded, Leaf, Value, tensor
from genloom.core.randomness import TrainNoise, generator
from genloom.nn.denoising import Diffusion
from genloom.nn.diffusing import Settings
from genloom.nn.filling import draw_known, shown, with_parts
from genloom.nn.starts import start_from, with_more_inputs

SMALL: dict[str, Any] = {"widths": (16,), "depths": (1,), "dit_width": 8, "dit_heads": 1, "dit_layers": 1}
VECTORS: dict[str, Any] = {"hidden": 64, "layers": 2, "embedding": 32}
BOUND: dict[str, Any] = {"likelihood": "bound", "bound_terms": 2}


def built(network: str, fills: bool, **settings: Any) -> Diffusion:
    given = {**SMALL, "embedding": 8, "network": network, "fills": fills, **settings}
    model = Settings(**given).build(IMAGE, CLASSES)
    assert isinstance(model, Diffusion)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator(parameter.numel())))
    return model.eval()


def said(model: Diffusion, x: Tensor, told: Value) -> Tensor:
    return model.output(x, torch.full((len(x),), 0.4).double(), told)


def test_the_rest_of_normal_data_is_drawn_to_a_percent() -> None:
    """What is drawn is affine in the noise, so that its moments follow without a draw."""
    known = torch.tensor([1.9]).double()
    mean, cov = (part[..., 1:] for part in conditional(PART, known))
    cov = cov[1:]
    model = exact_model(TRIPLE, correlated, fills=True, sampling_steps=200, sampler="dpm_solver_2m")

    def output(x: Tensor, time: Tensor, told: Value) -> Tensor:
        assert isinstance(told, dict)
        assert torch.equal(told["values"][0], torch.tensor([1.9, 0, 0]).double())
        seen = model.course.seen(time).to(x)
        gain = seen.data[0] * cov @ (seen.data[0] ** 2 * cov + seen.noise[0] ** 2 * torch.eye(2)).inverse()
        rest = mean + (x[:, 1:] - seen.data * mean) @ gain.T
        x0 = torch.cat((torch.full_like(x[:, :1], 7.0), rest), 1)
        return model.course.told(time).to(x).of(x0, (x - seen.data * x0) / seen.noise)

    model.output = output  # type: ignore[method-assign]
    units, items = Units(1), torch.tensor([[1.9, 5.0, 5.0]]).double()
    drawn = tensor(model.infill(items.expand(units.rows, -1), torch.tensor([True, False, False]), units))
    moved = (drawn[1:] - drawn[0])[:, 1:]
    assert torch.equal(drawn[:, 0], items[:, 0].expand(units.rows))
    assert torch.allclose(drawn[0, 1:], mean, atol=0.01)
    assert torch.allclose(moved.T @ moved, cov, atol=0.01)


@pytest.mark.parametrize("network", ["unet", "dit"])
def test_networks_see_what_is_known_and_not_what_noise_leaves_of_it(network: str) -> None:
    model, x = built(network, fills=True), torch.randn(3, *IMAGE.extents, generator=generator(0))
    known = draw_known(IMAGE.extents, noise(3)) | (torch.arange(6) < 2)
    told = with_parts(torch.zeros(3).long(), x, known)
    first = said(model, x, told)
    assert first.shape == x.shape
    assert torch.equal(said(model, x + 5 * known, told), first)
    assert not torch.allclose(said(model, x, with_parts(torch.zeros(3).long(), x + 1, known)), first)


def test_nothing_known_is_the_same_as_no_word_of_it() -> None:
    x, nothing = torch.randn(3, 4, generator=generator(0)), torch.zeros(3, 4, dtype=torch.bool)
    assert torch.equal(shown(x, with_parts(torch.zeros(3).long(), x, nothing), 1.0), shown(x, x[:, 0], 1.0))


@pytest.mark.parametrize("scale", [0.0, 3.0])
def test_guidance_is_away_from_no_class_with_the_same_parts(scale: float) -> None:
    model, x = built("unet", fills=True), torch.randn(3, *IMAGE.extents, generator=generator(0))
    known, label = (torch.arange(6) < 3).expand(x.shape), torch.tensor([0, 1, 2])
    classed, free = (said(model, x, with_parts(told, x + 1, known)) for told in (label, 0 * label + 3))
    time = torch.full((3,), 0.4).double()
    guided = model.guided(x, time, with_parts(label, x + 1, known), scale)
    assert torch.allclose(guided, free + scale * (classed - free), atol=1e-5)
    assert not torch.allclose(classed, free)


def test_parts_of_images_are_drawn_in_one_walk_and_channels_are_known_together() -> None:
    leaf = Leaf((3, 4, 4), Bounded(-1, 1, levels=9))
    model = Settings(**SMALL, embedding=8, fills=True, sampling_steps=3).build(leaf, None)
    assert isinstance(model, Diffusion)
    calls = list[Tensor]()
    model.network.register_forward_hook(lambda _, seen, __: calls.append(seen[0][:, 3:]))
    half = (torch.arange(4) < 2).expand(2, 3, 4, 4)
    model.infill(torch.zeros(2, 3, 4, 4), half, noise(2))
    assert len(calls) == 3
    assert all(torch.equal(seen, half.to(seen)) for seen in calls)
    red = torch.tensor([True, False, False]).view(3, 1, 1)
    with pytest.raises(DataError, match="all channels must be known in the same places"):
        model.infill(torch.zeros(2, 3, 4, 4), red, noise(2))


@pytest.mark.parametrize("network", ["unet", "dit"])
def test_a_start_says_the_same_of_what_it_saw(network: str) -> None:
    start, model = (built(network, fills, data_std=0.5) for fills in (False, True))
    start_from(model, with_more_inputs(start.state_dict(), model))
    x, label = torch.randn(3, *IMAGE.extents, generator=generator(0)), torch.zeros(3).long()
    first, known = said(start, x, label), (torch.arange(6) < 3).expand(x.shape)
    assert torch.allclose(said(model, x, label), first, atol=1e-5)
    as_it_was = (
        model.course.std * x / model.course.seen(torch.tensor([0.4])).deviation(model.course.std).to(x)
    )
    assert torch.allclose(said(model, x, with_parts(label, as_it_was, known)), first, atol=1e-5)


def test_values_that_are_known_do_not_count() -> None:
    model, x = built("unet", fills=True), torch.randn(4, *IMAGE.extents, generator=generator(0))
    eps, label = torch.randn(x.shape, generator=generator(1)), torch.zeros(4).long()
    time, half = torch.full((4,), 0.4).double(), (torch.arange(6) < 3).expand(x.shape)
    told = with_parts(label, x, half)
    error = said(model, model.course.seen(time).to(x).of(x, eps), told)
    error = (error - model.course.told(time).to(x).of(x, eps)).square()
    weight = model.course.weight(time).to(x)
    assert torch.allclose(model.error_between(x, eps, time, told), weight * error[..., 3:].mean((1, 2, 3)))
    assert not model.error_between(x, eps, time, with_parts(label, x, half | True)).any()


def test_what_is_known_in_training() -> None:
    known = draw_known((3, 8, 12), TrainNoise(generator(0), 4000, 0, 4000))
    assert torch.equal(known, known[:, :1].expand_as(known))
    shares = known[:, 0].float().flatten(1).mean(1)
    assert float((shares == 0).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert float((shares == 1).float().mean()) < 0.01
    for part in (known[:, 0], ~known[:, 0]):
        rows, columns = part.any(2).sum(1), part.any(1).sum(1)
        boxes = (rows * columns == part.flatten(1).sum(1)) & (shares > 0) & (shares < 1)
        assert 0.2 < float(boxes.float().mean()) < 0.4
    halves = known[:, 0, :4].flatten(1).all(1) & ~known[:, 0, 4:].flatten(1).any(1)
    assert halves.any(), "as --hide last asks for"
    vectors = draw_known((5,), TrainNoise(generator(0), 4000, 0, 4000))
    assert not vectors.all(1).any()
    assert vectors.float().mean(0) == pytest.approx(torch.full((5,), 0.33), abs=0.04)
    whole = draw_known((1, 4, 4), TrainNoise(generator(1), 6, 0, 6))
    assert torch.equal(draw_known((1, 4, 4), TrainNoise(generator(1), 6, 2, 4)), whole[2:4])


@pytest.mark.parametrize(("family", "scored"), [("diffusion.ddpm", BOUND), ("diffusion.consistency", {})])
def test_what_follows_from_a_part_is_learnt(family: str, scored: dict[str, Any], tmp_path: Path) -> None:
    drawn = np.random.default_rng(0).multivariate_normal([0, 0], [[1, 0.9], [0.9, 1]], 2000)
    np.save(tmp_path / "pairs.npy", drawn.astype(np.float32))
    trained = genloom.fit(
        family,
        str(tmp_path / "pairs.npy"),
        out=tmp_path / "run",
        model={**VECTORS, **scored, "fills": True, "lr": 5e-3},
        train={"steps": 400},
    )
    given = torch.linspace(-1.5, 1.5, 7).repeat_interleave(300)
    items = torch.stack((given, torch.zeros_like(given)), 1)
    rest = trained.infill(items, torch.tensor([True, False]))[:, 1].view(7, 300)
    means = torch.linspace(-1.5, 1.5, 7)
    slope = float((means * rest.mean(1)).sum() / means.square().sum())
    assert slope == pytest.approx(0.9, abs=0.15)
    assert float(rest.std(1).mean()) == pytest.approx(0.19**0.5, rel=0.25)


@pytest.fixture(scope="module")
def filling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("filling") / "run"
    model = {**VECTORS, **BOUND, "fills": True}
    genloom.fit("diffusion.ddpm", "two_moons", out=out, model=model, train={"steps": 1})
    return out


def test_what_a_start_learnt_is_kept(filling: Path, tmp_path: Path) -> None:
    start = {"start": str(filling)}
    with pytest.raises(ConfigError, match="a start has its own fills"):
        genloom.fit("diffusion.ddpm", "two_moons", out=tmp_path / "on", model={**start, "fills": False})
    on = genloom.fit(
        "diffusion.consistency", "two_moons", out=tmp_path / "on", model=start, train={"steps": 1}
    )
    assert on.run.config.model_dump()["fills"]
    given = torch.tensor([[0.5, 1.0], [-0.5, 0.0]])
    for trained in (on, genloom.load(filling), genloom.load(filling, restoring="repaint")):
        drawn = trained.infill(given, torch.tensor([True, False]))
        assert drawn[:, 0].allclose(given[:, 0].to(drawn))


def test_what_cannot_be_learnt_of_parts_is_refused(filling: Path, tmp_path: Path) -> None:
    family = "diffusion.flow_matching"
    optimal = {"fills": True, "coupling": "optimal"}
    with pytest.raises(ConfigError, match="fills goes with noise and data coupled independently"):
        genloom.fit(family, "two_moons", out=tmp_path / "run", model=optimal)
    whole = {**VECTORS, **BOUND}
    genloom.fit(family, "two_moons", out=tmp_path / "whole", model=whole, train={"steps": 1})
    for start in (filling, tmp_path / "whole"):
        reflow = {"start": str(start), "reflow": 2, **({} if start == filling else {"fills": True})}
        with pytest.raises(ConfigError, match="reflow is of whole items"):
            genloom.fit(family, "two_moons", out=tmp_path / "run", model=reflow)
    genloom.fit("diffusion.ddpm", "two_moons", out=tmp_path / "guide", model=whole, train={"steps": 1})
    with pytest.raises(ConfigError, match="did not learn to fill"):
        genloom.load(filling, guide=str(tmp_path / "guide"), guidance_scale=2.0)
