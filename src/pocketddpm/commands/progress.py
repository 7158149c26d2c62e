"""Progress on stderr, for every verb that measures."""

from collections.abc import Callable


def progress_bar(what: str, total: int) -> Callable[[int], object]:
    """Return what is called with images done; draws a bar on stderr that closes when full."""
    import os
    import sys

    from tqdm import tqdm

    # Delayed, so that what is refused at once leaves one line and no empty bar.
    bar = tqdm(
        total=total,
        desc=what,
        unit="image",
        file=sys.stderr,
        dynamic_ncols=True,
        delay=0.5,
        disable=int(os.environ.get("RANK", "0")) > 0,
    )

    def update(k: int) -> None:
        bar.update(k)
        if bar.n >= total:
            bar.close()

    return update
