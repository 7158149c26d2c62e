"""DPM-Solver++ multistep of order 1, 2 or 3 (Lu et al. 2022, arXiv 2211.01095).

When to use: for good images in 10 to 20 evaluations without fresh noise.
"""

from collections import deque
from dataclasses import dataclass
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
    """order: 1 (the same as ddim), 2 or 3.

    solver: how order 2 integrates its line: 'midpoint' reads it in the middle of the step (the
    paper's 2M), 'heun' integrates it exactly. third: 'exact', or 'published' for the formula in the
    authors' code and diffusers, which halves the curvature and so converges at order 2.
    lower_order_final: runs of fewer than 15 steps end with orders 2 and 1.
    """

    order: int = option(2, ">= 1, <= 3")
    solver: Literal["midpoint", "heun"] = "midpoint"
    third: Literal["exact", "published"] = "exact"
    lower_order_final: bool = True


def order(config: Config) -> int:
    """Return the order of convergence (for runs of at least 15 steps)."""
    return min(config.order, 2) if config.third == "published" else config.order


@torch.no_grad()
def sample(denoise: Denoise, x: Tensor, grid: Grid, noise: Noise, config: Config) -> States:
    """Follow algorithm 2: extrapolate x0_hat in lambda = log(a / b) from the last estimates to D.

        x_s = b_s / b_t x_t + (a_s - a_t b_s / b_t) D

    D is x0_hat at order 1 and, at order 2, x0_hat + (x0_hat - x0_before) h / (2 h_before), with h
    the step in lambda.
    """
    history: ms.History = deque(maxlen=config.order)
    for i, t, ab_t, s, ab_s in grid:
        x0 = denoise(x, t, ab_t).x0
        h, at = ms.begin_step(history, x0, grid, i, config)
        x = ms.step_with_x0(x, ms.blend(history, _shares(-h, at, config)), ab_t, ab_s)
        yield State(i + 1, s, x, x0, i + 1)


def _shares(z: float, at: list[float], config: Config) -> list[float]:
    if len(at) == 2 and config.solver == "midpoint":
        return ms.shares([1, 1 / 2], at)
    if len(at) == 3 and config.third == "published":
        mean, slope, curvature = ms.moments(z, 3)
        return ms.shares([mean, slope, curvature / 2], at)
    return ms.exponential_shares(z, at)
