"""Heun's method in sigma space, with optional churn (EDM, arXiv 2206.00364, algorithm 2)."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf, sqrt

import torch
from torch import Tensor

from pocketddpm.diffusion.denoiser import Denoise
from pocketddpm.diffusion.grid import Grid
from pocketddpm.diffusion.sampling import Noise, State
from pocketddpm.errors import ConfigError
from pocketddpm.samplers._sigma import alpha_bar_of, sigmas

STOCHASTIC = False


@dataclass(frozen=True)
class Config:
    """s_churn: how much noise is added over the whole run (0: none, deterministic).

    It is added where s_min <= sigma <= s_max, with standard deviation s_noise.
    """

    s_churn: float = 0.0
    s_min: float = 0.0
    s_max: float = inf
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        if self.s_churn < 0 or self.s_noise < 0:
            raise ConfigError(
                f"s_churn and s_noise must not be negative, got {self.s_churn} and {self.s_noise}"
            )


def order(config: Config) -> int:
    """Return the order of convergence (of the probability flow, without churn)."""
    return 2


def nfe(steps: int, config: Config) -> int:
    """Return the calls of the denoiser for this many steps: two each, one for the last."""
    return 2 * steps - 1


@torch.no_grad()
def sample(
    denoise: Denoise, x: Tensor, grid: Grid, noise: Noise, config: Config
) -> Iterator[State]:
    """Average the slopes at both ends of each step; the last step is Euler's.

    Churn first raises sigma by the factor 1 + gamma. That level lies between the grid's points, and
    `Grid.time_of` says which time the network is told there. Raises ConfigError when the grid
    starts at alpha_bar = 0, where sigma is infinite.
    """
    sigma = sigmas(grid)
    calls = 0
    for i, t, ab_t, s, ab_s in grid:
        high, low = sigma[i], sigma[i + 1]
        scaled = x / ab_t**0.5
        if config.s_churn > 0 and config.s_min <= high <= config.s_max:
            gamma = min(config.s_churn / grid.steps, sqrt(2) - 1)
            high = high * (1 + gamma)
            scaled = scaled + (high**2 - sigma[i] ** 2) ** 0.5 * config.s_noise * noise(i)
            ab_t = alpha_bar_of(high)
            t = grid.time_of(ab_t)
        x0, slope, _ = denoise(ab_t**0.5 * scaled, t, ab_t)
        x = ab_s**0.5 * (scaled + (low - high) * slope)
        calls += 1
        if i + 1 < grid.steps:
            x0, slope_s, _ = denoise(x, s, ab_s)
            x = ab_s**0.5 * (scaled + (low - high) * (slope + slope_s) / 2)
            calls += 1
        yield State(i + 1, s, x, x0, calls)
