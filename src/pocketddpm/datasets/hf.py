"""A data set of the Hugging Face hub, or a folder of its files: `--data hf:NAME` (extra 'hub').

The first column of images counts, and the first of class labels, if there is one. Files are decoded
as those of a folder are (`data.decode`). No code of a data set is run.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from pocketddpm.data.decode import GREY_MODES, decode, only_size, opened, times, turned_size
from pocketddpm.data.download import offline
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

    Raises ConfigError without a name or the extra; DataError for a set that cannot be had, holds no
    images or no such split, and for images that differ in size or cannot be read.
    """
    if path is None:
        raise ConfigError("the data set 'hf' is given by its name: hf:ylecun/mnist, for instance")
    name = path.as_posix()
    rows, column, label = _open(name, split)
    files = rows[column]
    sources = [_source(files[k]) for k in over(range(len(files)), "reading files")]
    channels, size = _survey(name, sources, image_size)
    images = np.empty((len(sources), channels, *size), np.uint8)
    for k, source in enumerate(over(sources, "decoding images")):
        try:
            images[k] = decode(source, channels=channels, image_size=image_size)
        except Exception as error:  # a damaged file can make a decoder raise almost anything
            raise DataError(f"hf:{name}: image {k} cannot be read ({error})") from error
    labels = None if label is None else np.array(rows[label], np.int64)
    classes = () if label is None else tuple(rows.features[label].names)
    if labels is not None and len(labels) and labels.min() < 0:  # the convention for "not known"
        labels, classes = None, ()
    source = "" if image_size is None else f"centre crop and resize to {times(image_size)}"
    return ImageSet(images, labels, classes, f"hf:{name}", source)


def _open(name: str, split: str) -> tuple[Any, str, str | None]:
    """Return the rows of a split, and the names of their columns of images and labels."""
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            f"hf:{name} needs the extra 'hub': pip install 'pocketddpm[hub]' ({error})"
        ) from error
    if offline() and not Path(name).is_dir():
        raise DataError(f"hf:{name} is no folder here, and POCKETDDPM_OFFLINE forbids downloads")
    try:
        found = datasets.load_dataset(name)
    # The library passes on whatever its many parts raise.
    except Exception as error:
        told = " ".join(str(error).split())[:300]
        raise DataError(f"hf:{name} cannot be had: {told}") from error
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


def _survey(
    name: str, sources: list[Path | bytes], image_size: tuple[int, int] | None
) -> tuple[int, tuple[int, int]]:
    """Return the channels and the (height, width) of the result, from the files' headers."""
    channels, sizes = 1, dict[tuple[int, int], str]()
    for k, source in enumerate(sources):
        try:
            with opened(source) as image:
                channels = max(channels, 1 if image.mode in GREY_MODES else 3)
                sizes.setdefault(turned_size(image), f"number {k}")
        except Exception as error:
            raise DataError(f"hf:{name}: image {k} cannot be read ({error})") from error
    if image_size is not None:
        return channels, image_size
    if not sizes:
        raise DataError(f"hf:{name} holds no images")
    return channels, only_size(sizes, f"hf:{name}")
