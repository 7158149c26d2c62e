"""DDIM backwards: encode images as noise (Song et al. 2020, arXiv 2010.02502, section 4.3).

Ordinary samplers walk a grid down from noise; this one is given clean images and walks the same
grid up. `ddim` over that grid then decodes: the two are inverse to each other as steps grow.
When to use: to edit or interpolate given images.
"""

import torch
from torch import Tensor

from pocketddpm.diffusion.denoiser import Denoise
from pocketddpm.diffusion.grid import Grid
from pocketddpm.diffusion.sampling import Noise, State, States
from pocketddpm.values import NoOptions as Config

STOCHASTIC = False
INVERSE = True  # starts from images and ends in noise


def order(config: Config) -> int:
    """Return the order of convergence."""
    return 1


@torch.no_grad()
def sample(denoise: Denoise, x: Tensor, grid: Grid, noise: Noise, config: Config) -> States:
    """Take DDIM's step from s up to t, x_t = a_t x0_hat + b_t eps_hat; noise is not used.

    x: images at the grid's last time. At the clean image there is no noise to estimate (b = 0):
    there eps_hat is that of the next time up, as if the image were already there.
    """
    for i, j in enumerate(range(grid.steps, 0, -1)):
        s, t, ab_s, ab_t = grid.t[j], grid.t[j - 1], grid.alpha_bar[j], grid.alpha_bar[j - 1]
        if ab_s == 1:
            x0, eps = x, denoise(x, t, ab_t).eps
        else:
            x0, eps, _ = denoise(x, s, ab_s)
        x = ab_t**0.5 * x0 + (1 - ab_t) ** 0.5 * eps
        yield State(i + 1, t, x, x0, i + 1)
