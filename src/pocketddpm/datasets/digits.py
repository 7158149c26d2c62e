"""Handwritten digits, 8x8 grey, 1500 for training and 297 for testing; shipped with the package.

Source: the test part of https://archive.ics.uci.edu/dataset/80 (Alpaydin and Kaynak, 1998), licence
CC BY 4.0. The source has no split of these 1797 images: here the first 1500 are for training and
the last 297 for testing.
"""

from pathlib import Path
from typing import Literal

import numpy as np

from pocketddpm.data.image_set import ImageSet
from pocketddpm.data.npz import read_npz

FLIP = False
FIT: Literal["pad", "resize"] = "pad"

CLASSES = tuple("0123456789")
FILE = Path(__file__).parents[1] / "assets" / "digits.npz"
TRAIN = 1500


def load(
    split: Literal["train", "test"],
    *,
    path: Path | None = None,
    image_size: tuple[int, int] | None = None,
) -> ImageSet:
    """Return one split: images uint8 [N,1,8,8], labels int64 [N].

    path, image_size: of no effect; the file comes with the package, and its size is fixed.
    """
    stored = read_npz(FILE, ("images", "labels"))  # uint8 [1797,8,8] in 0..16, uint8 [1797]
    part = slice(None, TRAIN) if split == "train" else slice(TRAIN, None)
    images = np.rint(stored["images"][part, None] * (255 / 16)).astype(np.uint8)
    return ImageSet(images, stored["labels"][part].astype(np.int64), CLASSES, "digits")
