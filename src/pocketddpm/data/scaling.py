"""The one map between images (uint8, 0..255) and the numbers that the model works on."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pocketddpm.data.image_set import ImageArray, chosen, chunks
from pocketddpm.errors import ConfigError

MEASURED = 4096


@dataclass(frozen=True, eq=False)
class Scaling:
    """An invertible affine map: x = low + value / 255 * (high - low), less a mean image.

    low, high: what 0 and 255 are mapped to; low < high, both finite.
    mean: floating-point [C,H,W] in model units, subtracted last; None subtracts nothing.

    Raises ConfigError when low < high does not hold.
    """

    low: float = -1.0
    high: float = 1.0
    mean: Tensor | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ConfigError(
                f"scaling to {self.low}..{self.high}: the first number must be below the second, "
                "as in -1..1"
            )

    def centered(self, images: ImageArray, device: torch.device) -> "Scaling":
        """Return this map less the mean of images, uint8 [N,C,H,W], which is kept on the device."""
        # Sums of whole numbers: exact, in pieces of any size.
        total = sum(part.sum(0, dtype=np.float64) for part in chunks(images))
        mean = total / len(images) / 255 * (self.high - self.low) + self.low
        return Scaling(self.low, self.high, torch.from_numpy(mean).float().to(device))

    def root_mean_square(self, images: ImageArray) -> float:
        """Return the root mean square of images, uint8 [N,C,H,W], in model units.

        It is EDM's sigma_data: c_in and c_out bring E[x^2] to 1 (arXiv 2206.00364, app. B.6),
        and that is the mean square around 0, whatever the mean. Of at most MEASURED images, evenly
        spread over the set; three digits of it, and at least the distance of neighbouring values.
        """
        some = chosen(images, np.arange(0, len(images), -(-len(images) // MEASURED)))
        parts = (self.to_model(torch.from_numpy(part)) for part in chunks(some, 64))
        of_each = torch.cat([part.square().mean((1, 2, 3)) for part in parts])
        return max(float(f"{float(of_each.mean()) ** 0.5:.3g}"), self.bin_width)

    @property
    def bounds(self) -> tuple[float, float]:
        """What 0 and 255 are mapped to, before a mean is subtracted."""
        return self.low, self.high

    @property
    def model_bounds(self) -> tuple[float | Tensor, float | Tensor]:
        """What 0 and 255 become in model units: two numbers, or [C,H,W] under a mean image."""
        if self.mean is None:
            return self.low, self.high
        return self.low - self.mean, self.high - self.mean

    @property
    def bin_width(self) -> float:
        """The distance between neighbouring values in model units."""
        return (self.high - self.low) / 255

    def to_model(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return pictures in model units.

        images: uint8 [...,C,H,W].

        Returns: `dtype`, of the same shape; computed in float32 at least, then rounded once.
        """
        x = images.to(torch.promote_types(dtype, torch.float32))
        x = self.low + x * ((self.high - self.low) / 255)
        if self.mean is not None:
            x = x - self.mean.to(x)
        return x.to(dtype)

    def to_uint8(self, x: Tensor) -> Tensor:
        """Return numbers in model units as pictures: rounded to whole values, clipped to 0..255.

        x: floating point [...,C,H,W].

        Returns: uint8 of the same shape. Inverts `to_model` exactly.
        """
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.mean is not None:
            x = x + self.mean.to(x)
        values = (x - self.low) * (255 / (self.high - self.low))
        return values.round().clamp(0, 255).to(torch.uint8)

    def clip(self, x: Tensor) -> Tensor:
        """Return x clipped to the range of images in model units.

        x: floating point [...,C,H,W]; the result has its dtype and shape.
        """
        if self.mean is None:
            return x.clamp(self.low, self.high)
        mean = self.mean.to(x)
        return x.clamp(self.low - mean, self.high - mean)

    def to_config(self) -> dict[str, float | bool]:
        """Return the map as plain JSON values; of a mean only whether there is one."""
        return {"low": self.low, "high": self.high, "mean": self.mean is not None}

    def tensors(self) -> dict[str, Tensor]:
        """Return what `to_config` leaves out: {'mean': tensor}, or nothing."""
        return {} if self.mean is None else {"mean": self.mean}

    @classmethod
    def from_config(
        cls, config: Mapping[str, object], tensors: Mapping[str, Tensor] | None = None
    ) -> "Scaling":
        """Return the map that `to_config` and `tensors` describe.

        Raises ConfigError when a value is missing or of the wrong kind.
        """
        low, high, mean = (config.get(key) for key in ("low", "high", "mean"))
        number = (int, float)
        if not (isinstance(low, number) and isinstance(high, number) and isinstance(mean, bool)):
            raise ConfigError(f"not a scaling: {dict(config)}; it needs low, high and mean")
        image = (tensors or {}).get("mean")
        if mean and image is None:
            raise ConfigError("the scaling has a mean image, but its tensor is missing")
        return cls(float(low), float(high), image if mean else None)
