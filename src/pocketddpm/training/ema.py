"""The exponential moving average of the weights: how much of it a step keeps, and the update."""

from collections.abc import Mapping

import torch
from torch import Tensor

from pocketddpm.config import OptimiserConfig


def ema_decay(images_seen: int, batch_size: int, config: OptimiserConfig) -> float:
    """Return the share of the old average that a step keeps: 0.5^(batch / half-life).

    Early on the half-life is `ema_ramp` of the images seen (arXiv 2206.00364, appendix F).
    """
    half_life = min(config.ema_half_life, config.ema_ramp * images_seen)
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
