"""Chow-Liu tree: each value depends on one other. Chow & Liu 1968, doi:10.1109/TIT.1968.1054142.

N training rows, B batch, D values of an item, K categories of each.
"""

import torch
from pydantic import Field
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree
from torch import Tensor, nn

from genloom.core import card
from genloom.core.capabilities import ClosedForm, Likelihood, Sampler
from genloom.core.card import Card, Reference
from genloom.core.errors import DataError
from genloom.core.events import Event, Leaf, Value, categories, describe, flat_leaf, is_discrete, items
from genloom.core.likelihood import Bound, LogProb
from genloom.core.objective import Stage
from genloom.core.randomness import Noise

LIMIT = 4096
"""Most categories of all values together: every pair of them is counted."""

CHUNK = 4096
"""Rows counted at once."""


class Config(card.Config):
    """Settings of a Chow-Liu tree."""

    pseudo_count: float = Field(1.0, gt=0, description="added to every count (1 is Laplace's rule)")

    def build(self, event: Event, cond: Event | None) -> "Model":  # noqa: ARG002
        if not countable(event):
            raise DataError(
                f"baseline.chow_liu needs at most {LIMIT:,} categories in all, not {describe(event)}"
            )
        return Model(flat_leaf(event), self.pseudo_count)

    def stages(self, model: nn.Module) -> list[Stage]:  # noqa: ARG002
        return [Stage("fit", None)]


def countable(event: Event) -> bool:
    """Accept discrete leaves of fixed shape whose pairs of categories can all be counted."""
    return (
        isinstance(event, Leaf)
        and event.length_axis is None
        and is_discrete(event.kind)
        and event.dim * categories(event.kind) <= LIMIT
    )


def pair_counts(x: Tensor, k: int) -> Tensor:
    """Return how often two values have two categories, (D, D, K, K) float64, of rows (N, D) int64."""
    dim = x.shape[1]
    total = torch.zeros(dim * k, dim * k, dtype=torch.float64)
    for rows in x.split(CHUNK):
        ones = torch.nn.functional.one_hot(rows, k).flatten(1).float()
        total += (ones.T @ ones).double()
    return total.view(dim, k, dim, k).permute(0, 2, 1, 3)


def mutual_information(pairs: Tensor, pseudo_count: float) -> Tensor:
    """Return the mutual information of every two values, (D, D) nats, from their smoothed counts.

    Source: Chow & Liu 1968, equation 5.
    """
    joint = pairs + pseudo_count
    joint = joint / joint.sum((2, 3), keepdim=True)
    left, right = joint.sum(3, keepdim=True), joint.sum(2, keepdim=True)
    return (joint * (joint.log() - left.log() - right.log())).sum((2, 3))


def spanning_tree(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values from a root outwards, and each one's parent, of the tree of greatest weight.

    Args:
        weights: (D, D), symmetric, none negative.

    Returns:
        An order (D,) that begins with value 0, and parents (D,), -1 for the root.
    """
    if len(weights) == 1:
        return torch.zeros(1, dtype=torch.int64), torch.full((1,), -1)
    costs = (-1 - weights.clamp_min(0)).triu(1).numpy()
    tree = minimum_spanning_tree(costs)
    order, parents = breadth_first_order(tree, 0, directed=False)
    return torch.from_numpy(order).long(), torch.from_numpy(parents).long().clamp_min(-1)


class Model(nn.Module, ClosedForm, Likelihood, Sampler):
    """A tree over the values, with a table of each one's category given its parent's."""

    order: Tensor
    parents: Tensor
    log_table: Tensor

    def __init__(self, leaf: Leaf, pseudo_count: float) -> None:
        super().__init__()
        self.leaf, self.k, self.pseudo_count = leaf, categories(leaf.kind), pseudo_count
        self.register_buffer("order", torch.arange(leaf.dim))
        self.register_buffer("parents", torch.full((leaf.dim,), -1))
        self.register_buffer("log_table", torch.zeros(leaf.dim, self.k, self.k))

    def fit(self, train: Value, valid: Value, noise: Noise, cond: Value | None = None) -> dict[str, float]:  # noqa: ARG002
        """Count pairs, keep the tree of greatest mutual information, and take its conditional frequencies.

        The root's table has the same row, its frequencies, whatever stands in its parent's place.
        """
        pairs = pair_counts(self._flat(train), self.k)
        self.order, self.parents = spanning_tree(mutual_information(pairs, self.pseudo_count))
        places = torch.arange(self.leaf.dim)
        root = places[self.parents < 0]
        counts = pairs[self.parents.clamp_min(0), places]
        counts[root] = torch.diagonal(pairs[root, root], dim1=1, dim2=2)[:, None].expand(-1, self.k, -1)
        smoothed = counts + self.pseudo_count
        self.log_table.copy_((smoothed / smoothed.sum(2, keepdim=True)).log())
        return {"train_nats": -float(self._score(self._flat(train)).mean())}

    def log_prob(self, x: Value, cond: Value | None = None, *, noise: Noise) -> LogProb:  # noqa: ARG002
        return LogProb(self._score(self._flat(x)), Bound.EXACT)

    def sample(self, noise: Noise, cond: Value | None = None) -> Tensor:  # noqa: ARG002
        """Draw from the root outwards."""
        x = torch.zeros(noise.uniform().shape[0], self.leaf.dim, dtype=torch.int64)
        for place in self.order.tolist():
            above = x[:, self.parents[place].clamp_min(0)]
            x[:, place] = noise.categorical(self.log_table[place, above])
        return x.view(-1, *self.leaf.extents)

    def _score(self, x: Tensor) -> Tensor:
        """Return log p of rows (B, D), (B,) float64 nats."""
        above = x[:, self.parents.clamp_min(0)]
        return self.log_table[torch.arange(self.leaf.dim), above, x].double().sum(1)

    def _flat(self, value: Value) -> Tensor:
        return items(value, self.leaf.extents).flatten(1)


CARD = Card(
    name="baseline.chow_liu",
    title="Chow-Liu tree",
    summary="The tree of pairwise dependences that fits discrete data best, found by counting.",
    events=(countable,),
    references=(
        Reference(
            "Chow & Liu",
            1968,
            "Approximating discrete probability distributions with dependence trees",
            "doi:10.1109/TIT.1968.1054142",
        ),
    ),
    good_at=(
        "Fits at once, exactly: the tree is the best of all trees.",
        "Survey-like tables of few values.",
    ),
    bad_at=("Sees no dependence of more than two values.",),
    likelihood=Bound.EXACT,
)
