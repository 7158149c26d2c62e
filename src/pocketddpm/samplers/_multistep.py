"""What the multistep samplers share: each of their steps is a DDIM step with a better estimate.

With the half log-SNR lambda = log(a / b), a = sqrt(alpha_bar), b = sqrt(1 - alpha_bar), the path
from t to s obeys exactly (arXiv 2211.01095, prop. 4.1, and 2206.00927, prop. 3.1)

    x_s / b_s = x_t / b_t + integral of exp( lambda) x0_hat  d lambda
    x_s / a_s = x_t / a_t - integral of exp(-lambda) eps_hat d lambda

DDIM holds the estimate still during the step. A multistep method puts the polynomial through
earlier estimates in its place; what counts is the polynomial's mean over the step under that
exponential weight, and the mean is a blend of the known estimates, with shares that add up to 1.
Positions within a step are r = (lambda - lambda_t) / h with h = lambda_s - lambda_t: 0 at t, 1 at
s, negative before. An example: two estimates on equal steps lie at r = 0 and -1; without a weight
the means of r^0 and r^1 over 0..1 are 1 and 1/2, and the shares that reproduce both are 3/2 and
-1/2, Adams and Bashforth's.
"""

from collections import deque
from collections.abc import Sequence
from math import exp, factorial, inf, isfinite, log, log1p
from typing import Any

import numpy as np
from torch import Tensor

from pocketddpm.diffusion.grid import Grid

FEW_STEPS = 15  # the published bound below which lower_order_final lowers the last steps
History = deque[tuple[float, Tensor]]  # (lambda, estimate), newest first


def half_log_snr(alpha_bar: float) -> float:
    """Return lambda = log(a / b); -inf for pure noise, inf for the clean image."""
    if alpha_bar in (0.0, 1.0):
        return inf if alpha_bar else -inf
    return (log(alpha_bar) - log1p(-alpha_bar)) / 2


def step_order(order: int, grid: Grid, i: int, history: History, lower_order_final: bool) -> int:
    """Return the order that step i can have: at most `order`, and 1 for the first step.

    The low order of the first steps, as published, does no harm while they lie high up in the
    noise, where x0_hat hardly moves; on a grid that starts low it would show.
    It is 1 where the step ends at the clean image, whose lambda no polynomial reaches, and an
    estimate at lambda = -inf (zero terminal SNR) defines no slope. lower_order_final: the
    last step has order 1, the one before it 2, which steadies runs of few steps.
    """
    if grid.alpha_bar[i + 1] == 1:
        return 1
    if lower_order_final:
        order = min(order, grid.steps - i)
    return max(1, min(order, sum(isfinite(lam) for lam, _ in history)))


def positions(history: History, count: int, start: float, end: float) -> list[float]:
    """Return r of the `count` newest estimates on the step from lambda = start to end.

    A single one is at the start, and the step may then be infinitely long.
    """
    if count == 1:
        return [0.0]
    return [(history[j][0] - start) / (end - start) for j in range(count)]


def begin_step(
    history: History, estimate: Tensor, grid: Grid, i: int, config: Any
) -> tuple[float, list[float]]:
    """Add the estimate at the start of step i; return h, and r of the estimates that it can use.

    config: its `order` is the highest; `lower_order_final` counts in runs of few steps only.
    """
    start, end = (half_log_snr(alpha_bar) for alpha_bar in grid.alpha_bar[i : i + 2])
    history.appendleft((start, estimate))
    lower = config.lower_order_final and grid.steps < FEW_STEPS
    count = step_order(config.order, grid, i, history, lower)
    return end - start, positions(history, count, start, end)


def phi(k: int, z: float) -> float:
    """Return phi_k(z) = sum over n of z^n / (n + k)!, that of exponential integrators.

    phi_0 = exp, and phi_{k+1}(z) = (phi_k(z) - 1/k!) / z, which cancels where z is small.
    """
    if abs(z) < 1:
        return sum(z**n / factorial(n + k) for n in range(20))
    value = exp(z)
    for j in range(k):
        value = (value - 1 / factorial(j)) / z
    return value


def moments(z: float, count: int) -> list[float]:
    """Return the means of r^0, r^1, .. over 0 < r < 1 under the weight exp(z (1 - r)).

    z = -h is the weight of x0 above, z = h that of eps, z = 0 none (plain Adams-Bashforth).
    """
    return [factorial(k) * phi(k + 1, z) / phi(1, z) for k in range(count)]


def shares(mean: Sequence[float], at: Sequence[float]) -> list[float]:
    """Return the weights of estimates at positions `at` that give every power of r its mean."""
    return np.linalg.solve(np.vander(at, increasing=True).T, np.array(mean)).tolist()


def exponential_shares(z: float, at: Sequence[float]) -> list[float]:
    """Return the shares of the polynomial through all positions, integrated exactly."""
    return [1.0] if len(at) == 1 else shares(moments(z, len(at)), at)


def blend(history: History, share: Sequence[float]) -> Tensor:
    """Return the newest estimates, one for each share, weighted and summed."""
    return sum((w * history[j][1] for j, w in enumerate(share[1:], 1)), share[0] * history[0][1])


def step_with_x0(x: Tensor, x0: Tensor, ab_t: float, ab_s: float) -> Tensor:
    """Return x_s from x_t = x when x0 is the estimate all along the step (DDIM in x0's terms)."""
    ratio = ((1 - ab_s) / (1 - ab_t)) ** 0.5
    return ratio * x + (ab_s**0.5 - ab_t**0.5 * ratio) * x0


def step_with_eps(x: Tensor, eps: Tensor, ab_t: float, ab_s: float) -> Tensor:
    """Return x_s from x_t = x when eps is the estimate all along the step (DDIM in eps's terms)."""
    ratio = (ab_s / ab_t) ** 0.5
    return ratio * x + ((1 - ab_s) ** 0.5 - (1 - ab_t) ** 0.5 * ratio) * eps
