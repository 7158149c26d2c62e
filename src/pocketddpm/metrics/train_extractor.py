"""Making extractors: a classifier where there are labels, else the pixels' principal directions.

Metric networks see half A of the training set, judges half B (`pocketddpm.metrics.split`). There
is no early stopping; the test set is looked at once, after training.
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Literal

import numpy as np
import torch

from pocketddpm.data.image_set import ImageSet
from pocketddpm.data.load import fingerprint
from pocketddpm.errors import DataError
from pocketddpm.metrics.classifier_training import Recipe, train_classifier
from pocketddpm.metrics.extractor import Extractor
from pocketddpm.metrics.pca import fit_pixels_pca
from pocketddpm.metrics.split import halves

METRIC = Recipe(architecture="plain", epochs=40, seed=0)
JUDGE = Recipe(architecture="residual", epochs=20, seed=1, turn=5.0)
FEWEST = 50  # images in a half

Progress = Callable[[int], object]


def train_extractor(
    name: str,
    images: ImageSet,
    recipe: Recipe,
    half: Literal["A", "B"],
    *,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Extractor:
    """Return a classifier trained on one half of a labelled training set.

    Raises DataError without labels, or when a half is smaller than 50 images.
    """
    if images.labels is None:
        raise DataError(f"{images.name} has no labels; its extractor is pixels-pca")
    part = _half(images, half)
    # A batch must be full, and batch statistics need several.
    recipe = replace(recipe, batch_size=min(recipe.batch_size, max(2, len(part) // 8)))
    network = train_classifier(
        images.images[part],
        images.labels[part],
        len(images.classes),
        recipe,
        device=device,
        progress=progress,
    )
    facts = {
        "architecture": recipe.architecture,
        "data": images.name,
        "fingerprint": fingerprint(images),
        "half": half,
        "images": len(part),
        "recipe": asdict(recipe),
    }
    return Extractor(name, "", network.cpu(), images.shape, images.classes, facts)


def pixels_extractor(images: ImageSet) -> Extractor:
    """Return the principal directions of half A's pixels; DataError when half A is too small."""
    return fit_pixels_pca(images.images[_half(images, "A")], images.name)


def _half(images: ImageSet, half: Literal["A", "B"]) -> np.ndarray:
    part = halves(len(images))[half == "B"]
    if len(part) < FEWEST:
        raise DataError(
            f"{images.name}: {len(images)} training images are too few for an extractor; "
            f"it needs {2 * FEWEST}"
        )
    return part


def accuracy(extractor: Extractor, images: ImageSet) -> float:
    """Return the share of images that the extractor classifies as labelled."""
    logits = extractor(images.images).logits
    assert logits is not None and images.labels is not None
    return float(np.mean(logits.argmax(1).numpy() == images.labels))
