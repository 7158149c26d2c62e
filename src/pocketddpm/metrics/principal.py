"""`pixels-pca`: coordinates along the first principal directions of half A's pixels, no network.

No classifier's taste is in it, and no classifier can be trained to please it.
"""

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray

from pocketddpm.metrics.extractor import Extractor, Linear

NAME = "pixels-pca"
DIRECTIONS = 64


def fit_pixels_pca(images: NDArray[np.uint8], data: str) -> Extractor:
    """Return the extractor for images uint8 [N,C,H,W]: at most 64 directions, signs fixed."""
    n = len(images)
    flat = images.reshape(n, -1)
    total = np.zeros(flat.shape[1])
    outer = np.zeros((flat.shape[1], flat.shape[1]))
    for start in range(0, n, 5000):
        part = flat[start : start + 5000] / 255.0
        total += part.sum(0)
        outer += part.T @ part
    mean = total / n
    _, vectors = np.linalg.eigh(outer / n - np.outer(mean, mean))
    directions = vectors[:, ::-1][:, : min(DIRECTIONS, n - 1)].T
    # An eigenvector's sign is arbitrary: its largest entry is made positive.
    largest = np.abs(directions).argmax(1)
    directions = directions * np.sign(directions[np.arange(len(directions)), largest])[:, None]
    stored = torch.from_numpy(directions.copy()).float()
    network = Linear(torch.from_numpy(mean).float(), stored)
    digest = hashlib.sha256(network.mean.numpy().tobytes() + stored.numpy().tobytes())
    _, c, h, w = images.shape
    facts = {"architecture": "linear", "data": data, "half": "A", "images": n}
    return Extractor(NAME, digest.hexdigest(), network.eval(), (c, h, w), (), facts)
