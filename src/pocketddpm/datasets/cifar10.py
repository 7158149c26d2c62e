"""Photographs of ten kinds of things, 32x32 RGB, 50,000 for training and 10,000 for testing.

Source: https://www.cs.toronto.edu/~kriz/cifar.html (Krizhevsky, 2009), the binary version; the
Python version holds pickles, which are never loaded. The archive is read as it is, without being
unpacked; an unpacked folder cifar-10-batches-bin is read too.
"""

import hashlib
import tarfile
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pocketddpm.data.download import find_or_download
from pocketddpm.data.image_set import ImageSet
from pocketddpm.errors import DataError

FLIP = True
FIT: Literal["pad", "resize"] = "resize"

CLASSES = ("airplane", "automobile", "bird", "cat", "deer",
           "dog", "frog", "horse", "ship", "truck")  # fmt: skip
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
ARCHIVE = "cifar-10-binary.tar.gz"
FOLDER = "cifar-10-batches-bin"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
FILES = {
    "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    "test": ("test_batch.bin",),
}
# A record is one label byte, then the planes R, G, B of 32x32 bytes; a file holds 10,000 records.
RECORD_BYTES = 1 + 3 * 32 * 32
FILE_BYTES = 30_730_000


def load(
    split: Literal["train", "test"],
    *,
    path: Path | None = None,
    image_size: tuple[int, int] | None = None,
) -> ImageSet:
    """Return one split: images uint8 [N,3,32,32], labels int64 [N].

    path: a folder to look in, instead of the data roots and the download.
    image_size: of no effect; the size is fixed.

    Raises DataError when the files are missing, damaged or not the originals.
    """

    def read(found: Path) -> list[bytes]:
        return (_read_folder if found.is_dir() else _read_archive)(found, FILES[split])

    batches = find_or_download((ARCHIVE, FOLDER), (URL,), read, root=path)
    records = _records(batches)
    images = np.ascontiguousarray(records[:, 1:]).reshape(-1, 3, 32, 32)
    return ImageSet(images, records[:, 0].astype(np.int64), CLASSES, "cifar10")


def _records(batches: list[bytes]) -> NDArray[np.uint8]:
    return np.concatenate([np.frombuffer(b, np.uint8).reshape(-1, RECORD_BYTES) for b in batches])


def _read_folder(folder: Path, names: tuple[str, ...]) -> list[bytes]:
    batches = []
    for name in names:
        path = folder / name
        try:
            with path.open("rb") as file:
                data = file.read(FILE_BYTES + 1)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from None
        if len(data) != FILE_BYTES:
            raise DataError(f"{path}: must have exactly {FILE_BYTES} bytes; unpack it again")
        batches.append(data)
    return batches


def _read_archive(archive: Path, names: tuple[str, ...]) -> list[bytes]:
    found: dict[str, bytes] = {}
    try:
        with archive.open("rb") as file:
            digest = hashlib.md5(usedforsecurity=False)
            while chunk := file.read(1 << 20):
                digest.update(chunk)
            if digest.hexdigest() != MD5:
                raise DataError(
                    f"{archive}: wrong checksum: expected md5 {MD5}, found {digest.hexdigest()}; "
                    f"get it again from {URL}"
                )
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:gz") as tar:
                # Members are only ever read into memory: no name in the archive becomes a path.
                for member in tar:
                    name = member.name.removeprefix(f"{FOLDER}/")
                    if name in names and member.isreg() and member.size == FILE_BYTES:
                        content = tar.extractfile(member)
                        found[name] = content.read(FILE_BYTES) if content else b""
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise DataError(f"{archive}: damaged archive ({error}); get it again") from None
    except OSError as error:
        raise DataError(f"{archive}: cannot be read ({error})") from None
    if missing := [name for name in names if len(found.get(name, b"")) != FILE_BYTES]:
        raise DataError(f"{archive}: holds no {FOLDER}/{missing[0]} of {FILE_BYTES} bytes")
    return [found[name] for name in names]
