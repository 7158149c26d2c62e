"""Progress that suits where it is read: a bar in a terminal or notebook, lines in a log file.

POCKETDDPM_QUIET=1 (or --quiet) leaves bars and notes out; errors and results stay.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from tqdm import tqdm

EVERY = 10.0  # seconds between lines in a log file
PROGRESS_FROM = 2000  # items, in `over`
T = TypeVar("T")
Advance = Callable[[int], object]  # called with how many more items are done


def quiet() -> bool:
    """Return whether bars and notes are unwanted."""
    return os.environ.get("POCKETDDPM_QUIET", "0") not in ("", "0")


def bar(**options: Any) -> "tqdm[Any]":
    """Return a tqdm bar on stderr; the options are tqdm's.

    In a notebook it is tqdm's widget, where ipywidgets is there to draw one. Where stderr is
    neither terminal nor notebook, it prints a line every ten seconds and one at the end.
    """
    options = {"file": sys.stderr, **options}
    options["disable"] = options.get("disable") or quiet()
    if _in_notebook():
        from tqdm.auto import tqdm as automatic

        del options["file"]  # the widget has its own place
        return automatic(**options)
    if sys.stderr.isatty():
        return tqdm(dynamic_ncols=True, **options)
    return Lines(**options)


def over(items: Sequence[T], what: str) -> Iterator[T]:
    """Yield the items under a bar that goes when it is done; a few thousand need none."""
    few = len(items) <= PROGRESS_FROM
    yield from bar(iterable=items, desc=what, disable=few, leave=False)


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


def _in_notebook() -> bool:
    # Only Jupyter's kernel loads this module, and it loads it before anything of ours.
    return "ipykernel.zmqshell" in sys.modules


class Lines(tqdm):  # pyright: ignore[reportMissingTypeArgument]
    """A bar for log files: no carriage returns, a line every ten seconds and one at the end."""

    def __init__(self, *args: Any, **options: Any) -> None:
        """Take tqdm's options; the last line always stays."""
        self._told = time.monotonic()
        self._closing = False
        super().__init__(*args, **{**options, "leave": True, "ascii": True, "ncols": 100})

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write a line, if the last one is ten seconds ago or this is the end."""
        now = time.monotonic()
        if self._closing or now - self._told >= EVERY:
            self._told = now
            # tqdm itself ends the last line.
            self.fp.write((msg or str(self)).strip() + ("" if self._closing else "\n"))
            self.fp.flush()

    def clear(self, nolock: bool = False) -> None:
        """Do nothing: what is in a log file stays there."""

    def close(self) -> None:
        """Write the last line."""
        self._closing = True
        super().close()
