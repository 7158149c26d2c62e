"""`pocketddpm extractor DATA --out FILE`: a feature extractor of your own, for `evaluate`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from pocketddpm.commands.options import Plugins, parse_size
from pocketddpm.errors import ConfigError, DataError

SUFFIX = ".safetensors"


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
        import torch

        from pocketddpm.data.load import load_images
        from pocketddpm.metrics.extractor import save_extractor
        from pocketddpm.metrics.train_extractor import accuracy, pixels_extractor
        from pocketddpm.output import refuse_existing

        if self.out.suffix != SUFFIX:
            raise ConfigError(f"--out must end in {SUFFIX}, got {self.out}")
        if self.epochs is not None and self.epochs < 1:
            raise ConfigError(f"--epochs must be at least 1, got {self.epochs}")
        refuse_existing(self.out, self.overwrite)
        size = parse_size(self.image_size) if self.image_size else None
        images = load_images(self.data, image_size=size)
        if images.labels is None:
            extractor, dtype = pixels_extractor(images), torch.float32
            told = "principal directions of the pixels, as there are no classes to tell apart"
        else:
            extractor, dtype = self._train(images), torch.float16
            try:
                reached = accuracy(extractor, load_images(self.data, "test", image_size=size))
                extractor.facts["test_accuracy"] = reached
                told = f"{len(images.classes)} classes, test accuracy {reached:.2%}"
            except DataError as error:
                told = f"{len(images.classes)} classes, not tested: {error}"
        sha256 = save_extractor(self.out, extractor, dtype)
        print(
            f"wrote {self.out}: {told}; {self.out.stat().st_size / 1000:.0f} kB, sha256 {sha256}; "
            f"use it with: pocketddpm evaluate MODEL --data {self.data} --extractor {self.out}"
        )

    def _train(self, images):
        from pocketddpm.build import pick_device, pick_precision
        from pocketddpm.commands.progress import progress_bar
        from pocketddpm.metrics.classifier_training import run_length
        from pocketddpm.metrics.train_extractor import METRIC, train_extractor

        device = pick_device(self.device)
        recipe = replace(
            METRIC,
            epochs=self.epochs or METRIC.epochs,
            precision=pick_precision(self.precision, device),
        )
        done = progress_bar("training", run_length(len(images) // 2, recipe))
        return train_extractor(self.out.stem, images, recipe, "A", device=device, progress=done)
