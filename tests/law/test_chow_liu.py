"""Chow-Liu trees against enumeration of all trees, all states, and published values."""

import itertools
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from genloom import fit, open_data
from genloom.core.errors import DataError
from genloom.core.events import Binary, Categorical, Leaf
from genloom.core.randomness import SampleNoise
from genloom.families.baseline_chow_liu import Config, Model, mutual_information, pair_counts

NOISE = SampleNoise(0, torch.arange(1))


def correlated(rows: int, dim: int, k: int) -> Tensor:
    """Return rows whose neighbours often agree."""
    generator = torch.Generator().manual_seed(dim * k)
    x = torch.randint(0, k, (rows, dim), generator=generator)
    for d in range(1, dim):
        same = torch.rand(rows, generator=generator) < 0.3 + 0.1 * d
        x[:, d] = torch.where(same, x[:, (3 * d) % d], x[:, d])
    return x


def fitted(x: Tensor, k: int, pseudo_count: float = 1.0) -> Model:
    kind = Binary() if k == 2 else Categorical(k)
    model = Config(pseudo_count=pseudo_count).build(Leaf((x.shape[1],), kind), None).double()
    model.fit(x, x, NOISE)
    return model


def log_prob(model: Model, x: Tensor) -> Tensor:
    return model.log_prob(x, noise=NOISE).value


def trees(dim: int) -> list[list[tuple[int, int]]]:
    """Return the edges of every tree on ``dim`` places."""
    pairs = list(itertools.combinations(range(dim), 2))
    return [list(edges) for edges in itertools.combinations(pairs, dim - 1) if connected(dim, list(edges))]


def connected(dim: int, edges: list[tuple[int, int]]) -> bool:
    reached = {0}
    for _ in range(dim):
        reached |= {b for edge in edges if reached & set(edge) for b in edge}
    return len(reached) == dim


@pytest.mark.parametrize("k", [2, 3])
def test_no_other_tree_fits_better(k: int) -> None:
    """The mean log-likelihood of a tree is the sum of its mutual informations minus the entropies."""
    x = correlated(400, 5, k)
    information = mutual_information(pair_counts(x, k), 1e-9)
    assert len(trees(5)) == 5**3
    best = max(sum(float(information[a, b]) for a, b in edges) for edges in trees(5))
    shares = torch.nn.functional.one_hot(x, k).double().mean(0)
    entropies = -torch.special.xlogy(shares, shares).sum()
    assert float(log_prob(fitted(x, k, 1e-9), x).mean()) == pytest.approx(best - float(entropies), abs=1e-6)


@pytest.mark.parametrize(("dim", "k"), [(1, 2), (1, 4), (6, 2), (4, 3)])
def test_probabilities_sum_to_one_and_samples_follow_them(dim: int, k: int) -> None:
    model = fitted(correlated(300, dim, k), k)
    states = torch.cartesian_prod(*[torch.arange(k)] * dim).view(-1, dim)
    p = log_prob(model, states).exp()
    assert float(p.sum()) == pytest.approx(1, abs=1e-12)
    n = 20_000
    drawn = model.sample(SampleNoise(1, torch.arange(n)))
    code = (drawn * k ** torch.arange(dim).flip(0)).sum(1)
    counts = torch.bincount(code, minlength=len(p)).double()
    statistic = float(((counts - n * p).square() / (n * p)).sum())
    freedom = len(p) - 1
    assert statistic < freedom + 5 * (2 * freedom) ** 0.5


def test_too_many_categories_are_refused() -> None:
    with pytest.raises(DataError, match="at most 4,096 categories in all"):
        Config().build(Leaf((1, 28, 28), Categorical(256, ordered=True)), None)


PUBLISHED = {"nltcs": (-9.2336, -6.7590), "plants": (-31.2662, -16.5240)}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_log_likelihoods(name: str, tmp_path: Path) -> None:
    """Laplace's rule on the official splits of the binary density sets."""
    if not Path(os.environ.get("GENLOOM_DATA", "/nowhere"), "density", "binary").is_dir():
        pytest.skip("GENLOOM_DATA holds no density/binary")
    items = open_data(name).test.items
    for family, expected in zip(("baseline.independent", "baseline.chow_liu"), PUBLISHED[name], strict=True):
        trained = fit(family, name, out=tmp_path / family)
        assert float(trained.log_prob(items).value.mean()) == pytest.approx(expected, abs=1e-3)
