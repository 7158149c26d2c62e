"""Euler's method in sigma space (Karras et al. 2022, arXiv 2206.00364): another name of ddim.

An Euler step of d(x / a) / d sigma = eps_hat, with sigma = b / a, is DDIM's step exactly:
x_s = a_s (x_t / a_t + (sigma_s - sigma_t) eps_hat) = a_s x0_hat + b_s eps_hat.
"""

from torch import Tensor

from pocketddpm.diffusion.denoiser import Denoise
from pocketddpm.diffusion.grid import Grid
from pocketddpm.diffusion.sampling import Noise, States
from pocketddpm.samplers import ddim
from pocketddpm.samplers.heun import check_finite_sigma
from pocketddpm.values import NoOptions as Config

STOCHASTIC, order = ddim.STOCHASTIC, ddim.order


def sample(denoise: Denoise, x: Tensor, grid: Grid, noise: Noise, config: Config) -> States:
    """Return ddim's states; ConfigError where the grid starts at an infinite sigma."""
    check_finite_sigma(grid)
    return ddim.sample(denoise, x, grid, noise, ddim.Config())
