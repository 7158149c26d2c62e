"""The models that the page offers, loaded when they are first asked for."""

from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray

from pocketddpm.data.image_set import ImageSet
from pocketddpm.data.load import load_images
from pocketddpm.errors import CheckpointError, DDPMError
from pocketddpm.metrics.extractor import Extractor, load_shipped
from pocketddpm.metrics.extractors import shipped_for
from pocketddpm.models.checkpoint import find_checkpoint
from pocketddpm.models.model import Model, load

EXAMPLES = 64


@dataclass(frozen=True)
class Examples:
    """images: uint8 [N,C,H,W] of the model's shape. source: where they are from, in words.

    labels: int64 [N] in the model's order, or None if they are not known. needed: whether the
    network must be told them, as it has not learned to do without.
    """

    images: NDArray[np.uint8]
    source: str
    labels: NDArray[np.int64] | None = None
    needed: bool = False

    def first(self, n: int) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
        """Return the first n images, and what the network must be told of them."""
        told = self.labels if self.needed else None
        return self.images[:n], None if told is None else told[:n]


class ModelList:
    """Models by name. Safe to use from several threads; a model is loaded once."""

    def __init__(self, paths: list[Path], device: torch.device) -> None:
        """Take run folders and checkpoint files; the first is loaded at once.

        Raises CheckpointError for one that is not there.
        """
        if not paths:
            raise CheckpointError(
                "no model to show; give a run folder or a checkpoint, or train one first: "
                "pocketddpm train mnist --minutes 10 --out runs/mnist"
            )
        self.device = device
        self._paths = dict(zip(_names(paths), map(find_checkpoint, paths), strict=True))
        self._models: dict[str, Model] = {}
        self._examples: dict[int, Examples] = {}
        self._lock = Lock()
        self.model(self.names[0])

    @property
    def names(self) -> list[str]:
        """Names of all models; the first one is shown at the start."""
        return list(self._paths)

    def model(self, name: str) -> Model:
        """Return the model; CheckpointError when its file is damaged or gone."""
        if name not in self._paths:
            raise CheckpointError(f"no model '{name}' here; choose from {', '.join(self.names)}")
        with self._lock:
            if name not in self._models:
                self._models[name] = load(self._paths[name], self.device)
            return self._models[name]

    def examples(self, model: Model) -> Examples:
        """Return a few images such as the model was trained on, or some that it drew itself.

        Real ones are of the test set where the data set is on this machine; nothing is downloaded.
        """
        with self._lock:
            if id(model) not in self._examples:  # models stay, and their ids with them
                self._examples[id(model)] = _real(model) or _drawn(model)
            return self._examples[id(model)]


def _names(paths: list[Path]) -> list[str]:
    """Return a name for each path: its own, with as much of its parents as makes it unique."""
    places = [path.resolve() for path in paths]
    names = []
    for place in places:
        if places.count(place) > 1:
            raise CheckpointError(f"{place} is given twice; leave one out")
        tails = (place.parts[-depth:] for depth in range(1, len(place.parts) + 1))
        tail = next(t for t in tails if sum(p.parts[-len(t) :] == t for p in places) == 1)
        names.append("/".join(tail).removesuffix(".safetensors"))
    return names


def _real(model: Model) -> Examples | None:
    data = model.experiment.data
    _, height, width = model.shape
    for split in ("test", "train"):
        try:
            images = load_images(
                data.name, split, image_size=(height, width), fit=data.fit, **data.image_options()
            )
        except DDPMError:
            continue
        needed = bool(model.classes) and model.null is None
        own = _own_labels(images, model)
        if images.shape != model.shape or (needed and own is None):
            continue
        chosen = np.arange(len(images))
        if own is not None:  # one of each class first, and none of another
            chosen = np.flatnonzero(own >= 0)
            firsts = np.unique(own[chosen], return_index=True)[1]
            chosen = chosen[np.concatenate([firsts, np.arange(len(chosen))])]
        chosen = chosen[:EXAMPLES]
        labels = None if own is None else own[chosen]
        source = f"the {split} set of {images.name}"
        return Examples(np.ascontiguousarray(images.images[chosen]), source, labels, needed)
    return None


def _own_labels(images: ImageSet, model: Model) -> NDArray[np.int64] | None:
    """Return the images' labels as the model numbers them, -1 for a class that it has not.

    None where no label is known, or the model has none of the classes.
    """
    if images.labels is None:
        return None
    number = {name: k for k, name in enumerate(model.classes)}
    own = np.array([number.get(name, -1) for name in images.classes], np.int64)[images.labels]
    return own if (own >= 0).any() else None


def _drawn(model: Model) -> Examples:
    labels = list(model.classes) or None
    samples = model.sample(10, labels=labels, sampler="ddim", steps=min(20, model.schedule.T))
    source = "drawn by this model, as its data set is not on this machine"
    return Examples(samples.images, source, samples.labels, model.null is None)


def find_judge(model: Model) -> Extractor | None:
    """Return a shipped classifier for the model's classes and image size, or None."""
    data = model.experiment.data.name
    for name in [*shipped_for(data, "judge"), *shipped_for(data, "metric")]:
        extractor = load_shipped(name, data)
        if extractor.classes and (extractor.classes, extractor.shape) == (
            model.classes,
            model.shape,
        ):
            return extractor
    return None


def describe(model: Model) -> list[str]:
    """Return what the model is, in a few phrases."""
    channels, height, width = model.shape
    parameters = sum(p.numel() for p in model.network.parameters())
    run = model.meta.get("run", {})
    colour = "grey" if channels == 1 else f"{channels} channels"
    told = [
        f"{height}x{width} {colour}",
        f"{len(model.classes)} classes" if model.classes else "no classes",
        f"{model.experiment.network.name}, {parameters / 1e6:.2f}M parameters",
        f"predicts {model.experiment.objective.prediction}",
        f"{model.experiment.schedule.name} schedule, T = {model.schedule.T}",
    ]
    if run:
        told.append(f"{run['images_seen']:,} training images in {run['seconds'] / 60:.0f} min")
    return told
