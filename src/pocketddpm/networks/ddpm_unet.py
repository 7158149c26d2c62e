"""The U-Net of DDPM and Improved DDPM as others publish it (arXiv 2006.11239, 2102.09672).

Weights of diffusers' `UNet2DModel` fit into it, and its tensors are named as diffusers names them.
The defaults are google/ddpm-cifar10-32: with three channels 35,746,307 parameters in 328 tensors.
For a model of your own, `unet` is the better choice.

Shapes: B images, C channels, H x W pixels, E = 4 `widths[0]`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pocketddpm.errors import ConfigError
from pocketddpm.networks._common import (
    Downsample,
    Upsample,
    check_image,
    check_levels,
    sinusoids,
    with_label,
    zeroed,
)
from pocketddpm.values import option

CONDITIONAL = True


@dataclass(frozen=True)
class Config:
    """Sizes, and the details in which published networks differ.

    widths: channels of each level, finest first; every level after the first halves the image.
    blocks: residual blocks per level (one more on the way up). attention: the levels that attend,
    finest = 0. middle: whether the middle attends. heads: of each attention; head_width: channels
    of one head, and then `heads` does not count (0: it does). scale_shift: the embedding scales and
    shifts the second norm; else it is added to the first convolution. groups, eps: of every
    GroupNorm. padding: of the strided convolutions; 0 pads at the right and bottom only.
    frequency_shift: 1 makes the last frequency of the time embedding 1/10000, 0 the one after it.
    time_scale: what the time t - 1 is multiplied by before it is embedded.
    """

    widths: tuple[int, ...] = option((128, 256, 256, 256), ">= 4")
    blocks: int = option(2, ">= 1, <= 1000")  # more would fill the memory with lists
    attention: tuple[int, ...] = option((1,), ">= 0")
    middle: bool = True
    heads: int = option(1, ">= 1")
    head_width: int = option(0, ">= 0")
    scale_shift: bool = False
    dropout: float = option(0.0, ">= 0, <= 1")
    groups: int = option(32, ">= 1")
    eps: float = option(1e-6, "> 0")
    padding: int = option(0, ">= 0, <= 1")
    frequency_shift: int = option(1, ">= 0, <= 1")
    time_scale: float = 1.0


def build(
    config: Config, *, channels: int, out_channels: int, height: int, width: int, classes: int
) -> nn.Module:
    """Return the network, untrained.

    Its forward takes (x_t [B,C,H,W], t [B] in 1..T, y int64 [B] in 0..classes or None). Raises
    ConfigError for widths below 4 or an odd first one, blocks not in 1..1000, an image that cannot
    be halved once a level, levels of attention that there are not, padding or frequency_shift other
    than 0 and 1, and widths that do not divide by groups, heads or head_width.
    """
    levels = len(config.widths)
    if not levels or config.widths[0] % 2:
        raise ConfigError(f"ddpm-unet needs widths, an even one first, got {config.widths}")
    check_image("ddpm-unet", height, width, 2 ** (levels - 1))
    check_levels("ddpm-unet", config.attention, levels)
    attending = {config.widths[i] for i in config.attention}
    attending |= {config.widths[-1]} if config.middle else set()
    for w in config.widths:
        if w % config.groups:
            raise ConfigError(f"ddpm-unet widths must divide by groups = {config.groups}, got {w}")
    for w in attending:
        if w % (config.head_width or config.heads):
            raise ConfigError(
                f"ddpm-unet widths that attend must divide by heads = {config.heads} or "
                f"head_width = {config.head_width}, got {w}"
            )
    return DDPMUNet(config, channels, out_channels, classes)


class DDPMUNet(nn.Module):
    """net(x_t, t, y) -> [B,out_channels,H,W]."""

    def __init__(self, config: Config, channels: int, out_channels: int, classes: int) -> None:
        super().__init__()
        widths, blocks = config.widths, config.blocks
        self.config = config
        embedding = 4 * widths[0]
        self.time_embedding = nn.ModuleDict(
            {
                "linear_1": nn.Linear(widths[0], embedding),
                "linear_2": nn.Linear(embedding, embedding),
            }
        )
        # The row after the last class stands for "no label".
        self.class_embedding = nn.Embedding(classes + 1, embedding) if classes else None
        self.conv_in = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        current, skips = widths[0], [widths[0]]
        for level, w in enumerate(widths):
            pairs = [(current if j == 0 else w, w) for j in range(blocks)]
            last = level == len(widths) - 1
            half = None if last else Downsample(w, config.padding)
            attends = level in config.attention
            self.down_blocks.append(Level(pairs, embedding, config, attends, up=False, resize=half))
            skips += [w] * (blocks if last else blocks + 1)
            current = w
        self.mid_block = Middle(current, embedding, config)
        for level, w in reversed(list(enumerate(widths))):
            pairs = [((current if j == 0 else w) + skips.pop(), w) for j in range(blocks + 1)]
            double = Upsample(w) if level else None
            attends = level in config.attention
            self.up_blocks.append(Level(pairs, embedding, config, attends, up=True, resize=double))
            current = w
        self.conv_norm_out = nn.GroupNorm(config.groups, current, config.eps)
        self.conv_out = zeroed(nn.Conv2d(current, out_channels, 3, padding=1))

    def embed(self, t: Tensor, y: Tensor | None) -> Tensor:
        """Return the embedding of time and label, after its SiLU, [B,E]."""
        # Published networks count their times from 0.
        times = (t - 1) * self.config.time_scale
        waves = sinusoids(times, self.conv_in.out_channels, self.config.frequency_shift)
        first, second = self.time_embedding["linear_1"], self.time_embedding["linear_2"]
        embedding = second(F.silu(first(waves.to(self.conv_in.weight.dtype))))
        return F.silu(with_label(embedding, self.class_embedding, y))

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """x_t: [B,C,H,W]. t: [B], 1..T. y: int64 [B] in 0..classes, or None for no label."""
        embedding = self.embed(t, y)
        h = self.conv_in(x_t)
        skips = [h]
        for level in self.down_blocks:
            h = level(h, embedding, skips)
        h = self.mid_block(h, embedding)
        for level in self.up_blocks:
            h = level(h, embedding, skips)
        return self.conv_out(F.silu(self.conv_norm_out(h)))


class Level(nn.Module):
    """The residual blocks of one level, each with its attention if the level attends.

    On the way down it leaves its images in `skips`, on the way up it takes them from there.
    resize: what halves or doubles the image at its end; None at the bottom and at the top.
    """

    def __init__(
        self,
        pairs: list[tuple[int, int]],
        embedding: int,
        config: Config,
        attends: bool,
        *,
        up: bool,
        resize: nn.Module | None,
    ) -> None:
        super().__init__()
        self.up = up
        self.resnets = nn.ModuleList([Residual(a, b, embedding, config) for a, b in pairs])
        self.attentions = nn.ModuleList([Attention(b, config) for _, b in pairs if attends])
        # Kept under diffusers' names.
        last = [] if resize is None else [resize]
        self.downsamplers = nn.ModuleList([] if up else last)
        self.upsamplers = nn.ModuleList(last if up else [])

    def forward(self, x: Tensor, embedding: Tensor, skips: list[Tensor]) -> Tensor:
        """x: [B,c,H,W] -> [B,c',H',W']. embedding: [B,E], after its SiLU. `skips` changes."""
        for j, block in enumerate(self.resnets):
            x = block(torch.cat([x, skips.pop()], 1) if self.up else x, embedding)
            if len(self.attentions):
                x = self.attentions[j](x)
            if not self.up:
                skips.append(x)
        for half in self.downsamplers:
            x = half(x)
            skips.append(x)
        for double in self.upsamplers:
            x = double(x)
        return x


class Middle(nn.Module):
    """Residual block, attention (if any), residual block."""

    def __init__(self, channels: int, embedding: int, config: Config) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            [Residual(channels, channels, embedding, config) for _ in range(2)]
        )
        self.attentions = nn.ModuleList([Attention(channels, config)] if config.middle else [])

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x: [B,C,H,W] -> the same. embedding: [B,E], after its SiLU."""
        x = self.resnets[0](x, embedding)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x, embedding)


class Residual(nn.Module):
    """Twice GroupNorm, SiLU, convolution; the embedding enters between the two."""

    def __init__(self, c_in: int, c_out: int, embedding: int, config: Config) -> None:
        super().__init__()
        self.scale_shift = config.scale_shift
        self.norm1 = nn.GroupNorm(config.groups, c_in, config.eps)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time_emb_proj = nn.Linear(embedding, 2 * c_out if config.scale_shift else c_out)
        self.norm2 = nn.GroupNorm(config.groups, c_out, config.eps)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = zeroed(nn.Conv2d(c_out, c_out, 3, padding=1))
        self.conv_shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x: [B,c_in,H,W] -> [B,c_out,H,W]. embedding: [B,E], after its SiLU."""
        h = self.conv1(F.silu(self.norm1(x)))
        shifts = self.time_emb_proj(embedding)[:, :, None, None]
        if self.scale_shift:
            scale, shift = shifts.chunk(2, dim=1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + shifts)
        return self.conv2(self.dropout(F.silu(h))) + self.conv_shortcut(x)


class Attention(nn.Module):
    """Self-attention over all pixels, with a residual connection."""

    def __init__(self, channels: int, config: Config) -> None:
        super().__init__()
        self.heads = channels // config.head_width if config.head_width else config.heads
        self.group_norm = nn.GroupNorm(config.groups, channels, config.eps)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([zeroed(nn.Linear(channels, channels))])

    def forward(self, x: Tensor) -> Tensor:
        """x: [B,C,H,W] -> the same."""
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)  # [B,HW,C]
        q, k, v = (
            to(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2)  # [B,heads,HW,C/heads]
            for to in (self.to_q, self.to_k, self.to_v)
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.to_out[0](mixed).transpose(1, 2).reshape(x.shape)
