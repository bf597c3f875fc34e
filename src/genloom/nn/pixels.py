"""Exact distributions of one pixel of ordered levels, its channels in turn.

Shapes: B batch, C channels, K levels, M mixture components, P parameters and U uniforms of one pixel.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genloom.core.randomness import invert_cdf
from genloom.math.logistic import discretised_logistic
from genloom.nn.likelihoods import SOFTMAX_LEVELS

UNKNOWN = -1
"""A level that is still to be drawn."""


def scale_levels(x: Tensor, levels: int, dtype: torch.dtype) -> Tensor:
    """Map levels 0..K-1 to [-1, 1]."""
    return x.to(dtype) * (2 / max(levels - 1, 1)) - 1


def given_or(level: Tensor, drawn: Tensor) -> Tensor:
    """Return the given levels, and the drawn ones where those are ``UNKNOWN``."""
    return torch.where(level == UNKNOWN, drawn, level)


class Levels(nn.Module):
    """A softmax over the levels of each channel; earlier channels of the pixel shift its logits."""

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.channels, self.levels = channels, levels
        self.parameters_needed, self.uniforms_needed = channels * levels, channels
        self.earlier = nn.ModuleList(nn.Embedding(c * levels, levels) for c in range(1, channels))

    def _logits(self, params: Tensor, x: Tensor, c: int) -> Tensor:
        """Return the logits (..., K) of channel c given channels before it, x (..., >= c)."""
        logits = params[..., c * self.levels : (c + 1) * self.levels]
        if c == 0:
            return logits
        offsets = torch.arange(c, device=x.device) * self.levels
        return logits + self.earlier[c - 1](x[..., :c] + offsets).sum(-2)

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """Return nats (...) of pixels x (..., C) given their parameters (..., P)."""
        terms = []
        for c in range(self.channels):
            logits = self._logits(params, x, c)
            nats = F.cross_entropy(logits.flatten(0, -2), x[..., c].flatten(), reduction="none")
            terms.append(-nats.view(x.shape[:-1]))
        return torch.stack(terms).sum(0)

    def draw(self, params: Tensor, u: Tensor, given: Tensor) -> Tensor:
        """Draw the ``UNKNOWN`` levels of pixels (B, C), each from its law given the channels before it.

        Args:
            params: (B, P).
            u: (B, U) uniforms.
        """
        x = given.clone()
        for c in range(self.channels):
            x[:, c] = given_or(given[:, c], invert_cdf(self._logits(params, x, c), u[:, c]))
        return x


class LogisticMixture(nn.Module):
    """A mixture of discretised logistics; means are linear in earlier channels of the pixel.

    Source: Salimans et al. 2017, arXiv:1701.05517, equations 2 and 3, for any number of channels.
    """

    def __init__(self, channels: int, levels: int, mixtures: int) -> None:
        super().__init__()
        self.channels, self.levels, self.mixtures = channels, levels, mixtures
        self.sizes = [1, channels, channels, channels * (channels - 1) // 2]
        self.parameters_needed, self.uniforms_needed = sum(self.sizes) * mixtures, 2 * channels

    def _split(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return logits, means, log-scales and channel coefficients, each (..., its size, M)."""
        parts = params.unflatten(-1, (-1, self.mixtures)).split(self.sizes, -2)
        logits, means, log_scales, coefficients = parts
        return logits.squeeze(-2), means, log_scales.clamp_min(-7), coefficients.tanh()

    def _mean(self, means: Tensor, coefficients: Tensor, values: Tensor, c: int) -> Tensor:
        """Return the means (..., M) of channel c given scaled values (..., >= c, 1) before it."""
        start = c * (c - 1) // 2
        return means[..., c, :] + (coefficients[..., start : start + c, :] * values[..., :c, :]).sum(-2)

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """Return nats (...) of pixels x (..., C) given their parameters (..., P)."""
        logits, means, log_scales, coefficients = self._split(params)
        values = scale_levels(x, self.levels, params.dtype).unsqueeze(-1)
        joint = logits.log_softmax(-1)
        for c in range(self.channels):
            mean = self._mean(means, coefficients, values, c)
            joint = joint + discretised_logistic(values[..., c, :], mean, log_scales[..., c, :], self.levels)
        return joint.logsumexp(-1)

    def draw(self, params: Tensor, u: Tensor, given: Tensor) -> Tensor:
        """Draw the ``UNKNOWN`` levels of pixels (B, C), each from its law given the channels before it.

        Each channel has a component of its own, drawn from the posterior given the channels before it.

        Args:
            params: (B, P).
            u: (B, U) uniforms.
        """
        logits, means, log_scales, coefficients = self._split(params)
        x = given.clone()
        for c in range(self.channels):
            values = scale_levels(x, self.levels, params.dtype).unsqueeze(-1)
            mean = self._mean(means, coefficients, values, c)
            component = invert_cdf(logits, u[:, 2 * c])[:, None]
            location, log_scale = (t.gather(1, component)[:, 0] for t in (mean, log_scales[:, c]))
            value = location + log_scale.exp() * torch.logit(u[:, 2 * c + 1])
            level = ((value + 1) * ((self.levels - 1) / 2)).round().clamp(0, self.levels - 1).long()
            x[:, c] = given_or(given[:, c], level)
            if c + 1 < self.channels:
                here = scale_levels(x[:, c : c + 1], self.levels, params.dtype)
                logits = logits + discretised_logistic(here, mean, log_scales[:, c], self.levels)
        return x


PixelDistribution = Levels | LogisticMixture


def pixel_distribution(channels: int, levels: int, mixtures: int) -> PixelDistribution:
    """Return a softmax for few levels, and a mixture of logistics for many."""
    if levels <= SOFTMAX_LEVELS:
        return Levels(channels, levels)
    return LogisticMixture(channels, levels, mixtures)
