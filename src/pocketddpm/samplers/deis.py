"""DEIS: Adams-Bashforth on eps with an exact linear part (Zhang & Chen 2022, arXiv 2204.13902).

When to use: as dpmpp, at the same cost; it extrapolates eps_hat where dpmpp extrapolates x0_hat.
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
    """order: 1 (the same as ddim), 2 or 3.

    variable: in what eps_hat is a polynomial: 'rho' = b / a (the paper's rho-AB), or 'log-rho' (as
    diffusers). Its t-AB would need alpha_bar between the grid's points, which a grid does not have.
    lower_order_final: runs of fewer than 15 steps end with orders 2 and 1.
    """

    order: int = option(3, ">= 1, <= 3")
    variable: Literal["log-rho", "rho"] = "log-rho"
    lower_order_final: bool = True


def order(config: Config) -> int:
    """Return the order of convergence (for runs of at least 15 steps)."""
    return config.order


@torch.no_grad()
def sample(denoise: Denoise, x: Tensor, grid: Grid, noise: Noise, config: Config) -> States:
    """Integrate the polynomial P through the last eps_hat (eqs. 14-15):

    x_s / a_s = x_t / a_t + integral of P(rho) d rho over rho = b / a from t to s
    """
    history: ms.History = deque(maxlen=config.order)
    for i, t, ab_t, s, ab_s in grid:
        x0, eps, _ = denoise(x, t, ab_t)
        h, at = ms.begin_step(history, eps, grid, i, config)
        if len(at) == 1:
            x = ab_s**0.5 * x0 + (1 - ab_s) ** 0.5 * eps
        else:
            if config.variable == "log-rho":
                share = ms.exponential_shares(h, at)
            else:
                # The same positions measured in rho = exp(-lambda).
                share = ms.exponential_shares(0.0, [expm1(-r * h) / expm1(-h) for r in at])
            x = ms.step_with_eps(x, ms.blend(history, share), ab_t, ab_s)
        yield State(i + 1, s, x, x0, i + 1)
