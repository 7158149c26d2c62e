"""Kernel distance (KID, arXiv 1801.01401): squared MMD with the cubic kernel, without bias.

k(x, y) = (x.y / D + 1)^3. All pairs are used, where the customary mean over 100 random subsets of
1000 adds the noise of the draw. In float64; shapes: x [N,D], y [M,D].
"""

import torch
from torch import Tensor

from pocketddpm.errors import DataError
from pocketddpm.metrics.intervals import Interval, never_negative

BLOCK = 100  # rows of the kernel matrix at a time: 10,000 columns of them fit the cache


def kernel_distance(x: Tensor, y: Tensor) -> Interval:
    """Return the unbiased estimate of MMD^2(x, y), which may be negative, unlike its interval.

    mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{ij} k(x_i, y_j), whose standard
    error comes from the first-order terms of x_i and of y_j (Hoeffding, 1948).
    Raises DataError when a side has fewer than 2 images.
    """
    if min(len(x), len(y)) < 2:
        raise DataError(
            f"a kernel distance needs at least 2 images on each side, got {len(x)} and {len(y)}"
        )
    x, y = x.double(), y.double()
    within_x, within_y = _others(x), _others(y)
    to_y, to_x = _means(x, y)
    value = (within_x.mean() + within_y.mean() - 2 * to_y.mean()).item()
    variance = sum(
        4 * (within - across).var().item() / len(within)
        for within, across in ((within_x, to_y), (within_y, to_x))
    )
    return never_negative(value, variance**0.5)


def _others(x: Tensor) -> Tensor:
    """Return the mean of k(x_i, x_j) over j != i, as [N]."""
    diagonal = ((x * x).sum(1) / x.shape[1] + 1) ** 3  # k(x_i, x_i)
    return (_means(x, x)[0] * len(x) - diagonal) / (len(x) - 1)


def _means(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of k(x_i, y_j) over j as [N], and over i as [M]."""
    rows, columns = x.new_empty(len(x)), x.new_zeros(len(y))
    # Two buffers for all blocks: freed ones would leave holes between the results.
    products, cubes = x.new_empty(2, min(BLOCK, len(x)), len(y))
    for start in range(0, len(x), BLOCK):
        part = x[start : start + BLOCK]
        k, cube = products[: len(part)], cubes[: len(part)]
        torch.mm(part, y.T, out=k)
        k.div_(x.shape[1]).add_(1)
        torch.square(k, out=cube).mul_(k)
        rows[start : start + len(part)] = cube.mean(1)
        columns += cube.sum(0)
    return rows, columns / len(x)
