"""iPNDM: Adams-Bashforth of fixed weights on eps (Zhang & Chen 2022, arXiv 2204.13902).

When to use: to compare with PNDM; `deis` has the weights of the grid at hand.
"""

from collections import deque
from dataclasses import dataclass

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
    """order: how many estimates are blended, 1 (the same as ddim) to 4."""

    order: int = option(4, ">= 1, <= 4")


def order(config: Config) -> int:
    """Return the order of convergence.

    The weights are those of equal steps in rho = b / a. Real grids are not equal there, which
    leaves order 2 whatever the number of estimates; the error is smaller all the same.
    """
    return min(config.order, 2)


@torch.no_grad()
def sample(denoise: Denoise, x: Tensor, grid: Grid, noise: Noise, config: Config) -> States:
    """Take DDIM's step with eps blended by Adams-Bashforth's weights, (55, -59, 37, -9) / 24.

    The first steps use as many estimates as there are. This is PNDM (arXiv 2202.09778) without its
    Runge-Kutta start.
    """
    history: ms.History = deque(maxlen=config.order)
    for i, t, ab_t, s, ab_s in grid:
        x0, eps, _ = denoise(x, t, ab_t)
        history.appendleft((ms.half_log_snr(ab_t), eps))
        if len(history) == 1:
            x = ab_s**0.5 * x0 + (1 - ab_s) ** 0.5 * eps
        else:
            share = ms.exponential_shares(0.0, range(0, -len(history), -1))
            x = ms.step_with_eps(x, ms.blend(history, share), ab_t, ab_s)
        yield State(i + 1, s, x, x0, i + 1)
