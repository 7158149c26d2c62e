"""A fast U-Net for small images, 7 to 128 pixels: the most quality per second on a CPU.

Pixel squares become channels, levels are joined by addition instead of concatenation, and every
norm is a LayerNorm over the channels, which in channels_last is one fused pass over memory: in
eager mode nearly all the time goes into convolutions. Scale and shift from time and label, as in
arXiv 2105.05233; attention at the lowest resolution only.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pocketddpm.errors import ConfigError
from pocketddpm.networks._common import (
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
    blocks: residual blocks of each level; all levels but the last have them twice, on the way down
    and up. attention: whether the last level attends, after its first block. head_width: channels
    of one attention head. patch: side of the pixel squares that become channels. linear: whether a
    linear filter of the input, one for each noise level, is added to the output.
    """

    widths: tuple[int, ...] = option((64, 128), ">= 2")
    blocks: tuple[int, ...] = option((2, 3), ">= 1")
    attention: bool = True
    head_width: int = option(32, ">= 1")
    patch: int = option(2, ">= 1")
    linear: bool = False


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
    """Return the network, net(x_t, t, y) as in `Lean.forward`, untrained.

    augmentation: how many numbers tell of an augmentation; 0 for a network without that input.

    Images of every size fit: they are padded inside (see `padded`). Raises ConfigError unless there
    are as many blocks as widths, for so many levels that there would be little but padding, a first
    width that is odd, and a last one that does not divide by head_width.
    """
    if not len(config.blocks) == len(config.widths) > 0:
        raise ConfigError(
            f"lean needs as many blocks as widths, got blocks {config.blocks} "
            f"for widths {config.widths}"
        )
    check_padding("lean", height, width, config.patch * 2 ** (len(config.widths) - 1))
    if config.widths[0] % 2:
        raise ConfigError(f"lean's first width must be even, got {config.widths}")
    if config.attention and config.widths[-1] % config.head_width:
        raise ConfigError(
            f"lean's last width must divide by head_width = {config.head_width}, "
            f"got {config.widths[-1]}"
        )
    return Lean(config, channels, out_channels, classes, augmentation)


class Lean(nn.Module):
    """net(x_t, t, y) -> [B,out_channels,H,W]."""

    def __init__(
        self, config: Config, channels: int, out_channels: int, classes: int, augmentation: int = 0
    ) -> None:
        super().__init__()
        self.patch = config.patch
        self.factor = config.patch * 2 ** (len(config.widths) - 1)
        widths, square = config.widths, config.patch**2
        self.time_width = widths[0]
        embedding = 4 * widths[0]
        self.embed_time = nn.Sequential(
            nn.Linear(self.time_width, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        # The row after the last class stands for "no label".
        self.embed_label = nn.Embedding(classes + 1, embedding) if classes else None

        def blocks(level: int) -> nn.ModuleList:
            return nn.ModuleList(
                [Block(widths[level], embedding) for _ in range(config.blocks[level])]
            )

        self.conv_in = nn.Conv2d(channels * square, widths[0], 3, padding=1)
        above = range(len(widths) - 1)
        self.down = nn.ModuleList([blocks(level) for level in above])
        self.shrink = nn.ModuleList(
            [nn.Conv2d(widths[i], widths[i + 1], 2, stride=2, bias=False) for i in above]
        )
        self.bottom = blocks(len(widths) - 1)
        if config.attention:
            self.bottom.insert(1, Attention(widths[-1], config.head_width))
        self.grow = nn.ModuleList(
            [nn.Conv2d(widths[i + 1], 4 * widths[i], 1, bias=False) for i in above]
        )
        self.up = nn.ModuleList([blocks(level) for level in above])
        self.conv_out = zeroed(nn.Conv2d(widths[0], out_channels * square, 3, padding=1))
        self.linear = (
            Linear(channels * square, widths[0], out_channels * square, embedding)
            if config.linear
            else None
        )
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
        squares = F.pixel_unshuffle(whole, self.patch)  # [B,C p^2,H/p,W/p]
        h = self.conv_in(squares)
        skips = []
        for level, shrink in zip(self.down, self.shrink, strict=True):
            h = _through(level, h, embedding)
            skips.append(h)
            h = shrink(h)
        h = _through(self.bottom, h, embedding)
        for level, grow in reversed(list(zip(self.up, self.grow, strict=True))):
            h = skips.pop() + F.pixel_shuffle(grow(h), 2)
            h = _through(level, h, embedding)
        h = self.conv_out(F.silu(_norm(h)))
        if self.linear is not None:
            h = h + self.linear(squares, embedding)
        return cropped(F.pixel_shuffle(h, self.patch), x_t)


class Block(nn.Module):
    """Residual block: norm, SiLU, conv, then norm, scale and shift, SiLU, conv."""

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.modulate = nn.Linear(embedding, 2 * channels)
        self.conv2 = zeroed(nn.Conv2d(channels, channels, 3, padding=1, bias=False))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x: [B,C,H,W] -> the same. embedding: [B,E], after its SiLU."""
        h = self.conv1(F.silu(_norm(x)))
        scale, shift = self.modulate(embedding)[:, :, None, None].chunk(2, dim=1)
        return x + self.conv2(F.silu(torch.addcmul(shift, _norm(h), 1 + scale)))


class Linear(nn.Module):
    """A filter of the input that is linear in it, and another one for each noise level and label.

    At low noise the output is nearly that, and norms let a network learn it slowly.
    """

    def __init__(self, channels: int, width: int, out_channels: int, embedding: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.modulate = nn.Linear(embedding, width)
        self.conv2 = zeroed(nn.Conv2d(width, out_channels, 1, bias=False))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x: [B,C,H,W] -> [B,out_channels,H,W]. embedding: [B,E], after its SiLU."""
        return self.conv2(self.conv1(x) * (1 + self.modulate(embedding)[:, :, None, None]))


class Attention(nn.Module):
    """Self-attention over all pixels, with a residual connection."""

    def __init__(self, channels: int, head_width: int) -> None:
        super().__init__()
        self.heads = channels // head_width
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.out = zeroed(nn.Linear(channels, channels, bias=False))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x: [B,C,H,W] -> the same; the embedding is not used."""
        b, c, h, w = x.shape
        tokens = _norm(x).permute(0, 2, 3, 1).reshape(b, h * w, c)
        q, k, v = self.qkv(tokens).view(b, h * w, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        # In full: on a CPU the fused kernel's gradient of so few tokens costs as much as ten convs.
        mixed = (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1) @ v  # [B,heads,HW,C/heads]
        mixed = self.out(mixed.transpose(1, 2).reshape(b, h * w, c))
        return x + mixed.view(b, h, w, c).permute(0, 3, 1, 2)


def _norm(x: Tensor) -> Tensor:
    """Normalise every pixel over its channels; x: [B,C,H,W], best in channels_last."""
    return F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],)).permute(0, 3, 1, 2)


def _through(modules: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
    for module in modules.children():
        h = module(h, embedding)
    return h
