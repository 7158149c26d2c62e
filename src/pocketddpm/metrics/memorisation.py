"""Memorisation: distances to the nearest training image, beside those of held-out real images.

A generator that has learned the distribution lies as far from the training set as new real images
do. The threshold is what 1 % of held-out images fall below: 1 % is expected of a generator, more is
suspect, and 100 % is copying (compare arXiv 2306.04675, section 4.4).
"""

from dataclasses import dataclass
from typing import Union

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pocketddpm.data.image_set import ImageArray
from pocketddpm.progress import Advance

# Blocks of distances that fit the cache.
ROWS, COLUMNS = 500, 5000
QUANTILE = 0.01


@dataclass(frozen=True)
class Pixels:
    """Images, uint8 [N,C,H,W], as rows of pixels, which are read when they are asked for."""

    images: ImageArray

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, which: slice | Tensor) -> Tensor:
        rows = np.array(self.images[which.numpy() if isinstance(which, Tensor) else which])
        return torch.from_numpy(rows.reshape(len(rows), -1))


Rows = Union[Tensor, Pixels]  # noqa: UP007


@dataclass(frozen=True)
class Nearest:
    """distance: float64 [N]; index: int64 [N], the training image at that distance."""

    distance: Tensor
    index: Tensor


def nearest(
    x: Rows, train: Rows, advance: Advance | None = None, *, own: Tensor | None = None
) -> Nearest:
    """Return the nearest row of train [M,D] for every row of x [N,D] (float, or uint8 pixels).

    own: int64 [N], for rows of train: the row that each of them is, which does not count.
    Candidates are found in float32; the distances returned are exact, so a copy is at 0.
    advance(k): called after k more rows of train.
    """
    # Near the origin float32 products are rounded least.
    origin = train[:1000].float().mean(0)
    rows = x[:].float() - origin
    best = torch.full((len(x),), torch.inf)
    index = torch.zeros(len(x), dtype=torch.int64)
    for start in range(0, len(train), COLUMNS):
        y = train[start : start + COLUMNS].float() - origin
        norms = (y * y).sum(1)[None]
        for part in torch.arange(len(x)).split(ROWS):
            products = torch.addmm(norms, rows[part], y.T, alpha=-2)
            if own is not None:
                place = own[part] - start
                (here,) = ((place >= 0) & (place < len(y))).nonzero(as_tuple=True)
                products[here, place[here]] = torch.inf
            value, column = products.min(1)
            closer = value < best[part]
            best[part] = torch.where(closer, value, best[part])
            index[part] = torch.where(closer, column + start, index[part])
        if advance is not None:
            advance(len(y))
    parts = torch.arange(len(x)).split(ROWS)
    gaps = [x[k].double() - train[index[k]].double() for k in parts]
    return Nearest(torch.cat([gap.square().sum(1).sqrt() for gap in gaps]), index)


def suspects(generated: Tensor, held_out: Tensor) -> Tensor:
    """Return which distances [N] lie below what 1 % of held-out distances lie below, bool [N].

    Where over 1 % of these are 0, as in sets with duplicates, below the smallest that is not.
    """
    ordered = held_out.sort().values
    # The threshold is a held-out distance itself: of these, at most 1 % lie below it.
    place = max(int(QUANTILE * len(ordered)), int((ordered == 0).sum()))
    return generated < ordered[min(place, len(ordered) - 1)]


def distinct_share(images: NDArray[np.uint8]) -> float:
    """Return the number of different images over the number of images; images [N,...]."""
    return len({image.tobytes() for image in images}) / len(images)
