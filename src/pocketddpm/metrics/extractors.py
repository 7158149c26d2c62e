"""The shipped feature extractors: one entry each, and the files that it needs.

The files lie in the package's folder `assets`, with their hashes in SHA256SUMS;
scripts/train_extractors.py writes them. Standard library only, so that `pocketddpm list` is quick.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

ASSETS = Path(__file__).parents[1] / "assets"
HASHES = ASSETS / "SHA256SUMS"
PIXELS_PCA = "pixels-pca"
INCEPTION = "inception"
Role = Literal["metric", "judge"]


@dataclass(frozen=True)
class ShippedExtractor:
    """The role of an extractor, and its files.

    role: 'metric' gives features to measure distances in; 'judge' reads labels and nothing else.
    files: data set -> the file of the network or linear map in `assets`, without its suffix. A
    metric's moments of real images lie beside it, in FILE-moments.safetensors.
    """

    role: Role
    files: Mapping[str, str] = field(default_factory=dict)


# What each is for stands above it: `pocketddpm list extractors` shows it.
EXTRACTORS: dict[str, ShippedExtractor] = {
    # MNIST: 128 features of a small network trained on half A of the training set.
    "digits-cnn": ShippedExtractor("metric", {"mnist": "digits-cnn"}),
    # MNIST: a residual network, trained on half B, that reads labels and nothing else.
    "digits-judge": ShippedExtractor("judge", {"mnist": "digits-judge"}),
    # Fashion-MNIST: 128 features of a small network trained on half A of the training set.
    "fashion-cnn": ShippedExtractor("metric", {"fashion-mnist": "fashion-cnn"}),
    # Fashion-MNIST: a residual network, trained on half B, that reads labels and nothing else.
    "fashion-judge": ShippedExtractor("judge", {"fashion-mnist": "fashion-judge"}),
    # Any images: Inception-v3's 2048 features, those of published FIDs; needs torch-fidelity.
    "inception": ShippedExtractor("metric"),
    # Any data set: the first 64 principal coordinates of the pixels; no network.
    "pixels-pca": ShippedExtractor(
        "metric", {"mnist": "pixels-pca-mnist", "fashion-mnist": "pixels-pca-fashion-mnist"}
    ),
}


def shipped_for(data: str, role: Role) -> list[str]:
    """Return the names of the extractors of a role that have a file for a data set."""
    return [n for n, entry in EXTRACTORS.items() if entry.role == role and data in entry.files]


def shipped_sha256(file: str) -> str:
    """Return the sha256, in hex digits, that a file in `assets` must have."""
    lines = HASHES.read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in map(str.split, lines)}[file]
