""".npz files from untrusted sources: nothing is executed, and memory is bounded.

numpy's reader allocates what a header states; here it must agree with the file's size first.
"""

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pocketddpm.errors import DataError, listed

MAX_BYTES = 2 * 2**30  # uncompressed, of one array: 2.7 million MNIST images
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
Members = dict[str, zipfile.ZipInfo]


class MissingArray(DataError):
    """An .npz file that holds none of the arrays wanted."""


def array_names(path: Path) -> list[str]:
    """Return the names of the arrays in an .npz file; DataError when it is missing or damaged."""
    with _opened(path) as (_, members):
        return list(members)


def read_npz(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return those of the named arrays that an .npz file holds, in the order of `names`.

    Raises DataError when it is missing, damaged, larger than it says, or holds objects (which would
    have to be executed); MissingArray when it holds none of the names.
    """
    with _opened(path) as (archive, members):
        found = {n: _read(archive, members[n], path) for n in names if n in members}
    if not found:
        holds = listed(sorted(members)) or "nothing"
        raise MissingArray(f"{path} holds {holds}, but no array '{names[0]}'")
    return found


@contextmanager
def _opened(path: Path) -> Iterator[tuple[zipfile.ZipFile, Members]]:
    """Open an archive; whatever goes wrong with it until it is closed is a DataError."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive, {i.filename.removesuffix(".npy"): i for i in archive.infolist()}
    except DataError:
        raise
    # A damaged archive can make the reader raise almost anything.
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} cannot be read as an .npz file: {said}") from error


def read_images(path: Path, names: Sequence[str]) -> NDArray[np.uint8]:
    """Return the first of the named arrays that an .npz file holds as images, uint8 [N,C,H,W].

    It is uint8 [N,H,W] or [N,H,W,C], C of 1 or 3. Raises DataError for another one, as `read_npz`
    does.
    """
    images = next(iter(read_npz(path, names).values()))
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or not images.size:
        raise DataError(
            f"{path}: images must be uint8 [N,H,W] or [N,H,W,C], got {images.dtype} "
            f"{list(images.shape)}; round and clip them to 0..255 first"
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.shape[3] not in (1, 3):
        raise DataError(f"{path}: the last axis is the colour (1 or 3), got {list(images.shape)}")
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def read_labels(path: Path, count: int | None, names: Sequence[str]) -> NDArray[np.int64] | None:
    """Return the first of the named arrays as labels, int64 [count]; None where there is none.

    It holds whole numbers, [N] or [N,1]. count: how many there must be; None for any number.
    Raises DataError for others, as `read_npz` does.
    """
    if (labels := _optional(path, *names)) is None:
        return None
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.dtype.kind not in "iu" or flat.ndim != 1 or len(flat) != (count or len(flat)):
        raise DataError(
            f"{path}: labels must be {'' if count is None else f'{count} '}whole numbers, one for "
            f"each image, got {labels.dtype} {list(labels.shape)}"
        )
    return flat.astype(np.int64)


def read_classes(path: Path) -> tuple[str, ...] | None:
    """Return the names that labels stand for, in order; None where the file has none."""
    if (names := _optional(path, "classes")) is None:
        return None
    if names.dtype.kind != "U" or names.ndim != 1:
        raise DataError(f"{path}: classes must be a list of names, got {names.dtype}")
    return tuple(str(name) for name in names)


def _optional(path: Path, *names: str) -> NDArray[Any] | None:
    try:
        return next(iter(read_npz(path, names).values()))
    except MissingArray:
        return None


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> NDArray[Any]:
    what = f"{path}: {member.filename}"
    # Other compressions, which numpy never writes, may claim gigabytes for their own tables.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{what} is compressed by a method other than numpy's (stored or deflated)")
    if member.file_size > MAX_BYTES:
        raise DataError(
            f"{what} holds {member.file_size:,} bytes; the most is {MAX_BYTES:,}: split the file"
        )
    with archive.open(member) as file:
        return _array(file, member.file_size, what)


def _array(file: IO[bytes], size: int, what: str) -> NDArray[Any]:
    """Return the array in an .npy file of `size` bytes."""
    version = np.lib.format.read_magic(file)
    if version not in HEADERS:
        raise DataError(f"{what}: .npy version {version}; versions 1.0 and 2.0 can be read")
    shape, fortran, dtype = HEADERS[version](file)
    if dtype.kind not in "biufU":
        raise DataError(f"{what}: holds {dtype}, but only numbers and text can be read")
    stated, there = prod(shape) * dtype.itemsize, size - file.tell()
    if stated != there:
        raise DataError(f"{what} is damaged: {there} bytes, but its header states {stated}")
    values = file.read(stated)
    if len(values) != stated or file.read(1):
        raise DataError(
            f"{what} is damaged: it does not hold the {stated} bytes that its header states"
        )
    array = np.frombuffer(values, dtype)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)
