"""Many image files as one array: what their headers say, then their pixels."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from pocketddpm.data.cores import on_all_cores
from pocketddpm.data.decode import (
    FITS,
    GREY_MODES,
    TRANSPARENT_OVER,
    Fit,
    Reading,
    check_fit,
    decode,
    has_alpha,
    opened,
    span_of,
    times,
    turned_size,
)
from pocketddpm.errors import DataError, listed
from pocketddpm.progress import over

T = TypeVar("T")
LARGE = 64  # pixels: the longest side that is suggested
DIM = 64  # of 255: a set whose values span less is nearly of one shade


@dataclass(frozen=True)
class Found:
    """What image files are, and what becomes of them.

    shape: (N, C, H, W) of the result. reading: with what was left open: channels, background, span.
    notes: in words, what decoding changes; `ImageFiles.decoded` adds what only the pixels show.
    """

    shape: tuple[int, int, int, int]
    reading: Reading
    notes: list[str]


@dataclass(frozen=True)
class ImageFiles:
    """Image files in the order wanted.

    where: the folder or data set, for messages. names: of the files in it, for messages.
    sources: each file's path, or its content, which may be read when it is asked for.
    """

    where: str
    names: Sequence[str]
    sources: Sequence[Path | bytes]
    reading: Reading

    def survey(self) -> Found:
        """Return what the headers say; where values are stretched, the files are decoded for it.

        Raises DataError for broken files, and for sizes that differ while no size is given;
        ConfigError for sizes that the reading's fit cannot change.
        """
        colour = alpha = moving = 0
        sizes, first = Counter[tuple[int, int]](), dict[tuple[int, int], str]()
        for name, header in zip(self.names, self._each(_header, "reading headers"), strict=True):
            if isinstance(header, str):
                # All are decoded now, so that one message names every broken file.
                for _ in self._decoded(3, replace(self.reading, size=None)):
                    pass
                raise self._broken([f"{name} ({header})"])
            colour += header.colour
            alpha += header.alpha
            moving += header.moving
            sizes[header.size] += 1
            first.setdefault(header.size, name)
        reading, total = self.reading, len(self.sources)
        if reading.size is None and len(sizes) > 1:
            found = ", ".join(f"{name} is {times(size)}" for size, name in list(first.items())[:2])
            more = f", {len(sizes)} sizes in all" if len(sizes) > 2 else ""
            usual = int(np.median([min(size) for size in sizes.elements()]))
            raise DataError(
                f"{self.where}: images differ in size ({found}{more}); give --image-size, such as "
                f"{max(1, min(usual, LARGE))}"
            )
        for size, name in first.items() if reading.size else ():
            check_fit(size, reading.size, reading.fit, f"{self.where}: {name}")  # type: ignore[arg-type]
        notes = _resized(sizes, reading.size, reading.fit)
        channels = reading.channels or (3 if colour else 1)
        if channels == 3 and 0 < colour < total:
            notes.append(f"{colour} of {total} images have colour, so all get 3 channels")
        if channels == 1 and colour:
            notes.append(f"{colour} images have colour, of which grey is made")
        if alpha:
            reading = replace(reading, background=reading.background or TRANSPARENT_OVER)
            notes.append(
                f"{alpha} images have transparency, which is laid over {reading.background}"
            )
        if moving:
            notes.append(f"{moving} files hold several pictures, of which the first is taken")
        if reading.stretch:
            low, high = reading.span or self._span()
            if low == high:
                raise DataError(f"{self.where}: all values are {low:.4g}; nothing can be stretched")
            reading = replace(reading, span=(low, high))
            notes.append(f"values from {low:.4g} to {high:.4g} of the full range are stretched")
        reading = replace(reading, channels=channels)
        return Found((total, channels, *(reading.size or next(iter(sizes)))), reading, notes)

    def decoded(self, found: Found) -> Iterator[NDArray[np.uint8]]:
        """Yield every image, uint8 [C,H,W], as `survey` found that it should be.

        When all are decoded, what only their pixels show has been added to `found.notes`.

        Raises DataError, after the last file, when any was broken.
        """
        low, high, flat, coloured = 255, 0, 0, False
        for image in self._decoded(found.shape[1], found.reading, found.shape[2:]):
            darkest, brightest = image.min((1, 2)), image.max((1, 2))
            low, high = min(low, int(darkest.min())), max(high, int(brightest.max()))
            flat += int((brightest - darkest).max()) == 0
            coloured = coloured or bool((image != image[:1]).any())
            yield image
        if any("transparency" in note for note in found.notes) and flat:
            found.notes.append(f"{flat} images have one shade only; see another --background")
        if high - low < DIM:
            # Whether stretching would help is asked of the files: they may have more bits, or one
            # value far from the others, which a smaller size has blurred away.
            darkest, brightest = (0.0, 1.0) if found.reading.stretch else self._span()
            spreads = 0 < (brightest - darkest) * 255 < DIM
            values = f"are {low}" if low == high else f"lie in {low}..{high}"
            found.notes.append(
                f"all values {values} of 0..255"
                + ("; --stretch yes spreads them" if spreads else "")
            )
        if found.shape[1] == 3 and not coloured:
            found.notes.append("no image has colour, though the files could; see --grey yes")

    def _decoded(
        self, channels: int, reading: Reading, size: tuple[int, ...] | None = None
    ) -> Iterator[NDArray[np.uint8]]:
        """Yield the images. size: the (height, width) that each must have; None: any."""
        broken: list[str] = []
        pixels = partial(_pixels, channels=channels, reading=reading)
        for name, image in zip(self.names, self._each(pixels, "decoding images"), strict=True):
            if isinstance(image, str):
                broken.append(f"{name} ({image})")
            elif size is not None and image.shape[1:] != size:
                said = f"{times(image.shape[1:])}, but its header says {times(size)}"
                broken.append(f"{name} ({said})")
            elif not broken:
                yield image
        if broken:
            raise self._broken(broken)

    def _span(self) -> tuple[float, float]:
        """Return the least and the greatest value of all files, as shares of their full range."""
        low, high, broken = inf, -inf, []
        ends = partial(_ends, reading=self.reading)
        for name, found in zip(self.names, self._each(ends, "reading values"), strict=True):
            if isinstance(found, str):
                broken.append(f"{name} ({found})")
            else:
                low, high = min(low, found[0]), max(high, found[1])
        if broken:
            raise self._broken(broken)
        return low, high

    def _each(self, function: Callable[[Path | bytes], T], what: str) -> Iterator[T]:
        """Yield a function of every source, under a progress bar."""
        found = on_all_cores(function, self.sources)
        for _, value in zip(over(range(len(self.sources)), what, "image"), found, strict=True):
            yield value

    def array(self, found: Found) -> NDArray[np.uint8]:
        """Return all images in memory, uint8 of the shape that `survey` found."""
        images = np.empty(found.shape, np.uint8)
        for i, image in enumerate(self.decoded(found)):
            images[i] = image
        return images

    def _broken(self, broken: Sequence[str]) -> DataError:
        return DataError(
            f"{self.where}: {len(broken)} of {len(self.sources)} images cannot be read: "
            f"{listed(broken, 5)}; fix or remove them"
        )


class Header(NamedTuple):
    """What a file's header says: colour, transparency, several pictures; its (height, width)."""

    colour: bool
    alpha: bool
    moving: bool
    size: tuple[int, int]


def _header(source: Path | bytes) -> Header | str:
    """Return what a file's header says; or what is wrong with it."""
    try:
        with opened(source) as image:
            colour, alpha = image.mode not in GREY_MODES, has_alpha(image)
            moving = bool(getattr(image, "is_animated", False))
            return Header(colour, alpha, moving, turned_size(image))
    # A damaged file can make a decoder raise almost anything.
    except Exception as error:
        return _reason(error)


def _pixels(source: Path | bytes, channels: int, reading: Reading) -> NDArray[np.uint8] | str:
    """Return a decoded image, uint8 [C,H,W]; or what is wrong with the file."""
    try:
        return decode(source, channels, reading)
    # A damaged file can make a decoder raise almost anything.
    except Exception as error:
        return _reason(error)


def _ends(source: Path | bytes, reading: Reading) -> tuple[float, float] | str:
    """Return a file's least and greatest value; or what is wrong with it."""
    try:
        return span_of(source, reading)
    # A damaged file can make a decoder raise almost anything.
    except Exception as error:
        return _reason(error)


def _reason(error: Exception) -> str:
    if type(error).__name__ == "UnidentifiedImageError":
        return "not an image"
    return " ".join(str(error).split()) or type(error).__name__


def _resized(sizes: Counter[tuple[int, int]], size: tuple[int, int] | None, fit: Fit) -> list[str]:
    """Return in words how files of these sizes become images of one; nothing where all have it."""
    if size is None or set(sizes) == {size}:
        return []
    ordered = sorted(sizes, key=lambda each: each[0] * each[1])
    told = f"files of {times(ordered[0])}"
    if len(sizes) > 1:
        told = f"files of {len(sizes)} sizes, {times(ordered[0])} to {times(ordered[-1])},"
    is_scaled = all(h * size[1] == w * size[0] for h, w in sizes)  # and nothing is cropped
    way = "resized" if is_scaled and fit in ("resize", "contain") else FITS[fit]
    notes = [f"{told} are {way} to {times(size)}"]
    if fit in ("resize", "contain"):
        small = sum(k for (h, w), k in sizes.items() if h < size[0] and w < size[1])
        notes += [f"{small} of them are smaller and are enlarged"] if small else []
    return notes


def how_sized(reading: Reading) -> str:
    """Return what reaching the reading's size did to the images, in words; '' for nothing."""
    return "" if reading.size is None else f"{FITS[reading.fit]} to {times(reading.size)}"
