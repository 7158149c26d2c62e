"""DeepInverse DiffUNet, unconditional, 94 M parameters (Choi et al. 2021, through deepinv).

An adapter to `deepinv.models.DiffUNet` (arXiv:2108.02938; https://deepinv.github.io), untrained,
called with integer time steps. With the default size and one 32x32 channel: 93,555,841 parameters,
dropout 0.1 inside, 6.06 GFLOP per image. Images whose sides are no multiples of 32 are padded
circularly by deepinv, so 28x28 costs as much as 32x32.

Needs the extra 'deepinv': pip install 'pocketddpm[deepinv]'.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from pocketddpm.errors import ConfigError

CONDITIONAL = False
SIDES = (16, 512)
"""Smallest and largest side: circular padding at most doubles one; deepinv tiles larger ones."""


@dataclass(frozen=True)
class Config:
    """Size of the DiffUNet; the default is the reference system."""

    large: bool = False
    """deepinv's large model: 256 channels and two blocks a level instead of 128 and one."""


def build(
    config: Config, *, channels: int, out_channels: int, height: int, width: int, classes: int
) -> nn.Module:
    """Return an untrained network for images [B, channels, height, width].

    Its forward takes (x_t [B,C,H,W], t [B], y) and returns [B, out_channels, H, W]; t = 1..T is
    rounded to the nearest step, and t < 1 counts as 1; y is ignored. float32 only, or autocast.

    Raises ConfigError for labels, for images outside 16..512 pixels, and when deepinv is missing.
    """
    if classes:
        raise ConfigError(
            f"network 'diffunet' takes no labels, got {classes} classes; "
            "use network 'conditional' or train without labels"
        )
    if min(height, width) < SIDES[0] or max(height, width) > SIDES[1]:
        raise ConfigError(
            f"network 'diffunet' takes images with sides of {SIDES[0]} to {SIDES[1]} pixels, "
            f"got {height}x{width}; resize or pad the images"
        )
    return DiffUNetAdapter(config, channels, out_channels)


class DiffUNetAdapter(nn.Module):
    """deepinv's DiffUNet behind the call (x_t, t, y); see `build`."""

    def __init__(self, config: Config, channels: int, out_channels: int) -> None:
        super().__init__()
        try:
            from deepinv.models import DiffUNet
        except ImportError as error:
            raise ConfigError(
                "network 'diffunet' needs the extra 'deepinv': "
                f"pip install 'pocketddpm[deepinv]' ({error})"
            ) from error
        self.out_channels = out_channels
        self.net = DiffUNet(
            in_channels=channels,
            out_channels=out_channels,
            large_model=config.large,
            pretrained=None,  # pyright: ignore[reportArgumentType]  (documented, not annotated)
        )

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the prediction [B,out_channels,H,W]; see `build`."""
        step = (t - 1).round().long().clamp(min=0)
        # For 3 channels deepinv returns 6: the last three are the variances of its own models.
        return self.net(x_t, step, type_t="timestep")[:, : self.out_channels]
