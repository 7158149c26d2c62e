"""Any folder of images: listed in natural order, decoded once into a memory-mapped cache."""

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pocketddpm.data.download import cache_root
from pocketddpm.data.files import ImageFiles, how_sized
from pocketddpm.data.image_set import ImageSet
from pocketddpm.errors import DataError

SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
)
# Part of the cache's key; raise it whenever files come to be decoded differently.
DECODER_VERSION = 1


def load_folder(
    folder: Path, image_size: tuple[int, int] | None = None, name: str | None = None
) -> ImageSet:
    """Return all images under a folder, labelled by its immediate sub-folders where that fits.

    Files and folders whose names begin with a dot are passed over.

    Args:
        folder: searched recursively, links included.
        image_size: (height, width) to reach by centre crop and resize; None keeps the common size.
        name: the set's name; the folder's own when None.

    Returns: images uint8 [N,C,H,W] in natural order of the paths, C = 1 when every file is grey and
        3 otherwise; labels int64 [N], or None unless every image lies in one of at least two
        sub-folders.

    Raises DataError when the folder is missing or holds no images, when files are broken, or when
    their sizes differ and image_size is None.
    """
    paths = list_images(folder)
    classes, labels = label_by_folder(folder, paths)
    images = decode_files(folder, paths, image_size)
    return ImageSet(images, labels, classes, name or folder.resolve().name, how_sized(image_size))


def list_images(folder: Path) -> list[Path]:
    """Return the image files under a folder, in natural order ('2.png' before '10.png').

    Raises DataError when the folder is missing, is a file, is unreadable or holds no images.
    """
    if not folder.exists():
        raise DataError(f"{folder}: no such folder")
    if not folder.is_dir():
        raise DataError(f"{folder}: is a file; give the folder that holds the images")

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be listed ({error.strerror})")

    paths: list[Path] = []
    seen: set[str] = set()
    for here, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        # A link to a folder above would otherwise be followed for ever.
        seen.add(os.path.realpath(here))
        folders[:] = [
            sub
            for sub in folders
            if not sub.startswith(".") and os.path.realpath(os.path.join(here, sub)) not in seen
        ]
        paths += [
            Path(here, name)
            for name in names
            if os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")
        ]
    if not paths:
        kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
        raise DataError(f"{folder}: holds no images ({kinds})")
    return sorted(paths, key=lambda path: _natural(path.relative_to(folder).parts))


def _natural(parts: Sequence[str]) -> list[tuple[list[str | int], str]]:
    """Return a sort key that compares runs of digits as numbers, folder by folder."""

    def key(part: str) -> list[str | int]:
        # Splitting on a group alternates text and digits, so only like is compared with like.
        pieces = re.split(r"([0-9]+)", part)
        return [int(p) if i % 2 else p.lower() for i, p in enumerate(pieces)]

    return [(key(part), part) for part in parts]


def label_by_folder(
    folder: Path, paths: Sequence[Path]
) -> tuple[tuple[str, ...], NDArray[np.int64] | None]:
    """Return the class names and labels that the immediate sub-folders give to `paths`.

    Returns: names in natural order and int64 [N]; or () and None, when an image lies in the folder
        itself or when all lie in one sub-folder.
    """
    inner = [path.relative_to(folder).parts for path in paths]
    classes = sorted({parts[0] for parts in inner}, key=lambda part: _natural((part,)))
    if len(classes) < 2 or any(len(parts) == 1 for parts in inner):
        return (), None
    number = {name: label for label, name in enumerate(classes)}
    return tuple(classes), np.array([number[parts[0]] for parts in inner], dtype=np.int64)


def decode_files(
    folder: Path, paths: Sequence[Path], image_size: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """Return the decoded images, from the cache when the files have not changed since.

    The key is made of the folder, and of the names, sizes and times of the files. When the cache
    cannot be written, the images are decoded into memory.

    Args:
        folder: what the paths are relative to.
        paths: the files, in the order wanted.
        image_size: (height, width) to reach by centre crop and resize; None keeps the common size.

    Returns: uint8 [N,C,H,W], a read-only memory map or an array.

    Raises DataError when files are broken, or differ in size while image_size is None.
    """
    cached = cache_root() / "folders" / _key(folder, paths, image_size) / "images.npy"
    if (images := _open_cache(cached, len(paths))) is not None:
        return images
    names = [str(path.relative_to(folder)) for path in paths]
    files = ImageFiles(str(folder), names, paths, image_size)
    shape = files.shape()
    try:
        _write_cache(cached, shape, files.decoded(shape[1], shape[2:]))
    except OSError:
        # No room or no permission: broken image files never get here, they are DataErrors.
        return files.array(shape)
    images = _open_cache(cached, len(paths))
    if images is None:
        raise DataError(f"{cached}: was just written, but cannot be read; set POCKETDDPM_CACHE")
    return images


def _key(folder: Path, paths: Sequence[Path], image_size: tuple[int, int] | None) -> str:
    digest = hashlib.sha256()
    digest.update(repr((DECODER_VERSION, str(folder.resolve()), image_size)).encode())
    for path in paths:
        try:
            stat = path.stat()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from None
        facts = (str(path.relative_to(folder)), stat.st_size, stat.st_mtime_ns)
        digest.update(repr(facts).encode())
    return digest.hexdigest()


def _open_cache(cached: Path, count: int) -> NDArray[np.uint8] | None:
    try:
        images = np.load(cached, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        # Missing, or cut short by a crash: decode again.
        return None
    fits = images.dtype == np.uint8 and images.ndim == 4 and len(images) == count
    return images if fits else None


def _write_cache(cached: Path, shape: tuple[int, ...], images: Iterator[NDArray[np.uint8]]) -> None:
    cached.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=cached.parent, prefix=".images-")
    try:
        # Plain writes: a full disk is then an OSError, where writing to a map would be a crash.
        with os.fdopen(handle, "wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for image in images:
                file.write(image.tobytes())
        Path(name).replace(cached)
    finally:
        Path(name).unlink(missing_ok=True)
