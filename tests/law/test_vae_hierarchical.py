"""The ladder of codes: its bound against quadrature, its units, and the sizes of its maps."""

import pytest
import torch
from latents import bits, grid, lively, noise
from torch import Tensor

from genloom.core.errors import ConfigError
from genloom.core.events import Binary, Categorical, Event, Leaf
from genloom.families.vae_hierarchical import Config, Model
from genloom.nn.gaussian_vae import kl_of_normals, log_normal_ratio, normal_log_prob
from genloom.testing import draw, require_legal


def make(event: Event, **settings: object) -> Model:
    torch.manual_seed(0)
    model = lively(Config(**settings).build(event, None), 0.4)  # type: ignore[arg-type]
    assert isinstance(model, Model)
    return model


def test_the_bound_reaches_the_evidence_by_quadrature() -> None:
    model, x = make(Leaf((3,), Binary()), layers=(2,), widths=(6,), codes=(1,)), bits(3)
    for layer in model.scales[0].layers:  # type: ignore[union-attr]
        layer.infer[-1].bias[1] = 0.3  # type: ignore[index, union-attr]
    points, log_cell = grid(2, 120, reach=6.0)
    parameters = model._read(points, None)
    prior = torch.distributions.Normal(0, 1).log_prob(points).sum(1)
    likelihood = [model.output.log_prob(parameters, row.expand(len(points), 3)).sum(1) for row in x]
    evidence = torch.stack([(part + prior).logsumexp(0) + log_cell for part in likelihood])
    assert float(evidence.exp().sum()) == pytest.approx(1, abs=1e-4)
    model.importance_samples = 1
    single = torch.stack([model.log_prob(x, noise=noise(8, seed)).value for seed in range(50)])
    model.importance_samples = 1000
    many = model.log_prob(x, noise=noise(8)).value
    assert bool((single.mean(0) < evidence + 5 * single.std(0) / 50**0.5).all())
    assert float((many - evidence).abs().max()) < 0.15


def test_divergences_are_the_same_in_units_of_the_prior() -> None:
    z, prior_mean, prior_log_std, m, log_s = torch.randn(5, 6, 4, dtype=torch.float64).unbind(0)
    mean, log_std = prior_mean + prior_log_std.exp() * m, prior_log_std + log_s
    u = (z - prior_mean) * (-prior_log_std).exp()
    expected = normal_log_prob(z, prior_mean, prior_log_std) - normal_log_prob(z, mean, log_std)
    torch.testing.assert_close(log_normal_ratio(u, m, log_s), expected)
    zero = torch.zeros_like(m)
    torch.testing.assert_close(
        kl_of_normals(m, log_s, zero, zero), kl_of_normals(mean, log_std, prior_mean, prior_log_std)
    )


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 5, 9), (3, 8, 12)])
@pytest.mark.parametrize("layers", [(2,), (1, 1), (1, 2, 1)])
def test_maps_fit_images_of_any_size(shape: tuple[int, int, int], layers: tuple[int, ...]) -> None:
    event, n = Leaf(shape, Categorical(5, ordered=True)), len(layers)
    model = make(event, layers=layers, widths=(8,) * n, codes=(2,) * n, importance_samples=2)
    x = draw(event, 4)
    assert isinstance(x, Tensor)
    z = model.encode(x)
    require_legal(event, model.decode(z), 4)
    require_legal(event, model.sample(noise(4)), 4)
    assert model.log_prob(x, noise=noise(4)).value.shape == (4,)


def test_every_layer_infers_from_the_item_and_speaks_of_it() -> None:
    event = Leaf((1, 8, 8), Binary())
    model = make(event, layers=(1, 2, 1), widths=(8, 8, 8), codes=(2, 2, 2))
    x = draw(event, 2)
    assert isinstance(x, Tensor)
    z, start = model.encode(x), 0
    other = model.encode(1 - x)
    for scale in model._all_scales():
        for _ in scale.layers:
            part = slice(start, start := start + scale.codes * scale.size[0] * scale.size[1])
            assert not torch.equal(z[:, part], other[:, part])
            moved = z.clone()
            moved[:, part] += 1
            assert not torch.equal(model._read(moved, None), model._read(z, None))
    assert start == z.shape[1]


def test_impossible_scales_are_refused() -> None:
    with pytest.raises(ConfigError, match="one number for each scale"):
        Config(layers=(1, 1), widths=(8,), codes=(1, 1)).build(Leaf((1, 8, 8), Binary()), None)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="only images"):
        Config(layers=(1, 1), widths=(8, 8), codes=(1, 1)).build(Leaf((8,), Binary()), None)  # type: ignore[call-arg]
