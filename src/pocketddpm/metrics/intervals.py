"""Numbers with an interval: means of independent terms, and the bootstrap for all else.

Resampling n images with replacement repeats some of them, which raises a Frechet distance by about
as much as having n images has raised it already. The spread of the replicates is right, their level
is not: intervals are therefore centred on the value itself (the basic idea of Efron, 1979).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pocketddpm.noise import Role, uniform

Z95 = 1.959964
REPLICATES = 100


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval (low, high); spread holds bootstrap deviations, if any."""

    value: float
    low: float
    high: float
    spread: Tensor | None = None


def of_mean(terms: Tensor) -> Estimate:
    """Return the mean of independent terms [N] with its normal interval."""
    terms = terms.double()
    value = terms.mean().item()
    error = terms.std().item() / len(terms) ** 0.5 if len(terms) > 1 else float("nan")
    return of_error(value, error)


def of_error(value: float, error: float) -> Estimate:
    """Return a value with the normal interval of a standard error."""
    return Estimate(value, value - Z95 * error, value + Z95 * error)


def resample_counts(n: int, replicate: int, seed: int = 0) -> Tensor:
    """Return how often each of n images is drawn in one bootstrap sample, int64 [n], sum n."""
    u = uniform(seed, Role.EVALUATE, torch.arange(n), step=replicate + 1)
    return torch.bincount((u * n).long(), minlength=n)


def bootstrap(
    n: int, value: float, statistic: Callable[[Tensor], float], *, seed: int = 0
) -> Estimate:
    """Return `value` with a bootstrap interval centred on it.

    statistic(counts): the number with image k taken counts[k] times, counts int64 [n].
    """
    draws = [statistic(resample_counts(n, r, seed)) for r in range(REPLICATES)]
    replicates = torch.tensor(draws, dtype=torch.float64)
    spread = replicates - replicates.mean()
    low, high = spread.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Estimate(value, value + low, value + high, spread)


def ratio(a: Estimate, b: Estimate) -> Estimate:
    """Return a / b of two independent estimates, with the spreads of both in the interval."""
    value = a.value / b.value if b.value else float("nan")
    if a.spread is None or b.spread is None or not b.value:
        return Estimate(value, float("nan"), float("nan"))
    # All pairs of replicates: the two are independent.
    pairs = (a.value + a.spread)[:, None] / (b.value + b.spread)[None, :]
    low, high = pairs.flatten().quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    return Estimate(value, low, high)


def difference(a: Estimate, b: Estimate) -> Estimate:
    """Return a - b of two independent estimates."""
    half = (((a.high - a.low) / 2) ** 2 + ((b.high - b.low) / 2) ** 2) ** 0.5
    value = a.value - b.value
    return Estimate(value, value - half, value + half)
