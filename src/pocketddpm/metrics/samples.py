"""Samples to be scored: drawn from a model, read from files, and brought to the data set's size."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pocketddpm.build import pick_device
from pocketddpm.data.folder import list_images, load_folder
from pocketddpm.data.image_set import ImageSet
from pocketddpm.data.load import fit_size
from pocketddpm.data.npz import MissingArray, read_npz
from pocketddpm.errors import DataError
from pocketddpm.metrics.options import EvaluateOptions
from pocketddpm.models.model import Model, load_hashed
from pocketddpm.models.samples import Samples
from pocketddpm.plugins import ALL_KINDS, require

Fit = Literal["pad", "resize"]


def read_samples(path: Path, classes: tuple[str, ...]) -> ImageSet:
    """Return the samples in an .npz file or a folder of images, named after the path.

    classes: the data set's, in whose order the labels are numbered.
    Raises DataError when it is missing, damaged or holds something else.
    """
    images, labels = _read_folder(path, classes) if path.is_dir() else _read_npz(path, len(classes))
    return ImageSet(images, labels, classes, str(path))


def _read_npz(path: Path, classes: int) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
    images = next(iter(read_npz(path, ("images", "arr_0")).values()))
    try:
        stored = next(iter(read_npz(path, ("labels", "arr_1")).values()))
    except MissingArray:
        stored = None
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or not len(images):
        raise DataError(
            f"{path}: images must be uint8 [N,H,W] or [N,H,W,C], got {images.dtype} "
            f"{list(images.shape)}; round and clip them to 0..255 first"
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.shape[3] not in (1, 3):
        raise DataError(f"{path}: the last axis is the colour (1 or 3), got {list(images.shape)}")
    if stored is not None and stored.dtype.kind not in "iu":
        raise DataError(f"{path}: labels must be whole numbers, got {stored.dtype}")
    labels = None if stored is None else stored.astype(np.int64)
    if labels is not None and labels.shape != (len(images),):
        raise DataError(f"{path}: {len(images)} images but labels of shape {list(labels.shape)}")
    if labels is not None and not ((labels >= 0) & (labels < classes)).all():
        raise DataError(f"{path}: labels must lie in 0..{classes - 1}")
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)), labels


def _read_folder(
    path: Path, classes: tuple[str, ...]
) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
    folder = load_folder(path)
    images = np.asarray(folder.images)
    if (labels := renumbered(folder.labels, folder.classes, classes)) is not None:
        return images, labels
    # `pocketddpm sample --out FOLDER` writes number-label.png.
    matches = [re.fullmatch(r"\d+-(\d+)", p.stem) for p in list_images(path)]
    numbers = [int(match[1]) for match in matches if match]
    if len(numbers) == len(images) and max(numbers) < len(classes):
        return images, np.array(numbers, np.int64)
    return images, None


def renumbered(
    labels: NDArray[np.int64] | None, classes: tuple[str, ...], others: tuple[str, ...]
) -> NDArray[np.int64] | None:
    """Return labels of `classes` in the order of `others`; None where one is missing there."""
    if labels is None or not set(classes) <= set(others):
        return None
    return np.array([others.index(name) for name in classes], np.int64)[labels]


def to_data_size(
    images: NDArray[np.uint8], shape: tuple[int, int, int], fit: Fit, name: str
) -> NDArray[np.uint8]:
    """Return images [N,C,H,W] at the data set's size, undoing how their own size was reached.

    shape: the data set's (channels, height, width). fit: 'pad' crops the middle, exactly what
    padding added; 'resize' resizes with antialiasing. name: what the images are, for messages.
    Raises DataError for other colours, and for 'pad' when the images are smaller than the set's.
    """
    channels, height, width = shape
    _, own_channels, own_height, own_width = images.shape
    if own_channels != channels:
        raise DataError(f"{name}: {own_channels} colour channels, but the data set has {channels}")
    if (own_height, own_width) == (height, width):
        return images
    if fit == "pad":
        top, left = (own_height - height) // 2, (own_width - width) // 2
        if top < 0 or left < 0:
            raise DataError(
                f"{name}: {own_height}x{own_width} is smaller than {height}x{width}, so nothing "
                "was padded; give --fit resize"
            )
        return images[:, :, top : top + height, left : left + width]
    return fit_size(ImageSet(images, None, (), name), (height, width), "resize").images


def round_trip(images: ImageSet, size: tuple[int, int], fit: Fit) -> ImageSet:
    """Return real images resized like the samples: to their (height, width), and back."""
    resized = fit_size(images, size, fit).images
    return replace(images, images=to_data_size(resized, images.shape, fit, images.name))


def load_subject(
    subject: str | Path | Model, device: str, weights: str
) -> tuple[Model, dict[str, Any]]:
    """Return a model, and where it comes from, as plain JSON.

    subject: a `Model`, for which device and weights do not count, or the path or name of one.
    Raises CheckpointError when it is missing or needs a plug-in that was not given.
    """
    if isinstance(subject, Model):
        model, facts = subject, {"model": "a model in memory", "checkpoint": None}
    else:
        model, sha256 = load_hashed(subject, pick_device(device), weights)
        facts = {"model": str(subject), "checkpoint": sha256}
    require(model.meta, ALL_KINDS)
    return model, {**facts, "weights": "as in memory" if model is subject else weights}


def draw_samples(
    model: Model, options: EvaluateOptions, n: int, together: bool
) -> tuple[Samples, dict[str, Any]]:
    """Return n samples of a model, and how they were drawn, as plain JSON.

    together: whether all processes of torchrun draw them.
    """
    settings: dict[str, Any] = {
        "sampler": options.sampler,
        "steps": options.steps,
        "spacing": options.spacing,
        "options": options.sampler_options,
        "guidance": options.guidance,
    }
    plan, labels = model.plan(**settings), ",".join(options.labels)
    samples = model.sample(
        n,
        labels=labels,
        seed=options.seed,
        batch_size=options.batch_size,
        together=together,
        progress="drawing samples",
        **settings,
    )
    data = model.experiment.data
    return samples, {
        "images seen": model.meta["run"]["images_seen"],
        "trained on": {"data": data.name, "classes": data.classes},
        "sampler": plan.sampler.name,
        "options": plan.options,
        "steps": plan.grid.steps,
        "spacing": plan.spacing,
        "nfe": samples.nfe,
        "guidance": plan.guidance.scale,
        "learned guidance": model.learned_guidance,
        "labels": labels,
        "seed": options.seed,
        "device": str(model.device),
    }
