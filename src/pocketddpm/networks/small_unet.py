"""Small unconditional LayerNorm U-Net, 0.6 M parameters, for MNIST at 28x28 (Ho et al. 2020).

A network for the noise of DDPM (arXiv:2006.11239) that trains on a laptop: three levels of three
blocks, without attention. With the default sizes and one 28x28 channel it is the reference system
'small-unet' exactly: 606,852 parameters, of which 491,172 are trained (the rest: a fixed time table
and one norm that is never applied), and 0.050 GFLOP per image.

Shapes: B images, C channels, H x W pixels, T time steps, D = `time_dim`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pocketddpm.errors import ConfigError
from pocketddpm.values import option

CONDITIONAL = False


@dataclass(frozen=True)
class Config:
    """Sizes of the small U-Net; the defaults are the reference system."""

    widths: tuple[int, ...] = option((10, 20, 40), ">= 1")
    """Channels of each level, finest first; every further level halves the image once more."""
    time_dim: int = option(100, ">= 2")
    """Length of the time embedding (even)."""
    T: int = option(1000, ">= 1")
    """Rows of the time table: the number of steps the schedule has."""


def build(
    config: Config, *, channels: int, out_channels: int, height: int, width: int, classes: int
) -> nn.Module:
    """Return an untrained network for images [B, channels, height, width].

    Its forward takes (x_t [B,C,H,W], t [B], y) and returns [B, out_channels, H, W]; t = 1..T is
    rounded to the nearest step, and t < 1 counts as 1 and t > T as T; y is ignored.

    A side that is odd on its way down loses a pixel there and gets it back on the way up. Raises
    ConfigError for labels, for sizes that are not positive, and for an image that cannot be halved
    often enough.
    """
    if classes:
        raise ConfigError(
            f"network 'small-unet' takes no labels, got {classes} classes; "
            "use network 'conditional' or train without labels"
        )
    if not config.widths or config.time_dim % 2:
        raise ConfigError(
            f"network 'small-unet' needs widths and an even time_dim, got {config.widths} "
            f"and {config.time_dim}"
        )
    least = 2 ** len(config.widths)
    if min(height, width) < least:
        raise ConfigError(
            f"network small-unet with {len(config.widths)} widths needs sides of at least {least}, "
            f"got {height}x{width}; use --network lean or unet, or fewer --net widths"
        )
    return SmallUNet(config, channels, out_channels, height, width)


def time_table(T: int, dim: int) -> Tensor:
    """Return the fixed sinusoids [T, dim]: sin(t w_i), cos(t w_i) in turn, w_i = 10000^(-4i/dim).

    Twice the exponent of Vaswani et al. 2017 (arXiv:1706.03762), as in the reference system.
    """
    i = torch.arange(dim // 2, dtype=torch.float64)
    angles = torch.arange(T, dtype=torch.float64)[:, None] * 10000.0 ** (-4 * i / dim)
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1).float()


def halve(c: int, height: int, width: int) -> nn.Module:
    """Return the layers that halve an image; an odd side first loses a pixel (7 -> 6 -> 3)."""
    stride = nn.Conv2d(c, c, 4, stride=2, padding=1)
    kernel = (1 + height % 2, 1 + width % 2)
    return stride if kernel == (1, 1) else nn.Sequential(nn.Conv2d(c, c, kernel), nn.SiLU(), stride)


def double(c: int, height: int, width: int) -> nn.Module:
    """Return the mirror image of `halve`, back to height x width (3 -> 6 -> 7)."""
    stride = nn.ConvTranspose2d(c, c, 4, stride=2, padding=1)
    kernel = (1 + height % 2, 1 + width % 2)
    if kernel == (1, 1):
        return stride
    return nn.Sequential(stride, nn.SiLU(), nn.ConvTranspose2d(c, c, kernel))


class Block(nn.Module):
    """LayerNorm over (C,H,W), then twice a 3x3 convolution and SiLU."""

    def __init__(self, c_in: int, c_out: int, height: int, width: int, normalise: bool) -> None:
        super().__init__()
        self.normalise = normalise
        self.norm = nn.LayerNorm([c_in, height, width])
        # A trainable parameter that gets no gradient would make distributed training fail.
        self.norm.requires_grad_(normalise)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B,c_in,H,W] to [B,c_out,H,W]."""
        if self.normalise:
            x = self.norm(x)
        return F.silu(self.conv2(F.silu(self.conv1(x))))


class Stage(nn.Module):
    """Three blocks c0 -> c1 -> c2 -> c3; a projection of the time is added to their input.

    `last` marks the network's very last stage, whose third block owns a norm but never applies it.
    """

    def __init__(
        self,
        c: tuple[int, int, int, int],
        height: int,
        width: int,
        time_dim: int,
        last: bool = False,
    ) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(time_dim, c[0]), nn.SiLU(), nn.Linear(c[0], c[0]))
        self.blocks = nn.Sequential(
            Block(c[0], c[1], height, width, normalise=True),
            Block(c[1], c[2], height, width, normalise=True),
            Block(c[2], c[3], height, width, normalise=not last),
        )

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Map x [B,c0,H,W] and emb [B,D] to [B,c3,H,W]."""
        return self.blocks(x + self.time(emb)[:, :, None, None])


class SmallUNet(nn.Module):
    """The network; see the module's docstring and `build`."""

    def __init__(
        self, config: Config, channels: int, out_channels: int, height: int, width: int
    ) -> None:
        super().__init__()
        self.T = config.T
        self.table = nn.Embedding.from_pretrained(time_table(config.T, config.time_dim))  # frozen
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        self.grow, self.up = nn.ModuleList(), nn.ModuleList()
        above = inner = config.widths[0]
        h, w = height, width
        for i, c in enumerate(config.widths):
            c_in = above if i else channels
            self.down.append(Stage((c_in, c, c, c), h, w, config.time_dim))
            self.shrink.append(halve(c, h, w))
            self.grow.append(double(c, h, w))
            self.up.append(Stage((2 * c, c, above, above), h, w, config.time_dim, last=i == 0))
            inner, above, h, w = above, c, h // 2, w // 2
        self.middle = Stage((above, inner, inner, above), h, w, config.time_dim)
        self.out = nn.Conv2d(config.widths[0], out_channels, 3, padding=1)

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the prediction [B,out_channels,H,W]; see `build`."""
        row = (t - 1).round().long().clamp(0, self.T - 1)  # step t is row t - 1
        emb = self.table(row)  # [B,D]
        x, skips = x_t, []
        for stage, shrink in zip(self.down, self.shrink, strict=True):
            x = stage(x, emb)
            skips.append(x)
            x = shrink(x)
        x = self.middle(x, emb)
        for i in reversed(range(len(skips))):
            x = self.up[i](torch.cat([skips[i], self.grow[i](x)], dim=1), emb)
        return self.out(x)
