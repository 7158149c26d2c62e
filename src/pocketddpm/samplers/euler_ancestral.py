"""Ancestral sampling as Euler steps in sigma space: another name of ddpm with variance beta-tilde.

In the form known from k-diffusion, x / a steps down to sqrt(sigma_s^2 - up^2) and gets noise of
size up, up^2 = sigma_s^2 (sigma_t^2 - sigma_s^2) / sigma_t^2. That is the posterior
q(x_s | x_t, x0_hat) (arXiv 2006.11239, eq. 7, and 2011.13456).
"""

from torch import Tensor

from pocketddpm.diffusion.denoiser import Denoise
from pocketddpm.diffusion.grid import Grid
from pocketddpm.diffusion.sampling import Noise, States
from pocketddpm.samplers import ddpm
from pocketddpm.samplers.heun import check_finite_sigma
from pocketddpm.values import NoOptions as Config

STOCHASTIC, order = ddpm.STOCHASTIC, ddpm.order


def sample(denoise: Denoise, x: Tensor, grid: Grid, noise: Noise, config: Config) -> States:
    """Return ddpm's states; ConfigError where the grid starts at an infinite sigma."""
    check_finite_sigma(grid)
    return ddpm.sample(denoise, x, grid, noise, ddpm.Config("beta-tilde"))
