"""Progress on stderr, for every verb that measures."""

import os
from collections.abc import Callable


def progress_bar(what: str, total: int) -> Callable[[int], object]:
    """Return what is called with images done; draws a bar on stderr that closes when full."""
    from pocketddpm.progress import bar as new_bar

    # Delayed, so that what is refused at once leaves one line and no empty bar.
    bar = new_bar(
        total=total,
        desc=what,
        unit="image",
        delay=0.5,
        disable=int(os.environ.get("RANK", "0")) > 0,
    )

    def update(k: int) -> None:
        bar.update(k)
        if bar.n >= total:
            bar.close()

    return update
