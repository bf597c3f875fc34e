"""Sequence models that are rewarded for what they draw, and kept near what they were.

Shapes: B sequences that are drawn at a step.
"""

from collections.abc import Callable

from torch import Tensor, nn

from genloom.core.events import Batch, Value
from genloom.core.objective import Clock, Group, Loss, Objective, Optimiser, Phase
from genloom.core.randomness import Noise
from genloom.nn.decoding import draw_items
from genloom.nn.sequences import SequenceModel

Reward = Callable[[Value], Tensor]
"""Returns the rewards (B,) of items."""


def policy_gradient(
    model: SequenceModel, prior: SequenceModel, reward: Reward, beta: float, optimiser: Optimiser
) -> Objective:
    """Return the maximisation of E[reward] - beta KL(model || prior) over what the model draws.

    Each step draws a batch anew; the gradient is that of REINFORCE (Williams 1992), with the mean of the
    other draws as the baseline of each (Kool et al. 2019; Ahmadian et al. 2024, arXiv:2402.14740), and so
    unbiased. The best there is is prior(x) exp(reward(x) / beta), normalised.

    Args:
        prior: what the model was, frozen.
        beta: of the divergence, in units of the reward a nat.
    """
    prior.requires_grad_(False)
    drawn: dict[str, Value | None] = {}
    told: dict[str, Tensor] = {}

    def draw(batch: Batch, noise: Noise, clock: Clock) -> None:  # noqa: ARG001
        cond = batch.get("cond")
        x = draw_items(model, noise, cond)
        rewards, apart = weighed(model, prior, reward, x, cond)
        gain = rewards - beta * apart
        others = (gain.sum() - gain) / max(len(gain) - 1, 1)
        drawn.update(x=x, cond=cond)
        told.update(advantage=gain - others, reward=rewards.mean(), divergence=apart.mean())

    def loss(batch: Batch, noise: Noise, clock: Clock) -> Loss:  # noqa: ARG001
        x = drawn["x"]
        assert x is not None
        policy = -(told["advantage"] * model.log_density(x, drawn["cond"])).mean()
        return Loss({"policy": policy}, {name: told[name] for name in ("reward", "divergence")})

    phases = [Phase("draw", update=draw), Phase("policy", ("model",), loss)]
    return Objective({"model": Group(trained(model), optimiser)}, phases)


def weighed(
    model: SequenceModel, prior: SequenceModel, reward: Reward, x: Value, cond: Value | None
) -> tuple[Tensor, Tensor]:
    """Return the rewards of items and log model(x) - log prior(x), (B,) each."""
    return reward(x).float(), model.log_density(x, cond) - prior.log_density(x, cond)


def trained(model: SequenceModel) -> nn.Module:
    """Return the parts of a model that are not frozen."""
    parts = [p for p in model.network.parameters() if p.requires_grad]
    return nn.ParameterList(parts)
