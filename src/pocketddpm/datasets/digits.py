"""Handwritten digits, 8x8 grey, 1500 for training and 297 for testing; comes with scikit-learn.

Real handwriting that needs no download (Alpaydin and Kaynak, 1998, the test part of
https://archive.ics.uci.edu/dataset/80). scikit-learn names no split: here the first 1500 images
are for training and the last 297 for testing.
"""

from pathlib import Path
from typing import Literal

import numpy as np

from pocketddpm.data.image_set import ImageSet

FLIP = False
FIT: Literal["pad", "resize"] = "pad"

CLASSES = tuple("0123456789")
TRAIN = 1500


def load(
    split: Literal["train", "test"],
    *,
    path: Path | None = None,
    image_size: tuple[int, int] | None = None,
) -> ImageSet:
    """Return one split: images uint8 [N,1,8,8], labels int64 [N].

    path, image_size: of no effect; the files come with scikit-learn, and their size is fixed.
    """
    from sklearn.datasets import load_digits

    values, labels = load_digits(return_X_y=True)  # float64 [1797,64], whole numbers 0..16
    images = np.rint(values * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    part = slice(None, TRAIN) if split == "train" else slice(TRAIN, None)
    return ImageSet(images[part], labels[part].astype(np.int64), CLASSES, "digits")
