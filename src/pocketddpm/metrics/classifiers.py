"""Two small convolutional classifiers of different make: one gives features, the other judges.

`Plain` (metric): 3x3 convolutions with ReLU and max pooling, a 3x3 map of what is where, 128
features. `Residual` (judge): 5x5 stem, residual blocks with SiLU, a global mean. Batch norms
(arXiv 1502.03167) are there for training and are folded into the convolutions before anything is
stored. Of large images, blocks of pixels become channels first (`blocks`), which keeps all pixels
and saves time. Shapes: images float [B,C,H,W] in 0..1; features [B,D]; logits [B,K].
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEATURES = 128


class Unit(nn.Module):
    """A convolution (or linear map) followed by a batch norm until `fold` is called."""

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        width = layer.weight.shape[0]
        norm = nn.BatchNorm2d(width) if isinstance(layer, nn.Conv2d) else nn.BatchNorm1d(width)
        self.norm: nn.Module = norm

    def forward(self, x: Tensor) -> Tensor:
        """Return norm(layer(x))."""
        return self.norm(self.layer(x))

    def fold(self) -> None:
        """Merge the batch norm, as it is in evaluation, into the layer's weight and bias."""
        norm = self.norm
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            assert norm.running_var is not None and norm.running_mean is not None
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()  # [out]
            weight, bias = self.layer.weight, cast(nn.Parameter, self.layer.bias)
            with torch.no_grad():
                weight.mul_(scale.reshape(-1, *[1] * (weight.ndim - 1)))
                bias.sub_(norm.running_mean).mul_(scale).add_(norm.bias)
            self.norm = nn.Identity()


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> Unit:
    return Unit(nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2))


def as_channels(x: Tensor, blocks: int) -> Tensor:
    """Return blocks of pixels as channels, [B,C*b*b,H/b,W/b]; what is missing at the edges is 0."""
    if blocks == 1:
        return x
    height, width = x.shape[2:]
    return F.pixel_unshuffle(F.pad(x, (0, -width % blocks, 0, -height % blocks)), blocks)


class Plain(nn.Module):
    """Five 3x3 convolutions, then 128 features (before their ReLU), then the logits."""

    def __init__(self, channels: int, classes: int, blocks: int = 1) -> None:
        super().__init__()
        self.blocks = blocks
        self.conv1 = _conv(channels * blocks**2, 24)
        self.conv2 = _conv(24, 48, stride=2)
        self.conv3 = _conv(48, 64)
        self.conv4 = _conv(64, 64)
        self.conv5 = _conv(64, 64)
        self.embed = Unit(nn.Linear(64 * 9, FEATURES))
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features [B,128] and logits [B,K]."""
        x = self.conv1(as_channels(2 * x - 1, self.blocks)).relu()
        x = self.conv3(self.conv2(x).relu()).relu()
        x = F.max_pool2d(x, 2) if min(x.shape[2:]) > 1 else x
        x = self.conv5(self.conv4(x).relu()).relu()
        # A 3x3 map, not a global mean: features that forget where things are miss shifts.
        features = self.embed(F.adaptive_avg_pool2d(x, 3).flatten(1))
        return features, self.head(features.relu())


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = _conv(width, width), _conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x + self.conv2(F.silu(self.conv1(x))))


class Residual(nn.Module):
    """A 5x5 stem, two residual blocks at each of two sizes, a global mean, the logits."""

    def __init__(self, channels: int, classes: int, blocks: int = 1) -> None:
        super().__init__()
        self.blocks = blocks
        self.stem = _conv(channels * blocks**2, 32, kernel=5, stride=2)
        self.fine = nn.Sequential(_Block(32), _Block(32))
        self.down = _conv(32, 64, stride=2)
        self.coarse = nn.Sequential(_Block(64), _Block(64))
        self.head = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features [B,64] and logits [B,K]."""
        x = self.fine(F.silu(self.stem(as_channels(2 * x - 1, self.blocks))))
        features = self.coarse(F.silu(self.down(x))).mean((2, 3))
        return features, self.head(features)


ARCHITECTURES: dict[str, type[Plain] | type[Residual]] = {"plain": Plain, "residual": Residual}


def fold(network: nn.Module) -> nn.Module:
    """Fold every batch norm of a trained network in place; return it, in evaluation mode."""
    for module in network.modules():
        if isinstance(module, Unit):
            module.fold()
    return network.eval().requires_grad_(False)
