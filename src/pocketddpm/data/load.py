"""From the name of a data set, or the path of a folder, to the images that a run is about."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pocketddpm.catalog import DATASETS
from pocketddpm.data import split as data_split
from pocketddpm.data.decode import crop_resize, times
from pocketddpm.data.image_set import ImageSet, chunks
from pocketddpm.data.split import Selection
from pocketddpm.errors import ConfigError, unknown

Split = Literal["train", "test"]
Fit = Literal["pad", "resize"]


def load_images(
    name_or_path: str,
    split: Split = "train",
    *,
    image_size: tuple[int, int] | None = None,
    fit: Fit | None = None,
    subset: int | None = None,
    selection: Selection = "random",
    classes: Sequence[str] | None = None,
) -> ImageSet:
    """Return a data set, reduced to some classes, then to a subset, then fitted to a size.

    Args:
        name_or_path: a name in the catalogue of data sets, or the path of a folder of images (with
            a separator in it, './mnist', where a name would be meant otherwise), or hf:NAME.
        split: 'train' or 'test'.
        image_size: (height, width) of the result; None keeps the set's own.
        fit: how that size is reached: 'pad' adds zeros on all sides, 'resize' takes the largest
            centred part of that aspect ratio and resizes it; None is the set's default.
        subset: how many images to keep; None keeps all.
        selection: which these are: 'random' draws from every class in proportion, with a fixed
            seed, 'first' takes the first ones.
        classes: the classes to keep, by name, or by number where no class is named by a number;
            labels are numbered anew, in the original order of the classes. None keeps all.

    Returns: an `ImageSet` whose `source` says in words how the size was reached.

    Raises ConfigError for an unknown name, split, fit, selection or class, a subset larger than the
    set, a size below 1, and padding to less than the set's size; DataError for all that can be
    wrong with the files.

    >>> import pocketddpm as pd
    >>> images = pd.load_images("digits", classes=["3", "7"])
    >>> images.images.dtype, images.shape, images.classes
    (dtype('uint8'), (1, 8, 8), ('3', '7'))
    """
    for what, given, known in (
        ("split", split, get_args(Split)),
        ("fit", fit, (None, *get_args(Fit))),
        ("selection", selection, get_args(Selection)),
    ):
        if given not in known:
            raise unknown(what, str(given), [name for name in known if name])
    entry, path = _entry(name_or_path)
    if image_size is not None and min(image_size) < 1:
        raise ConfigError(f"an image size of {times(image_size)}: both numbers must be at least 1")
    way: Fit = fit or entry.FIT
    # Folders reach the size while decoding, but padding starts from the files' own size.
    while_decoding = image_size if way == "resize" else None
    images: ImageSet = entry.load(split, path=path, image_size=while_decoding)
    if classes is not None:
        images = keep_classes(images, classes)
    if subset is not None:
        images = data_split.subset(images, subset, selection)
    if image_size is not None:
        images = fit_size(images, image_size, way)
    return images


def has_test(name_or_path: str) -> bool:
    """Return whether a data set has a test split; ConfigError for an unknown name.

    A data set's file says it by a function `has_test(path)`; without one it has.
    """
    entry, path = _entry(name_or_path)
    asked = getattr(entry, "has_test", None)
    return asked is None or bool(asked(path))


def _entry(name_or_path: str) -> tuple[ModuleType, Path | None]:
    """Return the catalogue's entry for a name or path, and the path that it is given."""
    folder = Path(os.path.expanduser(name_or_path.removeprefix("hf:")))
    if name_or_path.startswith("hf:"):
        return DATASETS.load("hf"), folder
    if name_or_path in DATASETS.names():
        return DATASETS.load(name_or_path), None
    if {os.sep, os.altsep} & set(name_or_path) or folder.exists():
        return DATASETS.load("folder"), folder
    hint = unknown(DATASETS.kind, name_or_path, DATASETS.names())
    raise ConfigError(f"{hint}, or give the path of a folder of images")


def keep_classes(images: ImageSet, classes: Sequence[str]) -> ImageSet:
    """Return the images of some classes, with labels 0..k-1 in the original order of the classes.

    classes: names, or numbers ('7') where no class name is itself a number.

    Raises ConfigError when the set has no labels, and for a class that it does not have.
    """
    if images.labels is None:
        raise ConfigError(f"{images.name} has no labels, so that classes cannot be chosen")
    if not classes:
        raise ConfigError(f"no class of {images.name} is chosen; name at least one")
    number = {name: label for label, name in enumerate(images.classes)}
    if not any(name.isdecimal() for name in images.classes):
        number |= {str(label): label for label in range(len(images.classes))}
    for name in classes:
        if name not in number:
            raise unknown(f"class of {images.name}", name, images.classes)
    chosen = sorted({number[name] for name in classes})
    anew = np.full(len(images.classes), -1, dtype=np.int64)
    anew[chosen] = np.arange(len(chosen))
    labels = anew[images.labels]
    (kept,) = np.nonzero(labels >= 0)
    names = tuple(images.classes[label] for label in chosen)
    return replace(images.select(kept), labels=labels[kept], classes=names)


def fit_size(images: ImageSet, size: tuple[int, int], fit: Fit) -> ImageSet:
    """Return the images at another size (height, width); unchanged where they have it already.

    fit: 'pad' adds zeros on all sides (an odd one at the bottom or right); 'resize' takes the
        largest centred part of that aspect ratio and resizes it with antialiasing.

    Raises ConfigError for padding to less than the present size.
    """
    _, height, width = images.shape
    if size == (height, width):
        return images
    if fit == "pad":
        if size[0] < height or size[1] < width:
            raise ConfigError(
                f"{images.name}: {height}x{width} cannot be padded to {times(size)}; "
                "choose a larger size, or --fit resize"
            )
        fitted, done = _pad(np.asarray(images.images), size), "padded"
    else:
        fitted, done = _resize(np.asarray(images.images), size), "cropped and resized"
    step = f"{height}x{width} {done} to {times(size)}"
    source = f"{images.source}, then {step}" if images.source else step
    return replace(images, images=fitted, source=source)


def _pad(images: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    _, _, height, width = images.shape
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    padded = np.zeros((*images.shape[:2], *size), dtype=np.uint8)
    padded[:, :, top : top + height, left : left + width] = images
    return padded


def _resize(images: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    import PIL.Image

    resized = np.empty((*images.shape[:2], *size), dtype=np.uint8)
    for i, channel in np.ndindex(images.shape[:2]):
        plane = PIL.Image.fromarray(np.ascontiguousarray(images[i, channel]))
        resized[i, channel] = np.asarray(crop_resize(plane, size))
    return resized


def fingerprint(images: ImageSet) -> str:
    """Return 16 hex digits that change when an image, a label or the order changes."""
    digest = hashlib.sha256()
    digest.update(repr((images.images.shape, images.labels is not None)).encode())
    for part in chunks(images.images):
        digest.update(part.data)
    if images.labels is not None:
        digest.update(np.ascontiguousarray(images.labels, dtype="<i8").data)
    return digest.hexdigest()[:16]


def class_counts(images: ImageSet) -> list[int]:
    """Return how many images each class has, in label order; empty without labels."""
    if images.labels is None:
        return []
    return np.bincount(images.labels, minlength=len(images.classes)).tolist()
