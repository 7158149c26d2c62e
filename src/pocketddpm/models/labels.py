"""Labels as numbers, from all forms in which they are given."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pocketddpm.errors import ConfigError, listed, unknown
from pocketddpm.noise import Role, uniform

Labels = str | int | Sequence[int] | Sequence[str] | NDArray[np.int64] | None
"""'all' or a list such as '3,7'; class names; numbers 0..classes (classes: no label); or None."""

NO_LABEL = "no-label"


def label_numbers(
    labels: Labels, n: int, classes: tuple[str, ...], counts: tuple[int, ...], seed: int = 0
) -> NDArray[np.int64] | None:
    """Return n label numbers, int64 [n]; None for None, and for 'all' of a model without labels.

    classes, counts: names, and images in the training set. 'all' keeps the training set's
    proportions, exactly up to rounding, in shuffled order; anything else is cycled.
    Raises ConfigError as `listed_numbers` does.
    """
    listed = listed_numbers(labels, classes)
    if listed is not None:
        return np.resize(listed, n)
    if labels is None or not classes:
        return None
    order = uniform(seed, Role.SAMPLE_LABELS, torch.arange(n)).argsort().numpy()
    return np.repeat(np.arange(len(classes)), share(counts, n))[order]


def listed_numbers(labels: Labels, classes: tuple[str, ...]) -> NDArray[np.int64] | None:
    """Return the numbers of labels as they are listed, int64; None for None and 'all'.

    Text is a list of names, see `class_number`. Whole numbers are positions among the classes, and
    where classes are called by other numbers only an array of them is taken, as `Samples.labels` is
    one: [3] is not told from ["3"]. Raises ConfigError for labels that there are not.
    """
    if labels is None or (isinstance(labels, str) and labels == "all"):
        return None
    if not classes:
        raise ConfigError("this model was trained without labels; leave out --labels")
    names = split_names(labels, classes) if isinstance(labels, str) else labels
    given = np.atleast_1d(np.asarray(names))
    if given.dtype.kind == "U":
        return np.array([class_number(str(name), classes) for name in given], np.int64)
    if given.dtype.kind not in "iu" or given.ndim != 1 or not len(given):
        raise ConfigError(f"labels are class names or whole numbers, got {labels!r}")
    for k in given.tolist():
        if not 0 <= k <= len(classes):
            raise ConfigError(
                f"label numbers lie in 0..{len(classes) - 1} ({listed(classes)}), or "
                f"{len(classes)} for no label; got {k}"
            )
        called = classes[k] if k < len(classes) else NO_LABEL
        other = called != str(k) and (called.isdecimal() or str(k) in classes)
        if other and not isinstance(labels, np.ndarray):
            raise ConfigError(
                f"label {k} is ambiguous, as the classes are called {listed(classes)}; give "
                f"the name as text, '{k}', or positions as an array"
            )
    return given.astype(np.int64)


def class_number(name: str, classes: tuple[str, ...]) -> int:
    """Return the position of a class; 'no-label' is the one after the last.

    name: in any case, where that is the name of one class alone; or a position, where no class is
    called by a number. Raises ConfigError, with the nearest names, if there is none.
    """
    if not classes:
        raise ConfigError(f"this model was trained without labels; leave label '{name}' out")
    if name in classes:
        return classes.index(name)
    alike = [k for k, c in enumerate((*classes, NO_LABEL)) if _plain(c) == _plain(name)]
    if len(alike) == 1:
        return alike[0]
    if name.isdecimal() and int(name) < len(classes) and not any(c.isdecimal() for c in classes):
        return int(name)
    raise unknown("label", name, classes)


def split_names(text: str, classes: tuple[str, ...]) -> list[str]:
    """Return the names in 'a,b,c'; a class whose own name holds commas is one of them."""
    known = {_plain(name) for name in classes}
    parts, names = text.split(","), []
    while parts:
        ends = range(len(parts), 1, -1)
        end = next((k for k in ends if _plain(",".join(parts[:k])) in known), 1)
        names.append(",".join(parts[:end]).strip())
        parts = parts[end:]
    return names


def _plain(name: str) -> str:
    """Return a name without differences of case, and of blanks beside commas."""
    return ",".join(part.strip() for part in name.casefold().split(","))


def share(counts: tuple[int, ...], n: int) -> NDArray[np.int64]:
    """Return whole numbers that add up to n, in the proportions of counts (largest remainder)."""
    exact = np.array(counts, np.float64) / sum(counts) * n
    whole = np.floor(exact).astype(np.int64)
    whole[np.argsort(whole - exact, kind="stable")[: n - whole.sum()]] += 1
    return whole
