"""`pocketddpm extractor DATA --out FILE`: a feature extractor of your own, for `evaluate`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from pocketddpm.commands.options import Plugins, parse_size


@dataclass(frozen=True)
class ExtractorCommand:
    """Make a feature extractor for `evaluate --extractor`: a small classifier trained on half of
    the training images; where they have no labels, the principal directions of their pixels.

    Example: pocketddpm extractor ./photos --out photos.safetensors
    """

    data: Positional[str]
    """A data set, or a folder of images (sub-folders are classes; train/ and test/ are splits)."""
    out: Path
    """The .safetensors file to write."""
    image_size: str | None = None
    """Image size, 32 or 28x36 (height x width), for images of several sizes."""
    epochs: int | None = None
    """Epochs of the classifier; 40 by default."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Arithmetic while training; auto is bf16 where the hardware has it."""
    overwrite: bool = False
    """Replace an --out that exists."""
    plugin: Plugins = ()
    """Your own data set: FILE.py (docs/plugins.md)."""

    def run(self) -> None:
        """Make it, test it once on the test images if there are any, and write it."""
        from pocketddpm.metrics.train_extractor import make_extractor

        extractor, told = make_extractor(
            self.data,
            self.out,
            image_size=parse_size(self.image_size) if self.image_size else None,
            epochs=self.epochs,
            device=self.device,
            precision=self.precision,
            overwrite=self.overwrite,
        )
        size = self.out.stat().st_size / 1000
        print(
            f"wrote {self.out}: {told}; {size:.0f} kB, sha256 {extractor.sha256}; "
            f"use it with: pocketddpm evaluate MODEL --data {self.data} --extractor {self.out}"
        )
