"""Decoding one image file into grey or RGB bytes, as a `Reading` says.

What is done to a file, in order: the first frame is taken; the EXIF orientation is applied; grey
values of 16 bits are rounded to 8, or stretched first; transparency is laid over the background;
everything else becomes grey or RGB; and, when a size is given, it is reached in one of four ways
(`FITS`), none of which changes an aspect ratio.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from pocketddpm.errors import ConfigError
from pocketddpm.values import several, whole

if TYPE_CHECKING:
    from PIL.Image import Image

# Part of the cache's key; raise it whenever files come to be decoded differently.
DECODER_VERSION = 2
# Only these decoders are ever run, whatever a file claims to be: no EPS, hence no Ghostscript. FITS
# is not among them, as Pillow reads its 16-bit values without their offset.
FORMATS = {
    "PNG": ".png .apng",
    "JPEG": ".jpg .jpeg .jpe .jfif",
    "BMP": ".bmp .dib",
    "GIF": ".gif",
    "WEBP": ".webp",
    "TIFF": ".tif .tiff",
    "PPM": ".ppm .pgm .pbm .pnm .pfm",
    "AVIF": ".avif",
    "JPEG2000": ".jp2 .j2k .j2c .jpc .jpf .jpx",
    "ICO": ".ico",
    "DDS": ".dds",
    "QOI": ".qoi",
    "TGA": ".tga",
    "PCX": ".pcx",
    "SGI": ".sgi .rgb .rgba .bw",
}
# Too few bytes tell these from other content: only their own suffixes are read as them.
BY_SUFFIX = frozenset(("TGA", "PCX", "SGI"))
CODECS = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}  # that Pillow may lack
GREY_MODES = frozenset(("1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"))
MAX_PIXELS = 64_000_000

Fit = Literal["pad", "crop", "resize", "contain"]
FITS: dict[Fit, str] = {
    "pad": "padded",
    "crop": "cropped",
    "resize": "cropped and resized",
    "contain": "resized and padded",
}
"""How another size is reached: pad and crop keep the scale; resize takes the largest centred part
of the new aspect ratio; contain takes the whole image. What was done, in words."""
TRANSPARENT_OVER, PADDED_WITH = "white", "black"  # unless a background is chosen


@dataclass(frozen=True)
class Reading:
    """What image files become.

    size: (height, width) to reach; None keeps the files' own. fit: how it is reached.
    channels: 1 for grey, 3 for RGB; None is grey for a set in which no file has colour.
    background: the colour under transparency and in padding, by Pillow's name or as '#rrggbb'; None
        is white under transparency, and in the padding of a set that has any; else black pads.
    stretch: map the least and the greatest value of the set to 0 and 255.
    span: these two, as shares of the files' full range; None finds them.

    Raises ConfigError for a colour that there is not, and for a size below 1.
    """

    size: tuple[int, int] | None = None
    fit: Fit = "resize"
    channels: int | None = None
    background: str | None = None
    stretch: bool = False
    span: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.size is not None and min(several(self.size, 2, "image_size", whole)) < 1:
            raise ConfigError(
                f"an image size of {times(self.size)}: both numbers must be at least 1"
            )
        if self.background is not None:
            colour(self.background, "RGB")


def colour(name: str, mode: str) -> Any:
    """Return a colour in Pillow's mode 'L' or 'RGB'; ConfigError for one that there is not."""
    import PIL.ImageColor

    try:
        alpha = PIL.ImageColor.getrgb(name)[3:]
    except (ValueError, AttributeError):
        alpha = (0,)
    if alpha not in ((), (255,)):
        raise ConfigError(
            f"--background {name}: not an opaque colour; give a name, such as white, or #rrggbb"
        )
    return PIL.ImageColor.getcolor(name, mode)


@cache
def formats() -> tuple[str, ...]:
    """Return those of `FORMATS` that the installed Pillow reads."""
    import PIL.features
    import PIL.Image

    PIL.Image.init()
    supported = PIL.features.get_supported()
    return tuple(f for f in FORMATS if f in PIL.Image.OPEN and CODECS.get(f, "pil") in supported)


@cache
def suffixes() -> frozenset[str]:
    """Return the suffixes, in lower case, of the files that are read as images."""
    return frozenset(suffix for name in formats() for suffix in FORMATS[name].split())


def _formats_of(source: Path | bytes) -> tuple[str, ...]:
    suffix = "" if isinstance(source, bytes) else source.suffix.lower()
    return tuple(f for f in formats() if f not in BY_SUFFIX or suffix in FORMATS[f].split())


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
                image = PIL.Image.open(file, formats=_formats_of(source))
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
    source: Path | bytes, channels: int, reading: Reading | None = None
) -> NDArray[np.uint8]:
    """Return one image file, or the content of one, as uint8 [channels,H,W].

    channels: 1 for grey, 3 for RGB; `reading.channels` is not read.

    Raises whatever Pillow raises for a damaged file, ValueError for one of too many pixels, and
    ConfigError for a size that its `fit` cannot reach.
    """
    import PIL.Image

    reading = reading or Reading()
    with opened(source) as file_image:
        file_image.load()
        image = _upright(file_image)
        if reading.span is not None:
            low, high = reading.span
            values = (_shares(image, reading) - low) * (255 / (high - low))
            image = PIL.Image.fromarray(np.rint(values.clip(0, 255)).astype(np.uint8))
        elif _is_deep(image):
            image = PIL.Image.fromarray(np.rint(_deep(image) * 255).astype(np.uint8))
        image = _flatten(image, reading).convert("L" if channels == 1 else "RGB")
        if reading.size is not None:
            ground = colour(reading.background or PADDED_WITH, image.mode)
            image = fitted(image, reading.size, reading.fit, ground)
        pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)


def span_of(source: Path | bytes, reading: Reading) -> tuple[float, float]:
    """Return the least and the greatest value of an image file, as shares of its full range.

    Raises as `decode` does.
    """
    with opened(source) as image:
        image.load()
        values = _shares(image, reading)
    return float(values.min()), float(values.max())


def _is_deep(image: "Image") -> bool:
    """Return whether values have more than 8 bits."""
    return image.mode == "F" or image.mode.startswith("I")


def _deep(image: "Image", *, bounded: bool = True) -> NDArray[np.float64]:
    """Return values of more than 8 bits as shares of the full range, float64 [H,W].

    Floating-point files hold 0..1 by convention, files of whole numbers 16 bits. ValueError for
    values that are not finite or, where they are bounded, lie beyond.
    """
    values = np.asarray(image).astype(np.float64)
    full = 1.0 if image.mode == "F" else 65535.0
    if not np.isfinite(values).all():
        raise ValueError(f"values that are not finite in mode {image.mode}")
    if bounded and not (values.min() >= 0 and values.max() <= full):
        raise ValueError(f"values beyond 0..{full:g} in mode {image.mode}; see --stretch yes")
    return values / full


def _shares(image: "Image", reading: Reading) -> NDArray[np.float64]:
    """Return an image's values as shares of the full range, float64 [H,W] or [H,W,3]."""
    if _is_deep(image):
        return _deep(image, bounded=False)
    return np.asarray(_flatten(image, reading)) / 255.0


def _flatten(image: "Image", reading: Reading) -> "Image":
    """Return an image of 8 bits a value in mode 'L' or 'RGB', without transparency."""
    import PIL.Image

    grey = image.mode in GREY_MODES
    if has_alpha(image):
        image = image.convert("LA" if grey else "RGBA")
        alpha = image.getchannel("A")
        image = image.convert("L" if grey else "RGB")
        ground = colour(reading.background or TRANSPARENT_OVER, image.mode)
        return PIL.Image.composite(image, PIL.Image.new(image.mode, image.size, ground), alpha)
    return image.convert("L" if grey else "RGB")


def has_alpha(image: "Image") -> bool:
    """Return whether the image may be transparent somewhere, going by its header."""
    return image.mode.endswith(("A", "a")) or "transparency" in image.info


def check_fit(own: tuple[int, int], size: tuple[int, int], fit: Fit, where: str) -> None:
    """Raise ConfigError when images of a size, (height, width), cannot reach another in this way.

    where: what the message begins with.
    """
    if fit == "pad" and not (own[0] <= size[0] and own[1] <= size[1]):
        raise ConfigError(
            f"{where}: {times(own)} cannot be padded to {times(size)}; choose a larger size, or "
            "--fit resize"
        )
    if fit == "crop" and not (own[0] >= size[0] and own[1] >= size[1]):
        raise ConfigError(
            f"{where}: {times(own)} cannot be cropped to {times(size)}; choose a smaller size, or "
            "--fit resize"
        )


def fitted(image: "Image", size: tuple[int, int], fit: Fit, ground: Any) -> "Image":
    """Return an image at another size, antialiased; itself where it has that size already.

    image: in mode 'L' or 'RGB'. size: (height, width). fit: see `FITS`; an odd row of padding is at
    the bottom or right. ground: the colour of padding, as `colour` returns it.

    Raises ConfigError as `check_fit` does.
    """
    import PIL.Image

    height, width = size
    if image.size == (width, height):
        return image
    check_fit((image.height, image.width), size, fit, "an image")
    if fit == "resize":
        return crop_resize(image, size)
    if fit == "contain":
        scale = min(width / image.width, height / image.height)
        inner = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        image = image.resize(inner, PIL.Image.Resampling.BICUBIC)
    # A crop begins outside of the new image.
    left, top = (width - image.width) // 2, (height - image.height) // 2
    if fit == "crop":
        left, top = -((image.width - width) // 2), -((image.height - height) // 2)
    result = PIL.Image.new(image.mode, (width, height), ground)
    result.paste(image, (left, top))
    return result


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
