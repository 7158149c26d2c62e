"""Real images as a model takes them, and by how many dimensions their bits are divided."""

from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pocketddpm.catalog import DATASETS
from pocketddpm.data.image_set import ImageSet
from pocketddpm.data.load import fingerprint, hold_out, load_images
from pocketddpm.errors import ConfigError
from pocketddpm.metrics.split import draw
from pocketddpm.models.model import Model

Split = Literal["test", "train", "held-out"]
Labels = Literal["data", "none"]


@dataclass(frozen=True)
class Counted:
    """Real images as a model sees them, and how their bits are counted.

    positions: int64 [N], where they lie in their set: they seed the noise. labels: int64 [N] in the
    model's order, or None for p(x). dims: what nats are divided by; resized: whether the pixels are
    not the data set's own. facts: where they come from, as plain JSON.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    positions: NDArray[np.int64]
    dims: int
    resized: bool
    facts: dict[str, Any]

    @property
    def factor(self) -> float:
        """Bits per dimension of the chain's images, times this, are bits per counted dimension."""
        return prod(self.images.shape[1:]) / self.dims


def choose_images(
    model: Model,
    n: int,
    *,
    data: str | None = None,
    split: Split = "test",
    labels: Labels = "data",
) -> Counted:
    """Return n images of a split, drawn at random with a fixed seed, in the form the model takes.

    data: None means what the model was trained on. split: 'train' is what the run trained on,
    'held-out' what it held out. labels: 'data' conditions on the true labels
    where the model has any, 'none' asks for p(x). Raises ConfigError for labels that cannot be,
    and what loading raises.
    """
    if labels == "none" and model.classes and model.experiment.objective.label_dropout == 0:
        raise ConfigError(
            "this model never saw an image without its label (label_dropout 0), and so knows "
            "p(x given y) alone; use --labels data"
        )
    trained_on = model.experiment.data
    own = data is None or data == trained_on.name
    name = trained_on.name if data is None else data
    entry = DATASETS.load(name if name in DATASETS.names() else "folder")
    fit = trained_on.fit or entry.FIT
    if split == "held-out" and not (own and trained_on.held_out):
        raise ConfigError("this model's run held no images out; use --split test")
    chosen = load_images(
        name,
        "test" if split == "test" else "train",
        image_size=model.shape[1:],
        fit=fit,
        subset=trained_on.subset if own and split != "test" else None,
        classes=trained_on.classes if own else None,
    )
    if own and split != "test" and trained_on.held_out:
        chosen = hold_out(chosen, trained_on.held_out)[split == "held-out"]
    if chosen.shape != model.shape:
        raise ConfigError(
            f"{name} has images {_size(chosen.shape)}, and the model is of {_size(model.shape)}; "
            "choose another --data"
        )
    dims, resized = prod(chosen.shape), False
    if fit == "pad":
        dims = prod(load_images(name, "test" if split == "test" else "train", fit=fit).shape)
    else:
        # Folders resize while they are decoded, and do not say which of their files needed it.
        decoded = name not in DATASETS.names() and not (own and trained_on.image_size is None)
        resized = bool(chosen.source) or decoded
    which = np.sort(draw(len(chosen), min(n, len(chosen))))
    facts = {
        "data": name,
        "split": split,
        "images": len(which),
        "of": len(chosen),
        "size": chosen.source or _size(chosen.shape),
        "fingerprint": fingerprint(chosen),
    }
    numbers = _labels(model, chosen) if labels == "data" else None
    numbers = None if numbers is None else numbers[which]
    return Counted(chosen.images[which], numbers, which, dims, resized, facts)


def _labels(model: Model, images: ImageSet) -> NDArray[np.int64] | None:
    if not model.classes:
        return None
    if images.labels is None or not set(images.classes) <= set(model.classes):
        raise ConfigError(
            f"{images.name} has not this model's classes ({', '.join(model.classes)}); "
            "use --labels none"
        )
    return np.array([model.classes.index(c) for c in images.classes], np.int64)[images.labels]


def _size(shape: tuple[int, int, int]) -> str:
    return "x".join(map(str, shape))
