"""DDIM: deterministic, or stochastic with eta > 0 (Song et al. 2020, arXiv 2010.02502).

When to use: as the plain choice, for interpolation, inversion and CFG++; `dpmpp` follows the same
path in fewer steps.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pocketddpm.diffusion.denoiser import Denoise
from pocketddpm.diffusion.grid import Grid
from pocketddpm.diffusion.process import posterior
from pocketddpm.diffusion.sampling import Noise, State, States
from pocketddpm.values import option

STOCHASTIC = False


@dataclass(frozen=True)
class Config:
    """eta: 0 is deterministic, 1 is ancestral sampling with variance beta-tilde."""

    eta: float = option(0.0, ">= 0, <= 1")


def order(config: Config) -> int:
    """Return the order of convergence (to the probability flow when eta is 0)."""
    return 1


@torch.no_grad()
def sample(denoise: Denoise, x: Tensor, grid: Grid, noise: Noise, config: Config) -> States:
    """Follow eq. 12: x_s = a_s x0_hat + sqrt(b_s^2 - std^2) eps_hat + std z.

    std^2 = eta^2 beta_tilde, the posterior's variance (eq. 16).
    """
    for i, t, ab_t, s, ab_s in grid:
        x0, eps, _ = denoise(x, t, ab_t)
        variance = config.eta**2 * posterior(ab_t, ab_s).variance
        x = ab_s**0.5 * x0 + max(1 - ab_s - variance, 0.0) ** 0.5 * eps
        if variance > 0:
            x = x + variance**0.5 * noise(i)
        yield State(i + 1, s, x, x0, i + 1)
