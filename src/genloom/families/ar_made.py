"""MADE: one masked network gives every conditional of a chain. Germain et al. 2015, arXiv:1502.03509.

Real values are mixtures of normals, as in "MADE MoG" of Papamakarios et al. 2017, arXiv:1705.07057.

B batch, S event shape, D values of an item, H hidden units, P numbers for each value's distribution.
"""

import copy
import math
from collections.abc import Sequence
from typing import Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from genloom.core import card
from genloom.core.capabilities import Infill, Likelihood, Sampler
from genloom.core.card import Card, Reference
from genloom.core.events import Batch, Event, Leaf, Real, Value, flat_leaf, items, tensor
from genloom.core.likelihood import Bound, LogProb, given
from genloom.core.objective import Average, Clock, Group, Loss, Objective, Optimiser, Phase, Stage
from genloom.core.randomness import Noise
from genloom.nn.labels import hide_labels, labels_or_null
from genloom.nn.likelihoods import NormalMixture, Output, output_for, to_input
from genloom.nn.masked import Made, Prefix, blind_weights


class Config(card.Config):
    """Settings of MADE."""

    hidden: card.Widths = Field((512, 512), description="width of each hidden layer")
    components: int = Field(
        10, ge=1, le=100, description="normals that each conditional of real values is a mixture of"
    )
    orders: int = Field(1, ge=1, le=64, description="1 is the natural order; more are random and averaged")
    label_dropout: float = Field(0.1, ge=0, lt=1, description="share of labels hidden, for unconditional use")
    lr: float = Field(1e-3, gt=0, description="peak rate of Adam, cosine to zero")
    batch_size: int = Field(128, gt=0, description="small batches generalise; the paper's is 100")

    @classmethod
    def preset(cls, event: Event) -> Self:
        """Widen with the number of values: the paper's best for 784 pixels has 8,000 units."""
        dim = flat_leaf(event).dim
        if dim <= 128:
            return cls()
        return cls(hidden=(2000, 2000), components=1) if dim <= 1024 else cls(hidden=(1000,), components=1)

    def build(self, event: Event, cond: Event | None) -> "Model":
        leaf = flat_leaf(event)
        output = NormalMixture(self.components) if isinstance(leaf.kind, Real) else output_for(leaf)
        return Model(leaf, output, card.class_count(cond), self.hidden, self.orders)

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, Model)

        def nll(batch: Batch, noise: Noise, clock: Clock) -> Loss:
            label = batch.get("cond")
            if label is not None:
                label = hide_labels(tensor(label), model.classes, self.label_dropout, noise)
            score = model.log_prob_in_order(tensor(batch["x"]), label, clock.step % self.orders)
            return Loss({"nll": -score.mean()})

        optimiser = Optimiser(self.lr, schedule="cosine", warmup=0.01, clip=100.0)
        phase = Phase("likelihood", ("network",), nll)
        objective = Objective(
            {"network": Group(model, optimiser)}, [phase], Average(), exempt=blind_weights(model)
        )
        return [Stage("fit", objective, self.batch_size)]


class Model(nn.Module, Sampler, Likelihood, Infill):
    """A product of conditionals in each of some orders of the values; the model is their equal mixture.

    Weights belong to values, not to places, so that all orders share them (Germain et al., section 4.2).
    """

    permutations: Tensor

    def __init__(self, leaf: Leaf, output: Output, classes: int, hidden: Sequence[int], orders: int) -> None:
        super().__init__()
        self.leaf, self.output, self.classes = leaf, output, classes
        self.made = Made(leaf.dim, output.parameters_per_scalar, hidden, context=classes > 0)
        self.label = nn.Embedding(classes + 1, hidden[0]) if classes else None
        if self.label is not None:
            nn.init.zeros_(self.label.weight)
        natural = [torch.arange(leaf.dim)]
        self.register_buffer(
            "permutations",
            torch.stack(natural if orders == 1 else [torch.randperm(leaf.dim) for _ in range(orders)]),
        )

    def log_prob_in_order(self, x: Tensor, cond: Value | None, order: int) -> Tensor:
        """Return log p of items (B, *S) as a product in one order, (B,) nats."""
        flat = items(x, self.leaf.extents).flatten(1)
        permutation = self.permutations[order]
        dtype = self._dtype()
        inputs = to_input(self.leaf, flat, dtype).t()[permutation]
        raw = functional_call(self.made, self._permuted(permutation), (inputs, self._context(cond, len(x))))
        parameters = raw.permute(2, 1, 0).to(dtype)
        return self.output(parameters, flat[:, permutation])

    def log_prob(self, x: Value, cond: Value | None = None, *, noise: Noise) -> LogProb:  # noqa: ARG002
        """Return the exact log-likelihood of the mixture over orders."""
        scores = [self.log_prob_in_order(tensor(x), cond, order) for order in range(len(self.permutations))]
        value = torch.stack(scores).logsumexp(0) - math.log(len(scores))
        return LogProb(value, Bound.EXACT, given(cond))

    @torch.no_grad()
    def sample(self, noise: Noise, cond: Value | None = None) -> Tensor:
        """Draw value by value, each item in an order of its own."""
        chosen = noise.integers(len(self.permutations))
        nothing = torch.zeros(len(chosen), self.leaf.dim, dtype=torch.bool)
        return self._complete(nothing.to(self._dtype()), nothing, chosen, noise, cond)

    @torch.no_grad()
    def infill(self, x: Value, known: Value, noise: Noise, cond: Value | None = None) -> Tensor:
        """Draw each unknown value from p(value | all values before it), known or drawn.

        Each item takes an order of its own, drawn evenly. Known values after an unknown one do not bear on
        it: these are samples of that order's p(unknown | known) where it has all known values first.
        """
        chosen = noise.integers(len(self.permutations))
        flat, given = (items(value, self.leaf.extents).flatten(1) for value in (x, known))
        return self._complete(flat, given, chosen, noise, cond)

    def _complete(self, x: Tensor, known: Tensor, chosen: Tensor, noise: Noise, cond: Value | None) -> Tensor:
        """Return items (B, *S) in whose chosen order (B,) the unknown values of x (B, D) are drawn."""
        orders = range(len(self.permutations))
        drawn = torch.stack([self._complete_in_order(x, known, noise, cond, order) for order in orders], 1)
        return drawn[torch.arange(len(chosen)), chosen].view(-1, *self.leaf.extents)

    def _complete_in_order(
        self, x: Tensor, known: Tensor, noise: Noise, cond: Value | None, order: int
    ) -> Tensor:
        """Return items (B, D), their unknown values drawn in one order; the whole costs one pass."""
        permutation, rows = self.permutations[order], len(x)
        made = copy.deepcopy(self.made)
        made.load_state_dict(self._permuted(permutation), strict=False)
        like = next(self.parameters()).new_empty(self.leaf.dim, rows)
        prefix, values = Prefix(made, like, self._context(cond, rows)), list[Tensor]()
        for place in permutation.tolist():
            drawn = self.output.draw(prefix.outputs().t(), noise)
            values.append(torch.where(known[:, place], x[:, place].to(drawn.dtype), drawn))
            prefix.read(to_input(self.leaf, values[-1], like.dtype))
        return torch.stack(values, 1)[:, permutation.argsort()]

    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def _permuted(self, permutation: Tensor) -> dict[str, Tensor]:
        """Return the first and last layer's parameters with values in another order."""
        last = len(self.made.layers) - 1
        state = dict(self.made.named_parameters())
        outputs = (self.output.parameters_per_scalar, self.leaf.dim)
        first = state["layers.0.weight"][:, permutation]
        weight = state[f"layers.{last}.weight"].unflatten(0, outputs)[:, permutation].flatten(0, 1)
        bias = state[f"layers.{last}.bias"].view(outputs)[:, permutation].flatten()
        return {"layers.0.weight": first, f"layers.{last}.weight": weight, f"layers.{last}.bias": bias}

    def _context(self, cond: Value | None, rows: int) -> Tensor | None:
        """Return the labels' vectors as columns (H, B)."""
        return None if self.label is None else self.label(labels_or_null(cond, self.classes, rows)).t()


CARD = Card(
    name="ar.made",
    title="Masked autoregressive network (MADE)",
    summary="A masked network that predicts each value from those before it, with an exact likelihood.",
    events=(card.binary, card.ordered_levels, card.leaf_of(Real)),
    conditions="class",
    likelihood=Bound.EXACT,
    references=(
        Reference(
            "Germain et al.", 2015, "MADE: Masked autoencoder for distribution estimation", "arXiv:1502.03509"
        ),
        Reference(
            "Papamakarios et al.",
            2017,
            "Masked autoregressive flow for density estimation",
            "arXiv:1705.07057",
        ),
        Reference("Larochelle & Murray", 2011, "The neural autoregressive distribution estimator", "AISTATS"),
    ),
    good_at=("Tables of zeros and ones or of numbers, and small images, scored in one pass.",),
    bad_at=("Does not know that pixels have neighbours.", "Draws value by value."),
    autocast=True,
)
