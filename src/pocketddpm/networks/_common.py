"""What several networks share: the embeddings of time and label, and layers that begin as zero."""

from math import log

import torch
from torch import Tensor, nn


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
