"""Decoding one image file into grey or RGB bytes of a given size.

What is done to a file, in order: the first frame is taken; grey values of 16 bits are rounded to 8;
transparency is laid over black (the value 0, which padding has too); everything else becomes grey
or RGB; the EXIF orientation is applied; and, when a size is given, the largest centred part of
that aspect ratio is resized to it with antialiasing, so that nothing is ever squashed.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

# Only these decoders are ever run, whatever a file claims to be (no EPS, hence no Ghostscript).
FORMATS = {
    "PNG": ".png",
    "JPEG": ".jpg .jpeg .jpe .jfif",
    "BMP": ".bmp",
    "GIF": ".gif",
    "WEBP": ".webp",
    "TIFF": ".tif .tiff",
    "PPM": ".ppm .pgm .pbm .pnm",
    "AVIF": ".avif",
}
GREY_MODES = frozenset(("1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"))
MAX_PIXELS = 64_000_000


@cache
def formats() -> tuple[str, ...]:
    """Return those of `FORMATS` that the installed Pillow reads; AVIF needs 11.3 or newer."""
    import PIL.features

    return tuple(f for f in FORMATS if f != "AVIF" or "avif" in PIL.features.get_supported())


@cache
def suffixes() -> frozenset[str]:
    """Return the suffixes, in lower case, of the files that are read as images."""
    return frozenset(suffix for name in formats() for suffix in FORMATS[name].split())


@contextmanager
def opened(source: Path | bytes) -> Iterator["Image"]:
    """Open an image, a file or its content, without decoding it; refuse one of too many pixels."""
    import PIL.Image

    with warnings.catch_warnings():
        # Pillow warns of harmless defects, which a user cannot act on; too many pixels is an error.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
        too_large = ValueError(f"more than {MAX_PIXELS:,} pixels")
        with BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
            try:
                image = PIL.Image.open(file, formats=formats())
            except (PIL.Image.DecompressionBombWarning, PIL.Image.DecompressionBombError):
                raise too_large from None
            if image.width * image.height > MAX_PIXELS:
                raise too_large
            yield image


def _orientation(image: "Image") -> int:
    """Return the EXIF orientation, 1 to 8; 1, upright, when there is none that can be read."""
    # Asking a PNG for EXIF that its header lacks would decode the whole of it.
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    try:
        return int(image.getexif().get(0x0112, 1))
    # A damaged EXIF block is common, and no reason to refuse an image whose pixels are intact.
    except Exception:
        return 1


def turned_size(image: "Image") -> tuple[int, int]:
    """Return (height, width) after the EXIF orientation is applied."""
    if image.format == "TIFF":
        # Pillow turns a TIFF itself, while decoding, and some versions change its size only then.
        image.load()
    # Orientations 5 to 8 are quarter turns.
    quarter = 5 <= _orientation(image) <= 8
    return (image.width, image.height) if quarter else (image.height, image.width)


def _upright(image: "Image") -> "Image":
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    turn = turns.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def decode(
    source: Path | bytes, *, channels: int, image_size: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """Return one image file as uint8 [C,H,W].

    Args:
        source: the file, or its content.
        channels: 1 for grey, 3 for RGB.
        image_size: (height, width) to reach by centre crop and resize; None keeps the file's.

    Raises whatever Pillow raises for a damaged file, and ValueError for one of too many pixels.
    """
    with opened(source) as file_image:
        file_image.load()
        image = _flatten(_upright(file_image)).convert("L" if channels == 1 else "RGB")
        if image_size is not None:
            image = crop_resize(image, image_size)
        values = np.asarray(image)
    return values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0)


def _flatten(image: "Image") -> "Image":
    """Return the image with 8 bits a value (mode 'L' or 'RGB') and without transparency."""
    import PIL.Image

    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float64)
        # Floating-point files hold 0..1 by convention, files of whole numbers 16 bits.
        full = 1.0 if image.mode == "F" else 65535.0
        if not (values.min() >= 0 and values.max() <= full):
            raise ValueError(f"values beyond 0..{full:g} in mode {image.mode}")
        return PIL.Image.fromarray(np.rint(values * (255 / full)).astype(np.uint8))
    grey = image.mode in GREY_MODES
    if has_alpha(image):
        image = image.convert("LA" if grey else "RGBA")
        alpha = image.getchannel("A")
        image = image.convert("L" if grey else "RGB")
        return PIL.Image.composite(image, PIL.Image.new(image.mode, image.size), alpha)
    return image.convert("L" if grey else "RGB")


def has_alpha(image: "Image") -> bool:
    """Return whether the image may be transparent somewhere, going by its header."""
    return image.mode.endswith(("A", "a")) or "transparency" in image.info


def crop_resize(image: "Image", size: tuple[int, int]) -> "Image":
    """Return the largest centred part of the target's aspect ratio, resized with antialiasing.

    image: in mode 'L' or 'RGB'.
    size: (height, width).
    """
    import PIL.Image

    height, width = size
    if image.size == (width, height):
        return image
    scale = min(image.width / width, image.height / height)
    # The part may begin and end between pixels: Pillow resizes from a box of real numbers.
    left = (image.width - width * scale) / 2
    top = (image.height - height * scale) / 2
    box = (max(left, 0), max(top, 0), image.width - max(left, 0), image.height - max(top, 0))
    return image.resize((width, height), PIL.Image.Resampling.BICUBIC, box=box)


def times(size: Sequence[int]) -> str:
    """Return a size in words: (28, 28) is '28x28'."""
    return "x".join(str(n) for n in size)
