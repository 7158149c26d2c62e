"""Samples to be scored: from an array file, from a folder of images, and at the data set's size."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pocketddpm.data.folder import list_images, load_folder
from pocketddpm.data.image_set import ImageSet
from pocketddpm.data.load import fit_size
from pocketddpm.data.npz import MissingArray, read_npz
from pocketddpm.errors import DataError
from pocketddpm.metrics.split import draw

Fit = Literal["pad", "resize"]


@dataclass(frozen=True)
class Subject:
    """images: uint8 [N,C,H,W]. labels: int64 [N] in the data set's order, or None.

    facts: where they come from, as plain JSON.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    facts: dict[str, Any]

    def drawn(self, n: int) -> "Subject":
        """Return n of the images, drawn at random; all of them, in order, if there are no more."""
        if n >= len(self.images):
            return self
        which = draw(len(self.images), n)
        labels = None if self.labels is None else self.labels[which]
        return replace(self, images=self.images[which], labels=labels)


def read_samples(path: Path, classes: tuple[str, ...]) -> Subject:
    """Return the samples in an .npz file or a folder of images.

    classes: the data set's, which give sub-folders their numbers.
    Raises DataError when it is missing, damaged or holds something else.
    """
    if path.is_dir():
        return _read_folder(path, classes)
    return _read_npz(path, len(classes))


def _read_npz(path: Path, classes: int) -> Subject:
    images = next(iter(read_npz(path, ("images", "arr_0")).values()))
    try:
        stored = next(iter(read_npz(path, ("labels", "arr_1")).values()))
    except MissingArray:
        stored = None
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or not len(images):
        raise DataError(
            f"{path}: images must be uint8 [N,H,W] or [N,H,W,C], got {images.dtype} "
            f"{list(images.shape)}; round and clip them to 0..255 first"
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.shape[3] not in (1, 3):
        raise DataError(f"{path}: the last axis is the colour (1 or 3), got {list(images.shape)}")
    if stored is not None and stored.dtype.kind not in "iu":
        raise DataError(f"{path}: labels must be whole numbers, got {stored.dtype}")
    labels = None if stored is None else stored.astype(np.int64)
    if labels is not None and labels.shape != (len(images),):
        raise DataError(f"{path}: {len(images)} images but labels of shape {list(labels.shape)}")
    if labels is not None and not ((labels >= 0) & (labels < classes)).all():
        raise DataError(f"{path}: labels must lie in 0..{classes - 1}")
    channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return Subject(channels_first, labels, {"samples": str(path), "given": len(images)})


def _read_folder(path: Path, classes: tuple[str, ...]) -> Subject:
    found = load_folder(path)
    labels = None
    if found.labels is not None and set(found.classes) <= set(classes):
        number = np.array([classes.index(name) for name in found.classes], np.int64)
        labels = number[found.labels]
    else:
        # `pocketddpm sample --out FOLDER` writes number-label.png.
        named = [re.fullmatch(r"\d+-(\d+)", p.stem) for p in list_images(path)]
        numbers = [int(match[1]) for match in named if match]
        if len(numbers) == len(found) and max(numbers) < len(classes):
            labels = np.array(numbers, np.int64)
    return Subject(np.asarray(found.images), labels, {"samples": str(path), "given": len(found)})


def brought_to(
    images: NDArray[np.uint8], shape: tuple[int, int, int], fit: Fit, name: str
) -> NDArray[np.uint8]:
    """Return images [N,C,H,W] at the data set's size, undoing how their own size was reached.

    fit: 'pad' crops the middle, exactly what padding added; 'resize' resizes with antialiasing.
    Raises DataError for other colours, and for 'pad' when the images are smaller than the set's.
    """
    channels, height, width = shape
    _, own_channels, own_height, own_width = images.shape
    if own_channels != channels:
        raise DataError(f"{name}: {own_channels} colour channels, but the data set has {channels}")
    if (own_height, own_width) == (height, width):
        return images
    if fit == "pad":
        top, left = (own_height - height) // 2, (own_width - width) // 2
        if top < 0 or left < 0:
            raise DataError(
                f"{name}: {own_height}x{own_width} is smaller than {height}x{width}, so nothing "
                "was padded; give --fit resize"
            )
        return images[:, :, top : top + height, left : left + width]
    return fit_size(ImageSet(images, None, (), name), (height, width), "resize").images


def round_trip(images: ImageSet, size: tuple[int, int], fit: Fit) -> ImageSet:
    """Return real images after the journey that the samples made: to their size, and back."""
    there = fit_size(images, size, fit).images
    return replace(images, images=brought_to(there, images.shape, fit, images.name))
