"""Decoded images on the disk: a set is decoded once, by one process, and mapped into memory.

POCKETDDPM_CACHE is the folder of the cache, POCKETDDPM_CACHE_GB the most that decoded images take
there (20); what was not used for longest is removed first.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from pocketddpm.data.decode import DECODER_VERSION
from pocketddpm.data.download import cache_root
from pocketddpm.data.files import Found, ImageFiles
from pocketddpm.errors import ConfigError, DataError
from pocketddpm.progress import say

LIMIT_GB = 20.0
FILE, ABOUT, LOCK, HEADER = "images.npy", "about.json", "lock", 128


@dataclass(frozen=True)
class Entry:
    """One set of decoded images in the cache.

    where: what was decoded, a folder or a data set. size: bytes. used: when it was last opened, in
    seconds since 1970.
    """

    folder: Path
    where: str
    shape: tuple[int, ...]
    size: int
    used: float


def decode_once(
    files: ImageFiles, place: str, stamps: Iterable[object]
) -> tuple[NDArray[np.uint8], Found]:
    """Return the decoded images, from the cache when the files have not changed since.

    Of several processes that ask at a time, one decodes and the others wait for it. Where the cache
    cannot be written or has too little room, they are decoded into memory, and a line says so.

    place: where the files are, unlike any other place. stamps: what changes when one of them does,
    such as its time; both are compared by their repr, and so is the reading.

    Returns: uint8 [N,C,H,W], a read-only memory map or an array; and what the files were found
    to be.

    Raises DataError when files are broken, or differ in size while no size is given.
    """
    digest = hashlib.sha256(repr((DECODER_VERSION, place, files.reading)).encode())
    for stamp in stamps:
        digest.update(repr(stamp).encode())
    path = cache_folder() / digest.hexdigest() / FILE
    if (cached := _open(path, files)) is not None:
        return cached
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.parent, files.where):
            if (cached := _open(path, files)) is None:
                found = files.survey()
                _make_room(path, HEADER + prod(found.shape))
                _write(path, found.shape, files.decoded(found))
                about = {"where": files.where, "notes": found.notes}
                about |= {"background": found.reading.background, "span": found.reading.span}
                path.with_name(ABOUT).write_text(json.dumps(about), encoding="utf-8")
                cached = _open(path, files)
    # No room or no permission: broken image files never get here, they are DataErrors.
    except (OSError, NotImplementedError) as error:
        said = getattr(error, "strerror", None) or error
        say(f"{files.where}: decoded into memory, as the cache cannot be used ({path}: {said})")
        found = files.survey()
        return files.array(found), found
    if cached is None:
        raise DataError(f"{path}: was just written, but cannot be read; set POCKETDDPM_CACHE")
    return cached


def cache_folder() -> Path:
    """Return the folder of the decoded images (it need not exist)."""
    return cache_root() / "folders"


def entries() -> list[Entry]:
    """Return what the cache holds; what was not used for longest comes first."""
    found = []
    for path in cache_folder().glob(f"*/{FILE}"):
        # Another process may remove it meanwhile; what a crash cut short has no shape.
        with suppress(OSError):
            stat, shape = path.stat(), ()
            with suppress(ValueError, EOFError):
                shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
            where = _about(path).get("where", "decoded by an older version")
            found.append(Entry(path.parent, str(where), shape, stat.st_size, stat.st_mtime))
    return sorted(found, key=lambda entry: entry.used)


def clear() -> tuple[int, list[Path]]:
    """Remove all decoded images; return how many bytes, and what could not be removed.

    What another process decodes at present stays; what it has mapped into memory stays readable.
    """
    size, kept = 0, []
    for folder in cache_folder().glob("*/"):
        files = [(path, path.stat().st_size) for path in folder.glob("*images*")]
        try:
            with FileLock(folder / LOCK, timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
        except (Timeout, OSError):
            kept.append(folder)
        size += sum(before for path, before in files if not path.exists())
    return size, kept


def limit_bytes() -> float:
    """Return how much room POCKETDDPM_CACHE_GB gives; ConfigError where it is no such number."""
    text = os.environ.get("POCKETDDPM_CACHE_GB") or str(LIMIT_GB)
    try:
        limit = float(text) * 1e9
    except ValueError:
        limit = float("nan")
    if not limit >= 0:
        raise ConfigError(f"POCKETDDPM_CACHE_GB must be a number of gigabytes >= 0, got {text!r}")
    return limit


@contextmanager
def _locked(folder: Path, where: str) -> Iterator[None]:
    """Hold the lock of an entry; a line says so where another process decodes already."""
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=1)
    except Timeout:
        say(f"{where}: another process decodes these images; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _about(path: Path) -> dict[str, Any]:
    """Return what was decoded, and what it was found to be; nothing where that is not known."""
    try:
        return dict(json.loads(path.with_name(ABOUT).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _open(path: Path, files: ImageFiles) -> tuple[NDArray[np.uint8], Found] | None:
    about = _about(path)
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(files.sources):
            return None
        reading = replace(
            files.reading,
            channels=images.shape[1],
            background=about["background"],
            span=about["span"] and (float(about["span"][0]), float(about["span"][1])),
        )
        found = Found(images.shape, reading, [str(note) for note in about["notes"]])
    except (OSError, ValueError, EOFError, KeyError, TypeError, IndexError):
        # Missing, cut short by a crash, or of an older version: decode again.
        return None
    with suppress(OSError):
        os.utime(path)  # the time of the last use
    return images, found


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
    limit = limit_bytes()
    if needed > limit:
        text = os.environ.get("POCKETDDPM_CACHE_GB", LIMIT_GB)
        raise OSError(f"{needed / 1e9:.3g} GB are more than POCKETDDPM_CACHE_GB={text} allows")
    # What a crash left half written is removed with its folder, once nobody can be writing it.
    for old in path.parent.glob(".images-*"):
        old.unlink(missing_ok=True)
    there = entries()
    total = sum(entry.size for entry in there)
    for entry in there:
        if total + needed <= limit:
            break
        shutil.rmtree(entry.folder, ignore_errors=True)
        total -= entry.size
