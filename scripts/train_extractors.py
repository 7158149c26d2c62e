"""Train the shipped extractors and judges, take their reference moments, write files and hashes.

    python scripts/train_extractors.py              # all of them: an hour on two cores
    python scripts/train_extractors.py digits-cnn   # one of them, or pixels-pca
    python scripts/train_extractors.py --data ./photos --out photos.safetensors   # your own

Metric networks see half A of the training set, judges half B (`pocketddpm.metrics.halves`);
reference moments are of half B, floor moments of the test set. The test set is looked at once,
after training.
"""

import argparse
import re
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import pocketddpm.features
from pocketddpm.build import pick_device
from pocketddpm.data.image_set import ImageSet
from pocketddpm.data.load import fingerprint, load_images
from pocketddpm.errors import ConfigError
from pocketddpm.metrics.extractor import ASSETS, Extractor, save_extractor
from pocketddpm.metrics.halves import halves
from pocketddpm.metrics.principal import NAME as PCA
from pocketddpm.metrics.principal import fit_pixels_pca
from pocketddpm.metrics.reference import make_reference, save_reference
from pocketddpm.metrics.training import Recipe, train_classifier

METRIC = Recipe(architecture="plain", epochs=40, seed=0)
JUDGE = Recipe(architecture="residual", epochs=20, seed=1, turn=5.0)
CLASSIFIERS = {
    "digits-cnn": ("mnist", METRIC),
    "digits-judge": ("mnist", JUDGE),
    "fashion-cnn": ("fashion-mnist", METRIC),
    "fashion-judge": ("fashion-mnist", JUDGE),
}


def train(name: str, images: ImageSet, recipe: Recipe, device: torch.device) -> Extractor:
    """Return a classifier trained on half A (metric) or half B (judge) of the training set."""
    if images.labels is None:
        raise ConfigError(f"{images.name} has no labels; its extractor is pixels-pca")
    half_a, half_b = halves(len(images))
    half = half_b if recipe.architecture == JUDGE.architecture else half_a
    with tqdm(total=recipe.epochs * len(half), unit="image", desc=name, mininterval=10) as bar:
        network = train_classifier(
            images.images[half],
            images.labels[half],
            len(images.classes),
            recipe,
            device=device,
            progress=bar.update,
        ).cpu()
    facts = {
        "architecture": recipe.architecture,
        "data": images.name,
        "fingerprint": fingerprint(images),
        "half": "B" if half is half_b else "A",
        "images": len(half),
        "recipe": asdict(recipe),
    }
    return Extractor(name, "", network, images.shape, images.classes, facts)


def accuracy(extractor: Extractor, images: ImageSet) -> float:
    """Return the share of images that the extractor classifies as labelled."""
    logits = extractor(images.images).logits
    assert logits is not None and images.labels is not None
    return float(np.mean(logits.argmax(1).numpy() == images.labels))


def note_hash(name: str, file: str, sha256: str, data: str) -> None:
    """Write a file's hash into the catalogue entry."""
    path = Path(pocketddpm.features.__file__).parent / f"{name.replace('-', '_')}.py"
    text = path.read_text(encoding="utf-8")
    pattern = rf'("{re.escape(data)}": Asset\(\s*"{re.escape(file)}",\s*")[0-9a-f]*"'
    new, count = re.subn(pattern, rf'\g<1>{sha256}"', text)
    if count != 1:
        raise SystemExit(f"{path}: note sha256 {sha256} of {file} for {data} yourself")
    path.write_text(new, encoding="utf-8")


def main() -> None:
    """Train what is asked for."""
    parser = argparse.ArgumentParser(description="Train the shipped extractors and judges.")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(CLASSIFIERS)}; all by default")
    parser.add_argument("--data", help="a data set or folder of your own")
    parser.add_argument("--out", type=Path, help="where its extractor goes (.safetensors)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--precision", default="bf16", choices=("float32", "bf16"))
    args = parser.parse_args()
    device = pick_device(args.device)
    if args.data:
        if args.out is None:
            parser.error("--data needs --out")
        classifier(args.out.stem, args.data, METRIC, args, device)
        return
    for name in args.names or (*CLASSIFIERS, PCA):
        if name == PCA:
            principal()
        else:
            classifier(name, *CLASSIFIERS[name], args, device)


def classifier(
    name: str, data: str, recipe: Recipe, args: argparse.Namespace, device: torch.device
) -> None:
    """Train one classifier, test it once, and write it; its moments too if it is a metric."""
    recipe = replace(recipe, precision=args.precision, epochs=args.epochs or recipe.epochs)
    started = time.monotonic()
    extractor = train(name, load_images(data), recipe, device)
    seconds = time.monotonic() - started
    extractor.facts["test_accuracy"] = reached = accuracy(extractor, load_images(data, "test"))
    path = args.out or ASSETS / f"{name}.safetensors"
    sha256 = save_extractor(path, extractor, torch.float16)
    print(f"{name}: test accuracy {reached:.2%}, {seconds:.0f} s, {kilobytes(path)}, {sha256}")
    if not args.data:
        note_hash(name, path.name, sha256, data)
        if recipe.architecture == METRIC.architecture:
            moments(replace(extractor, sha256=sha256), data, f"{name}-moments.safetensors")


def principal() -> None:
    """Find the principal directions of the built-in sets, and write them and their moments."""
    for data in dict.fromkeys(data for data, _ in CLASSIFIERS.values()):
        images = load_images(data)
        extractor = fit_pixels_pca(images.images[halves(len(images))[0]], data)
        path = ASSETS / f"{PCA}-{data}.safetensors"
        sha256 = save_extractor(path, extractor, torch.float32)
        print(f"{PCA} of {data}: {kilobytes(path)}, {sha256}")
        note_hash(PCA, path.name, sha256, data)
        moments(replace(extractor, sha256=sha256), data, f"{PCA}-{data}-moments.safetensors")


def moments(extractor: Extractor, data: str, file: str) -> None:
    """Write the moments of half B and of the test set."""
    train, test = load_images(data), load_images(data, "test")
    half_b = train.images[halves(len(train))[1]]
    reference = make_reference(extractor(half_b), extractor(test.images))
    facts = {"data": data, "train": fingerprint(train), "test": fingerprint(test)}
    sha256 = save_reference(ASSETS / file, reference, extractor, facts)
    note_hash(extractor.name, file, sha256, data)
    distance = reference.floor(len(test))
    print(f"{file}: Frechet distance of the test set {distance:.4f}, {kilobytes(ASSETS / file)}")


def kilobytes(path: Path) -> str:
    """Return a file's size in words."""
    return f"{path.stat().st_size / 1000:.0f} kB"


if __name__ == "__main__":
    main()
