"""Exponential moving averages of the weights: which, how much of one a step keeps, the update."""

from collections.abc import Mapping

import torch
from torch import Tensor

from pocketddpm.config import OptimiserConfig


def half_lives(config: OptimiserConfig) -> dict[str, int]:
    """Return the half-life, in images, of each average, by the part of a checkpoint that it is."""
    own = {"ema": config.ema_half_life} if config.ema_half_life else {}
    return own | {f"ema-{half_life}": half_life for half_life in config.ema_also}


def ema_decay(images_seen: int, batch_size: int, half_life: float, ramp: float) -> float:
    """Return the share of the old average that a step keeps: 0.5^(batch / half-life).

    Early on the half-life is the share `ramp` of the images seen (arXiv 2206.00364, appendix F).
    """
    half_life = min(half_life, ramp * images_seen)
    return 0.5 ** (batch_size / half_life) if half_life > 0 else 0.0


@torch.no_grad()
def update_ema(
    averages: Mapping[str, Tensor], weights: Mapping[str, Tensor], decay: float, taken: Tensor
) -> None:
    """Replace each average by decay * average + (1 - decay) * weight, where `taken`; integers stay.

    taken: bool, on the weights' device.
    """
    share = torch.where(taken, 1 - decay, 0.0)
    for name, average in averages.items():
        if average.is_floating_point():
            average.lerp_(weights[name], share.to(average.dtype))
