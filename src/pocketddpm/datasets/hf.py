"""A data set of the Hugging Face hub, or a folder of its files: `--data hf:NAME` (extra 'hub').

The first column of images counts, and the first of class labels, if there is one. Files are decoded
as those of a folder are (`data.decode`). No code of a data set is run.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from pocketddpm.data.download import offline
from pocketddpm.data.files import ImageFiles, how_sized
from pocketddpm.data.image_set import ImageSet
from pocketddpm.errors import ConfigError, DataError
from pocketddpm.progress import over

FLIP = False
FIT: Literal["pad", "resize"] = "resize"

SPLITS = {"train": ("train",), "test": ("test", "validation")}


def load(
    split: Literal["train", "test"],
    *,
    path: Path | None = None,
    image_size: tuple[int, int] | None = None,
) -> ImageSet:
    """Return one split: images uint8 [N,C,H,W], labels int64 [N] or None.

    path: the name on the hub ('ylecun/mnist'), or a folder of parquet or image files.
    image_size: (height, width) to reach by centre crop and resize; None keeps the common size.

    Raises ConfigError without a name or the extra; DataError for a set that is not found, holds no
    images or no such split, and for images that differ in size or cannot be read.
    """
    if path is None:
        raise ConfigError("the data set 'hf' needs a name, such as hf:ylecun/mnist")
    name = path.as_posix()
    rows, column, label = _open(name, split)
    cells = rows[column]
    sources = [_source(cells[k]) for k in over(range(len(cells)), "reading files")]
    if not sources:
        raise DataError(f"hf:{name} holds no images")
    files = ImageFiles(
        f"hf:{name}", [f"number {k}" for k in range(len(sources))], sources, image_size
    )
    images = files.array(files.shape())
    labels = None if label is None else np.array(rows[label], np.int64)
    classes = () if label is None else tuple(rows.features[label].names)
    if labels is not None and labels.min() < 0:  # the convention for "not known"
        labels, classes = None, ()
    return ImageSet(images, labels, classes, f"hf:{name}", how_sized(image_size))


def _open(name: str, split: str) -> tuple[Any, str, str | None]:
    """Return the rows of a split, and the names of their columns of images and labels."""
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            f"hf:{name} needs the extra 'hub': pip install 'pocketddpm[hub]' ({error})"
        ) from error
    if offline() and not Path(name).is_dir():
        raise DataError(f"hf:{name}: no such folder, and POCKETDDPM_OFFLINE forbids downloads")
    try:
        found = datasets.load_dataset(name)
    # The library raises many kinds of errors.
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        raise DataError(f"hf:{name} cannot be loaded: {said}") from error
    splits = [s for s in SPLITS[split] if s in found]
    if not splits:
        raise DataError(f"hf:{name} has no {split} split; it has {', '.join(map(str, found))}")
    rows = found[splits[0]]
    kinds = rows.features.items()
    columns = [k for k, kind in kinds if isinstance(kind, datasets.Image)]
    if not columns:
        raise DataError(f"hf:{name} has no column of images; it has {', '.join(rows.features)}")
    labels = [k for k, kind in kinds if isinstance(kind, datasets.ClassLabel)]
    rows = rows.cast_column(columns[0], datasets.Image(decode=False))
    return rows, columns[0], labels[0] if labels else None


def _source(value: dict[str, Any]) -> Path | bytes:
    return value["bytes"] if value["bytes"] is not None else Path(value["path"])
