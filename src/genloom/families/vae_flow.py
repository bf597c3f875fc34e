"""VAE with an inverse autoregressive flow posterior and a prior of choice.

Kingma et al. 2016, arXiv:1606.04934 (posterior); Tomczak & Welling 2018, arXiv:1705.07120 (VampPrior);
Papamakarios et al. 2017, arXiv:1705.07057 (flow prior).
B batch, Z latent dimensions, C numbers of context, U pseudo-inputs, I inputs of the encoder.
"""

import math
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from genloom.core import card
from genloom.core.events import Batch, Event, Real, Value, flat_leaf, tensor
from genloom.core.likelihood import Bound
from genloom.core.objective import Average, Clock, Group, Loss, Objective, Optimiser, Phase, Stage
from genloom.core.randomness import Noise
from genloom.nn.autoencoders import Network
from genloom.nn.conditions import Labels
from genloom.nn.flows import MaskedAffine, VectorFlow, make_mixer
from genloom.nn.gaussian_vae import StandardNormal, normal_log_prob
from genloom.nn.labels import hide_labels
from genloom.nn.likelihoods import OutputName
from genloom.nn.masked import Made, blind_weights
from genloom.nn.vae import VAE, Emit, Posterior, Prior, make_vae

PriorName = Literal["standard", "vamp", "flow"]


class Config(card.Config):
    """Settings of a VAE with flows."""

    latent_dim: int = Field(40, ge=1, description="as in the VampPrior paper")
    network: Network = Field("auto", description="conv for colour and large images")
    hidden: int = Field(512, ge=1, description="units of each of the two hidden layers of the mlp")
    channels: int = Field(32, ge=1, description="channels after the first convolution")
    likelihood: OutputName = "auto"
    steps: int = Field(2, ge=0, description="of the inverse autoregressive flow; 0 leaves a normal posterior")
    prior: PriorName = Field("flow", description="standard normal, VampPrior, or masked autoregressive flow")
    prior_layers: int = Field(2, ge=1, description="of a flow prior")
    flow_hidden: int = Field(256, ge=1, description="hidden units of each layer of either flow")
    pseudo_inputs: int = Field(500, ge=1, description="components of a VampPrior, as in the paper")
    warmup: float = Field(0.1, ge=0, lt=1, description="fraction of the steps over which the KL term grows")
    importance_samples: card.Free[int] = Field(32, ge=1, description="K of the bound that log_prob returns")
    emit: card.Free[Emit] = Field("typical", description="samples show the mean of p(x|z), or draw it")
    label_dropout: float = Field(0.1, ge=0, lt=1, description="share of labels hidden, for unconditional use")
    lr: float = Field(1e-3, gt=0, description="peak rate of Adam, decayed by a cosine")
    batch_size: int = Field(128, ge=1)

    @classmethod
    def preset(cls, event: Event) -> "Config":
        leaf = flat_leaf(event)
        emit: Emit = "draw" if isinstance(leaf.kind, Real) else "typical"
        if leaf.dim <= 128:
            return cls(latent_dim=16, hidden=256, flow_hidden=64, pseudo_inputs=100, lr=2e-3, emit=emit)
        return cls(emit=emit)

    def build(self, event: Event, cond: Event | None) -> nn.Module:
        context = self.flow_hidden if self.steps else 0
        codes = 2 * self.latent_dim + context
        return make_vae(self, event, cond, self._posterior, self._prior, codes=codes)

    def _posterior(self, encoder: nn.Module) -> "FlowPosterior":
        steps = [Gate(self.latent_dim, self.flow_hidden) for _ in range(self.steps)]
        return FlowPosterior(encoder, self.latent_dim, steps)

    def _prior(self, posterior: Posterior, inputs: int, classes: int) -> Prior:
        assert isinstance(posterior, FlowPosterior)
        if self.prior == "standard":
            return StandardNormal(self.latent_dim)
        if self.prior == "vamp":
            return VampPrior(self.latent_dim, torch.randn(self.pseudo_inputs, inputs), posterior.normal)
        return FlowPrior(self.latent_dim, classes, self.prior_layers, self.flow_hidden)

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, VAE)

        def negative_elbo(batch: Batch, noise: Noise, clock: Clock) -> Loss:
            weight = min(1.0, clock.progress / self.warmup if self.warmup else 1.0)
            x, label = tensor(batch["x"]), batch.get("cond")
            if label is not None:
                label = hide_labels(tensor(label), model.classes, self.label_dropout, noise)
            z, log_q = next(model.posterior.draws(model.inputs(x, label), noise, 1))
            rate = (log_q - model.prior.log_prob(z, label)).mean()
            reconstruction = -model.log_likelihood(x, z, label).mean()
            return Loss({"reconstruction": reconstruction, "kl": weight * rate}, {"rate": rate})

        optimiser = Optimiser(self.lr, schedule="cosine", warmup=0.01, clip=200.0)
        phase = Phase("elbo", ("vae",), negative_elbo)
        objective = Objective(
            {"vae": Group(model, optimiser)}, [phase], Average(), exempt=blind_weights(model)
        )
        return [Stage("vae", objective, self.batch_size)]


class Gate(nn.Module):
    """One step of the flow: z' = s z + (1 - s) m, where s in (0, 1) and m are functions of values before.

    Source: Kingma et al. 2016, equations 12 to 14; s starts near 0.8, as their section 4 advises.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.made = Made(dim, 2, (hidden,), context=True)

    def forward(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Map codes (Z, B), given context (C, B), and return the log-determinant (B,) beside them."""
        shift, gate = self.made(z, context).to(z.dtype)
        gate = gate + 1.5
        return torch.lerp(shift, z, gate.sigmoid()), F.logsigmoid(gate).sum(0)


class FlowPosterior(Posterior):
    """A normal from the encoder, then steps of the flow, the order of the values reversed between them."""

    def __init__(self, encoder: nn.Module, dim: int, steps: list[Gate]) -> None:
        super().__init__()
        self.encoder, self.dim, self.steps = encoder, dim, nn.ModuleList(steps)

    def _encoded(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sizes = [self.dim, self.dim]
        encoded = self.encoder(inputs).to(inputs.dtype)
        mean, log_std, context = encoded.split([*sizes, encoded.shape[1] - sum(sizes)], 1)
        return mean, log_std.clamp(-7, 5), context

    def normal(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log standard deviation of the normal before the flow, (B, Z) each."""
        return self._encoded(inputs)[:2]

    def flow(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Carry codes (B, Z) through the steps; return them and the log-determinant (B,)."""
        h, log_det = z.t(), z.new_zeros(len(z))
        for step in self.steps:
            h, more = step(h.flip(0), context.t())
            log_det = log_det + more
        return h.t(), log_det

    def draws(self, inputs: Tensor, noise: Noise, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        mean, log_std, context = self._encoded(inputs)
        for _ in range(count):
            start = mean + log_std.exp() * noise.normal(self.dim).to(mean)
            z, log_det = self.flow(start, context)
            yield z, normal_log_prob(start, mean, log_std) - log_det

    def centre(self, inputs: Tensor) -> Tensor:
        mean, _, context = self._encoded(inputs)
        return self.flow(mean, context)[0]


class VampPrior(Prior):
    """An equal mixture of the posteriors of learned pseudo-inputs (U, I).

    Source: Tomczak & Welling 2018, equation 9. Deviations: the components are the encoder's normals before
        the flow, whose density costs one pass; pseudo-inputs are free numbers that start as normals, and
        hold the label too.
    """

    def __init__(self, dim: int, start: Tensor, normal: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
        super().__init__(dim)
        self.pseudo = nn.Parameter(start)
        self.normal = normal

    def log_prob(self, z: Tensor, cond: Value | None) -> Tensor:  # noqa: ARG002
        parts = normal_log_prob(z[:, None], *self.normal(self.pseudo))
        return parts.logsumexp(1) - math.log(len(self.pseudo))

    def draw(self, noise: Noise, cond: Value | None) -> Tensor:  # noqa: ARG002
        mean, log_std = self.normal(self.pseudo)
        chosen = noise.integers(len(self.pseudo))
        return mean[chosen] + log_std[chosen].exp() * noise.normal(self.dim).to(mean)


class FlowPrior(Prior):
    """Masked affine layers from codes to normals, given the label; the identity at first."""

    def __init__(self, dim: int, classes: int, layers: int, hidden: int) -> None:
        super().__init__(dim)
        condition = Labels(classes) if classes else None
        mixers = [make_mixer("reverse", dim) for _ in range(layers)]
        parts = [MaskedAffine(dim, condition, (hidden,)) for _ in mixers]
        self.flow = VectorFlow((dim,), condition, mixers, parts)

    def log_prob(self, z: Tensor, cond: Value | None) -> Tensor:
        return self.flow.log_density(z, cond)

    def draw(self, noise: Noise, cond: Value | None) -> Tensor:
        return self.flow.sample(noise, cond)


CARD = card.Card(
    name="vae.flow",
    title="Variational autoencoder with flows",
    summary="A variational autoencoder whose posterior is bent by a flow, with a learned prior.",
    events=(card.binary_image, card.level_image, card.binary, card.ordered_levels, card.real),
    references=(
        card.Reference(
            "Kingma et al.",
            2016,
            "Improving variational inference with inverse autoregressive flow",
            "arXiv:1606.04934",
        ),
        card.Reference("Tomczak & Welling", 2018, "VAE with a VampPrior", "arXiv:1705.07120"),
        card.Reference(
            "Papamakarios et al.",
            2017,
            "Masked autoregressive flow for density estimation",
            "arXiv:1705.07057",
        ),
    ),
    good_at=("Better likelihoods than a plain VAE at little more cost.",),
    bad_at=("A flow prior draws its code value by value.",),
    likelihood=Bound.LOWER,
    conditions="class",
    autocast=True,
)
