"""Multistep consistency sampling (Song et al. 2023, arXiv 2303.01469, algorithm 1).

When to use: for models that `pocketddpm distill` has tuned, at one to three steps, on the spacing
jumps; for no others.
"""

import torch
from torch import Tensor

from pocketddpm.diffusion.denoiser import Denoise
from pocketddpm.diffusion.grid import Grid
from pocketddpm.diffusion.sampling import Noise, State, States
from pocketddpm.values import NoOptions as Config

STOCHASTIC = True


def order(config: Config) -> int:
    """Return 0: more steps do not bring a denoiser's estimates to the flow's end."""
    return 0


@torch.no_grad()
def sample(denoise: Denoise, x: Tensor, grid: Grid, noise: Noise, config: Config) -> States:
    """Estimate x0, then add fresh noise of the next level: x_s = a_s x0_hat + b_s z."""
    for i, t, ab_t, s, ab_s in grid:
        x0 = denoise(x, t, ab_t).x0
        x = ab_s**0.5 * x0
        if ab_s < 1:
            x = x + (1 - ab_s) ** 0.5 * noise(i)
        yield State(i + 1, s, x, x0, i + 1)
