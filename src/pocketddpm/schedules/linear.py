"""beta rises linearly (Ho et al. 2020, arXiv 2006.11239).

When to use: to reproduce DDPM, or with the weights of models trained so.
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
    beta = torch.linspace(config.beta_start, config.beta_end, T, dtype=torch.float64)
    return rescaled(beta, config)


def rescaled(beta: Tensor, config: Config) -> Tensor:
    """Return alpha_bar, float64 [T+1], of the beta [T] that are meant for T = 1000."""
    return from_beta((beta * (1000 / len(beta))).clamp(max=0.999) if config.rescale else beta)
