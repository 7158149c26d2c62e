"""Mean and covariance of features as sums, and the Frechet distance between two of them.

Between Gaussians N(m1, S1), N(m2, S2) (arXiv 1706.08500, equation 6):
d^2 = |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2). All in float64.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pocketddpm.errors import DataError

ROUNDING = 1e-12  # of a feature's square, which is float32: 70 times what it is rounded by


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over n images: total = sum f, [D], and outer = sum f f^T, [D,D]; float64 on the CPU."""

    n: int
    total: Tensor
    outer: Tensor

    @classmethod
    def of(cls, features: Tensor, counts: Tensor | None = None) -> "Moments":
        """Return the moments of features [N,D]; counts [N] says how often each row is taken.

        Raises DataError when a feature is not finite.
        """
        f = features.double().cpu()
        if not bool(f.isfinite().all()):
            raise DataError("a feature is not a finite number; are the images damaged?")
        if counts is None:
            return cls(len(f), f.sum(0), f.T @ f)
        c = counts.double().cpu()
        return cls(int(c.sum()), c @ f, f.T @ (f * c[:, None]))

    @property
    def mean(self) -> Tensor:
        """float64 [D]."""
        return self.total / self.n

    @property
    def covariance(self) -> Tensor:
        """float64 [D,D], divided by n - 1; DataError when n < 2."""
        if self.n < 2:
            raise DataError(f"a covariance needs at least 2 images, got {self.n}")
        mean = self.mean
        return (self.outer - self.n * torch.outer(mean, mean)) / (self.n - 1)

    @cached_property
    def root(self) -> Tensor:
        """The symmetric root of the covariance, float64 [D,D]; eigenvalues below 0 count as 0.

        Cached, because a bootstrap needs that of the reference a hundred times.
        """
        covariance = self.covariance
        values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
        return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def frechet_distance(a: Moments, b: Moments) -> float:
    """Return d^2 between the Gaussians with these moments (see the module), at least 0.

    It is 0 where it is below what features are rounded by, as between copies of one image.

    tr (S1 S2)^(1/2) is the sum of the singular values of S1^(1/2) S2^(1/2): unlike a matrix square
    root of the product, it stays exact where a covariance is singular (fewer images than features).
    Raises DataError when one of them is of fewer than 2 images.
    """
    shift = a.mean - b.mean
    cross = torch.linalg.svdvals(a.root @ b.root).sum()
    distance = shift @ shift + a.covariance.trace() + b.covariance.trace() - 2 * cross
    squares = a.outer.trace() / a.n + b.outer.trace() / b.n
    return float(distance) if distance > ROUNDING * squares else 0.0


def predicted_bias(reference: Moments, n: int) -> float:
    """Return the distance expected between n images and the reference, both of one Gaussian.

    To second order, with covariance eigenvalues l and m reference images:
    (1/n + 1/m) (5/4 sum_i l_i + 1/2 sum_ij l_i l_j / (l_i + l_j)).
    The floor (real test images) may lie above or below it: features that fall into classes vary
    less in their squares than a Gaussian's, and a test set is not a draw from the training set.
    """
    values = torch.linalg.eigvalsh(reference.covariance).clamp(min=0)
    pairs = values[:, None] * values / (values[:, None] + values).clamp(min=1e-300)
    return float((1 / n + 1 / reference.n) * (1.25 * values.sum() + 0.5 * pairs.sum()))
