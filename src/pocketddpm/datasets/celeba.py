"""Photographs of 202,599 faces, RGB, without labels; centre crop to 64x64 by default.

Source: https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html (Liu et al., 2015), for which no direct
download exists: unpack img_align_celeba.zip into a folder celeba and put list_eval_partition.txt
beside it. The aligned images are 178x218.
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from pocketddpm.data.decode import Reading
from pocketddpm.data.download import find, not_found
from pocketddpm.data.files import how_sized
from pocketddpm.data.folder import decode_files, list_images
from pocketddpm.data.image_set import ImageSet
from pocketddpm.errors import DataError

FLIP = True
FIT: Literal["pad", "resize"] = "resize"

# At full size the decoded set would fill 24 GB.
DEFAULT_SIZE = (64, 64)
IMAGES = "img_align_celeba"
PARTITION = "list_eval_partition.txt"
CODES = {"train": "0", "test": "2"}


def load(
    split: Literal["train", "test"],
    *,
    path: Path | None = None,
    reading: Reading | None = None,
) -> ImageSet:
    """Return one split: images uint8 [N,3,H,W], no labels.

    Without list_eval_partition.txt, all images are for training.

    path: the folder that holds img_align_celeba, instead of celeba under a data root.
    reading: what becomes of the files; their size is 64x64 when it has none.

    Raises DataError when the folder or the test split is missing, or files are missing or broken.
    """
    place = IMAGES if path is not None else f"celeba/{IMAGES}"
    folder = find((place,), path)
    if folder is None:
        raise not_found((place,), path)
    reading = reading or Reading()
    reading = replace(reading, size=reading.size or DEFAULT_SIZE)
    if split == "test" and reading.stretch:
        reading = decode_files(folder, _select(folder, "train"), reading)[1].reading
    images, found = decode_files(folder, _select(folder, split), reading)
    notes = tuple(found.notes)
    return ImageSet(images, None, (), "celeba", how_sized(reading), notes, found.reading)


def has_test(path: Path | None) -> bool:
    """Return whether there is a list of which images are for testing."""
    place = IMAGES if path is not None else f"celeba/{IMAGES}"
    folder = find((place,), path)
    return folder is None or (folder.parent / PARTITION).exists()


def _select(folder: Path, split: Literal["train", "test"]) -> list[Path]:
    """Return the files of one split, in natural order."""
    files = list_images(folder)
    partition = folder.parent / PARTITION
    if not partition.exists():
        if split == "test":
            raise DataError(f"{partition}: not found; without it all images are for training")
        return files
    try:
        text = partition.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"{partition}: cannot be read ({error.strerror})") from None
    lines = [line.split() for line in text.splitlines()]
    if wrong := [line for line in lines if len(line) != 2 or line[1] not in ("0", "1", "2")]:
        raise DataError(f"{partition}: not a list of names and 0, 1 or 2: '{' '.join(wrong[0])}'")
    wanted = {name for name, code in lines if code == CODES[split]}
    if not wanted:
        raise DataError(f"{partition}: names no {split} images")
    chosen = [file for file in files if file.name in wanted]
    if missing := sorted(wanted - {file.name for file in chosen}):
        raise DataError(
            f"{folder}: lacks {len(missing)} of the {len(wanted)} {split} images that "
            f"{partition.name} names, {missing[0]} among them"
        )
    return chosen
