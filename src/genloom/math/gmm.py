"""Gaussian mixtures: densities, and EM with full, shared, diagonal or low-rank covariances.

N rows, D columns, K components, R factors of a low-rank covariance. Every fit is maximum a posteriori:
each covariance is drawn towards a diagonal one, as if ``weight`` rows with those variances had been seen.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from genloom.core.randomness import Noise

CHUNK = 4096
"""Rows in memory at once beside the data."""


@dataclass(frozen=True)
class Prior:
    """Pseudo-rows that keep covariances regular: ``variance`` (D,) with the weight of so many rows."""

    variance: Tensor
    weight: float


@dataclass(frozen=True)
class Dense:
    """Gaussians with means (K, D) and Cholesky factors (K, D, D), or one shared factor (1, D, D)."""

    mean: Tensor
    factor: Tensor

    def log_density(self, x: Tensor) -> Tensor:
        """Return log N(x | mean_k, L_k L_k^T), (B, K) nats, for rows (B, D)."""
        white = torch.linalg.solve_triangular(self.factor, x.T, upper=False)
        white = white - torch.linalg.solve_triangular(self.factor, self.mean[..., None], upper=False)
        log_det = self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return _log_normal(white.square().sum(1).T, 2 * log_det, x.shape[1])

    def refit(self, x: Tensor, share: Tensor, prior: Prior) -> "Dense":
        """Return the maximum for rows (N, D) that belong to the components by ``share`` (N, K).

        Source: Bishop 2006, Pattern Recognition and Machine Learning, equations 9.24 and 9.25; prior:
        Fraley & Raftery 2007, Journal of Classification 24(2), section 3.
        """
        count = share.sum(0)
        mean = (share.T @ x) / count[:, None]
        scatter = torch.stack([((x - m).T * s) @ (x - m) for m, s in zip(mean, share.T, strict=True)])
        if len(self.factor) == 1:
            scatter, count = scatter.sum(0, keepdim=True), count.sum(0, keepdim=True)
        total = scatter + prior.weight * torch.diag(prior.variance)
        return Dense(mean, torch.linalg.cholesky(total / (count + prior.weight)[:, None, None]))

    def draw(self, chosen: Tensor, noise: Noise) -> Tensor:
        """Draw a row (B, D) from each chosen component (B,)."""
        z = noise.normal(self.mean.shape[1]).to(self.mean)
        factor = self.factor.expand(len(self.mean), -1, -1)
        drawn = torch.zeros_like(z)
        for k in torch.unique(chosen).tolist():
            drawn[chosen == k] = z[chosen == k] @ factor[k].T
        return self.mean[chosen] + drawn


@dataclass(frozen=True)
class LowRank:
    """Gaussians with means (K, D), loadings (K, D, R) and variances (K, D): covariance W W^T + diag.

    Without loadings (R = 0) the covariance is diagonal.
    """

    mean: Tensor
    loading: Tensor
    variance: Tensor

    def _inner(self) -> Tensor:
        """Return the Cholesky factor of I + W^T V^-1 W, (K, R, R)."""
        eye = torch.eye(self.loading.shape[2]).to(self.mean)
        inner: Tensor = torch.linalg.cholesky(
            eye + self.loading.mT @ (self.loading / self.variance[..., None])
        )
        return inner

    def log_density(self, x: Tensor) -> Tensor:
        """Return log N(x | mean_k, W_k W_k^T + V_k), (B, K) nats, for rows (B, D).

        Source: the matrix inversion lemma and determinant lemma (Woodbury 1950).
        """
        k, d, r = self.loading.shape
        inner = self._inner()
        precision = 1 / self.variance
        square = x.square() @ precision.T - 2 * x @ (self.mean * precision).T
        square = square + (self.mean.square() * precision).sum(1)
        whiten = torch.linalg.solve_triangular(inner, (self.loading * precision[..., None]).mT, upper=False)
        shift = (whiten @ self.mean[..., None])[..., 0]
        hidden = (x @ whiten.reshape(k * r, d).T).view(len(x), k, r) - shift
        log_det = self.variance.log().sum(1) + 2 * inner.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return _log_normal(square - hidden.square().sum(-1), log_det, d)

    def refit(self, x: Tensor, share: Tensor, prior: Prior) -> "LowRank":
        """Return the next EM step for rows (N, D) that belong to the components by ``share`` (N, K).

        The prior adds ``weight`` rows of known independent factors and residuals of its variances.

        Source: Ghahramani & Hinton 1996, CRG-TR-96-1, equations 15 and 16.
        """
        k, d, r = self.loading.shape
        inner = self._inner()
        posterior = torch.cholesky_solve((self.loading / self.variance[..., None]).mT, inner)
        shift = (posterior @ self.mean[..., None])[..., 0]
        cross = x.new_zeros(k, r + 1, d)
        square = x.new_zeros(k, r + 1, r + 1)
        energy = x.new_zeros(k, d)
        for rows, part in zip(torch.split(x, CHUNK), torch.split(share, CHUNK), strict=True):
            z = (rows @ posterior.reshape(k * r, d).T).view(len(rows), k, r) - shift
            z = torch.cat([z, z.new_ones(len(z), k, 1)], 2)
            weighted = (z * part[..., None]).permute(1, 2, 0)
            cross += (weighted.reshape(k * (r + 1), -1) @ rows).view(k, r + 1, d)
            square += weighted @ z.transpose(0, 1)
            energy += part.T @ rows.square()
        count = share.sum(0)
        eye = torch.eye(r).to(x)
        square[:, :r, :r] += count[:, None, None] * torch.cholesky_inverse(inner) + prior.weight * eye
        joint = torch.linalg.solve(square, cross)
        residual = energy - (joint * cross).sum(1) + prior.weight * prior.variance
        variance = (residual / (count + prior.weight)[:, None]).clamp_min(1e-3 * prior.variance.min())
        return LowRank(joint[:, r], joint[:, :r].mT, variance)

    def draw(self, chosen: Tensor, noise: Noise) -> Tensor:
        """Draw a row (B, D) from each chosen component (B,)."""
        _, d, r = self.loading.shape
        both = noise.normal(r + d).to(self.mean)
        z, rest = both[:, :r], both[:, r:]
        common = (self.loading[chosen] @ z[..., None])[..., 0]
        return self.mean[chosen] + common + self.variance[chosen].sqrt() * rest


Parts = Dense | LowRank
Shape = Literal["full", "tied", "diag", "factor"]


@dataclass(frozen=True)
class Mixture:
    """Components with log weights (K,)."""

    log_weight: Tensor
    parts: Parts

    def joint(self, x: Tensor) -> Tensor:
        """Return log weight_k + log density of component k, (B, K) nats."""
        return torch.cat([self.log_weight + self.parts.log_density(rows) for rows in torch.split(x, CHUNK)])

    def log_density(self, x: Tensor) -> Tensor:
        """Return log p(x), (B,) nats, for rows (B, D)."""
        return self.joint(x).logsumexp(1)


def _log_normal(square: Tensor, log_det: Tensor, dim: int) -> Tensor:
    return -0.5 * (square + log_det + dim * math.log(2 * math.pi))


def em(
    x: Tensor, mixture: Mixture, prior: Prior, steps: int, tolerance: float
) -> Iterator[tuple[Mixture, float]]:
    """Yield the mixture before each EM step with its mean log-likelihood of the rows (N, D), in nats.

    It ends after ``steps``, or when a step gains less than ``tolerance`` nats a row.
    """
    before = -math.inf
    for _ in range(steps):
        joint = mixture.joint(x)
        total = joint.logsumexp(1)
        nats = float(total.mean())
        yield mixture, nats
        if nats - before < tolerance:
            return
        before = nats
        mixture = maximise(x, (joint - total[:, None]).exp(), mixture.parts, prior)


def maximise(x: Tensor, share: Tensor, parts: Parts, prior: Prior) -> Mixture:
    """Return the mixture after an M step for rows (N, D) shared out by (N, K)."""
    share = share + 1e-10
    return Mixture((share.sum(0) / share.sum()).log(), parts.refit(x, share, prior))


def spread_centres(x: Tensor, k: int, noise: Noise) -> Tensor:
    """Return k rows of x (N, D), each drawn in proportion to its squared distance from those before.

    Args:
        noise: one row.

    Source: Arthur & Vassilvitskii 2007, SODA, section 2.2 (k-means++).
    """
    chosen = [x[noise.integers(len(x))[0]]]
    nearest = (x - chosen[0]).square().sum(1)
    for _ in range(k - 1):
        chosen.append(x[noise.categorical(nearest.clamp_min(1e-300).log()[None])[0]])
        nearest = torch.minimum(nearest, (x - chosen[-1]).square().sum(1))
    return torch.stack(chosen)


def assign(x: Tensor, centres: Tensor) -> Tensor:
    """Return 1 for the nearest centre of each row and 0 elsewhere, (N, K)."""
    score = x @ centres.T - 0.5 * centres.square().sum(1)
    return torch.zeros_like(score).scatter_(1, score.argmax(1, keepdim=True), 1)


def cluster(x: Tensor, centres: Tensor, steps: int) -> Tensor:
    """Return the shares (N, K) after Lloyd's steps; an empty cluster keeps its centre."""
    for _ in range(steps):
        share = assign(x, centres)
        count = share.sum(0)[:, None]
        centres = torch.where(count > 0, (share.T @ x) / count.clamp_min(1), centres)
    return assign(x, centres)


def first_parts(x: Tensor, share: Tensor, shape: Shape, rank: int, prior: Prior) -> Parts:
    """Return the components of a covariance shape that fit clusters given by shares (N, K)."""
    k, d = share.shape[1], x.shape[1]
    share = share + 1e-10
    if shape in ("full", "tied"):
        start = Dense(x.new_zeros(k, d), x.new_zeros(1 if shape == "tied" else k, d, d))
        return start.refit(x, share, prior)
    flat = LowRank(x.new_zeros(k, d), x.new_zeros(k, d, 0), x.new_ones(k, d)).refit(x, share, prior)
    return flat if shape == "diag" else _principal(x, share, flat, rank, prior)


def _principal(x: Tensor, share: Tensor, flat: LowRank, rank: int, prior: Prior) -> LowRank:
    """Give each diagonal component half the variance of its cluster along the leading scaled axes."""
    loadings = []
    for mean, variance, s in zip(flat.mean, flat.variance, share.T, strict=True):
        rows = (x - mean)[s > 0.5] / variance.sqrt()
        values, axes = torch.linalg.eigh(rows.T @ rows / (len(rows) + prior.weight))
        half = (0.5 * values[-rank:].clamp_min(1e-2)).sqrt()
        loadings.append(axes[:, -rank:] * half * variance.sqrt()[:, None])
    loading = torch.stack(loadings)
    variance = (flat.variance - loading.square().sum(2)).clamp_min(0.1 * flat.variance)
    return LowRank(flat.mean, loading, variance)
