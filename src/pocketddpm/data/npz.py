""".npz files from untrusted sources: nothing is executed, and memory is bounded.

numpy's reader allocates what a header states; here it must agree with the file's size first.
"""

import zipfile
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pocketddpm.errors import DataError

MAX_BYTES = 2 * 2**30  # uncompressed, of one array: 2.7 million MNIST images
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class MissingArray(DataError):
    """An .npz file that holds none of the arrays wanted."""


def read_npz(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return those of the named arrays that an .npz file holds, in the order of `names`.

    Raises DataError when it is missing, damaged, larger than it says, or holds objects (which would
    have to be executed); MissingArray when it holds none of the names.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {i.filename.removesuffix(".npy"): i for i in archive.infolist()}
            found = {n: _read(archive, members[n], path) for n in names if n in members}
    except DataError:
        raise
    # A damaged archive can make the reader raise almost anything.
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} cannot be read as an .npz file: {said}") from error
    if not found:
        holds = ", ".join(sorted(members)[:10]) or "nothing"
        raise MissingArray(f"{path} holds {holds}, but no array '{names[0]}'")
    return found


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
