"""Progress that suits where it is read: a bar in a terminal or notebook, lines in a log file.

POCKETDDPM_QUIET=1 (or --quiet) leaves bars and notes out; errors and results stay.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from tqdm import tqdm

EVERY = 10.0  # seconds between lines in a log file
PROGRESS_FROM = 2000  # items, in `over`
T = TypeVar("T")
Advance = Callable[[int], object]  # called with how many more items are done


def quiet() -> bool:
    """Return whether bars and notes are unwanted; of several processes only the first has any."""
    wanted = os.environ.get("POCKETDDPM_QUIET", "0") in ("", "0")
    return not wanted or os.environ.get("RANK", "0") != "0"


def bar(**options: Any) -> "tqdm[Any]":
    """Return a tqdm bar on stderr; the options are tqdm's.

    In a notebook it is text, which is stored with the page; a widget is not, and warns where
    ipywidgets is missing. Where stderr is neither terminal nor notebook, it is a line at each end
    and every ten seconds between.
    """
    options = {"file": sys.stderr, **options}
    options["disable"] = options.get("disable") or quiet()
    if "ipykernel.zmqshell" in sys.modules:  # which only Jupyter's kernel loads
        return tqdm(ncols=100, **options)
    if sys.stderr.isatty():
        return tqdm(dynamic_ncols=True, **options)
    lines = {"file": _Lines(), "mininterval": EVERY, "leave": True, "position": 0}
    return tqdm(**{**options, **lines, "ascii": True, "ncols": 100})


def over(items: Sequence[T], what: str, unit: str = "it") -> Iterator[T]:
    """Yield the items under a bar that goes when it is done; a few thousand need none.

    The bar shows how many units a second there are, and the time that is left.
    """
    few = len(items) <= PROGRESS_FROM
    yield from bar(iterable=items, desc=what, unit=f" {unit}s", disable=few, leave=False)


def counter(what: str, total: int, unit: str = "image") -> Advance:
    """Return what is called with how many more items are done; its bar closes when it is full."""
    # Delayed, so that what is refused at once leaves one line and no empty bar.
    shown = bar(
        total=total,
        desc=what,
        unit=unit,
        delay=0.5,
        disable=int(os.environ.get("RANK", "0")) > 0,
    )

    def advance(k: int) -> None:
        shown.update(k)
        if shown.n >= total:
            shown.close()

    return advance


def say(text: str) -> None:
    """Print a note to stderr, above a bar that is being drawn."""
    if not quiet():
        tqdm.write(text, file=sys.stderr)


class _Lines:
    """stderr for log files: a line for what would overwrite the last one in a terminal."""

    def write(self, text: str) -> None:
        if text.strip():
            sys.stderr.write(text.strip() + "\n")
            sys.stderr.flush()
