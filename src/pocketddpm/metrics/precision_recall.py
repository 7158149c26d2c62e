"""Precision, recall, density, coverage: all pairs of images, in float64, in blocks.

Every real image has a ball that reaches its k-th nearest other real image, and likewise every
generated one. Precision and recall with k = 3 (arXiv 1904.06991): the share of generated images in
some real ball, and of real images in some generated ball. Density and coverage with k = 5 (arXiv
2002.09797): real balls per generated image over k, and the share of real balls that hold one.
Shapes: real [N,D], fake [M,D].
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pocketddpm.errors import DataError

BLOCK = 100  # rows of distances at a time: 10,000 columns of them fit the cache


@dataclass(frozen=True)
class Neighbourhoods:
    """Terms whose means are the four numbers: precision and density [M], recall, coverage [N]."""

    precision: Tensor
    recall: Tensor
    density: Tensor
    coverage: Tensor


def squared_distances(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield (rows, |x_i - y_j|^2 [rows,M]) block by block; x [N,D], y [M,D], both float64.

    The next block overwrites the last: freed ones would leave holes between what is kept of them.
    """
    norms = (y * y).sum(1)
    buffer = x.new_empty(min(BLOCK, len(x)), len(y))
    for start in range(0, len(x), BLOCK):
        rows = slice(start, min(start + BLOCK, len(x)))
        part = x[rows]
        squares = torch.addmm(norms[None], part, y.T, alpha=-2, out=buffer[: len(part)])
        yield rows, squares.add_((part * part).sum(1)[:, None]).clamp_(min=0)


def ball_radii(x: Tensor, *ks: int) -> list[Tensor]:
    """Return, for each k, the squared distances [N] to the k-th nearest other row.

    Raises DataError when there are too few rows.
    """
    if len(x) <= max(ks):
        raise DataError(f"nearest neighbours need more than {max(ks)} images, got {len(x)}")
    nearest = []
    for rows, squares in squared_distances(x, x):
        # A row is not its own neighbour, and its distance to itself may be rounded above 0.
        squares[torch.arange(len(squares)), torch.arange(rows.start, rows.stop)] = torch.inf
        nearest.append(squares.topk(max(ks), dim=1, largest=False).values)
    sorted_squares = torch.cat(nearest)
    return [sorted_squares[:, k - 1].clone() for k in ks]


def neighbourhoods(
    real: Tensor, fake: Tensor, *, k_manifold: int = 3, k_density: int = 5
) -> Neighbourhoods:
    """Return the terms of precision, recall, density and coverage (see the module)."""
    # Distances do not change when the origin moves, and are rounded least near the origin.
    origin = real.double().mean(0)
    real, fake = real.double() - origin, fake.double() - origin
    real_3, real_5 = ball_radii(real, k_manifold, k_density)
    (fake_3,) = ball_radii(fake, k_manifold)
    precision, density = [], []
    recall = torch.zeros(len(real), dtype=torch.bool)
    coverage = torch.zeros(len(real), dtype=torch.bool)
    for rows, squares in squared_distances(fake, real):
        precision.append((squares <= real_3).any(1))
        recall |= (squares <= fake_3[rows, None]).any(0)
        inside = squares <= real_5
        density.append(inside.sum(1) / k_density)
        coverage |= inside.any(0)
    return Neighbourhoods(torch.cat(precision), recall, torch.cat(density), coverage)
