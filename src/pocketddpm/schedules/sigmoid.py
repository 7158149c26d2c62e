"""alpha_bar falls as a sigmoid (Jabri et al. 2022, arXiv 2212.11972).

When to use: to move the steps towards more noise or less, by start, end and tau.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pocketddpm.diffusion.schedule import from_beta


@dataclass(frozen=True)
class Config:
    """start, end: the piece of the sigmoid that is used. tau: its temperature.

    beta_max: the largest beta allowed (the curve itself ends at alpha_bar = 0).
    """

    start: float = -3.0
    end: float = 3.0
    tau: float = 1.0
    beta_max: float = 0.999


def build(config: Config, T: int) -> Tensor:
    """Return alpha_bar, float64 [T+1]."""
    u = torch.arange(T + 1, dtype=torch.float64) / T
    curve = torch.sigmoid((u * (config.end - config.start) + config.start) / config.tau)
    alpha_bar = (curve[-1] - curve) / (curve[-1] - curve[0])
    return from_beta((1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=config.beta_max))
