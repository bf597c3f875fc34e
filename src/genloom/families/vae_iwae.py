"""Importance-weighted autoencoder: a VAE trained on a tighter bound. Burda et al. 2016, arXiv:1509.00519.

B batch, S event shape, Z latent dimensions, K importance samples.
"""

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from genloom.core import card
from genloom.core.events import Batch, Event, Real, flat_leaf, tensor
from genloom.core.likelihood import Bound
from genloom.core.objective import Average, Clock, Group, Loss, Objective, Optimiser, Phase, Stage
from genloom.core.randomness import Noise
from genloom.nn.autoencoders import Network
from genloom.nn.gaussian_vae import NormalPosterior, StandardNormal, normal_log_prob
from genloom.nn.labels import hide_labels
from genloom.nn.likelihoods import OutputName
from genloom.nn.vae import VAE, Emit, importance_weighted_bound, make_vae

Estimator = Literal["dreg", "iwae"]


class Config(card.Config):
    """Settings of an importance-weighted autoencoder."""

    latent_dim: int = Field(50, ge=1, description="as in the paper")
    network: Network = Field("auto", description="conv for colour and large images")
    hidden: int = Field(200, ge=1, description="units of each of the two hidden layers, as in the paper")
    channels: int = Field(32, ge=1, description="channels after the first convolution")
    likelihood: OutputName = "auto"
    samples: int = Field(10, ge=1, description="K of the bound that is trained; cost grows with it")
    estimator: Estimator = Field("dreg", description="of the encoder's gradient: dreg has less variance")
    warm: float = Field(0, ge=0, lt=1, description="share of the budget that trains with one sample first")
    importance_samples: card.Free[int] = Field(64, ge=1, description="K of the bound that log_prob returns")
    emit: card.Free[Emit] = Field("typical", description="samples show the mean of p(x|z), or draw it")
    label_dropout: float = Field(0.1, ge=0, lt=1, description="share of labels hidden, for unconditional use")
    lr: float = Field(1e-3, gt=0, description="peak rate of Adam, decayed by a cosine")
    batch_size: int = Field(128, ge=1)

    @classmethod
    def preset(cls, event: Event) -> "Config":
        leaf = flat_leaf(event)
        emit: Emit = "draw" if isinstance(leaf.kind, Real) else "typical"
        return cls(latent_dim=16, lr=2e-3, emit=emit) if leaf.dim <= 128 else cls(emit=emit)

    def build(self, event: Event, cond: Event | None) -> nn.Module:
        return make_vae(self, event, cond, NormalPosterior, lambda *_: StandardNormal(self.latent_dim))

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, VAE)
        warm = [self._stage("warm", model, 1, self.warm)] if self.warm else []
        return [*warm, self._stage("vae", model, self.samples, 1 - self.warm)]

    def _stage(self, name: str, model: VAE, samples: int, share: float) -> Stage:
        """Return the training of the bound of so many samples, in a share of the budget."""

        def negative_bound(batch: Batch, noise: Noise, clock: Clock) -> Loss:  # noqa: ARG001
            x, label = tensor(batch["x"]), batch.get("cond")
            if label is not None:
                label = hide_labels(tensor(label), model.classes, self.label_dropout, noise)
            noises = noise.normal(samples, model.latent_dim)
            return bound_loss(model, x, label, noises, self.estimator)

        optimiser = Optimiser(self.lr, schedule="cosine", warmup=0.01, clip=200.0)
        phase = Phase("bound", ("vae",), negative_bound)
        objective = Objective({"vae": Group(model, optimiser)}, [phase], Average())
        return Stage(name, objective, self.batch_size, share)


def bound_loss(model: VAE, x: Tensor, label: Tensor | None, noises: Tensor, estimator: Estimator) -> Loss:
    """Return a loss whose gradient is minus that of the importance-weighted bound, in expectation.

    ``iwae`` differentiates the bound itself (Burda et al., equation 13). ``dreg`` replaces the encoder's part
    by its doubly reparametrised form, the sum over samples of squared normalised weights times the gradient
    that reaches log w through z alone (Tucker et al. 2019, arXiv:1810.04152, equation 8).

    Args:
        x: items (B, *S).
        noises: standard normals (B, K, Z).
    """
    batch, k = noises.shape[:2]
    mean, log_std = (part.repeat(k, 1) for part in model.posterior(model.inputs(x, label)))
    z = mean + log_std.exp() * noises.transpose(0, 1).flatten(0, 1).to(mean)
    if estimator == "dreg":
        mean, log_std = mean.detach(), log_std.detach()
    labels = None if label is None else label.repeat(k)
    log_weights = model.log_joint(x, z, labels) - normal_log_prob(z, mean, log_std)
    bound = importance_weighted_bound(log_weights.view(k, batch)).mean()
    if estimator == "iwae":
        return Loss({"bound": -bound})
    weights = log_weights.detach().view(k, batch).softmax(0).flatten()
    if z.requires_grad:
        z.register_hook(lambda gradient: gradient * weights[:, None])
    surrogate = -(weights * log_weights).sum() / batch
    return Loss({"bound": surrogate + (-bound - surrogate).detach()})


CARD = card.Card(
    name="vae.iwae",
    title="Importance-weighted autoencoder",
    summary="A variational autoencoder trained on a bound that several samples of the code make tighter.",
    events=(card.binary_image, card.level_image, card.binary, card.ordered_levels, card.real),
    references=(
        card.Reference("Burda et al.", 2016, "Importance weighted autoencoders", "arXiv:1509.00519"),
        card.Reference(
            "Tucker et al.", 2019, "Doubly reparameterized gradient estimators", "arXiv:1810.04152"
        ),
    ),
    good_at=("Better likelihoods than a plain VAE of the same size.",),
    bad_at=("K times the decoder's cost a step; its single codes describe an item less well.",),
    likelihood=Bound.LOWER,
    conditions="class",
    autocast=True,
)
