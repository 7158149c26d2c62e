"""Which training images are kept and which are held out: the two rules, in one place.

'random' draws from every class in proportion, with a fixed seed: the same images come out on every
machine, and for every run. 'first' keeps the first images and holds out the last, as some published
systems do, and as runs did that began before there was a choice.

What a run holds out where its data have no test split are two disjoint draws: the first may choose
among its checkpoints, the second is for reporting and chooses nothing.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pocketddpm.data.image_set import ImageSet
from pocketddpm.errors import ConfigError, listed
from pocketddpm.noise import Role, uniform
from pocketddpm.progress import say
from pocketddpm.values import whole

Selection = Literal["random", "first"]
SEED = 0
MOST, SHARE, FEWEST = 5000, 10, 20  # held out: a tenth, at most 5000 images and at least 20


@dataclass(frozen=True)
class Parts:
    """The parts of a run's images, which share none: what is trained on, and what is held out.

    for_reporting: how many of the held-out images, the last ones, are for `evaluate`.
    """

    training: ImageSet
    held_out: ImageSet | None = None
    for_reporting: int = 0

    @property
    def choosing(self) -> ImageSet | None:
        """What evaluations during training compare with; None when there is nothing."""
        return self._held_out(slice(None, -self.for_reporting or None))

    @property
    def reporting(self) -> ImageSet | None:
        """What `evaluate` compares with; None when there is nothing."""
        return self._held_out(slice(-self.for_reporting, None)) if self.for_reporting else None

    def _held_out(self, part: slice) -> ImageSet | None:
        index = np.arange(0 if self.held_out is None else len(self.held_out))[part]
        return self.held_out.select(index) if self.held_out is not None and len(index) else None


def usual_hold_out(total: int) -> int:
    """Return how many of a training set's images are held out; 0 when they would be too few."""
    count = min(MOST, total // SHARE)
    return count if count >= FEWEST else 0


def divide(images: ImageSet, held_out: int, for_reporting: int, selection: Selection) -> Parts:
    """Return the parts of a run's images; ConfigError when nothing would be left to train on."""
    if not held_out:
        return Parts(images)
    return Parts(*hold_out(images, held_out, selection), for_reporting)


def usual_parts(images: ImageSet) -> Parts:
    """Return the parts of images without a test split, as a run divides them by default."""
    held_out = usual_hold_out(len(images))
    return divide(images, held_out, (held_out + 1) // 2, "random")


def subset(images: ImageSet, count: int, selection: Selection) -> ImageSet:
    """Return `count` of the images, in the set's order.

    Raises ConfigError when count is below 1 or above the number of images.
    """
    count = whole(count, "subset")
    if not 1 <= count <= len(images):
        raise ConfigError(
            f"a subset of {count} images of {images.name}: choose from 1 to {len(images)}, "
            "which is how many there are"
        )
    kept = np.arange(count) if selection == "first" else np.sort(drawn(images)[:count])
    return _part(images, kept, f"the subset of {count} images")


def hold_out(images: ImageSet, count: int, selection: Selection) -> tuple[ImageSet, ImageSet]:
    """Return the images to train on, and `count` images that are held out.

    The first part is in the set's order, and so is the second where the last images are held out;
    where it is drawn, it is in the order of the draw: its first images are in proportion too.

    Raises ConfigError when nothing would be left of one of the two.
    """
    total, count = len(images), whole(count, "held_out")
    if not 1 <= count < total:
        raise ConfigError(
            f"{count} held-out images of {images.name}: choose from 1 to {total - 1}, so that "
            "some are left to train on"
        )
    held_out = np.arange(total)[-count:] if selection == "first" else drawn(images)[:count]
    kept = np.setdiff1d(np.arange(total), held_out)
    return (
        _part(images, kept, f"training without the {count} held-out images"),
        _part(images, held_out, f"the part of {count} held-out images"),
    )


def drawn(images: ImageSet) -> NDArray[np.int64]:
    """Return the numbers of all images in a random order in which every class comes in proportion.

    Among the first k, a class of n images has k n / N of them, rounded up or down, or one off.
    """
    labels = np.zeros(len(images), np.int64) if images.labels is None else images.labels
    chance = uniform(SEED, Role.SELECT, torch.arange(len(images))).numpy()
    share = np.empty(len(images))  # of its class that comes before an image
    for label in np.unique(labels):
        (members,) = np.nonzero(labels == label)
        order = members[np.argsort(chance[members], kind="stable")]
        share[order] = (np.arange(len(order)) + 0.5) / len(order)
    return np.lexsort((chance, share))


def _part(images: ImageSet, index: NDArray[np.int64], what: str) -> ImageSet:
    """Return these images; a line says which classes are left empty."""
    labels = None if images.labels is None else images.labels[index]
    if labels is not None and images.labels is not None:
        empty = np.setdiff1d(images.labels, labels)
        if len(empty):
            names = listed(images.classes[label] for label in empty)
            say(f"{images.name}: {what} has no images of {len(empty)} classes ({names})")
    return images.select(index)
