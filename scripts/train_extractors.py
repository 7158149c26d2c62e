"""Train the shipped extractors and judges, take their reference moments, write files and hashes.

    python scripts/train_extractors.py              # all of them: an hour on two cores
    python scripts/train_extractors.py digits-cnn   # one of them, or pixels-pca

Metric networks see half A of the training set, judges half B (`pocketddpm.metrics.split`);
reference moments are of half B, floor moments of the test set. The test set is looked at once,
after training. `pocketddpm extractor` makes one of your own data in the same way.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pocketddpm.build import pick_device
from pocketddpm.data.load import fingerprint, load_images
from pocketddpm.metrics.classifier_scores import agreement
from pocketddpm.metrics.extractor import Extractor, save_extractor, save_tensors
from pocketddpm.metrics.extractors import ASSETS, HASHES, PIXELS_PCA
from pocketddpm.metrics.reference_data import FeatureSpace
from pocketddpm.metrics.split import split_halves
from pocketddpm.metrics.train_extractor import (
    JUDGE,
    METRIC,
    Recipe,
    pixels_extractor,
    run_length,
    train_extractor,
)

CLASSIFIERS = {
    "digits-cnn": ("mnist", METRIC),
    "digits-judge": ("mnist", JUDGE),
    "fashion-cnn": ("fashion-mnist", METRIC),
    "fashion-judge": ("fashion-mnist", JUDGE),
}


def note_hash(file: str, sha256: str) -> None:
    """Write a file's hash into SHA256SUMS."""
    lines = [line for line in HASHES.read_text().splitlines() if line.split()[1] != file]
    lines = sorted([*lines, f"{sha256}  {file}"], key=lambda line: line.split()[1])
    HASHES.write_text("\n".join(lines) + "\n")


def main() -> None:
    """Train what is asked for."""
    parser = argparse.ArgumentParser(description="Train the shipped extractors and judges.")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(CLASSIFIERS)}; all by default")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--precision", default="bf16", choices=("float32", "bf16"))
    args = parser.parse_args()
    device = pick_device(args.device)
    for name in args.names or (*CLASSIFIERS, PIXELS_PCA):
        if name == PIXELS_PCA:
            principal()
        else:
            classifier(name, *CLASSIFIERS[name], args, device)


def classifier(
    name: str, data: str, recipe: Recipe, args: argparse.Namespace, device: torch.device
) -> None:
    """Train one classifier, test it once, and write it; its moments too if it is a metric."""
    recipe = replace(recipe, precision=args.precision, epochs=args.epochs or recipe.epochs)
    images = load_images(data)
    half = "A" if recipe.architecture == METRIC.architecture else "B"
    started = time.monotonic()
    with tqdm(
        total=run_length(len(images) // 2, recipe), unit="image", desc=name, mininterval=10
    ) as bar:
        extractor = train_extractor(name, images, recipe, half, device=device, advance=bar.update)
    seconds = time.monotonic() - started
    test = load_images(data, "test")
    extractor.facts["test_accuracy"] = reached = agreement(extractor(test.images), test).value
    path = ASSETS / f"{name}.safetensors"
    sha256 = save_extractor(path, extractor, torch.float16)
    print(f"{name}: test accuracy {reached:.2%}, {seconds:.0f} s, {kilobytes(path)}, {sha256}")
    note_hash(path.name, sha256)
    if half == "A":
        moments(replace(extractor, sha256=sha256), data, f"{name}-moments.safetensors")


def principal() -> None:
    """Find the principal directions of the built-in sets, and write them and their moments."""
    for data in dict.fromkeys(data for data, _ in CLASSIFIERS.values()):
        images = load_images(data)
        extractor = pixels_extractor(images)
        path = ASSETS / f"{PIXELS_PCA}-{data}.safetensors"
        sha256 = save_extractor(path, extractor, torch.float32)
        print(f"{PIXELS_PCA} of {data}: {kilobytes(path)}, {sha256}")
        note_hash(path.name, sha256)
        moments(replace(extractor, sha256=sha256), data, f"{PIXELS_PCA}-{data}-moments.safetensors")


def moments(extractor: Extractor, data: str, file: str) -> None:
    """Write the moments of half B and of the test set."""
    train, test = load_images(data), load_images(data, "test")
    half_b = train.images[split_halves(len(train))[1]]
    space = FeatureSpace.of(extractor, extractor(half_b), extractor(test.images))
    facts = {"data": data, "train": fingerprint(train), "test": fingerprint(test)}
    sha256 = save_moments(ASSETS / file, space, facts)
    note_hash(file, sha256)
    distance = space.floor(len(test))
    print(f"{file}: Frechet distance of the test set {distance:.4f}, {kilobytes(ASSETS / file)}")


def save_moments(path: Path, space: FeatureSpace, facts: dict[str, Any]) -> str:
    """Write a space's moments of real images; return the file's sha256."""
    tensors: dict[str, Tensor] = {}
    for name, moments in (("half_b", space.half_b), ("test", space.test)):
        tensors |= {f"{name}.total": moments.total, f"{name}.outer": moments.outer}
    counts = {"half_b": space.half_b.n, "test": space.test.n}
    stored = {**facts, "extractor": space.extractor.sha256, "n": counts, "score": space.score}
    return save_tensors(path, tensors, stored)


def kilobytes(path: Path) -> str:
    """Return a file's size in words."""
    return f"{path.stat().st_size / 1000:.0f} kB"


if __name__ == "__main__":
    main()
