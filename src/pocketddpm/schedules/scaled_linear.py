"""sqrt(beta) rises linearly (latent diffusion, arXiv 2112.10752).

When to use: with the weights of models trained so.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pocketddpm.diffusion.schedule import from_beta
from pocketddpm.values import option


@dataclass(frozen=True)
class Config:
    """beta_start, beta_end: the first and last beta at T = 1000.

    rescale: multiply beta by 1000 / T (at most 0.999), so that any T ends in the same noise.
    """

    beta_start: float = option(1e-4, ">= 0")
    beta_end: float = option(0.02, ">= 0")
    rescale: bool = True


def build(config: Config, T: int) -> Tensor:
    """Return alpha_bar, float64 [T+1]."""
    root = torch.linspace(config.beta_start**0.5, config.beta_end**0.5, T, dtype=torch.float64)
    beta = root.square()
    return from_beta((beta * (1000 / T)).clamp(max=0.999) if config.rescale else beta)
