"""Images and masks that people give to an edit, in the form that the model takes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pocketddpm.data.decode import Reading, decode
from pocketddpm.data.load import load_images
from pocketddpm.errors import ConfigError, DataError
from pocketddpm.models.model import Model
from pocketddpm.models.samples import Images
from pocketddpm.output import expanded
from pocketddpm.values import several, whole


def read_images(
    model: Model,
    source: str | Path | Sequence[str | Path] | Images,
    index: Sequence[int],
    split: Literal["train", "test"] = "train",
    *,
    shape: tuple[int, ...] | None = None,
) -> tuple[Images, NDArray[np.int64] | None]:
    """Return images, uint8 [N,C,H,W] of the model's shape, and their labels if they are known.

    Labels are known of a data set whose classes are among the model's: int64 [N], in its order.

    source: image files; or a data set's name or folder, of whose split the images `index` are
    taken; or an array, which is returned as it is. shape: (C, H, W) in place of the model's.
    Raises DataError for files that cannot be read, ConfigError for images of another kind and for
    an index that there is not.
    """
    if isinstance(source, np.ndarray):
        return source, None
    channels, height, width = shape or model.shape
    names = [source] if isinstance(source, str | Path) else list(source)
    if any(expanded(name).is_file() for name in names):
        reading = replace(_reading(model), size=(height, width))
        return np.stack([_decode(expanded(n), channels, reading) for n in names]), None
    if len(names) != 1:
        listed = ", ".join(map(str, names))
        raise DataError(f"no such files: {listed}; give image files, or one data set")
    data = model.experiment.data
    found = load_images(
        str(names[0]), split, image_size=(height, width), fit=data.fit, **data.image_options()
    )
    if found.shape != (channels, height, width):
        raise ConfigError(
            f"{found.name} has {found.shape[0]} channels, and the model edits {channels}"
        )
    index = [whole(k, "--index") for k in np.atleast_1d(index).tolist()]
    if not index or not all(0 <= k < len(found) for k in index):
        listed = ",".join(map(str, index))
        raise ConfigError(f"--index reads 0,5,7 with numbers below {len(found)}, got '{listed}'")
    labels = None
    if found.labels is not None and model.classes and set(found.classes) <= set(model.classes):
        numbers = np.array([model.classes.index(name) for name in found.classes], np.int64)
        labels = numbers[found.labels[list(index)]]
    return np.ascontiguousarray(found.images[list(index)]), labels


def read_mask(
    model: Model, mask: str | Path | tuple[int, ...] | NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return the part to paint, bool [H,W] or [N,H,W], True where to paint.

    mask: an image file, white there; or (top, left, bottom, right) in pixels; or an array.
    Raises DataError for a file that cannot be read, ConfigError for a part outside the image and
    for an empty one.
    """
    _, height, width = model.shape
    if isinstance(mask, str | Path):
        reading = Reading((height, width), background="black")
        painted = _decode(expanded(mask), 1, reading)[0] > 127
    elif isinstance(mask, np.ndarray):
        painted = mask
    else:
        top, left, bottom, right = several(mask, 4, "--box", whole)
        if not (0 <= top < bottom <= height and 0 <= left < right <= width):
            box = ",".join(map(str, mask))
            raise ConfigError(
                f"--box {box} is no part of {height}x{width} pixels; give TOP,LEFT,BOTTOM,RIGHT"
            )
        painted = np.zeros((height, width), np.bool_)
        painted[top:bottom, left:right] = True
    if not painted.any():
        name = "the mask" if isinstance(mask, np.ndarray) else mask
        raise ConfigError(f"{name} has no white part: there is nothing to paint")
    return painted


def _reading(model: Model) -> Reading:
    """Return how the model's own files were read; a file of any size gets the model's."""
    data, span = model.experiment.data, model.meta.get("data", {}).get("span")
    fit = "contain" if data.fit == "contain" else "resize"
    span = None if span is None else (float(span[0]), float(span[1]))
    return Reading(model.shape[1:], fit, background=data.background, span=span)


def _decode(path: Path, channels: int, reading: Reading) -> Images:
    """Return an image file as uint8 [C,H,W]; DataError if it is none."""
    try:
        return decode(path, channels, reading)
    # A damaged file can make a decoder raise almost anything.
    except Exception as error:
        raise DataError(f"{path}: cannot be read as an image ({error})") from None
