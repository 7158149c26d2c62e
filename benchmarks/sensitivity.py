"""Sensitivity of every measure: real test images, changed in known ways, scored as samples.

    python benchmarks/sensitivity.py mnist docs/evaluation.md [n]

writes the table of all changes between the page's markers, from n (all) test images. A number in
bold differs from its floor by more than the 95 % interval of their comparison.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pocketddpm.data.image_set import ImageSet
from pocketddpm.errors import DataError
from pocketddpm.metrics.protocol import score
from pocketddpm.metrics.reference_data import ReferenceData, load_reference_data
from pocketddpm.metrics.report import Report, Row, markdown_table
from pocketddpm.metrics.split import random_indices, split_halves
from pocketddpm.noise import Role, uniform
from pocketddpm.output import write_text

Pixels = NDArray[np.uint8]
Change = Callable[[ImageSet, ImageSet], ImageSet]
CLASS = 4
MARKERS = ("<!-- sensitivity: begin -->", "<!-- sensitivity: end -->")
COLUMNS = {
    "frechet": "FD features",
    "frechet pixels-pca": "FD pixels",
    "kernel distance": "KID",
    "precision": "prec.",
    "recall": "recall",
    "density": "dens.",
    "coverage": "cover.",
    "class score": "score",
    "agreement": "agreement, pp",
    "copies pixels": "copies, pp",
    "distinct": "distinct, pp",
}


def with_noise(share: float) -> Change:
    """Return a change that gives this share of all pixels a random value."""

    def change(test: ImageSet, train: ImageSet) -> ImageSet:
        index = torch.arange(test.images.size)
        hit = uniform(1, Role.EVALUATE, index, dtype=torch.float32).numpy() < share
        value = (256 * uniform(2, Role.EVALUATE, index, dtype=torch.float32)).byte().numpy()
        shape = test.images.shape
        images = np.where(hit.reshape(shape), value.reshape(shape), test.images)
        return replace(test, images=images)

    return change


def on_images(function: Callable[[Pixels], Pixels]) -> Change:
    """Return the change that applies a function to all images [N,C,H,W]."""
    return lambda test, train: replace(test, images=function(test.images))


def blurred(images: Pixels, sigma: float = 1.0) -> Pixels:
    """Return images blurred by a Gaussian, with black beyond the edges."""
    reach = np.arange(-3, 4)
    weights = np.exp(-(reach**2) / (2 * sigma**2))
    weights /= weights.sum()
    x = images.astype(np.float32)
    for axis in (2, 3):
        padding = [(3, 3) if k == axis else (0, 0) for k in range(4)]
        padded, size = np.pad(x, padding), x.shape[axis]
        parts = [w * padded.take(range(k, k + size), axis) for k, w in enumerate(weights)]
        x = np.sum(parts, axis=0)
    return np.rint(x).astype(np.uint8)


def shifted(images: Pixels, by: int = 2) -> Pixels:
    """Return images moved to the right."""
    moved = np.zeros_like(images)
    moved[..., by:] = images[..., :-by]
    return moved


def one_class_missing(test: ImageSet, train: ImageSet) -> ImageSet:
    """Drop every image of one class."""
    assert test.labels is not None
    return test.select(np.flatnonzero(test.labels != CLASS))


def one_class_doubled(test: ImageSet, train: ImageSet) -> ImageSet:
    """Keep one class whole and half of all others."""
    assert test.labels is not None
    others = np.flatnonzero(test.labels != CLASS)
    kept = others[random_indices(len(others), len(others) // 2)]
    return test.select(np.concatenate([np.flatnonzero(test.labels == CLASS), kept]))


def labels_permuted(test: ImageSet, train: ImageSet) -> ImageSet:
    """Give every image the next class's label."""
    assert test.labels is not None
    return replace(test, labels=(test.labels + 1) % len(test.classes))


def repeated(test: ImageSet, train: ImageSet) -> ImageSet:
    """Repeat a tenth of the images ten times."""
    return test.select(np.repeat(random_indices(len(test), len(test) // 10), 10))


def training_images(half: int) -> Change:
    """Return the change that puts images of half A (0) or B (1) of the training set in place."""

    def change(test: ImageSet, train: ImageSet) -> ImageSet:
        part = split_halves(len(train))[half]
        return train.select(part[random_indices(len(part), len(test))])

    return change


# name -> (the change, the numbers made to catch it)
CHANGES: dict[str, tuple[Change, tuple[str, ...]]] = {
    "real test images": (lambda test, train: test, ()),
    "1 % of pixels random": (with_noise(0.01), ("frechet", "kernel distance", "precision")),
    "5 % of pixels random": (with_noise(0.05), ("frechet", "frechet pixels-pca", "precision")),
    "20 % of pixels random": (with_noise(0.2), ("frechet", "frechet pixels-pca", "precision")),
    f"class {CLASS} missing": (one_class_missing, ("frechet", "recall", "coverage")),
    f"class {CLASS} doubled": (one_class_doubled, ("frechet", "kernel distance")),
    "labels permuted": (labels_permuted, ("agreement",)),
    "training images, half A": (training_images(0), ("copies pixels",)),
    "training images, half B": (training_images(1), ("copies pixels",)),
    "a tenth, ten times": (repeated, ("recall", "coverage", "distinct")),
    "blurred, sigma 1": (on_images(blurred), ("frechet", "frechet pixels-pca")),
    "shifted by 2 pixels": (on_images(shifted), ("frechet", "frechet pixels-pca")),
    "inverted": (on_images(lambda x: 255 - x), ("frechet", "frechet pixels-pca")),
}


def scores(reference: ReferenceData, n: int | None = None) -> dict[str, Report]:
    """Return the report on every change; n: use so many test images only."""
    train, test = reference.train, reference.test
    if train is None or test is None:
        raise DataError(reference.missing)
    if n is not None:
        test = test.select(random_indices(len(test), n))
    # The training images never change: their features are computed once.
    first, *others = reference.spaces
    first = replace(first, train=first.extractor(train.images))
    reference = replace(reference, spaces=[first, *others])
    return {name: score(change(test, train), reference) for name, (change, _) in CHANGES.items()}


def row_of(report: Report, column: str) -> Row:
    """Return the report's row for a column of the table; 'frechet' is the headline's."""
    return report.rows[0] if column == "frechet" else report.row(column)


def differs(row: Row) -> bool:
    """Whether samples and floor differ by more than the 95 % interval of their comparison."""
    comparison = row.comparison
    assert comparison is not None
    same = 1.0 if row.by == "ratio" else 0.0
    if np.isnan(comparison.low):
        return comparison.value != same
    return not comparison.low <= same <= comparison.high


def table(reports: dict[str, Report]) -> list[str]:
    """Return the Markdown table: ratios for Frechet distances, differences for all else."""
    lines = []
    for name, report in reports.items():
        cells = [name, str(report.n)]
        for column in COLUMNS:
            row = row_of(report, column)
            assert row.comparison is not None
            value = row.comparison.value
            if row.by == "ratio":
                text = f"{value:.2f}" if value < 100 else f"{value:.0f}"
            else:
                text = f"{value * 100:+.1f}" if row.percent else f"{value:+.3f}"
            cells.append(f"**{text}**" if differs(row) else text)
        lines.append(cells)
    return markdown_table(("test images, but", "n", *COLUMNS.values()), lines)


def main() -> None:
    """Write the table into a page, between its markers: DATA PAGE [N]."""
    data, page = sys.argv[1], Path(sys.argv[2])
    n = {"n": int(sys.argv[3])} if len(sys.argv) > 3 else {}
    lines = table(scores(load_reference_data(data), **n))
    before, rest = page.read_text(encoding="utf-8").split(MARKERS[0])
    _, after = rest.split(MARKERS[1])
    middle = "\n".join([MARKERS[0], "", *lines, "", MARKERS[1]])
    write_text(page, before + middle + after)


if __name__ == "__main__":
    main()
