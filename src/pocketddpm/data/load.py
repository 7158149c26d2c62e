"""From the name of a data set, or the path of a folder, to the images that a run is about."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pocketddpm.catalog import DATASETS
from pocketddpm.data import split as data_split
from pocketddpm.data.decode import (
    FITS,
    PADDED_WITH,
    Fit,
    Reading,
    check_fit,
    colour,
    fitted,
    times,
)
from pocketddpm.data.image_set import ImageSet, chunks
from pocketddpm.data.split import Selection
from pocketddpm.errors import ConfigError, DataError, unknown
from pocketddpm.progress import say

Split = Literal["train", "test"]


def load_images(
    name_or_path: str,
    split: Split = "train",
    *,
    image_size: tuple[int, int] | None = None,
    fit: Fit | None = None,
    grey: bool | None = None,
    background: str | None = None,
    stretch: bool | None = None,
    subset: int | None = None,
    selection: Selection = "random",
    classes: Sequence[str] | None = None,
    quiet: bool = False,
) -> ImageSet:
    """Return a data set, reduced to some classes, then to a subset, then fitted to a size.

    What was left out or changed on the way is said in one line on stderr, and kept in `notes`.

    Args:
        name_or_path: a name in the catalogue of data sets, or the path of a folder of images (with
            a separator in it, './mnist', where a name would be meant otherwise) or of an .npz
            file, or hf:NAME.
        split: 'train' or 'test'.
        image_size: (height, width) of the result; None keeps the set's own.
        fit: how that size is reached: 'pad' and 'crop' keep the scale, 'resize' takes the largest
            centred part of that aspect ratio, 'contain' the whole image, and pads the rest; None is
            the set's default.
        grey: make grey images of coloured ones.
        background: the colour under transparency and in padding: a name, or '#rrggbb'. None is
            white under transparency, and in the padding of images that have any; else black pads.
        stretch: map the least and the greatest value of the training files to 0 and 255.
        subset: how many images to keep; None keeps all.
        selection: which these are: 'random' draws from every class in proportion, with a fixed
            seed, 'first' takes the first ones.
        classes: the classes to keep, by name, or by number where no class is named by a number;
            labels are numbered anew, in the original order of the classes. None keeps all.
        quiet: say nothing.

    Returns: an `ImageSet` whose `source` says in words how the size was reached.

    Raises ConfigError for an unknown name, split, fit, selection, colour or class, a subset larger
    than the set, a size below 1 or one that its fit cannot reach, and for stretching images that
    are not read from files; DataError for all that can be wrong with the files, and for
    two classes of one name.

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
    reading = Reading(
        image_size, fit or entry.FIT, 1 if grey else None, background, stretch=bool(stretch)
    )
    if "reading" in signature(entry.load).parameters:
        images: ImageSet = entry.load(split, path=path, reading=reading)
    else:
        if stretch:
            raise ConfigError(f"--stretch is for image files; {name_or_path} is not read from any")
        resized = image_size if reading.fit == "resize" else None
        images = entry.load(split, path=path, image_size=resized)
    for name, count in Counter(images.classes).most_common(1):
        if count > 1:
            raise DataError(f"{name_or_path}: {count} classes are called {name!r}; rename them")
    if images.notes and not quiet:
        say(f"{name_or_path}: {'; '.join(images.notes)}")
    if classes is not None:
        images = keep_classes(images, classes)
    if subset is not None:
        images = data_split.subset(images, subset, selection)
    if grey:
        images = to_grey(images)
    if image_size is not None:
        images = fit_size(images, image_size, reading.fit, background or PADDED_WITH)
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
    if folder.suffix == ".npz" and not folder.is_dir():
        return DATASETS.load("npz"), folder
    if {os.sep, os.altsep} & set(name_or_path) or folder.exists():
        return DATASETS.load("folder"), folder
    hint = unknown(DATASETS.kind, name_or_path, DATASETS.names())
    raise ConfigError(f"{hint}, or give the path of a folder of images or an .npz file")


def keep_classes(images: ImageSet, classes: Sequence[str]) -> ImageSet:
    """Return the images of some classes, with labels 0..k-1 in the original order of the classes.

    Args:
        images: with labels.
        classes: names, in any case where that is the name of one class alone; or numbers ('7')
            where no class name is itself a number.

    Raises ConfigError when the set has no labels, and for a class that it does not have.
    """
    if images.labels is None:
        raise ConfigError(f"{images.name} has no labels, so that classes cannot be chosen")
    if not classes:
        raise ConfigError(f"no class of {images.name} is chosen; name at least one")
    number = {name: label for label, name in enumerate(images.classes)}
    if not any(name.isdecimal() for name in images.classes):
        number |= {str(label): label for label in range(len(images.classes))}
    plain = Counter(name.casefold() for name in images.classes)
    alike = {n.casefold(): k for n, k in number.items() if plain[n.casefold()] < 2}
    for name in classes:
        if name not in number and name.casefold() not in alike:
            raise unknown(f"class of {images.name}", name, images.classes)
    chosen = sorted({number.get(name, alike.get(name.casefold(), -1)) for name in classes})
    anew = np.full(len(images.classes), -1, dtype=np.int64)
    anew[chosen] = np.arange(len(chosen))
    labels = anew[images.labels]
    (kept,) = np.nonzero(labels >= 0)
    names = tuple(images.classes[label] for label in chosen)
    return replace(images.select(kept), labels=labels[kept], classes=names)


def to_grey(images: ImageSet) -> ImageSet:
    """Return grey images, by Pillow's weights (ITU-R 601-2 luma); unchanged if they are grey."""
    if images.images.shape[1] != 3:
        return images
    made = np.empty((len(images), 1, *images.shape[1:]), np.uint8)
    start = 0
    for part in chunks(images.images):
        red, green, blue = part.astype(np.uint32).transpose(1, 0, 2, 3)
        grey = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
        made[start : start + len(part), 0] = grey
        start += len(part)
    notes = (*images.notes, f"{len(images)} images have colour, of which grey is made")
    return replace(images, images=made, notes=notes)


def fit_size(
    images: ImageSet, size: tuple[int, int], fit: Fit, background: str = PADDED_WITH
) -> ImageSet:
    """Return the images at another size (height, width); unchanged where they have it already.

    fit: see `data.decode.FITS`; an odd row of padding is at the bottom or right. background: the
    colour of padding.

    Raises ConfigError where the present size cannot be padded or cropped to that.
    """
    _, height, width = images.shape
    if size == (height, width):
        return images
    check_fit((height, width), size, fit, images.name)
    step = f"{height}x{width} {FITS[fit]} to {times(size)}"
    source = f"{images.source}, then {step}" if images.source else step
    return replace(
        images, images=_fitted(np.asarray(images.images), size, fit, background), source=source
    )


def _fitted(
    images: NDArray[np.uint8], size: tuple[int, int], fit: Fit, background: str
) -> NDArray[np.uint8]:
    import PIL.Image

    result = np.empty((*images.shape[:2], *size), dtype=np.uint8)
    channels = images.shape[1]
    ground = colour(background, "RGB") if channels == 3 else [colour(background, "L")] * channels
    for i, channel in np.ndindex(images.shape[:2]):
        plane = PIL.Image.fromarray(np.ascontiguousarray(images[i, channel]))
        result[i, channel] = np.asarray(fitted(plane, size, fit, ground[channel]))
    return result


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
