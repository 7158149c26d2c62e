"""One .npz file of images and labels, as `sample --out x.npz` writes: `--data x.npz`.

Given by its path wherever the name of a data set is allowed. `images` are uint8 [N,H,W] or
[N,H,W,C] of 1 or 3 colours; `labels`, where there are any, are whole numbers [N], and `classes`
their names in order, or else the numbers name themselves. In files of MedMNIST and of Keras, which
have other names for these (`ARRAYS`), there is a test split.
"""

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pocketddpm.data.image_set import ImageSet
from pocketddpm.data.npz import array_names, read_classes, read_images, read_labels
from pocketddpm.errors import ConfigError, DataError, listed

FLIP = False
FIT: Literal["pad", "resize"] = "resize"

# Of each split the names of images and of labels; the first that are there count.
ARRAYS = {
    "train": {
        "images": "labels",
        "train_images": "train_labels",
        "x_train": "y_train",
        "arr_0": "arr_1",
    },
    "test": {"test_images": "test_labels", "x_test": "y_test"},
}


def load(
    split: Literal["train", "test"],
    *,
    path: Path | None = None,
    image_size: tuple[int, int] | None = None,
) -> ImageSet:
    """Return one split: images uint8 [N,C,H,W], labels int64 [N] or None.

    path: the file. image_size: of no effect; the size is the file's.

    Raises ConfigError without a path; DataError when the file is missing or damaged, holds no such
    split or arrays of another kind, and where some images have labels and others have none.
    """
    if path is None:
        raise ConfigError("the data set 'npz' needs a path: give the path of an .npz file instead")
    there = array_names(path)
    found = _first(split, there)
    if found is None:
        wanted = " or ".join(ARRAYS[split])
        raise DataError(
            f"{path} has no {split} images ({wanted}); it holds {listed(there) or 'nothing'}"
        )
    images = read_images(path, (found,))
    labels = read_labels(path, len(images), (ARRAYS[split][found],))
    classes, labels, notes = _named(path, there, labels)
    used = {"classes", *(name for pair in _pairs(there) for name in pair)}
    if unused := [name for name in there if name not in used]:
        notes.append(f"arrays not used: {listed(unused)}")
    return ImageSet(images, labels, classes, path.name, "", tuple(notes))


def has_test(path: Path | None) -> bool:
    """Return whether a file has a test split."""
    return path is not None and _first("test", array_names(path)) is not None


def _first(split: str, there: list[str]) -> str | None:
    return next((name for name in ARRAYS[split] if name in there), None)


def _pairs(there: list[str]) -> list[tuple[str, str]]:
    """Return the names of images and labels of each split that is there."""
    found = {split: _first(split, there) for split in ARRAYS}
    return [(name, ARRAYS[split][name]) for split, name in found.items() if name is not None]


def _named(
    path: Path, there: list[str], labels: NDArray[np.int64] | None
) -> tuple[tuple[str, ...], NDArray[np.int64] | None, list[str]]:
    """Return class names, the labels as positions among them, and why there are none."""
    if labels is None:
        return (), None, []
    if (classes := read_classes(path)) is None:
        # The values of every split, so that a class has the same number in all of them.
        stored = [read_labels(path, None, (name,)) for _, name in _pairs(there)]
        values = np.unique(np.concatenate([each for each in stored if each is not None]))
        return tuple(map(str, values.tolist())), np.searchsorted(values, labels), []
    # `Samples.save` numbers "no label" after the last class.
    (missing,) = np.nonzero(labels == len(classes))
    if len(missing) == len(labels):
        return (), None, ["no labels: the file says of every image that it has none"]
    if len(missing):
        raise DataError(
            f"{path}: {len(missing)} of {len(labels)} images have no label (number {missing[0]} is "
            "the first); remove these, or the labels of all"
        )
    return classes, labels, []
