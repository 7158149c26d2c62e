"""What several networks share: the embeddings of time and label, and layers that begin as zero."""

from math import log

import torch
from torch import Tensor, nn

from pocketddpm.errors import ConfigError


def check_image(network: str, height: int, width: int, factor: int) -> None:
    """Raise ConfigError unless both sides are positive multiples of `factor`."""
    if height < 1 or width < 1 or height % factor or width % factor:
        fits = "x".join(str(max(-(-side // factor), 1) * factor) for side in (height, width))
        raise ConfigError(
            f"network {network} with these sizes needs an image whose sides divide by {factor}, "
            f"got {height}x{width}; use --image-size {fits} or fewer levels (--net widths)"
        )


def sinusoids(t: Tensor, width: int, shift: int = 0) -> Tensor:
    """Return [cos, sin] of t at the frequencies 10000^(-i/(width/2 - shift)), float32 [B,width]."""
    half = width // 2
    rates = torch.exp(torch.arange(half, device=t.device) * (-log(10_000) / (half - shift)))
    angles = t.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def with_label(embedding: Tensor, labels: nn.Embedding | None, y: Tensor | None) -> Tensor:
    """Return the embedding, [B,E], plus the label's; a network without labels has none to add.

    y: int64 [B]; the last row of `labels` stands for "no label", and so does None.
    """
    if labels is None:
        return embedding
    if y is None:
        y = torch.full((len(embedding),), labels.num_embeddings - 1, device=embedding.device)
    return embedding + labels(y)


def zeroed(module: nn.Module) -> nn.Module:
    """Zero a last layer's weights, so that its block begins as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
