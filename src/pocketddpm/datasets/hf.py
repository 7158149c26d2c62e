"""A data set of the Hugging Face hub, or a folder of its files: `--data hf:NAME` (extra 'hub').

The first column of images counts. Labels are the first column of class labels, or else a column of
whole numbers, text or booleans that is called label, labels, class, category or target. Files are
decoded as those of a folder are (`data.decode`), into the same cache (`data.cache`). No code of a
data set is run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from pocketddpm.data.cache import decode_once
from pocketddpm.data.decode import Reading
from pocketddpm.data.download import offline
from pocketddpm.data.files import Found, ImageFiles, how_sized
from pocketddpm.data.folder import natural, stamp
from pocketddpm.data.image_set import ImageSet
from pocketddpm.data.label_table import LABELS
from pocketddpm.errors import ConfigError, DataError, listed

FLIP = False
FIT: Literal["pad", "resize"] = "resize"

# The names of the splits; the first one that is there counts.
SPLITS = {"train": ("train", "training"), "test": ("test", "validation", "valid", "val")}


def load(
    split: Literal["train", "test"],
    *,
    path: Path | None = None,
    reading: Reading | None = None,
) -> ImageSet:
    """Return one split: images uint8 [N,C,H,W], labels int64 [N] or None.

    What is not used, and why there are no labels, is in `notes`.

    path: the name on the hub ('ylecun/mnist'), or a folder of parquet or image files.
    reading: what becomes of the images.

    Raises ConfigError without a name or the extra; DataError for a set that is not found, holds no
    images or no such split, has rows without an image or without a label, and for images that
    differ in size or cannot be read.
    """
    if path is None:
        raise ConfigError("the data set 'hf' needs a name, such as hf:ylecun/mnist")
    name = f"hf:{path.as_posix()}"
    splits = _open(path.as_posix())
    found = next((s for s in SPLITS[split] if s in splits), None)
    if found is None:
        raise DataError(f"{name} has no {split} split; it has {listed(map(str, splits))}")
    rows = splits[found]
    if not len(rows):
        raise DataError(f"{name} holds no images in the split {found}")
    column, label = _columns(rows.features, name)
    classes, labels, notes = (), None, []
    if label is not None:
        stored = {key: list(each[label]) for key, each in splits.items() if label in each.features}
        classes, labels, notes = _labels(stored, found, rows.features[label], f"{name}: {label}")
    unused = [key for key in rows.features if key not in (column, label)]
    notes += [f"columns not used: {listed(unused)}"] if unused else []
    reading = reading or Reading()
    if split == "test" and (training := next((s for s in SPLITS["train"] if s in splits), None)):
        # Read as the training images were: as many channels, the same background and span.
        reading = _decoded(splits[training], column, name, reading)[1].reading
    images, survey = _decoded(rows, column, name, reading)
    notes = (*notes, *survey.notes)
    return ImageSet(images, labels, classes, name, how_sized(reading), notes, survey.reading)


def _decoded(
    rows: Any, column: str, name: str, reading: Reading
) -> tuple[NDArray[np.uint8], Found]:
    """Return the images of one split, uint8 [N,C,H,W], and what its files were found to be."""
    import datasets

    as_files = rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    numbers = [f"number {k}" for k in range(len(rows))]
    files = ImageFiles(name, numbers, _Column(as_files, column, name), reading)
    stored = [Path(file["filename"]) for file in rows.cache_files]
    if not stored:  # the library was told to keep the set in memory
        survey = files.survey()
        return files.array(survey), survey
    return decode_once(files, name, (column, *((str(path), *stamp(path)) for path in stored)))


@dataclass(frozen=True)
class _Column(Sequence[Path | bytes]):
    """The files of a column, read when they are asked for; DataError for a row without one."""

    rows: Any
    column: str
    name: str

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, which: int) -> Path | bytes: ...
    @overload
    def __getitem__(self, which: slice) -> list[Path | bytes]: ...
    def __getitem__(self, which: int | slice) -> Path | bytes | list[Path | bytes]:
        if isinstance(which, slice):
            return [self[k] for k in range(*which.indices(len(self)))]
        file = self.rows[which][self.column]
        if file is None or (file["bytes"] is None and file["path"] is None):
            raise DataError(f"{self.name}: row {which} has no image; remove it")
        return file["bytes"] if file["bytes"] is not None else Path(file["path"])


def has_test(path: Path | None) -> bool:
    """Return whether a data set has a test split."""
    return path is not None and any(name in _open(path.as_posix()) for name in SPLITS["test"])


def _open(name: str) -> Any:
    """Return the splits of a data set, by their names."""
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            f"hf:{name} needs the extra 'hub': pip install 'pocketddpm[hub]' ({error})"
        ) from error
    if offline() and not Path(name).is_dir():
        raise DataError(f"hf:{name}: no such folder, and POCKETDDPM_OFFLINE forbids downloads")
    try:
        return datasets.load_dataset(name)
    # The library raises many kinds of errors.
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        raise DataError(f"hf:{name} cannot be loaded: {said}") from error


def _columns(features: Any, name: str) -> tuple[str, str | None]:
    """Return the names of the columns of images and of labels."""
    import datasets

    images = [key for key, kind in features.items() if isinstance(kind, datasets.Image)]
    if not images:
        raise DataError(f"{name} has no column of images; it has {listed(features)}")
    labels = [key for key, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    lower = {key.lower(): key for key in features}
    for key in (lower[label] for label in LABELS if label in lower):
        dtype = str(getattr(features[key], "dtype", ""))
        if dtype in ("string", "large_string", "bool") or dtype.lstrip("u").startswith("int"):
            labels.append(key)
    return images[0], labels[0] if labels else None


def _labels(
    stored: dict[str, list[Any]], split: str, kind: Any, where: str
) -> tuple[tuple[str, ...], NDArray[np.int64] | None, list[str]]:
    """Return class names, the labels of one split, and a note where the set knows none.

    stored: the values of every split, so that a class has the same number in all of them.
    """
    names = getattr(kind, "names", None)
    # -1 is the convention for "not known" of columns of class labels.
    missing = [k for k, v in enumerate(stored[split]) if v is None or (names and v == -1)]
    if len(missing) == len(stored[split]):
        return (), None, [f"no labels: those of the split {split} are not known"]
    if missing:
        raise DataError(
            f"{where}: {len(missing)} of {len(stored[split])} images have no label (number "
            f"{missing[0]} is the first); remove these rows, or the column"
        )
    if names:
        return tuple(names), np.array(stored[split], np.int64), []
    values = {str(v): v for each in stored.values() for v in each if v is not None}
    numeric = all(isinstance(v, int) for v in values.values())
    classes = sorted(values, key=values.__getitem__ if numeric else natural)
    number = {text: label for label, text in enumerate(classes)}
    return tuple(classes), np.array([number[str(v)] for v in stored[split]], np.int64), []
