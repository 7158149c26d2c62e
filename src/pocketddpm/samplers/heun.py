"""Heun's method in sigma space, with optional churn (EDM, arXiv 2206.00364, algorithm 2).

The probability flow there is d(x / a) / d sigma = eps_hat, with sigma = b / a. When to use: for an
accurate solution at many evaluations, on the spacings karras and log-snr; with churn, EDM's
stochastic sampler.
"""

from dataclasses import dataclass
from math import inf, sqrt

import torch
from torch import Tensor

from pocketddpm.diffusion.denoiser import Denoise
from pocketddpm.diffusion.grid import Grid
from pocketddpm.diffusion.sampling import Noise, State, States
from pocketddpm.errors import ConfigError
from pocketddpm.values import option

STOCHASTIC = False


@dataclass(frozen=True)
class Config:
    """s_churn: how much noise is added over the whole run (0: none, deterministic).

    It is added where s_min <= sigma <= s_max, with standard deviation s_noise.
    """

    s_churn: float = option(0.0, ">= 0")
    s_min: float = option(0.0, ">= 0")
    s_max: float = option(inf, ">= 0")
    s_noise: float = option(1.0, ">= 0")


def order(config: Config) -> int:
    """Return the order of convergence (of the probability flow, without churn)."""
    return 2


def nfe(steps: int, config: Config) -> int:
    """Return the calls of the denoiser for this many steps: two each, one for the last."""
    return 2 * steps - 1


@torch.no_grad()
def sample(denoise: Denoise, x: Tensor, grid: Grid, noise: Noise, config: Config) -> States:
    """Average the slopes at both ends of each step; the last step is Euler's.

        x_s / a_s = x_t / a_t + (sigma_s - sigma_t) (eps_hat_t + eps_hat_s) / 2

    Churn first raises sigma_t by the factor 1 + gamma, gamma = min(s_churn / N, sqrt(2) - 1), with
    noise of variance (sigma_t (1 + gamma))^2 - sigma_t^2. That level lies between the grid's
    points: `Grid.time_of` gives its time. ConfigError where the grid starts at an infinite sigma.
    """
    check_finite_sigma(grid)
    calls = 0
    for i, t, ab_t, s, ab_s in grid:
        high, low = sigma_of(ab_t), sigma_of(ab_s)
        scaled = x / ab_t**0.5
        if config.s_churn > 0 and config.s_min <= high <= config.s_max:
            gamma = min(config.s_churn / grid.steps, sqrt(2) - 1)
            high = high * (1 + gamma)
            scaled = scaled + (high**2 - sigma_of(ab_t) ** 2) ** 0.5 * config.s_noise * noise(i)
            ab_t = 1 / (1 + high**2)
            t = grid.time_of(ab_t)
        x0, slope, _ = denoise(ab_t**0.5 * scaled, t, ab_t)
        x = ab_s**0.5 * (scaled + (low - high) * slope)
        calls += 1
        if i + 1 < grid.steps:
            x0, slope_s, _ = denoise(x, s, ab_s)
            x = ab_s**0.5 * (scaled + (low - high) * (slope + slope_s) / 2)
            calls += 1
        yield State(i + 1, s, x, x0, calls)


def sigma_of(alpha_bar: float) -> float:
    """Return sigma = sqrt((1 - alpha_bar) / alpha_bar)."""
    return ((1 - alpha_bar) / alpha_bar) ** 0.5


def check_finite_sigma(grid: Grid) -> None:
    """Raise ConfigError for a grid that starts at alpha_bar = 0, where sigma is infinite."""
    if grid.alpha_bar[0] == 0:
        raise ConfigError(
            f"sigma is infinite at t = {grid.t[0]:g}, where alpha_bar is 0 (zero terminal SNR); "
            "use the sampler ddim or dpmpp, or a grid that starts lower"
        )
