"""Writing files: never over a finished one by accident, never half of one.

Everything is written under a temporary name in the same folder, flushed to the disk, then renamed.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pocketddpm.errors import OutputError

MOST_BYTES = 220  # of a file's name: 255 in most systems, less what temporary names add

# Reading the mask means setting it, for the whole process: done once, before there are threads.
_UMASK = os.umask(0)
os.umask(_UMASK)


def memory_bytes() -> int | None:
    """Return the size of this machine's memory; None where the system does not say (Windows)."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def expanded(path: str | Path) -> Path:
    """Return a path with ~ or ~USER at its start replaced by that home, if there is one."""
    return Path(os.path.expanduser(path))  # pathlib's raises where there is none


def refuse_existing(path: Path, overwrite: bool, *, folder: bool | None = None) -> None:
    """Raise OutputError if `path` cannot be written, or exists (and is not an empty folder).

    folder: whether a folder is to be written, or a file; None leaves open which.
    Called before the work, so that hours of it do not end in a folder that is read-only.
    """
    try:
        here = path if path.is_dir() else next(p for p in path.absolute().parents if p.exists())
        taken = path.exists()
        if path.is_dir():
            taken = not all(p.name.startswith(".") for p in path.iterdir())
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot write {str(path)!r:.300}: {error}") from error
    if not here.is_dir() or not os.access(here, os.W_OK):
        raise OutputError(f"cannot write {path}: {here} is not a folder that you may write to")
    if path.exists() and folder is not None and folder != path.is_dir():
        found, wanted = ("a file", "a folder") if folder else ("a folder", "a file")
        raise OutputError(f"cannot write {path}: it is {found}, and {wanted} is to be written")
    if len(os.fsencode(path.name)) > MOST_BYTES:
        raise OutputError(f"cannot write {path}: its name has more than {MOST_BYTES} bytes")
    if taken and not overwrite:
        raise OutputError(f"{path} exists; give --overwrite to replace it, or another --out")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says of a write to `path` into OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path; on success it becomes `path`, on failure it vanishes.

    Raises OutputError when the disk is full or the folder cannot be written.
    """
    # The suffix stays, because libraries choose the format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            # Windows flushes only what it may write.
            with open(temporary, "r+b") as file:
                os.fsync(file.fileno())
            # Some libraries write files that only their owner may read.
            temporary.chmod(0o666 & ~_UMASK)
            os.replace(temporary, path)
            _flush_folder(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink()


def remove_files(folder: Path, *patterns: str) -> None:
    """Remove the files of an earlier output from a folder, by the names that it gave them."""
    with writing(folder):
        for pattern in patterns:
            for path in folder.glob(pattern):
                path.unlink()


def _flush_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename survives a power cut (Windows: nothing to do)."""
    if os.name == "nt":
        return
    entries = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(entries)
    finally:
        os.close(entries)


def file_name(text: str) -> str:
    """Return text as the name of a file: what could lead to another folder becomes '-'."""
    safe = "".join("-" if c in "/\\:" or not c.isprintable() else c for c in text)
    return safe[:100].lstrip(".") or "-"


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file in one piece."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file in one piece."""
    write_text(path, json.dumps(value, indent=2) + "\n")
