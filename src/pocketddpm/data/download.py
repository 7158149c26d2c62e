"""Where the files of the built-in data sets come from: a folder of the user's, or a mirror.

Environment variables: POCKETDDPM_DATA is the user's folder of data sets (in torchvision's layout),
POCKETDDPM_CACHE the folder for downloads and decoded images, POCKETDDPM_OFFLINE=1 forbids
downloads (0, "false" or nothing allows them).
"""

import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pocketddpm.errors import DataError

T = TypeVar("T")

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0


def offline() -> bool:
    """Return whether POCKETDDPM_OFFLINE forbids downloads and uploads."""
    return os.environ.get("POCKETDDPM_OFFLINE", "").lower() not in ("", "0", "false", "no")


def cache_root() -> Path:
    """Return the folder for downloads and decoded images (it need not exist)."""
    if chosen := os.environ.get("POCKETDDPM_CACHE"):
        return Path(chosen).expanduser()
    return Path(_pooch().os_cache("pocketddpm"))


def data_roots() -> list[Path]:
    """Return the folders to search for data sets, in order: the user's, then the cache."""
    chosen = os.environ.get("POCKETDDPM_DATA")
    return ([Path(chosen).expanduser()] if chosen else []) + [cache_root()]


def find(places: Sequence[str], root: Path | None = None) -> Path | None:
    """Return the first of `places` that exists under a data root, or None.

    places: relative paths, best first.
    root: a folder to search instead of `data_roots()`.
    """
    for folder in data_roots() if root is None else [root]:
        for place in places:
            if (folder / place).exists():
                return folder / place
    return None


def not_found(places: Sequence[str], root: Path | None = None, tried: str = "") -> DataError:
    """Return the error that says where `places` were looked for and how to give them.

    tried: what else was tried, in words; empty when nothing was.
    """
    if root is not None:
        return DataError(f"{root} does not hold {' or '.join(places)}")
    looked = ", ".join(str(folder) for folder in data_roots())
    also = f"; {tried}" if tried else ""
    return DataError(
        f"cannot find {places[0]}: looked in {looked}{also}; "
        f"set POCKETDDPM_DATA to a folder that holds {places[0]}"
    )


def find_or_download(
    places: Sequence[str],
    urls: Sequence[str],
    read: Callable[[Path], T],
    root: Path | None = None,
) -> T:
    """Return what `read` makes of the first copy found, else of the first good download.

    `read` both reads and verifies, so every byte is read once; a download enters the cache, as the
    first of `places`, only after `read` has accepted it.

    Args:
        places: relative paths under a data root, best first.
        urls: mirrors of the first place, tried in turn.
        read: turns a path into the result; raises DataError when the file is not the right one.
        root: a folder to search instead of the data roots; nothing is downloaded then.

    Raises DataError when a found file is not the right one (no other copy is tried, so that
    damage is noticed), or when no copy is found.
    """
    if (found := find(places, root)) is not None:
        return read(found)
    if root is not None:
        raise not_found(places, root)
    if offline():
        raise not_found(places, tried="downloads are off (POCKETDDPM_OFFLINE)")
    target = cache_root() / places[0]
    failures = []
    for url in urls:
        try:
            return _download(url, target, read)
        except DataError as error:
            failures.append(str(error))
        # requests' errors, a full disk and a read-only cache are all OSError.
        except OSError as error:
            failures.append(f"{url}: {error.strerror or type(error).__name__}")
    raise not_found(places, tried=f"downloads failed ({'; '.join(failures)})")


def _download(url: str, target: Path, read: Callable[[Path], T]) -> T:
    target.parent.mkdir(parents=True, exist_ok=True)
    # The real name comes last, because readers look at the suffix.
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=f"-{target.name}")
    os.close(handle)
    temporary = Path(name)
    try:
        fetch = _pooch().HTTPDownloader(
            progressbar=sys.stderr.isatty(),
            chunk_size=1 << 16,
            timeout=(CONNECT_SECONDS, READ_SECONDS),
        )
        fetch(url, name, None)
        try:
            result = read(temporary)
        except DataError as error:
            raise DataError(str(error).replace(name, url)) from error
        temporary.replace(target)
        return result
    finally:
        temporary.unlink(missing_ok=True)


def _pooch() -> Any:
    """Import pooch without what tqdm says in a notebook where ipywidgets is missing."""
    from tqdm import TqdmWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TqdmWarning)
        import pooch
    return pooch
