"""`ImageSet`: the one form in which images travel from files to the trainer and the metrics."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pocketddpm.errors import DataError


@dataclass(frozen=True)
class ImageSet:
    """Images with optional labels.

    images: uint8 [N,C,H,W], 0..255 (may be a read-only memory map).
    labels: int64 [N] in 0..len(classes)-1, or None.
    classes: the class names in label order; empty when there are no labels.
    name: the data set's name, for messages and checkpoints.
    source: what was done to the files, in words ('28x28 padded to 32x32'); empty when nothing was.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]
    name: str
    source: str = ""

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            raise DataError(
                f"{self.name}: images must be uint8 [N,C,H,W], "
                f"got {self.images.dtype} {self.images.shape}"
            )
        if len(self.images) == 0:
            raise DataError(f"{self.name}: no images are left; relax --subset or --classes")
        if self.labels is not None:
            if len(self.labels) != len(self.images):
                raise DataError(
                    f"{self.name}: {len(self.images)} images but {len(self.labels)} labels"
                )
            low, high = int(self.labels.min()), int(self.labels.max())
            if low < 0 or high >= len(self.classes):
                raise DataError(
                    f"{self.name}: labels run from {low} to {high}, "
                    f"but there are {len(self.classes)} classes"
                )

    def __len__(self) -> int:
        return len(self.images)

    def select(self, index: NDArray[np.int64]) -> "ImageSet":
        """Return the images at these positions, int64 [n], in this order, with their labels."""
        labels = None if self.labels is None else self.labels[index]
        return replace(self, images=self.images[index], labels=labels)

    def labels_in(self, classes: Sequence[str]) -> NDArray[np.int64] | None:
        """Return the labels as positions, int64 [N], of the same names in other classes.

        None when the images have no labels, or one of their classes is missing there.
        """
        if self.labels is None:
            return None
        number = {name: k for k, name in enumerate(classes)}
        positions = np.array([number.get(name, -1) for name in self.classes], np.int64)
        labels = positions[self.labels]
        return None if (labels < 0).any() else labels

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        _, c, h, w = self.images.shape
        return c, h, w
