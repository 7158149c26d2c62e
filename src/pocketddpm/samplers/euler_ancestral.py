"""Ancestral sampling as Euler steps in sigma space: step too far down, then add noise.

The same as ddpm with variance beta-tilde and as ddim with eta = 1, in the form known from
k-diffusion (from arXiv 2006.11239 and 2011.13456).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pocketddpm.diffusion.denoiser import Denoise
from pocketddpm.diffusion.grid import Grid
from pocketddpm.diffusion.sampling import Noise, State
from pocketddpm.samplers._sigma import sigmas

STOCHASTIC = True


@dataclass(frozen=True)
class Config:
    """No options."""


def order(config: Config) -> int:
    """Return the order at which mean and covariance converge."""
    return 1


def nfe(steps: int, config: Config) -> int:
    """Return the calls of the denoiser for this many steps."""
    return steps


@torch.no_grad()
def sample(
    denoise: Denoise, x: Tensor, grid: Grid, noise: Noise, config: Config
) -> Iterator[State]:
    """Go from sigma_t to down = sqrt(sigma_s^2 - up^2), then add noise of size up.

    up^2 = sigma_s^2 (sigma_t^2 - sigma_s^2) / sigma_t^2, the variance of q(x_s | x_t, x0) there.
    Raises ConfigError when the grid starts at alpha_bar = 0, where sigma is infinite.
    """
    sigma = sigmas(grid)
    for i, t, ab_t, s, ab_s in grid:
        x0, eps, _ = denoise(x, t, ab_t)
        ratio = (sigma[i + 1] / sigma[i]) ** 2
        up, down = sigma[i + 1] * (1 - ratio) ** 0.5, sigma[i + 1] * ratio**0.5
        scaled = x / ab_t**0.5 + (down - sigma[i]) * eps
        if up > 0:
            scaled = scaled + up * noise(i)
        x = ab_s**0.5 * scaled
        yield State(i + 1, s, x, x0, i + 1)
