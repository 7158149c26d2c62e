"""The fixed random halves of a training set: A trains the extractors, B is the reference.

A network finds the images that it was trained on too easy, so that reference moments taken from
them would set real test images apart from real training images. Hence no image serves both ends.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from pocketddpm.noise import Role, uniform

SEED = 0


def draw(total: int, n: int, seed: int = SEED) -> NDArray[np.int64]:
    """Return n different numbers of 0..total-1, drawn at random, in the order of the draw."""
    order = uniform(seed, Role.EVALUATE, torch.arange(total)).argsort(stable=True)
    return order[:n].numpy()


def halves(total: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the positions of half A and of half B of `total` images, each in rising order.

    An odd one goes to B. The same numbers come out on every machine: they are Philox4x32-10's.
    """
    order = draw(total, total)
    return np.sort(order[: total // 2]), np.sort(order[total // 2 :])
