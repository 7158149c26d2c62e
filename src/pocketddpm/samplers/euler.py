"""Euler's method in sigma space (Karras et al. 2022, arXiv 2206.00364): the same as ddim."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pocketddpm.diffusion.denoiser import Denoise
from pocketddpm.diffusion.grid import Grid
from pocketddpm.diffusion.sampling import Noise, State
from pocketddpm.samplers._sigma import sigmas

STOCHASTIC = False


@dataclass(frozen=True)
class Config:
    """No options."""


def order(config: Config) -> int:
    """Return the order of convergence."""
    return 1


def nfe(steps: int, config: Config) -> int:
    """Return the calls of the denoiser for this many steps."""
    return steps


@torch.no_grad()
def sample(
    denoise: Denoise, x: Tensor, grid: Grid, noise: Noise, config: Config
) -> Iterator[State]:
    """Follow d(x / a) / d sigma = eps_hat in straight steps.

    Raises ConfigError when the grid starts at alpha_bar = 0, where sigma is infinite.
    """
    sigma = sigmas(grid)
    for i, t, ab_t, s, ab_s in grid:
        x0, eps, _ = denoise(x, t, ab_t)
        x = ab_s**0.5 * (x / ab_t**0.5 + (sigma[i + 1] - sigma[i]) * eps)
        yield State(i + 1, s, x, x0, i + 1)
