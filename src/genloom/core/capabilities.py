"""Capabilities: the verbs a model may offer, as abstract classes that a model inherits by name.

Shapes: B batch. A condition ``cond`` is a value of the condition event or None for "unconditional".
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar

from torch import Tensor, nn

from genloom.core.errors import Unsupported
from genloom.core.events import Value
from genloom.core.likelihood import LogProb
from genloom.core.measurements import Measurement
from genloom.core.randomness import Noise
from genloom.core.sequences import Alphabet, Reader


class Sampler(ABC):
    """Draws new items."""

    @abstractmethod
    def sample(self, noise: Noise, cond: Value | None = None) -> Value:
        """Draw one item for each row of ``noise`` (and of ``cond``)."""


class Infill(ABC):
    """Completes items of which some values are known."""

    @abstractmethod
    def infill(self, x: Value, known: Value, noise: Noise, cond: Value | None = None) -> Value:
        """Return items with the known values of ``x`` and a draw of the others.

        A model says from which distribution: it need not be exactly p(unknown | known, cond).

        Args:
            x: items; what stands at unknown places has no effect, as long as it is legal.
            known: booleans in the shape of x, one value's own.
            noise: a row for each item.
        """


class Restorer(ABC):
    """Draws items of which linear parts are known."""

    @abstractmethod
    def restore(
        self, measurement: Measurement, known: Tensor, noise: Noise, cond: Value | None = None
    ) -> Value:
        """Return items x with ``measure(x) = known``, but for levels, drawn about as p(x | known, cond).

        Args:
            measurement: of items (B, *S), in the units of the event.
            known: what it found of each item, (B, *Y).
            noise: a row for each item.
        """


class Redrawer(ABC):
    """Draws items anew from what noise leaves of them."""

    @abstractmethod
    def redraw(self, x: Tensor, strength: float, noise: Noise, cond: Value | None = None) -> Value:
        """Return items that keep of x what survives noise.

        Args:
            x: items (B, *S), legal or not, such as a sketch.
            strength: above 0 and at most 1, where next to nothing is kept.
            noise: a row for each item.
        """


class Steerable(ABC):
    """Draws items of which some are wanted more than others."""

    @abstractmethod
    def sample_towards(
        self, reward: Callable[[Tensor], Tensor], noise: Noise, cond: Value | None = None
    ) -> Value:
        """Draw one item for each row of ``noise``, about as p(x | cond) exp(reward(x)) up to a constant.

        Args:
            reward: maps items (B, *S), in the units of the event and not on its levels, to nats (B,), each
                item's its own; differentiable. The logarithm of a classifier's probability is one.
        """


class Likelihood(ABC):
    """Scores items."""

    @abstractmethod
    def log_prob(self, x: Value, cond: Value | None = None, *, noise: Noise) -> LogProb:
        """Return log p(x | cond), or a bound or estimate of it that ``kind`` names, in nats, shape (B,)."""


class NextSymbol(ABC):
    """Predicts sequences from left to right, symbol after symbol.

    ``longest`` is the number of symbols of the longest item, ``context`` the most that can be read, None for
    any number.
    """

    alphabet: Alphabet
    longest: int
    context: int | None

    @abstractmethod
    def reader(self, rows: int, longest: int, cond: Value | None = None) -> Reader:
        """Return a reader of so many empty sequences, which will get at most ``longest`` symbols each.

        Args:
            cond: what the sequences are given; a class stands in their start as well.
        """


class Aligner(ABC):
    """Looks from each place of what it models at places of what it is given."""

    @abstractmethod
    def align(self, x: Value, cond: Value) -> Tensor:
        """Return the shares of attention, (B, T, S), of each row 1 in sum.

        T counts the symbols of x and their end, S those of ``cond`` and theirs; places beyond mean nothing.
        """


class Latent(ABC):
    """Maps items to latent codes and back."""

    @abstractmethod
    def encode(self, x: Value, cond: Value | None = None) -> Tensor:
        """Return the latent code (its mean where it is random) of each item, (B, ...)."""

    @abstractmethod
    def decode(self, z: Tensor, cond: Value | None = None) -> Value:
        """Return the most typical item for each code."""


class LatentVariable(ABC):
    """Explains items by a random code z: p(x) is the integral of p(z) p(x|z)."""

    @abstractmethod
    def draw_code(self, noise: Noise, cond: Value | None = None) -> Tensor:
        """Draw a code from p(z | cond) for each row of ``noise``, (B, Z)."""

    @abstractmethod
    def log_prior(self, z: Tensor, cond: Value | None = None) -> Tensor:
        """Return log p(z | cond) of codes (B, Z), (B,) nats, differentiable."""

    @abstractmethod
    def log_likelihood(self, x: Value, z: Tensor, cond: Value | None = None) -> Tensor:
        """Return log p(x | z, cond), (B,) nats, differentiable in z."""

    @abstractmethod
    def infer(self, x: Value, noise: Noise, cond: Value | None = None) -> tuple[Tensor, Tensor]:
        """Draw a code (B, Z) from q(z | x, cond) for each item, and return it with log q, (B,) nats."""


class Reversible(Latent):
    """Maps items to codes from which they come back, but for numerical error."""


class Invertible(Reversible):
    """A bijection between items and codes of the same size, with its volume change."""

    @abstractmethod
    def forward_and_log_det(self, x: Tensor, cond: Value | None = None) -> tuple[Tensor, Tensor]:
        """Return the code z (B, ...) and log |det dz/dx| (B,) in nats."""


class Denoiser(ABC):
    """Estimates clean data from noisy data."""

    @abstractmethod
    def denoise(self, x: Tensor, time: Tensor, cond: Value | None = None) -> Tensor:
        """Return the estimate of E[x_0 | x_t = x], with times (B,) in [0, 1], 0 the data, of its path."""


class Energy(ABC):
    """Scores items up to a constant."""

    @abstractmethod
    def energy(self, x: Value, cond: Value | None = None) -> Tensor:
        """Return E(x), (B,) nats, where p(x) is proportional to exp(-E(x))."""


class ClosedForm(ABC):
    """Is fitted without gradients."""

    @abstractmethod
    def fit(self, train: Value, valid: Value, noise: Noise, cond: Value | None = None) -> dict[str, float]:
        """Set the parameters from all training rows; choose hyper-parameters on ``valid``.

        Args:
            noise: one row, for initialisation.

        Returns:
            Figures worth logging, in nats where they are likelihoods.
        """


CAPABILITIES: tuple[type, ...] = (
    Sampler,
    Infill,
    Restorer,
    Redrawer,
    Steerable,
    Likelihood,
    NextSymbol,
    Aligner,
    Latent,
    LatentVariable,
    Reversible,
    Invertible,
    Denoiser,
    Energy,
    ClosedForm,
)


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module inside ``torch.compile``'s wrapper, or the module itself."""
    inner = getattr(model, "_orig_mod", model)
    return inner if isinstance(inner, nn.Module) else model


def capabilities(model: nn.Module) -> list[str]:
    """Name the capabilities that a model inherits."""
    return [c.__name__ for c in CAPABILITIES if isinstance(unwrap(model), c)]


C = TypeVar("C")


def need(model: nn.Module, capability: type[C], verb: str) -> C:
    """Return the model as the capability that a verb needs.

    Raises:
        Unsupported: the model does not inherit it.
    """
    inner = unwrap(model)
    if isinstance(inner, capability):
        return inner
    raise Unsupported(
        f"{verb} needs a model that offers {capability.__name__}; "
        f"this one offers {', '.join(capabilities(inner)) or 'nothing'}"
    )
