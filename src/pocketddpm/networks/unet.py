"""A U-Net with adaptive GroupNorm, for any small image (Ho et al. 2020; arXiv 2105.05233).

Residual blocks, scale and shift from time and label, attention at low resolution, strided
convolutions down, nearest neighbour plus convolution up. It is the family of diffusers'
`UNet2DModel(resnet_time_scale_shift="scale_shift")`, so that its weights can be exported there.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pocketddpm.errors import ConfigError
from pocketddpm.networks._common import (
    Downsample,
    Upsample,
    augmentation_layer,
    check_padding,
    cropped,
    padded,
    sinusoids,
    with_augmentation,
    with_label,
    zeroed,
)
from pocketddpm.values import option

CONDITIONAL = True


@dataclass(frozen=True)
class Config:
    """Sizes.

    widths: channels of each level, finest first; every level after the first halves the image.
    blocks: residual blocks per level (one more on the way up). attention: how many of the deepest
    levels attend. head_width: channels of one attention head. dropout: inside the residual blocks.
    groups: of every GroupNorm. patch: side of the pixel squares that become channels at the input
    and pixels again at the output; 2 makes the same widths about four times cheaper.
    """

    widths: tuple[int, ...] = option((32, 64, 128), ">= 1")
    blocks: int = option(1, ">= 0")
    attention: int = option(1, ">= 0")
    head_width: int = option(32, ">= 1")
    dropout: float = option(0.0, ">= 0, <= 1")
    groups: int = option(8, ">= 1")
    patch: int = option(1, ">= 1")


def build(
    config: Config,
    *,
    channels: int,
    out_channels: int,
    height: int,
    width: int,
    classes: int,
    augmentation: int = 0,
) -> nn.Module:
    """Return the network, net(x_t, t, y) as in `UNet.forward`, untrained.

    augmentation: how many numbers tell of an augmentation; 0 for a network without that input.

    Images of every size fit: they are padded inside (see `padded`). Raises ConfigError without
    widths, for so many that there would be little but padding, for widths that do not divide by
    groups and head_width, and attention outside 0..levels.
    """
    if not config.widths:
        raise ConfigError("unet needs widths, got none")
    check_padding("unet", height, width, config.patch * 2 ** (len(config.widths) - 1))
    for w in config.widths:
        if w % config.groups or w % config.head_width:
            raise ConfigError(
                f"unet widths must divide by groups = {config.groups} and "
                f"head_width = {config.head_width}, got {w}"
            )
    if not 0 <= config.attention <= len(config.widths):
        raise ConfigError(
            f"unet attention counts levels, 0..{len(config.widths)}, got {config.attention}"
        )
    return UNet(config, channels, out_channels, classes, augmentation)


class UNet(nn.Module):
    """net(x_t, t, y) -> [B,out_channels,H,W]."""

    def __init__(
        self, config: Config, channels: int, out_channels: int, classes: int, augmentation: int = 0
    ) -> None:
        super().__init__()
        self.time_width = config.widths[0]
        embedding = 4 * config.widths[0]
        self.embed_time = nn.Sequential(
            nn.Linear(self.time_width, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        # The row after the last class stands for "no label".
        self.embed_label = nn.Embedding(classes + 1, embedding) if classes else None
        self.patch = config.patch
        self.factor = config.patch * 2 ** (len(config.widths) - 1)
        self.conv_in = nn.Conv2d(channels * config.patch**2, config.widths[0], 3, padding=1)

        def block(c_in: int, c_out: int, level: int) -> Block:
            attends = level >= len(config.widths) - config.attention
            return Block(c_in, c_out, embedding, config, attends)

        current = config.widths[0]
        skips = [current]
        self.down = nn.ModuleList()
        for level, w in enumerate(config.widths):
            for _ in range(config.blocks):
                self.down.append(block(current, w, level))
                current = w
                skips.append(current)
            if level < len(config.widths) - 1:
                self.down.append(Downsample(current))
                skips.append(current)
        self.middle = nn.ModuleList(
            [
                Block(current, current, embedding, config, attention=config.attention > 0),
                Block(current, current, embedding, config, attention=False),
            ]
        )
        self.up = nn.ModuleList()
        for level, w in reversed(list(enumerate(config.widths))):
            for _ in range(config.blocks + 1):
                self.up.append(block(current + skips.pop(), w, level))
                current = w
            if level:
                self.up.append(Upsample(current))
        self.norm_out = nn.GroupNorm(config.groups, current)
        self.conv_out = zeroed(nn.Conv2d(current, out_channels * config.patch**2, 3, padding=1))
        self.embed_augmentation = augmentation_layer(augmentation, embedding)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        y: Tensor | None = None,
        augmentation: Tensor | None = None,
    ) -> Tensor:
        """x_t: [B,C,H,W]. t: [B], 0..T. y: int64 [B] in 0..classes, or None for no label.

        augmentation: float [B,augmentation], or None, which is 0: an image as it is.
        """
        embedding = self.embed_time(sinusoids(t, self.time_width).to(self.conv_in.weight.dtype))
        embedding = with_label(embedding, self.embed_label, y)
        embedding = F.silu(with_augmentation(embedding, self.embed_augmentation, augmentation))
        whole = padded(x_t, self.factor)
        h = self.conv_in(F.pixel_unshuffle(whole, self.patch))  # [B,C p^2,H/p,W/p]
        skips = [h]
        for module in self.down:
            h = module(h, embedding)
            skips.append(h)
        for module in self.middle:
            h = module(h, embedding)
        for module in self.up:
            h = module(
                h if isinstance(module, Upsample) else torch.cat([h, skips.pop()], 1), embedding
            )
        return cropped(F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(h))), self.patch), x_t)


class Block(nn.Module):
    """Residual block (GroupNorm, SiLU, conv; scale and shift before the second), then attention."""

    def __init__(
        self, c_in: int, c_out: int, embedding: int, config: Config, attention: bool
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(config.groups, c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.modulate = nn.Linear(embedding, 2 * c_out)
        self.norm2 = nn.GroupNorm(config.groups, c_out)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = zeroed(nn.Conv2d(c_out, c_out, 3, padding=1))
        self.shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        self.attention = Attention(c_out, config) if attention else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x: [B,c_in,H,W] -> [B,c_out,H,W]. embedding: [B,E], after its SiLU."""
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulate(embedding)[:, :, None, None].chunk(2, dim=1)
        h = F.silu(self.norm2(h) * (1 + scale) + shift)
        h = self.conv2(self.dropout(h))
        return self.attention(h + self.shortcut(x))


class Attention(nn.Module):
    """Self-attention over all pixels, with a residual connection."""

    def __init__(self, channels: int, config: Config) -> None:
        super().__init__()
        self.heads = channels // config.head_width
        self.norm = nn.GroupNorm(config.groups, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zeroed(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """x: [B,C,H,W] -> the same."""
        b, c, h, w = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # [B,HW,C]
        qkv = self.qkv(tokens).view(b, h * w, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*qkv)  # [B,heads,HW,C/heads]
        mixed = self.out(mixed.transpose(1, 2).reshape(b, h * w, c))
        return x + mixed.transpose(1, 2).view(b, c, h, w)
