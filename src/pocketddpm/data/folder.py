"""Any folder of images: listed in natural order, decoded once into a memory-mapped cache."""

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pocketddpm.data.decode import GREY_MODES, decode, only_size, opened, times, turned_size
from pocketddpm.data.download import cache_root
from pocketddpm.data.image_set import ImageSet
from pocketddpm.errors import DataError
from pocketddpm.progress import over

if TYPE_CHECKING:
    pass

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
    source = "" if image_size is None else f"centre crop and resize to {times(image_size)}"
    return ImageSet(images, labels, classes, name or folder.resolve().name, source)


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
    channels, size = _survey(folder, paths, image_size)
    shape = (len(paths), channels, *size)
    try:
        _write_cache(cached, shape, _decode_all(folder, paths, channels, size, image_size))
    except OSError:
        # No room or no permission: broken image files never get here, they are DataErrors.
        images = np.empty(shape, np.uint8)
        for i, image in enumerate(_decode_all(folder, paths, channels, size, image_size)):
            images[i] = image
        return images
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


def _survey(
    folder: Path, paths: Sequence[Path], image_size: tuple[int, int] | None
) -> tuple[int, tuple[int, int]]:
    """Return the channels and the (height, width) of the result, from the files' headers."""
    channels = 1
    sizes: dict[tuple[int, int], Path] = {}
    for path in over(paths, "reading headers"):
        try:
            with opened(path) as image:
                channels = max(channels, 1 if image.mode in GREY_MODES else 3)
                sizes.setdefault(turned_size(image), path)
        # A damaged file can make a decoder raise almost anything.
        except Exception as error:
            # All are decoded now, so that one message names every broken file.
            for _ in _decode_all(folder, paths, 3, None, image_size):
                pass
            raise _broken(folder, [_reason(folder, path, error)], len(paths)) from None
    if image_size is not None:
        return channels, image_size
    named = {size: str(path.relative_to(folder)) for size, path in sizes.items()}
    return channels, only_size(named, str(folder))


def _decode_all(
    folder: Path,
    paths: Sequence[Path],
    channels: int,
    size: tuple[int, int] | None,
    image_size: tuple[int, int] | None,
) -> Iterator[NDArray[np.uint8]]:
    """Yield every image, uint8 [C,H,W]; raise one DataError at the end if any was broken.

    size: the (height, width) that every image must have come to; None leaves it unchecked.
    """
    broken: list[str] = []
    for path in over(paths, "decoding images"):
        try:
            image = decode(path, channels=channels, image_size=image_size)
            if size is not None and image.shape[1:] != size:
                raise ValueError(f"{times(image.shape[1:])}, but its header says {times(size)}")
        # A damaged file can make a decoder raise almost anything.
        except Exception as error:
            broken.append(_reason(folder, path, error))
            continue
        if not broken:
            yield image
    if broken:
        raise _broken(folder, broken, len(paths))


def _reason(folder: Path, path: Path, error: Exception) -> str:
    if type(error).__name__ == "UnidentifiedImageError":
        said = "not an image"
    else:
        said = " ".join(str(error).split()) or type(error).__name__
    return f"{path.relative_to(folder)} ({said})"


def _broken(folder: Path, broken: Sequence[str], count: int) -> DataError:
    more = f" and {len(broken) - 5} more" if len(broken) > 5 else ""
    return DataError(
        f"{folder}: {len(broken)} of {count} images cannot be read: "
        f"{', '.join(broken[:5])}{more}; mend or remove them"
    )
