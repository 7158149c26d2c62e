"""Numbers with a 95 % interval: of means of independent terms, and by the bootstrap.

Resampling n images with replacement repeats some of them, which raises a Frechet distance by about
as much as having only n images has raised it already. The spread of the replicates is right, their
level is not: intervals are centred on the value itself (the basic bootstrap, Efron 1979).
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import nan

import torch
from torch import Tensor

from pocketddpm.noise import Role, uniform

Z95 = 1.959964
REPLICATES = 100


@dataclass(frozen=True)
class Interval:
    """A number and its 95 % interval (low, high), NaN where there is none.

    spread: deviations of bootstrap replicates from their mean, float64 [R], if there are any.
    """

    value: float
    low: float = nan
    high: float = nan
    spread: Tensor | None = None


def mean_interval(terms: Tensor) -> Interval:
    """Return the mean of independent terms [N] with its normal interval."""
    terms = terms.double()
    error = terms.std().item() / len(terms) ** 0.5 if len(terms) > 1 else nan
    return normal_interval(terms.mean().item(), error)


def normal_interval(value: float, error: float) -> Interval:
    """Return a value with the normal interval of a standard error."""
    return Interval(value, value - Z95 * error, value + Z95 * error)


def resample_counts(n: int, replicate: int) -> Tensor:
    """Return how often each of n images is drawn in one bootstrap sample, int64 [n], sum n."""
    u = uniform(0, Role.EVALUATE, torch.arange(n), step=replicate + 1)
    return torch.bincount((u * n).long(), minlength=n)


def bootstrap(n: int, value: float, statistic: Callable[[Tensor], float]) -> Interval:
    """Return `value` with a bootstrap interval centred on it.

    statistic(counts): the number with image k taken counts[k] times, counts int64 [n].
    """
    draws = [statistic(resample_counts(n, r)) for r in range(REPLICATES)]
    replicates = torch.tensor(draws, dtype=torch.float64)
    spread = replicates - replicates.mean()
    low, high = spread.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(value, value + low, value + high, spread)


def ratio(a: Interval, b: Interval) -> Interval:
    """Return a / b of two independent numbers, with the spreads of both in the interval."""
    value = a.value / b.value if b.value else nan
    if a.spread is None or b.spread is None or not b.value:
        return Interval(value)
    # All pairs of replicates: the two are independent.
    pairs = (a.value + a.spread)[:, None] / (b.value + b.spread)[None, :]
    low, high = pairs.flatten().quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    return Interval(value, low, high)


def difference(a: Interval, b: Interval) -> Interval:
    """Return a - b of two independent numbers."""
    half_width = (((a.high - a.low) / 2) ** 2 + ((b.high - b.low) / 2) ** 2) ** 0.5
    value = a.value - b.value
    return Interval(value, value - half_width, value + half_width)
