"""Sampling and scoring shared among processes: the results of one process, whatever their number.

Work is dealt out in the batches that one process would make, so that even the last bit agrees.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pocketddpm.distributed import count, gathered, join, rank
from pocketddpm.metrics.extractor import Extractor, Features
from pocketddpm.models.model import Model, Samples, Watch

FEATURE_BATCH = 100


def mine(n: int, batch_size: int) -> list[slice]:
    """Return this process's batches of 0..n-1."""
    slices = [slice(start, min(start + batch_size, n)) for start in range(0, n, batch_size)]
    return slices[rank() :: count()]


def sample_together(
    model: Model,
    n: int,
    *,
    labels: NDArray[np.int64] | None,
    batch_size: int,
    watch: Watch,
    **settings: Any,
) -> Samples:
    """Return what `model.sample` returns, drawn by all processes; every process gets all of it.

    watch: is told of this process's batches only.
    """
    join()
    parts: list[tuple[slice, NDArray[np.uint8], int]] = []
    for which in mine(n, batch_size):
        drawn = model.sample(
            which.stop - which.start,
            labels=None if labels is None else labels[which],
            batch_size=batch_size,
            first=which.start,
            watch=lambda _, state, which=which: watch(which, state),
            **settings,
        )
        parts.append((which, drawn.images, drawn.nfe))
    images = np.empty((n, *model.shape), np.uint8)
    nfe = 0
    for which, part, calls in (p for theirs in gathered(parts) for p in theirs):
        images[which], nfe = part, calls
    return Samples(images, labels, nfe)


def features_together(
    extractor: Extractor, images: NDArray[np.uint8], progress: Callable[[int], object]
) -> Features:
    """Return what `extractor(images)` returns, computed by all processes."""
    join()
    parts = [
        (which.start, extractor(images[which], batch_size=FEATURE_BATCH, progress=progress))
        for which in mine(len(images), FEATURE_BATCH)
    ]
    everyone = sorted((p for theirs in gathered(parts) for p in theirs), key=lambda p: p[0])
    logits = [part.logits for _, part in everyone if part.logits is not None]
    values = torch.cat([part.values for _, part in everyone])
    return Features(values, torch.cat(logits) if logits else None)
