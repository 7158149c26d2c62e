"""Samples to be scored: drawn from a model, read from files, and brought to the data set's size."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pocketddpm.build import pick_device
from pocketddpm.data.decode import Fit
from pocketddpm.data.folder import list_images, load_folder
from pocketddpm.data.image_set import ImageArray, ImageSet
from pocketddpm.data.load import fit_size
from pocketddpm.data.npz import read_classes, read_images, read_labels
from pocketddpm.errors import DataError
from pocketddpm.metrics.options import EvaluateOptions
from pocketddpm.models.model import Model, load_hashed
from pocketddpm.models.samples import NO_LABEL, Samples
from pocketddpm.output import file_name
from pocketddpm.plugins import ALL_KINDS, require


def read_samples(path: Path, classes: tuple[str, ...]) -> ImageSet:
    """Return the samples in an .npz file or a folder of images, with the classes that it names.

    In an .npz file `classes` names the labels; files are called NUMBER-CLASS.png, or lie in a
    folder for each class. classes: the data set's, whose positions numbers without names are.
    Raises DataError when it is missing, damaged or holds something else.
    """
    return (_read_folder if path.is_dir() else _read_npz)(path, classes)


def _read_npz(path: Path, classes: tuple[str, ...]) -> ImageSet:
    images = read_images(path, ("images", "arr_0"))
    labels = read_labels(path, len(images), ("labels", "arr_1"))
    if labels is None:
        return ImageSet(images, None, (), str(path))
    if (names := read_classes(path)) is not None:
        classes = (*names, NO_LABEL)  # numbered after the last class
    if not ((labels >= 0) & (labels < len(classes))).all():
        raise DataError(f"{path}: labels must lie in 0..{len(classes) - 1}")
    return ImageSet(images, labels, classes, str(path))


def _read_folder(path: Path, classes: tuple[str, ...]) -> ImageSet:
    images = replace(load_folder(path), name=str(path))
    if images.labels is not None:
        return images
    # What `Samples.save` writes: NUMBER-CLASS.png.
    matches = [re.fullmatch(r"\d+-(.+)", file.stem) for file in list_images(path)]
    written = [match[1] for match in matches if match]
    if len(written) < len(images):
        return images
    if all(name.isdecimal() for name in written) and not any(c.isdecimal() for c in classes):
        # Of a program that wrote numbers, which are positions.
        named = {str(k): name for k, name in enumerate(classes)}
    else:
        named = {file_name(name): name for name in classes}
    names = tuple(dict.fromkeys(named.get(name, name) for name in written))
    labels = np.array([names.index(named.get(name, name)) for name in written], np.int64)
    return replace(images, labels=labels, classes=names)


def to_data_size(
    images: ImageArray, shape: tuple[int, int, int], fit: Fit, name: str
) -> ImageArray:
    """Return images [N,C,H,W] at the data set's size, undoing how their own size was reached.

    shape: the data set's (channels, height, width). fit: 'pad' and 'contain' crop the middle,
    exactly what padding added; 'resize' and 'contain' resize with antialiasing. name: what the
    images are, for messages.
    Raises DataError for other colours, for 'crop', which cannot be undone, and for 'pad' when the
    images are smaller than the set's.
    """
    channels, height, width = shape
    _, own_channels, own_height, own_width = images.shape
    if own_channels != channels:
        raise DataError(f"{name}: {own_channels} colour channels, but the data set has {channels}")
    if (own_height, own_width) == (height, width):
        return images
    if fit == "crop":
        raise DataError(
            f"{name}: {own_height}x{own_width} were cropped, and cannot get the data's "
            f"{height}x{width} back; give --fit resize"
        )
    if fit == "contain":
        scale = min(own_height / height, own_width / width)
        inner = max(1, round(height * scale)), max(1, round(width * scale))
        top, left = (own_height - inner[0]) // 2, (own_width - inner[1]) // 2
        images = images[:, :, top : top + inner[0], left : left + inner[1]]
    if fit == "pad":
        top, left = (own_height - height) // 2, (own_width - width) // 2
        if top < 0 or left < 0:
            raise DataError(
                f"{name}: {own_height}x{own_width} is smaller than {height}x{width}, so nothing "
                "was padded; give --fit resize"
            )
        return np.asarray(images)[:, :, top : top + height, left : left + width]
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
    plan = model.plan(**settings)
    samples = model.sample(
        n,
        labels="all" if options.labels == ("all",) else list(options.labels),
        seed=options.seed,
        batch_size=options.batch_size,
        together=together,
        progress="drawing samples",
        **settings,
    )
    data = model.experiment.data
    return samples, {
        "images seen": model.meta.get("run", {}).get("images_seen"),
        "trained on": {"data": data.name, "classes": data.classes},
        "sampler": plan.sampler.name,
        "options": plan.options,
        "steps": plan.grid.steps,
        "spacing": plan.spacing,
        "nfe": samples.nfe,
        "guidance": plan.guidance.scale,
        "learned guidance": model.learned_guidance,
        "labels": ",".join(options.labels),
        "seed": options.seed,
        "device": str(model.device),
    }
