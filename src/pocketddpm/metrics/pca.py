"""`pixels-pca`: coordinates along the first principal directions of half A's pixels.

No network is involved: the result depends on no classifier's training.
"""

import hashlib
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray

from pocketddpm.data.image_set import ImageArray, chunks
from pocketddpm.metrics.extractor import Extractor, Linear
from pocketddpm.metrics.extractors import PIXELS_PCA
from pocketddpm.metrics.split import random_indices

DIRECTIONS = 64
LARGEST = 4000  # values of an image whose covariance is formed; of larger ones, images used
BLOCK = 5000

Array = NDArray[np.float64]


def fit_pixels_pca(images: ImageArray, data: str) -> Extractor:
    """Return the extractor for images uint8 [N,C,H,W]: at most 64 directions, signs fixed.

    Sets of images of more than 4000 values are represented by 4000 images, drawn at random.
    data: the data set's name, for the extractor's facts.
    """
    n, c, h, w = images.shape
    wide = c * h * w > LARGEST
    used = images[np.sort(random_indices(n, LARGEST))] if wide and n > LARGEST else images
    mean, directions = (_of_images if wide else _of_pixels)(used)
    directions = directions[: min(DIRECTIONS, n - 1)]
    # An eigenvector's sign is arbitrary: its largest entry is made positive.
    largest = np.abs(directions).argmax(1)
    directions = directions * np.sign(directions[np.arange(len(directions)), largest])[:, None]
    stored = torch.from_numpy(directions.copy()).float()
    network = Linear(torch.from_numpy(mean).float(), stored)
    digest = hashlib.sha256(network.mean.numpy().tobytes() + stored.numpy().tobytes())
    facts = {"architecture": "linear", "data": data, "half": "A", "images": n}
    return Extractor(PIXELS_PCA, digest.hexdigest(), network.eval(), (c, h, w), (), facts)


def _of_pixels(images: ImageArray) -> tuple[Array, Array]:
    """Return mean [D] and directions [D,D], from the covariance of pixels."""
    n, size = len(images), prod(images.shape[1:])
    total, outer = np.zeros(size), np.zeros((size, size))
    for block in chunks(images, BLOCK):
        part = block.reshape(len(block), -1) / 255.0
        total += part.sum(0)
        outer += part.T @ part
    mean = total / n
    _, vectors = np.linalg.eigh(outer / n - np.outer(mean, mean))
    return mean, vectors[:, ::-1].T


def _of_images(images: ImageArray) -> tuple[Array, Array]:
    """Return the same from the products of images, for more pixels than images; at most 64."""
    flat = np.asarray(images).reshape(len(images), -1)
    n, size = flat.shape
    mean, products = np.zeros(size), np.zeros((n, n))
    parts = [slice(start, start + BLOCK) for start in range(0, size, BLOCK)]

    def centred(part: slice) -> Array:
        return flat[:, part] / 255.0 - mean[part]

    for part in parts:
        mean[part] = (flat[:, part] / 255.0).mean(0)
        products += centred(part) @ centred(part).T
    values, vectors = np.linalg.eigh(products)
    # Directions without variance cannot be found from the images.
    kept = np.flatnonzero(values > 1e-9 * max(values[-1], 1e-300))[::-1][:DIRECTIONS]
    weights = vectors[:, kept] / np.sqrt(values[kept])
    return mean, np.concatenate([centred(part).T @ weights for part in parts]).T
