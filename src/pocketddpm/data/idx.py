"""IDX, the file format of MNIST and Fashion-MNIST, plain or gzipped.

A file is a 4-byte magic number (0, 0, type, number of dimensions), one big-endian uint32 per
dimension, then the values in C order. Only type 8, unsigned bytes, occurs here.
"""

import gzip
import hashlib
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal, cast

import numpy as np
from numpy.typing import NDArray

from pocketddpm.data.decode import times
from pocketddpm.data.download import find_or_download
from pocketddpm.data.image_set import ImageSet
from pocketddpm.errors import DataError

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
COUNTS = {"train": 60_000, "test": 10_000}


def read_idx(path: Path, shape: tuple[int, ...], sha256: str | None = None) -> NDArray[np.uint8]:
    """Return the array in one IDX file of unsigned bytes.

    The caller says what the file must hold, and no more than that (and one byte, to see the end)
    is ever read: neither a forged header nor a gzip bomb can fill the memory.

    Args:
        path: the file; it is gunzipped when its name ends in .gz.
        shape: the dimensions that the header must state.
        sha256: checksum, in hex, of the whole uncompressed file; None skips the check.

    Returns: uint8 of that shape, read-only.

    Raises DataError, naming the file, when it is not exactly such a file.
    """
    try:
        # gzip.GzipFile reads like any binary file, but is not declared to be one.
        with path.open("rb") if path.suffix != ".gz" else gzip.open(path, "rb") as file:
            header, values = _read(cast(BinaryIO, file), path, shape)
    except EOFError:
        raise DataError(f"{path}: truncated gzip file; get it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: not a gzip file, or damaged ({error}); get it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if sha256 is not None:
        digest = hashlib.sha256(header)
        digest.update(values)
        if digest.hexdigest() != sha256:
            raise DataError(
                f"{path}: wrong checksum: expected sha256 {sha256} of the uncompressed bytes, "
                f"found {digest.hexdigest()}; this is another file or a damaged one, get it again"
            )
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)


def _read(file: BinaryIO, path: Path, shape: tuple[int, ...]) -> tuple[bytes, bytes]:
    header = file.read(4 + 4 * len(shape))
    magic = bytes((0, 0, 8, len(shape)))
    if header[:4] != magic:
        raise DataError(
            f"{path}: not an IDX file of unsigned bytes in {len(shape)} dimensions: "
            f"magic number {header[:4].hex()}, expected {magic.hex()}"
        )
    if len(header) < 4 + 4 * len(shape):
        raise DataError(f"{path}: truncated within the header; get it again")
    stated = struct.unpack(f">{len(shape)}I", header[4:])
    if stated != shape:
        raise DataError(f"{path}: holds {times(stated)} values, expected {times(shape)}")
    size = math.prod(shape)
    values = file.read(size + 1)
    if len(values) < size:
        raise DataError(f"{path}: truncated: {len(values)} of {size} values; get it again")
    if len(values) > size:
        raise DataError(f"{path}: trailing bytes after the {size} values; get it again")
    return header, values


def load_idx_set(
    name: str,
    folder: str,
    mirrors: Sequence[str],
    sha256: Mapping[str, str],
    classes: tuple[str, ...],
    split: Literal["train", "test"],
    *,
    path: Path | None = None,
    image_size: tuple[int, int] | None = None,
) -> ImageSet:
    """Return one split of a data set that is distributed as MNIST is: images and labels as IDX.

    Args:
        name: the data set's name.
        folder: its folder in torchvision's layout ('MNIST').
        mirrors: addresses of folders that hold the gzipped files, ending in '/'.
        sha256: checksum of the uncompressed bytes for each file name.
        classes: the class names in label order.
        split: which pair of files.
        path: a folder to look in, instead of the data roots and the mirrors.
        image_size: of no effect; the size is fixed.

    Returns: images uint8 [N,1,28,28], labels int64 [N].

    Raises DataError when a file is missing, damaged or not the original.
    """

    def get(file: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        places = [
            f"{where}{file}{suffix}"
            for where in (f"{folder}/raw/", "raw/", "")
            for suffix in (".gz", "")
        ]
        read = partial(read_idx, shape=shape, sha256=sha256[file])
        return find_or_download(places, [f"{url}{file}.gz" for url in mirrors], read, path)

    image_file, label_file = FILES[split]
    images = get(image_file, (COUNTS[split], 28, 28))
    labels = get(label_file, (COUNTS[split],)).astype(np.int64)
    return ImageSet(images[:, None], labels, classes, name)
