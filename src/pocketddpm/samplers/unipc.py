"""UniPC: a predictor and a corrector for one call a step (Zhao et al. 2023, arXiv 2302.04867).

When to use: as dpmpp; the corrector adds one order at no further call.
"""

from collections import deque
from dataclasses import dataclass
from math import expm1
from typing import Literal

import torch
from torch import Tensor

from pocketddpm.diffusion.denoiser import Denoise
from pocketddpm.diffusion.grid import Grid
from pocketddpm.diffusion.sampling import Noise, State, States
from pocketddpm.samplers import _multistep as ms
from pocketddpm.values import option

STOCHASTIC = False


@dataclass(frozen=True)
class Config:
    """order: of the predictor, 1..3.

    corrector: redo each step with the estimate found at its end, which adds one order at no call.
    variant: the paper's B(h), h for 'bh1' and exp(h) - 1 for 'bh2'; it matters to the formulas of
    two estimates only. lower_order_final: the last step has order 1, the one before it 2.
    """

    order: int = option(2, ">= 1, <= 3")
    corrector: bool = True
    variant: Literal["bh1", "bh2"] = "bh2"
    lower_order_final: bool = True


def order(config: Config) -> int:
    """Return the order of convergence, at most 2 where the last step has order 1."""
    reached = config.order + 1 if config.corrector else config.order
    return min(reached, 2) if config.lower_order_final else reached


@torch.no_grad()
def sample(denoise: Denoise, x: Tensor, grid: Grid, noise: Noise, config: Config) -> States:
    """Predict with UniP, correct with UniC, both in x0's terms:

        x_s = b_s / b_t x_t + (a_s - a_t b_s / b_t) D

    UniP extrapolates D from the last estimates, UniC interpolates it with the one at s. A step is
    corrected once the next one has called the denoiser at its end, so the last is not.
    """
    history: ms.History = deque(maxlen=config.order + 1)
    origin, ab_origin, p = x, 0.0, 0  # the step before; alpha_bar 0: none to correct
    for i, t, ab_t, s, ab_s in grid:
        x0 = denoise(x, t, ab_t).x0
        history.appendleft((ms.half_log_snr(ab_t), x0))
        if config.corrector and ab_origin > 0:
            x = _step(origin, history, p + 1, ab_origin, ab_t, config)
        p = ms.step_order(config.order, grid, i, history, config.lower_order_final)
        origin, ab_origin = x, ab_t
        x = _step(x, history, p, ab_t, ab_s, config)
        yield State(i + 1, s, x, x0, i + 1)


def _step(
    x: Tensor, history: ms.History, count: int, ab_t: float, ab_s: float, config: Config
) -> Tensor:
    """Return the step from t to s with the `count` newest estimates; one at s is a corrector."""
    start, end = ms.half_log_snr(ab_t), ms.half_log_snr(ab_s)
    at, h = ms.positions(history, count, start, end), end - start
    if count == 2:
        # One unknown coefficient: the paper sets it to 1/2, exact enough, instead of solving.
        middle = 1 / 2 if config.variant == "bh2" else h / -expm1(-h) / 2
        share = ms.shares([1, middle], at)
    else:
        share = ms.exponential_shares(-h, at)
    return ms.step_with_x0(x, ms.blend(history, share), ab_t, ab_s)
