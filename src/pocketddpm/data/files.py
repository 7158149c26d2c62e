"""Many image files as one array: their common size from the headers, then their pixels."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from pocketddpm.data.cores import on_all_cores
from pocketddpm.data.decode import GREY_MODES, decode, has_alpha, opened, times, turned_size
from pocketddpm.errors import DataError
from pocketddpm.progress import over

T = TypeVar("T")


@dataclass(frozen=True)
class ImageFiles:
    """Image files in the order wanted.

    where: the folder or data set, for messages. names: of the files in it, for messages.
    sources: each file's path, or its content.
    image_size: (height, width) to reach by centre crop and resize; None keeps the common size.
    """

    where: str
    names: Sequence[str]
    sources: Sequence[Path | bytes]
    image_size: tuple[int, int] | None = None

    def survey(self) -> tuple[tuple[int, int, int, int], list[str]]:
        """Return (N, channels, height, width) of the result, and in words what decoding changes.

        The result is grey unless any file has colour.

        Raises DataError for broken files, and for sizes that differ while image_size is None.
        """
        colour = alpha = 0
        sizes = dict[tuple[int, int], str]()
        for name, header in zip(self.names, self._each(_header, "reading headers"), strict=True):
            if isinstance(header, str):
                # All are decoded now, so that one message names every broken file.
                for _ in self.decoded(3):
                    pass
                raise self._broken([f"{name} ({header})"])
            colour += header.colour
            alpha += header.alpha
            sizes.setdefault(header.size, name)
        if self.image_size is None and len(sizes) > 1:
            found = ", ".join(f"{name} is {times(size)}" for size, name in list(sizes.items())[:2])
            raise DataError(f"{self.where}: images differ in size ({found}); give --image-size")
        total, notes = len(self.sources), []
        if 0 < colour < total:
            notes.append(f"{colour} of {total} images have colour, so all get 3 channels")
        if alpha:
            notes.append(f"{alpha} images have transparency, which is laid over black")
        return (total, 3 if colour else 1, *(self.image_size or next(iter(sizes)))), notes

    def decoded(
        self, channels: int, size: tuple[int, int] | None = None
    ) -> Iterator[NDArray[np.uint8]]:
        """Yield every image, uint8 [C,H,W].

        size: the (height, width) that every image must have; None leaves it unchecked.

        Raises DataError, after the last file, when any was broken.
        """
        broken: list[str] = []
        pixels = partial(_pixels, channels=channels, image_size=self.image_size)
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

    def _each(self, function: Callable[[Path | bytes], T], what: str) -> Iterator[T]:
        """Yield a function of every source, under a progress bar."""
        found = on_all_cores(function, self.sources)
        for _, value in zip(over(self.sources, what, "image"), found, strict=True):
            yield value

    def array(self, shape: tuple[int, int, int, int]) -> NDArray[np.uint8]:
        """Return all images in memory, uint8 of the shape that `survey` returned."""
        images = np.empty(shape, np.uint8)
        for i, image in enumerate(self.decoded(shape[1], shape[2:])):
            images[i] = image
        return images

    def _broken(self, broken: Sequence[str]) -> DataError:
        more = f" and {len(broken) - 5} more" if len(broken) > 5 else ""
        return DataError(
            f"{self.where}: {len(broken)} of {len(self.sources)} images cannot be read: "
            f"{', '.join(broken[:5])}{more}; fix or remove them"
        )


class Header(NamedTuple):
    """What a file's header says: whether it has colour and transparency; its (height, width)."""

    colour: bool
    alpha: bool
    size: tuple[int, int]


def _header(source: Path | bytes) -> Header | str:
    """Return what a file's header says; or what is wrong with it."""
    try:
        with opened(source) as image:
            return Header(image.mode not in GREY_MODES, has_alpha(image), turned_size(image))
    # A damaged file can make a decoder raise almost anything.
    except Exception as error:
        return _reason(error)


def _pixels(
    source: Path | bytes, channels: int, image_size: tuple[int, int] | None
) -> NDArray[np.uint8] | str:
    """Return a decoded image, uint8 [C,H,W]; or what is wrong with the file."""
    try:
        return decode(source, channels=channels, image_size=image_size)
    # A damaged file can make a decoder raise almost anything.
    except Exception as error:
        return _reason(error)


def _reason(error: Exception) -> str:
    if type(error).__name__ == "UnidentifiedImageError":
        return "not an image"
    return " ".join(str(error).split()) or type(error).__name__


def how_sized(image_size: tuple[int, int] | None) -> str:
    """Return what reaching image_size did to the images, in words; '' for nothing."""
    return "" if image_size is None else f"centre crop and resize to {times(image_size)}"
