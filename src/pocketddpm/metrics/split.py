"""The fixed random halves of a training set: A trains the extractors, B is the reference.

A network finds the images that it was trained on too easy: moments of these would tell real test
images from real training images. No image therefore serves both ends.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from pocketddpm.noise import Role, uniform

SEED = 0


def random_indices(total: int, n: int, seed: int = SEED) -> NDArray[np.int64]:
    """Return n different numbers of 0..total-1 in random order, int64 [n]; all if n > total.

    A smaller n gives the first numbers of a larger one's. They are the same on every machine.
    """
    order = uniform(seed, Role.EVALUATE, torch.arange(total)).argsort(stable=True)
    return order[:n].numpy()


def split_halves(total: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices of half A and of half B of `total` images, each in rising order, int64.

    An odd image goes to B. The indices are the same on every machine.
    """
    order = random_indices(total, total)
    return np.sort(order[: total // 2]), np.sort(order[total // 2 :])
