"""Any folder of images: listed in natural order, labelled by a table or its sub-folders, decoded
once.
"""

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pocketddpm.data.cache import decode_once
from pocketddpm.data.decode import Reading, suffixes
from pocketddpm.data.files import Found, ImageFiles, how_sized
from pocketddpm.data.image_set import ImageSet
from pocketddpm.data.label_table import TABLES, find_table, labels_in
from pocketddpm.errors import DataError, listed


def load_folder(
    folder: Path,
    reading: Reading | None = None,
    name: str | None = None,
    classes: tuple[str, ...] | None = None,
) -> ImageSet:
    """Return the images under a folder, with labels from a table in it (`data.label_table`), or
    else from its immediate sub-folders, where these fit.

    What is left out or changed, and why there are no labels, is in `notes`. Files and folders whose
    names begin with a dot are hidden, and left out without a word.

    Args:
        folder: searched recursively, links included.
        reading: what becomes of the files.
        name: the set's name; the folder's own when None.
        classes: the names that labels may have, in their order; None takes those there are.

    Returns: images uint8 [N,C,H,W] in natural order of the paths; labels int64 [N], or None
        when images lie in fewer than two sub-folders, or so many beside them that they would be a
        class of their own.

    Raises DataError when the folder is missing or holds no images, when files are broken, when
    their sizes differ and no size is given, and for a label that is not among `classes`.
    """
    paths, notes = _walk(folder)
    paths, names, labels, more = label(folder, paths, classes)
    reading = reading or Reading()
    images, found = decode_files(folder, paths, reading)
    return ImageSet(
        images,
        labels,
        names,
        name or folder.resolve().name,
        how_sized(reading),
        (*notes, *more, *found.notes),
        found.reading,
    )


def list_images(folder: Path) -> list[Path]:
    """Return the image files under a folder, in natural order ('2.png' before '10.png').

    Raises DataError when the folder is missing, is a file, is unreadable or holds no images.
    """
    return _walk(folder)[0]


def _walk(folder: Path) -> tuple[list[Path], list[str]]:
    """Return the image files, and in words what else is there."""
    if not folder.exists():
        raise DataError(f"{folder}: no such folder")
    if not folder.is_dir():
        raise DataError(f"{folder}: is a file; give the folder that holds the images")

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be listed ({error.strerror})")

    paths: list[Path] = []
    others: Counter[str] = Counter()
    seen: set[str] = set()
    for here, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        # A link to a folder above would otherwise be followed for ever.
        seen.add(os.path.realpath(here))
        folders[:] = [
            sub
            for sub in folders
            if not sub.startswith(".") and os.path.realpath(os.path.join(here, sub)) not in seen
        ]
        for name in (name for name in names if not name.startswith(".")):
            suffix = os.path.splitext(name)[1].lower()
            if suffix in suffixes():
                paths.append(Path(here, name))
            elif name not in TABLES or Path(here) != folder:
                others[suffix or "no suffix"] += 1
    if not paths:
        kinds = ", ".join(sorted(suffix[1:] for suffix in suffixes()))
        raise DataError(f"{folder}: holds no images ({kinds})")
    paths.sort(key=lambda path: natural(*path.relative_to(folder).parts))
    counts = listed(f"{count} {suffix}" for suffix, count in sorted(others.items()))
    return paths, [f"files that are not images are left out ({counts})"] if others else []


def natural(*parts: str) -> list[tuple[list[str | int], str]]:
    """Return a sort key that compares runs of digits as numbers, part by part."""

    def key(part: str) -> list[str | int]:
        # Splitting on a group alternates text and digits, so only like is compared with like.
        pieces = re.split(r"([0-9]+)", part)
        return [int(p) if i % 2 else p.lower() for i, p in enumerate(pieces)]

    return [(key(part), part) for part in parts]


Labelled = tuple[list[Path], tuple[str, ...], NDArray[np.int64] | None, list[str]]
"""The images that are kept, class names, labels, and in words what was decided."""


def label(folder: Path, paths: Sequence[Path], classes: tuple[str, ...] | None = None) -> Labelled:
    """Return the images with the labels of a table in the folder, or else of its sub-folders.

    classes: as for `load_folder`. Raises DataError as `label_by_folder` and `labels_in` do.
    """
    table = find_table(folder) if classes != () else None
    if table is None:
        return label_by_folder(folder, paths, classes)
    names = [path.relative_to(folder).as_posix() for path in paths]
    found, notes = labels_in(table, names)
    if not found or (classes is None and len(set(found.values())) < 2):
        one = [f"{table.name} gives all images the label {v}" for v in set(found.values())]
        kept, sub_folders, labels, more = label_by_folder(folder, paths, classes)
        return kept, sub_folders, labels, [*(one or notes), *more]
    known = classes or tuple(sorted(set(found.values()), key=natural))
    if unknown := sorted(set(found.values()) - set(known), key=natural):
        raise DataError(
            f"{table}: {unknown[0]} is not a class of the training images ({listed(known)})"
        )
    if left := len(paths) - len(found):
        first = next(name for name in names if name not in found)
        notes.append(f"{left} images without a label there are left out ({first})")
    kept = [path for path, name in zip(paths, names, strict=True) if name in found]
    number = {name: k for k, name in enumerate(known)}
    labels = np.array([number[found[name]] for name in names if name in found], np.int64)
    return kept, known, labels, notes


def label_by_folder(
    folder: Path, paths: Sequence[Path], classes: tuple[str, ...] | None = None
) -> Labelled:
    """Return the images that are kept, class names, labels, and in words what was decided.

    A sub-folder is a class, with all that lies below it. Images in the folder itself are left out
    when they are fewer than a class has on average; else there are no labels.

    classes: as for `load_folder`. Raises DataError for a sub-folder that is not among them.
    """
    tops = [parts[0] if len(parts := path.relative_to(folder).parts) > 1 else "" for path in paths]
    names = sorted({top for top in tops if top}, key=natural)
    beside = tops.count("")
    unlabelled = list(paths), (), None
    if not names or classes == ():
        return *unlabelled, ["no labels: no sub-folders"] if classes else []
    if classes is None and len(names) < 2:
        return *unlabelled, [f"no labels: {names[0]}/ is the only sub-folder with images"]
    if beside >= (len(paths) - beside) / len(names):
        return *unlabelled, [f"no labels: {beside} images lie beside the {len(names)} sub-folders"]
    if unknown := [name for name in names if classes and name not in classes]:
        raise DataError(
            f"{folder.name}/{unknown[0]} is not a class of the training images "
            f"({listed(classes or ())})"
        )
    kept = [path for path, top in zip(paths, tops, strict=True) if top]
    numbers = {name: label for label, name in enumerate(classes or names)}
    labels = np.array([numbers[top] for top in tops if top], np.int64)
    notes = []
    if beside:
        stray = next(path.name for path, top in zip(paths, tops, strict=True) if not top)
        notes.append(f"{beside} images beside the class folders are left out ({stray})")
    if deep := sum(len(path.relative_to(folder).parts) > 2 for path in kept):
        notes.append(f"{deep} images in folders below a class folder belong to that class")
    empty = [sub.name for sub in folder.iterdir() if sub.is_dir() and sub.name[0] != "."]
    if empty := sorted(set(empty) - set(names), key=natural):
        notes.append(f"sub-folders without images are no classes ({listed(empty)})")
    return kept, classes or tuple(names), labels, notes


def decode_files(
    folder: Path, paths: Sequence[Path], reading: Reading
) -> tuple[NDArray[np.uint8], Found]:
    """Return the decoded images, from the cache when the files have not changed since.

    These have changed where a name, a size or a time has.

    Args:
        folder: what the paths are relative to.
        paths: the files, in the order wanted.
        reading: what becomes of them.

    Returns: uint8 [N,C,H,W], a read-only memory map or an array; and what the files were found
    to be.

    Raises DataError when files are broken, or differ in size while no size is given.
    """
    names = [str(path.relative_to(folder)) for path in paths]
    stamps = ((name, *stamp(path)) for path, name in zip(paths, names, strict=True))
    return decode_once(
        ImageFiles(str(folder), names, paths, reading), str(folder.resolve()), stamps
    )


def stamp(path: Path) -> tuple[int, int]:
    """Return the size and the time of a file; DataError when it cannot be read."""
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    return stat.st_size, stat.st_mtime_ns
