"""sigma rises geometrically, evenly in its logarithm (Song et al. 2020, arXiv 2011.13456).

When to use: with --prediction edm, --times log-normal and the spacing karras, as EDM does.
"""

from dataclasses import dataclass
from math import log

import torch
from torch import Tensor

from pocketddpm.errors import ConfigError


@dataclass(frozen=True)
class Config:
    """sigma_min, sigma_max: noise over signal at t = 1 and t = T (arXiv 2206.00364's range)."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0


def build(config: Config, T: int) -> Tensor:
    """Return alpha_bar = 1 / (1 + sigma^2), float64 [T+1]. ConfigError for an empty range."""
    if not 0 < config.sigma_min < config.sigma_max:
        raise ConfigError(
            "schedule log-linear needs 0 < sigma_min < sigma_max, "
            f"got {config.sigma_min:g} and {config.sigma_max:g}"
        )
    low, high = log(config.sigma_min), log(config.sigma_max)
    # From the noisy end, so that a single step has sigma_max.
    sigma = torch.linspace(high, low, T, dtype=torch.float64).exp().flip(0)
    return torch.cat([torch.ones(1, dtype=torch.float64), 1 / (1 + sigma.square())])
