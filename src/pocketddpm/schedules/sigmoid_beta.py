"""beta rises as a sigmoid (GeoDiff, arXiv 2203.02923; what diffusers calls 'sigmoid').

When to use: with the weights of models trained so. beta_start and beta_end are its asymptotes.
"""

import torch
from torch import Tensor

from pocketddpm.schedules.linear import Config, rescaled


def build(config: Config, T: int) -> Tensor:
    """Return alpha_bar, float64 [T+1]."""
    curve = torch.sigmoid(torch.linspace(-6, 6, T, dtype=torch.float64))
    beta = config.beta_start + (config.beta_end - config.beta_start) * curve
    return rescaled(beta, config)
