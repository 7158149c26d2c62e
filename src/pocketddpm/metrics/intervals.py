"""Numbers with a 95 % interval, every one inside what is possible for its number.

Shares have the exact interval (Clopper and Pearson 1934), distances and scores the bootstrap on a
log or logit scale, estimates without bias of what is never negative that of Feldman and Cousins
(arXiv physics/9711021). None is cut off at the end of a range: what lies beyond would be lost from
the 95 %.

Resampling n images with replacement repeats some of them, which raises a Frechet distance by about
as much as having only n images has raised it already: replicates are moved to the value itself.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from math import inf, nan
from statistics import NormalDist

import torch
from torch import Tensor

from pocketddpm.noise import Role, uniform

Z95 = 1.959964
REPLICATES = 100
ENDS = torch.tensor([0.025, 0.975], dtype=torch.float64)
CDF = NormalDist().cdf


@dataclass(frozen=True)
class Interval:
    """A number and its 95 % interval (low, high), NaN where there is none.

    replicates: what the number might as well have been, float64 [R]; None where only the ends are
    known.
    """

    value: float
    low: float = nan
    high: float = nan
    replicates: Tensor | None = field(default=None, repr=False)


def mean_interval(terms: Tensor) -> Interval:
    """Return the mean of independent terms [N], of any sign, with its normal interval."""
    terms = terms.double()
    value = terms.mean().item()
    error = terms.std().item() / len(terms) ** 0.5 if len(terms) > 1 else nan
    return Interval(value, value - Z95 * error, value + Z95 * error)


def share_interval(terms: Tensor) -> Interval:
    """Return the share of terms [N] that are true, with its exact interval, inside 0..1."""
    hits, total = int(terms.sum()), len(terms)
    return Interval(hits / total, _least(hits, total), 1 - _least(total - hits, total))


def _least(hits: int, total: int) -> float:
    """Return the share of which `hits` or more of `total` are seen in 2.5 % of all cases."""
    if hits == 0:
        return 0.0
    seen = torch.arange(hits, total + 1, dtype=torch.float64)
    whole = torch.tensor(total + 1.0, dtype=torch.float64)
    ways = whole.lgamma() - (seen + 1).lgamma() - (whole - seen).lgamma()

    def chance(p: float) -> float:
        p_seen = torch.tensor(p, dtype=torch.float64)
        return float((ways + seen * p_seen.log() + (total - seen) * (-p_seen).log1p()).exp().sum())

    return _root(lambda p: chance(p) - 0.025, 0.0, hits / total)


def positive_interval(terms: Tensor) -> Interval:
    """Return the mean of independent terms [N], none below 0, with a log-normal interval.

    Where all are 0, the upper end is the share that may still be above 0, counted as 1 each.
    """
    terms = terms.double()
    value = terms.mean().item()
    if not value:
        return Interval(0.0, 0.0, share_interval(terms > 0).high)
    error = terms.std() / len(terms) ** 0.5 / value
    low, high = (value * (sign * Z95 * error).exp().item() for sign in (-1, 1))
    return Interval(value, low, high)


def never_negative(value: float, error: float) -> Interval:
    """Return the interval of a number >= 0 from an unbiased estimate, itself perhaps below 0.

    error: the estimate's standard error. The unified interval of Feldman and Cousins: where 0 lies
    far below, it is the normal one.
    """
    replicates = torch.tensor(
        [value + error * NormalDist().inv_cdf((k + 0.5) / REPLICATES) for k in range(REPLICATES)],
        dtype=torch.float64,
    )
    if not error > 0:
        return Interval(value, value, value, replicates)
    x = value / error

    # Of a true mu < Z95 (in standard errors), estimates from (mu^2 - d^2) / (2 mu) to mu + d are
    # accepted, whose likelihoods beside the best mu >= 0 are equal.
    def reach(mu: float) -> float:
        return _root(lambda d: CDF(d) - CDF(-(mu * mu + d * d) / (2 * mu)) - 0.95, 1.6, 2.0)

    def upper(mu: float) -> float:
        return (mu * mu - reach(mu) ** 2) / (2 * mu) - x

    low = x - Z95
    if x < 2 * Z95:
        low = _root(lambda mu: mu + reach(mu) - x, 1e-9, Z95) if x > CDF_95 else 0.0
    high = x + Z95 if x >= 0 else _root(upper, 1e-9, Z95)
    return Interval(value, low * error, high * error, replicates)


CDF_95 = NormalDist().inv_cdf(0.95)


def _root(rises: Callable[[float], float], low: float, high: float) -> float:
    """Return where a rising function passes 0 between low and high."""
    for _ in range(45):
        middle = (low + high) / 2
        low, high = (middle, high) if rises(middle) < 0 else (low, middle)
    return (low + high) / 2


@lru_cache(maxsize=REPLICATES)  # the numbers of one report draw the same ones
def resample_counts(n: int, replicate: int) -> Tensor:
    """Return how often each of n images is drawn in one bootstrap sample, int64 [n], sum n."""
    u = uniform(0, Role.EVALUATE, torch.arange(n), step=replicate + 1)
    return torch.bincount((u * n).long(), minlength=n)


def bootstrap(
    n: int,
    value: float,
    statistic: Callable[[Tensor], float],
    within: tuple[float, float] = (0.0, inf),
    wider: float = 1.0,
) -> Interval:
    """Return `value` with a bootstrap interval about it, inside `within`.

    statistic(counts): the number with image k taken counts[k] times, counts int64 [n]. The
    replicates' spread about their own level, on a log scale (a logit scale where the range has two
    ends) and times `wider`, is that of the value. Where one of them lies at an end of the range,
    they are taken as they are (percentiles).
    """
    draws = [statistic(resample_counts(n, r)) for r in range(REPLICATES)]
    replicates = torch.tensor([value, *draws], dtype=torch.float64).clamp(*within)
    below, above = replicates - within[0], within[1] - replicates
    if torch.minimum(below, above).min() > 0:
        scale = below.log() if within[1] == inf else (below / above).log()
        odds = (scale[0] + wider * (scale[1:] - scale[1:].mean())).exp()
        whole = 1.0 if within[1] == inf else (within[1] - within[0]) / (1 + odds)
        return _of_replicates(value, within[0] + odds * whole)
    return _of_replicates(value, replicates[1:])


def ratio(a: Interval, b: Interval) -> Interval:
    """Return a / b of two independent numbers above 0, with the spreads of both in the interval."""
    value = a.value / b.value if b.value else nan
    if a.replicates is None or b.replicates is None or not b.value:
        return Interval(value)
    # All pairs of replicates: the two are independent.
    return _of_replicates(value, (a.replicates[:, None] / b.replicates[None]).flatten())


def difference(a: Interval, b: Interval) -> Interval:
    """Return a - b of two independent numbers, with the spreads of both in the interval.

    Where only the ends are known, they are put together as Newcombe (1998, method 10) does, which
    keeps a difference of shares within -1..1.
    """
    value = a.value - b.value
    if a.replicates is not None and b.replicates is not None:
        return _of_replicates(value, (a.replicates[:, None] - b.replicates[None]).flatten())
    below = ((a.value - a.low) ** 2 + (b.high - b.value) ** 2) ** 0.5
    above = ((a.high - a.value) ** 2 + (b.value - b.low) ** 2) ** 0.5
    return Interval(value, value - below, value + above)


def _of_replicates(value: float, replicates: Tensor) -> Interval:
    low, high = replicates.quantile(ENDS).tolist()
    return Interval(value, min(value, low), max(value, high), replicates)
