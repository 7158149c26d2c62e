"""Class-conditional attention U-Net, 51 M parameters, for 32x32 images (Ho et al. 2020).

A network for the noise of DDPM (arXiv:2006.11239) with weight-standardised convolutions (Qiao et
al. 2019, arXiv:1903.10520) and self-attention. With the default sizes, ten classes and one 32x32
channel it is the reference system 'conditional' exactly: 51,067,777 parameters and 4.96 GFLOP per
image. No label is the zero vector, so the null class of guidance (arXiv:2207.12598) has no weights.

Shapes: B images, C channels, H x W pixels, D = `time_dim`, N = H*W tokens of attention.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pocketddpm.errors import ConfigError
from pocketddpm.networks._common import check_image, check_levels
from pocketddpm.values import option

CONDITIONAL = True
GROUPS = 8
"""Groups of every GroupNorm; each width is a multiple of it."""


@dataclass(frozen=True)
class Config:
    """Sizes of the conditional U-Net; the defaults are the reference system."""

    widths: tuple[int, ...] = option((64, 128, 256, 512), ">= 1")
    """Channels of each level, finest first (multiples of 8); each level halves the image."""
    attention: tuple[int, ...] = option((0, 2), ">= 0")
    """Levels with attention, finest = 0; the middle always has it."""
    heads: int = option(4, ">= 1")
    """Heads of each attention."""
    head_width: int = option(32, ">= 1")
    """Channels of each head."""
    time_dim: int = option(128, ">= 2")
    """Length of the time and label embedding (even)."""


def build(
    config: Config, *, channels: int, out_channels: int, height: int, width: int, classes: int
) -> nn.Module:
    """Return an untrained network for images [B, channels, height, width] and `classes` labels.

    Its forward takes (x_t [B,C,H,W], t [B], y [B] int64 or None) and returns [B,out_channels,H,W];
    t is the raw step, fractions allowed; y is 0..classes-1, or `classes` for no label; y = None is
    no label for all. With classes = 0 there is no label embedding and y is ignored.

    Raises ConfigError for sizes that do not fit together and for an image that cannot be halved
    once per level.
    """
    levels = len(config.widths)
    if not levels or any(c % GROUPS for c in config.widths):
        raise ConfigError(
            f"network 'conditional' needs one or more widths that are positive multiples of "
            f"{GROUPS}, got {config.widths}"
        )
    check_levels("conditional", config.attention, levels)
    if config.time_dim % 2:
        raise ConfigError(f"network 'conditional' needs an even time_dim, got {config.time_dim}")
    check_image("conditional", height, width, 2**levels)
    if classes < 0:
        raise ConfigError(f"network 'conditional' needs classes >= 0, got {classes}")
    return ConditionalUNet(config, channels, out_channels, classes)


def sinusoids(t: Tensor, dim: int) -> Tensor:
    """Return the embedding [B,dim] of t [B]: sin(t w_i), cos(t w_i), w_i = 10000^(-2i/dim).

    Vaswani et al. 2017 (arXiv:1706.03762), section 3.5. Computed in float32.
    """
    i = torch.arange(dim // 2, dtype=torch.float32, device=t.device)
    angles = t.float()[:, None] * torch.exp(i * (-2 * math.log(10000) / dim))
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)  # [B,dim/2,2] -> [B,dim]


class StandardisedConv2d(nn.Conv2d):
    """3x3 convolution whose filters have zero mean and unit variance (arXiv:1903.10520)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 3, padding=1)

    def forward(self, input: Tensor) -> Tensor:
        """Map [B,c_in,H,W] to [B,c_out,H,W]."""
        eps = 1e-5 if self.weight.dtype == torch.float32 else 1e-3
        # A layer norm over each filter; autocast computes it in float32.
        weight = F.layer_norm(self.weight, self.weight.shape[1:], eps=eps)
        return F.conv2d(input, weight, self.bias, padding=1)


class ResidualBlock(nn.Module):
    """Two standardised convolutions with norms; the embedding scales and shifts the first."""

    def __init__(self, c_in: int, c_out: int, time_dim: int) -> None:
        super().__init__()
        self.scale_shift = nn.Sequential(nn.SiLU(), nn.Linear(time_dim, 2 * c_out))
        self.conv1 = StandardisedConv2d(c_in, c_out)
        self.norm1 = nn.GroupNorm(GROUPS, c_out)
        self.conv2 = StandardisedConv2d(c_out, c_out)
        self.norm2 = nn.GroupNorm(GROUPS, c_out)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Map x [B,c_in,H,W] and emb [B,D] to [B,c_out,H,W]."""
        scale, shift = self.scale_shift(emb)[:, :, None, None].chunk(2, dim=1)  # each [B,c_out,1,1]
        h = F.silu(self.norm1(self.conv1(x)) * (1 + scale) + shift)
        h = F.silu(self.norm2(self.conv2(h)))
        return h + self.skip(x)


class Attention(nn.Module):
    """Multi-head self-attention over all pixels; it replaces the features (no residual path)."""

    def __init__(self, c: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Conv2d(c, 3 * heads * head_width, 1, bias=False)
        self.out = nn.Conv2d(heads * head_width, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B,C,H,W] to [B,C,H,W]."""
        # The fused kernels want the head's channels last in memory.
        tokens = self.qkv(x).flatten(2).transpose(1, 2).contiguous()  # [B,N,3*heads*head_width]
        q, k, v = tokens.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [B,heads,N,.]
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.out(h.transpose(1, 2).unflatten(2, x.shape[2:]))  # [B,N,.] -> [B,.,H,W]


class Stage(nn.Module):
    """Two residual blocks, then attention, if any."""

    def __init__(self, c_in: int, c_out: int, config: Config, attention: bool) -> None:
        super().__init__()
        self.block1 = ResidualBlock(c_in, c_out, config.time_dim)
        self.block2 = ResidualBlock(c_out, c_out, config.time_dim)
        self.attention = (
            Attention(c_out, config.heads, config.head_width) if attention else nn.Identity()
        )

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Map x [B,c_in,H,W] and emb [B,D] to [B,c_out,H,W]."""
        return self.attention(self.block2(self.block1(x, emb), emb))


class ConditionalUNet(nn.Module):
    """The network; see the module's docstring and `build`."""

    def __init__(self, config: Config, channels: int, out_channels: int, classes: int) -> None:
        super().__init__()
        widths, dim = config.widths, config.time_dim
        self.dim, self.classes = dim, classes
        self.time = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.label = nn.Embedding(classes, dim) if classes else None
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        self.grow, self.up = nn.ModuleList(), nn.ModuleList()
        for i, c in enumerate(widths):
            c_in = widths[i - 1] if i else channels
            c_below = widths[min(i + 1, len(widths) - 1)]  # what comes up from the level below
            attention = i in config.attention
            self.down.append(Stage(c_in, c, config, attention))
            self.shrink.append(nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * c, c, 1)))
            self.grow.append(nn.ConvTranspose2d(c_below, c_below, 4, stride=2, padding=1))
            self.up.append(Stage(c_below + c, c, config, attention))
        self.middle = Stage(widths[-1], widths[-1], config, attention=True)
        self.head = Stage(widths[0], widths[0], config, attention=False)
        self.out = nn.Conv2d(widths[0], out_channels, 1)

    def embed(self, t: Tensor, y: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Return the sum of time and label embedding [B,D]."""
        emb = self.time(sinusoids(t, self.dim).to(dtype))
        if self.label is None or y is None:
            return emb
        known = (y < self.classes)[:, None]  # the null class is the zero vector
        return emb + self.label(y.clamp(max=self.classes - 1)) * known

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the prediction [B,out_channels,H,W]; see `build`."""
        emb = self.embed(t, y, x_t.dtype)
        x, skips = x_t, []
        for stage, shrink in zip(self.down, self.shrink, strict=True):
            x = stage(x, emb)
            skips.append(x)
            x = shrink(x)
        x = self.middle(x, emb)
        for i in reversed(range(len(skips))):
            x = self.up[i](torch.cat([self.grow[i](x), skips[i]], dim=1), emb)
        return self.out(self.head(x, emb))
