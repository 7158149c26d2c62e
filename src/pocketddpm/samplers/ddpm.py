"""Ancestral sampling, the original DDPM (Ho et al. 2020, arXiv 2006.11239, algorithm 2).

When to use: with an imperfect model, because fresh noise corrects errors that a deterministic path
keeps. It is the only sampler that uses a learned variance.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pocketddpm.diffusion.denoiser import Denoise
from pocketddpm.diffusion.grid import Grid
from pocketddpm.diffusion.process import VARIANCES, posterior, step_beta
from pocketddpm.diffusion.sampling import Noise, State, States

STOCHASTIC = True


@dataclass(frozen=True)
class Config:
    """variance: 'beta' (fixed large), 'beta-tilde' (fixed small, the posterior's own) or 'learned'.

    'learned' needs a model trained with --variance learned (arXiv 2102.09672, eq. 15).
    """

    variance: Literal["beta", "beta-tilde", "learned"] = "beta-tilde"


def order(config: Config) -> int:
    """Return the order at which mean and covariance converge."""
    return 1


@torch.no_grad()
def sample(denoise: Denoise, x: Tensor, grid: Grid, noise: Noise, config: Config) -> States:
    """Draw x_s ~ q(x_s | x_t, x0_hat) at each step, for steps of any stride.

        x_s = a_s beta / b_t^2 x0_hat + a_t / a_s b_s^2 / b_t^2 x_t + sqrt(variance) z

    with beta = 1 - a_t^2 / a_s^2 (`process.posterior`). The step that ends at the clean image adds
    no noise. Raises ConfigError for a learned variance that the model does not have.
    """
    for i, t, ab_t, s, ab_s in grid:
        x0, _, fraction = denoise(x, t, ab_t)
        q = posterior(ab_t, ab_s)
        x = q.x0_weight * x0 + q.x_t_weight * x
        if ab_s < 1:
            variance = VARIANCES[config.variance](step_beta(ab_t, ab_s), q.variance, fraction)
            x = x + variance**0.5 * noise(i)
        yield State(i + 1, s, x, x0, i + 1)
