"""What several networks share: embeddings of time and label, resampling, zeroed layers."""

from math import log

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pocketddpm.errors import ConfigError

MOST_PADDED = 16
"""How many times its pixels an image may have when it is padded."""


def check_image(network: str, height: int, width: int, factor: int) -> None:
    """Raise ConfigError unless both sides are positive multiples of `factor`."""
    if height < 1 or width < 1 or height % factor or width % factor:
        fits = "x".join(str(max(-(-side // factor), 1) * factor) for side in (height, width))
        raise ConfigError(
            f"network {network} with these sizes needs an image whose sides divide by {factor}, "
            f"got {height}x{width}; use --network lean or unet, which take every size, or "
            f"--image-size {fits}"
        )


def check_padding(network: str, height: int, width: int, factor: int) -> None:
    """Raise ConfigError where `padded` would make more than MOST_PADDED times the image's pixels.

    What a stranger's checkpoint says of its levels is bounded by this too.
    """
    bottom, right = -height % factor, -width % factor
    if (height + bottom) * (width + right) > MOST_PADDED * height * width:
        raise ConfigError(
            f"network {network} with these sizes works on squares of {factor} pixels, too many for "
            f"an image of {height}x{width}; use fewer levels (--net widths) or a smaller patch"
        )


def padded(x: Tensor, factor: int) -> Tensor:
    """Return x, [B,C,H,W], with zeros at the right and bottom up to sides that divide by `factor`.

    Zeros are what every convolution sees outside of an image, and the mean of noise; a reflection
    would repeat the noise, and reaches no further than the image does. At the end, so that the
    squares of pixels begin at the image's corner. Where nothing is missing, it is x itself.
    """
    bottom, right = -x.shape[2] % factor, -x.shape[3] % factor
    return F.pad(x, (0, right, 0, bottom)) if bottom or right else x


def cropped(out: Tensor, like: Tensor) -> Tensor:
    """Return the part of out, [B,C,H',W'], that belongs to an image before it was padded."""
    height, width = like.shape[2:]
    return out if out.shape[2:] == like.shape[2:] else out[:, :, :height, :width]


def check_levels(network: str, attention: tuple[int, ...], levels: int) -> None:
    """Raise ConfigError unless every level of `attention` is one of 0..levels-1."""
    if not set(attention) <= set(range(levels)):
        raise ConfigError(
            f"network {network} with {levels} widths has the levels 0..{levels - 1}, "
            f"got attention={attention}; name only these"
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


def augmentation_layer(numbers: int, embedding: int) -> nn.Module | None:
    """Return the layer that adds to the embedding, [B,E], what was done to an image; None for none.

    It has no bias, so that an image as it is, at 0, adds nothing, and begins at 0. A network makes
    it last: the weights before it are those of a network without it.
    """
    return zeroed(nn.Linear(numbers, embedding, bias=False)) if numbers else None


def with_augmentation(
    embedding: Tensor, layer: nn.Module | None, augmentation: Tensor | None
) -> Tensor:
    """Return the embedding, [B,E], plus that of `augmentation`, [B,numbers]; None: none."""
    if layer is None or augmentation is None:
        return embedding
    return embedding + layer(augmentation.to(embedding.dtype))


def zeroed(module: nn.Module) -> nn.Module:
    """Zero a last layer's weights, so that its block begins as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class Downsample(nn.Module):
    """Half the size, by a strided convolution; padding = 0 pads at the right and bottom only."""

    def __init__(self, channels: int, padding: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=padding)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """x: [B,C,H,W] -> [B,C,H/2,W/2]; the embedding is not used."""
        return self.conv(x if self.conv.padding[0] else F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the size, by nearest neighbour and a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """x: [B,C,H,W] -> [B,C,2H,2W]; the embedding is not used."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
