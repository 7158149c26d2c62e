"""beta rises linearly (Ho et al. 2020, arXiv 2006.11239).

When to use: to reproduce DDPM, or with the weights of models trained so.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pocketddpm.diffusion.schedule import from_beta


@dataclass(frozen=True)
class Config:
    """beta_start, beta_end: the first and last beta at T = 1000.

    rescale: multiply beta by 1000 / T (at most 0.999), so that any T ends in the same noise.
    """

    beta_start: float = 1e-4
    beta_end: float = 0.02
    rescale: bool = True


def build(config: Config, T: int) -> Tensor:
    """Return alpha_bar, float64 [T+1]."""
    beta = torch.linspace(config.beta_start, config.beta_end, T, dtype=torch.float64)
    return from_beta((beta * (1000 / T)).clamp(max=0.999) if config.rescale else beta)
