"""alpha_bar falls as a squared cosine (Nichol and Dhariwal 2021, arXiv 2102.09672).

When to use: as the default for small images. It ends at alpha_bar = 2e-9 (T = 1000), so that
sampling in sigma needs the spacing log-snr or karras.
"""

from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor

from pocketddpm.diffusion.schedule import from_beta


@dataclass(frozen=True)
class Config:
    """s: offset near t = 0. beta_min, beta_max: bounds of every beta."""

    s: float = 0.008
    beta_min: float = 0.0
    beta_max: float = 0.999


def build(config: Config, T: int) -> Tensor:
    """Return alpha_bar, float64 [T+1] (eq. 17)."""
    u = torch.arange(T + 1, dtype=torch.float64) / T
    f = torch.cos((u + config.s) / (1 + config.s) * pi / 2).square()
    return from_beta((1 - f[1:] / f[:-1]).clamp(config.beta_min, config.beta_max))
