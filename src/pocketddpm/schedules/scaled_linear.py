"""sqrt(beta) rises linearly (latent diffusion, arXiv 2112.10752).

When to use: with the weights of models trained so.
"""

import torch
from torch import Tensor

from pocketddpm.schedules.linear import Config, rescaled


def build(config: Config, T: int) -> Tensor:
    """Return alpha_bar, float64 [T+1]."""
    root = torch.linspace(config.beta_start**0.5, config.beta_end**0.5, T, dtype=torch.float64)
    return rescaled(root.square(), config)
