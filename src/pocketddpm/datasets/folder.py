"""Any folder of images; sub-folders are classes, train/ and test/ are splits.

Given by its path wherever the name of a data set is allowed.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pocketddpm.data.decode import Reading
from pocketddpm.data.folder import load_folder
from pocketddpm.data.image_set import ImageSet
from pocketddpm.errors import ConfigError, DataError, listed

FLIP = False
FIT: Literal["pad", "resize"] = "resize"

# The names of the splits, in any case; the first one that is there counts.
SPLITS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "val", "valid", "validation"),
}


def load(
    split: Literal["train", "test"],
    *,
    path: Path | None = None,
    reading: Reading | None = None,
) -> ImageSet:
    """Return one split of a folder: images uint8 [N,C,H,W], labels int64 [N] or None.

    path: the folder. When it holds a folder for training and one for testing (`SPLITS`), these are
        the splits; a folder for training that is all it holds is searched in its place; in every
        other folder, all images are for training.
    reading: what becomes of the files. Test images are read as the training images were: of as many
        channels, over the same background, and stretched by the same two values.

    Raises ConfigError without a path; DataError for a test split that is not there, and for
    everything that can be wrong with the files.
    """
    if path is None:
        raise ConfigError(
            "the data set 'folder' needs a path: give the path of a folder of images instead"
        )
    name = path.resolve().name
    visible, train, test = _splits(path)
    if test is None and train is not None and visible == [train.name]:
        path = train
    if train is None or test is None:
        if split == "test":
            raise DataError(
                f"{path}: has no test split; a folder has one when it holds train/ "
                f"and one of {'/, '.join(SPLITS['test'])}/"
            )
        return load_folder(path, reading, name)
    unused = [name for name in visible if name not in (train.name, test.name)]
    more = f"; not used: {listed(unused)}" if unused else ""
    said = f"{train.name}/ is for training, {test.name}/ for testing{more}"
    images = load_folder(train, reading, name)
    if split == "test":
        images = load_folder(test, images.reading, name, images.classes)
    return replace(images, notes=(said, *images.notes))


def has_test(path: Path | None) -> bool:
    """Return whether a folder has a test split."""
    return path is not None and None not in _splits(path)


def _splits(path: Path) -> tuple[list[str], Path | None, Path | None]:
    """Return the names of what lies in a folder, and its folders for training and for testing."""
    visible, folders = [], {}
    for entry in _entries(path):
        if not entry.name.startswith("."):
            visible.append(entry.name)
            if entry.is_dir():  # known without asking: there may be a million entries
                folders[entry.name.lower()] = path / entry.name
    train, test = (
        next((folders[n] for n in SPLITS[s] if n in folders), None) for s in ("train", "test")
    )
    return visible, train, test


def _entries(path: Path) -> list["os.DirEntry[str]"]:
    """Return what lies in a folder, by name; nothing where there is no folder."""
    if not path.is_dir():
        return []
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{path}: cannot be listed ({error.strerror})") from None
