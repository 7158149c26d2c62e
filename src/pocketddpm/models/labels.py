"""Labels as numbers, from all forms in which they are given."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pocketddpm.errors import ConfigError, unknown
from pocketddpm.noise import Role, uniform

Labels = str | int | Sequence[int] | Sequence[str] | NDArray[np.int64] | None
"""'all' or a list such as '3,7'; class names; numbers 0..classes (classes: no label); or None."""


def label_numbers(
    labels: Labels, n: int, classes: tuple[str, ...], counts: tuple[int, ...], seed: int = 0
) -> NDArray[np.int64] | None:
    """Return n label numbers, int64 [n]; None for None, and for 'all' of a model without labels.

    classes, counts: names, and images in the training set. 'all' keeps the training set's
    proportions, exactly up to rounding, in shuffled order; a list is cycled. Names are class names,
    or positions where no class is named by a number.
    Raises ConfigError for a label that there is not.
    """
    if labels is None or (not classes and isinstance(labels, str) and labels == "all"):
        return None
    if not classes:
        raise ConfigError("this model was trained without labels; leave out --labels")
    if isinstance(labels, str):
        if labels == "all":
            order = uniform(seed, Role.SAMPLE_LABELS, torch.arange(n)).argsort().numpy()
            return np.repeat(np.arange(len(classes)), share(counts, n))[order]
        labels = [name.strip() for name in labels.split(",")]
    given = np.atleast_1d(np.asarray(labels))
    if given.dtype.kind == "U":
        given = np.array([class_number(str(name), classes) for name in given])
    if given.dtype.kind not in "iu" or given.ndim != 1 or not len(given):
        raise ConfigError(f"labels are class names or whole numbers, got {labels!r}")
    wrong = given[(given < 0) | (given > len(classes))]
    if len(wrong):
        raise ConfigError(
            f"label numbers lie in 0..{len(classes) - 1} ({', '.join(classes)}), or "
            f"{len(classes)} for no label; got {wrong[0]}"
        )
    return np.resize(given.astype(np.int64), n)


def count_labels(labels: Labels) -> int:
    """Return how many images labels ask for by themselves: one for 'all' and for None."""
    if labels is None or isinstance(labels, str):
        return 1 if labels is None or labels == "all" else len(labels.split(","))
    return int(np.size(labels))


def class_number(name: str, classes: tuple[str, ...]) -> int:
    """Return the position of a class; ConfigError, with the nearest names, if there is none."""
    if name in classes:
        return classes.index(name)
    if name.isdecimal() and int(name) < len(classes) and not any(c.isdecimal() for c in classes):
        return int(name)
    raise unknown("label", name, classes)


def share(counts: tuple[int, ...], n: int) -> NDArray[np.int64]:
    """Return whole numbers that add up to n, in the proportions of counts (largest remainder)."""
    exact = np.array(counts, np.float64) / sum(counts) * n
    whole = np.floor(exact).astype(np.int64)
    whole[np.argsort(whole - exact, kind="stable")[: n - whole.sum()]] += 1
    return whole
