"""SDE-DPM-Solver++: ancestral sampling, x0 extrapolated (Lu et al. 2022, arXiv 2211.01095).

When to use: where ddpm needs too many steps: it converges at order 2, with fresh noise.
"""

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from pocketddpm.diffusion.denoiser import Denoise
from pocketddpm.diffusion.grid import Grid
from pocketddpm.diffusion.process import posterior
from pocketddpm.diffusion.sampling import Noise, State, States
from pocketddpm.samplers import _multistep as ms
from pocketddpm.values import option

STOCHASTIC = True


@dataclass(frozen=True)
class Config:
    """order: 1 (the same as ddpm) or 2 (2M).

    lower_order_final: runs of fewer than 15 steps end with order 1.
    """

    order: int = option(2, ">= 1, <= 2")
    lower_order_final: bool = True


def order(config: Config) -> int:
    """Return the order at which mean and covariance converge (for at least 15 steps)."""
    return config.order


@torch.no_grad()
def sample(denoise: Denoise, x: Tensor, grid: Grid, noise: Noise, config: Config) -> States:
    """Draw x_s ~ q(x_s | x_t, D), D being the line through two estimates at the step's middle.

    D = x0_hat + (x0_hat - x0_before) h / (2 h_before), h the step in lambda = log(a / b). The
    paper's coefficients, exp(-h) b_s / b_t, a_s (1 - exp(-2h)) and b_s sqrt(1 - exp(-2h)), are
    those of the posterior.
    """
    history: ms.History = deque(maxlen=config.order)
    for i, t, ab_t, s, ab_s in grid:
        x0 = denoise(x, t, ab_t).x0
        _, at = ms.begin_step(history, x0, grid, i, config)
        q = posterior(ab_t, ab_s)
        x = q.x0_weight * ms.blend(history, ms.shares([1, 1 / 2][: len(at)], at)) + q.x_t_weight * x
        if ab_s < 1:
            x = x + q.variance**0.5 * noise(i)
        yield State(i + 1, s, x, x0, i + 1)
