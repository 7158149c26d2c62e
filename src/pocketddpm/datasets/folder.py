"""Any folder of images; sub-folders are classes, train/ and test/ are splits.

Given by its path wherever the name of a data set is allowed.
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from pocketddpm.data.folder import label_by_folder, list_images, load_folder
from pocketddpm.data.image_set import ImageSet
from pocketddpm.errors import ConfigError, DataError

FLIP = False
FIT: Literal["pad", "resize"] = "resize"


def load(
    split: Literal["train", "test"],
    *,
    path: Path | None = None,
    image_size: tuple[int, int] | None = None,
) -> ImageSet:
    """Return one split of a folder: images uint8 [N,C,H,W], labels int64 [N] or None.

    path: the folder; when it holds train/ and test/, these are the splits, else all is training.
    image_size: (height, width) to reach by centre crop and resize; None keeps the common size.

    Raises ConfigError without a path; DataError for a test split that is not there, and for
    everything that can be wrong with the files.
    """
    if path is None:
        raise ConfigError(
            "the data set 'folder' needs a path: give the path of a folder of images instead"
        )
    train, test = path / "train", path / "test"
    if not (train.is_dir() and test.is_dir()):
        if split == "test":
            raise DataError(f"{path}: has no test split; a folder needs train/ and test/ for that")
        return load_folder(path, image_size)
    images = load_folder(train if split == "train" else test, image_size, name=path.resolve().name)
    return images if split == "train" else _numbered_like(images, train)


def _numbered_like(images: ImageSet, train: Path) -> ImageSet:
    """Return the test images with the label numbers of the training folder."""
    classes, _ = label_by_folder(train, list_images(train))
    if images.labels is None or images.classes == classes:
        return images
    if unknown := [name for name in images.classes if name not in classes]:
        raise DataError(
            f"{images.name}: test/{unknown[0]} is not a class of train/ ({', '.join(classes)})"
        )
    number = np.array([classes.index(name) for name in images.classes], dtype=np.int64)
    return replace(images, labels=number[images.labels], classes=classes)
