"""`ImageSet`: the one form in which images travel from files to the trainer and the metrics.

Images may lie in a memory map that is larger than the memory: what is chosen of them is kept as
numbers, and what looks at all of them takes them in pieces (`chunks`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Union

import numpy as np
from numpy.typing import NDArray

from pocketddpm.data.decode import Reading
from pocketddpm.errors import DataError

CHUNK = 1024


@dataclass(frozen=True, eq=False)
class IndexedImages:
    """Some images of a larger array, by their numbers: what `base[index]` is, without its copy.

    It is indexed as an array is, and what is asked for is read; numpy makes an array of all where
    it is given one.

    base: uint8 [M,C,H,W], as a rule a memory map. index: int64 [N] in 0..M-1.
    """

    base: NDArray[np.uint8]
    index: NDArray[np.int64]
    dtype = np.dtype(np.uint8)
    ndim = 4

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, channels, height, width)."""
        _, c, h, w = self.base.shape
        return len(self.index), c, h, w

    @property
    def nbytes(self) -> int:
        """Bytes of all images."""
        return len(self) * self.base[:1].nbytes

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, which: Any) -> NDArray[np.uint8]:
        first, *others = which if isinstance(which, tuple) else (which,)
        images = np.asarray(self.base)[self.index[first]]
        return images[(*[slice(None)] * (images.ndim - 3), *others)]  # of one image or of several

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:].astype(dtype or self.dtype, copy=False)

    def read(self, which: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        """Copy the images at these positions to an array; other threads run meanwhile."""
        np.take(self.base, self.index[which], axis=0, out=out, mode="clip")


ImageArray = Union[NDArray[np.uint8], IndexedImages]  # noqa: UP007


def chosen(images: ImageArray, index: NDArray[np.int64]) -> ImageArray:
    """Return the images at these positions, int64 [n], in this order; a map is not copied."""
    if isinstance(images, IndexedImages):
        return IndexedImages(images.base, images.index[index])
    if isinstance(images, np.memmap):
        return IndexedImages(images, index)
    return images[index]


def chunks(images: ImageArray, size: int = CHUNK) -> Iterator[NDArray[np.uint8]]:
    """Yield all images, uint8 [size,C,H,W] at a time, the last ones fewer."""
    for start in range(0, len(images), size):
        yield np.ascontiguousarray(images[start : start + size])


def alike(images: ImageArray) -> bool:
    """Return whether all images are the same one."""
    return all(bool((part == images[:1]).all()) for part in chunks(images))


@dataclass(frozen=True)
class ImageSet:
    """Images with optional labels.

    images: uint8 [N,C,H,W], 0..255; a read-only memory map, or a part of one, where decoded images
        lie on the disk.
    labels: int64 [N] in 0..len(classes)-1, or None.
    classes: the class names in label order; empty when there are no labels.
    name: the data set's name, for messages and checkpoints.
    source: what was done to the files, in words ('28x28 padded to 32x32'); empty when nothing was.
    notes: all else that was left out, changed or decided on the way, a phrase each.
    reading: how its files were read, with what was left open; None where it has none.
    """

    images: ImageArray
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]
    name: str
    source: str = ""
    notes: tuple[str, ...] = ()
    reading: Reading | None = None

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
        return replace(self, images=chosen(self.images, index), labels=labels)

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
