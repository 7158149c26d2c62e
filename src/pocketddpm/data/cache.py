"""Decoded images on the disk: a folder is decoded once, by one process, and mapped into memory.

POCKETDDPM_CACHE is the folder of the cache, POCKETDDPM_CACHE_GB the most that decoded images take
there (20); what was not used for longest is removed first.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from math import prod
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from pocketddpm.data.download import cache_root
from pocketddpm.data.files import ImageFiles
from pocketddpm.errors import ConfigError, DataError
from pocketddpm.progress import say

LIMIT_GB = 20.0
FILE, NOTES, HEADER = "images.npy", "notes.txt", 128


def decode_once(files: ImageFiles, key: str) -> tuple[NDArray[np.uint8], list[str]]:
    """Return the decoded images, from the cache where it has them under this key.

    Of several processes that ask at a time, one decodes and the others wait for it. Where the cache
    cannot be written or has too little room, they are decoded into memory, and a line says so.

    Returns: uint8 [N,C,H,W], a read-only memory map or an array; and what decoding changed.

    Raises DataError when files are broken, or differ in size while no size is given.
    """
    count = len(files.sources)
    path = cache_root() / "folders" / key / FILE
    if (images := _open(path, count)) is not None:
        return images, _notes(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.parent / "lock"):
            if (images := _open(path, count)) is None:
                shape, notes = files.survey()
                _make_room(path, HEADER + prod(shape))
                path.with_name(NOTES).write_text("\n".join(notes), encoding="utf-8")
                _write(path, shape, files.decoded(shape[1], shape[2:]))
                images = _open(path, count)
    # No room or no permission: broken image files never get here, they are DataErrors.
    except (OSError, NotImplementedError) as error:
        said = getattr(error, "strerror", None) or error
        say(f"{files.where}: decoded into memory, as the cache cannot be used ({path}: {said})")
        shape, notes = files.survey()
        return files.array(shape), notes
    if images is None:
        raise DataError(f"{path}: was just written, but cannot be read; set POCKETDDPM_CACHE")
    return images, _notes(path)


def _notes(path: Path) -> list[str]:
    with suppress(OSError, ValueError):
        return path.with_name(NOTES).read_text(encoding="utf-8").splitlines()
    return []


def _open(path: Path, count: int) -> NDArray[np.uint8] | None:
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        # Missing, or cut short by a crash: decode again.
        return None
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) != count:
        return None
    with suppress(OSError):
        os.utime(path)  # the time of the last use
    return images


def _write(path: Path, shape: tuple[int, ...], images: Iterator[NDArray[np.uint8]]) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".images-")
    try:
        # Plain writes: a full disk is then an OSError, where writing to a map would be a crash.
        with os.fdopen(handle, "wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for image in images:
                file.write(image.tobytes())
            file.flush()
            os.fsync(file.fileno())  # the name must not outlive the content
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


def _make_room(path: Path, needed: int) -> None:
    """Remove what was not used for longest, until so many bytes fit; OSError if they never do."""
    text = os.environ.get("POCKETDDPM_CACHE_GB") or str(LIMIT_GB)
    try:
        limit = float(text) * 1e9
    except ValueError:
        limit = float("nan")
    if not limit >= 0:
        raise ConfigError(f"POCKETDDPM_CACHE_GB must be a number of gigabytes >= 0, got {text!r}")
    if needed > limit:
        raise OSError(f"{needed / 1e9:.3g} GB are more than POCKETDDPM_CACHE_GB={text} allows")
    # What a crash left half written is removed with its folder, once nobody can be writing it.
    for old in path.parent.glob(".images-*"):
        old.unlink(missing_ok=True)
    entries = []
    for other in path.parent.parent.glob(f"*/{FILE}"):
        try:
            entries.append((other.stat().st_mtime, other.stat().st_size, other.parent))
        except OSError:
            continue
    total = sum(size for _, size, _ in entries)
    for _, size, folder in sorted(entries):
        if total + needed <= limit:
            break
        shutil.rmtree(folder, ignore_errors=True)
        total -= size
