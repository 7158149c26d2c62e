"""Training small classifiers: as feature extractors, as judges, and on samples (`--tstr`).

AdamW (arXiv 1711.05101) in one cycle, label smoothing, small affine distortions and erased patches
(arXiv 1708.04896), and an average of the weights over the last epochs. There is no early stopping
and no choice by a validation set: a recipe runs to its end, and the test set is used once.
"""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from math import ceil, cos, pi
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from pocketddpm.build import pick_device, pick_precision
from pocketddpm.data.decode import PADDED_WITH
from pocketddpm.data.download import cache_root
from pocketddpm.data.image_set import ImageArray, ImageSet
from pocketddpm.data.load import fingerprint, has_test, load_images
from pocketddpm.data.split import divide, usual_hold_out
from pocketddpm.errors import ConfigError, DataError, OutputError
from pocketddpm.metrics.classifier_scores import agreement
from pocketddpm.metrics.classifiers import ARCHITECTURES, fold
from pocketddpm.metrics.extractor import SUFFIX, Extractor, load_extractor, save_extractor
from pocketddpm.metrics.options import ExtractorOptions
from pocketddpm.metrics.pca import fit_pixels_pca
from pocketddpm.metrics.split import split_halves
from pocketddpm.noise import Role, uniform
from pocketddpm.output import refuse_existing
from pocketddpm.progress import Advance, counter, say

FEWEST = 50  # images in a half
OWN = "classifier"  # of the images of one's own
VERSION = 1  # of its training: the cache holds those of the same


@dataclass(frozen=True)
class Recipe:
    """How a classifier is trained.

    shift: largest shift, in pixels. turn: largest rotation, in degrees. stretch: largest relative
    change of size. erase: the share of images with a patch erased. average: the share of the run,
    at its end, over which the weights are averaged. blocks: pixels whose square becomes channels of
    one place. No flips: digits and shoes have a side.
    """

    architecture: str = "plain"
    epochs: int = 30
    batch_size: int = 128
    lr: float = 4e-3
    weight_decay: float = 0.02
    warmup: float = 0.15
    smoothing: float = 0.05
    shift: float = 2.0
    turn: float = 10.0
    stretch: float = 0.1
    erase: float = 0.25
    average: float = 0.1
    seed: int = 0
    precision: str = "float32"
    blocks: int = 1


METRIC = Recipe(architecture="plain", epochs=40, seed=0)
JUDGE = Recipe(architecture="residual", epochs=20, seed=1, turn=5.0)


PASSES = 80_000  # of 32x32 images in a training: about two minutes of one core
LARGEST = 40  # pixels of a side that a classifier convolves


def recipe_for(shape: tuple[int, int, int], count: int) -> Recipe:
    """Return the recipe of a metric network for images of one's own.

    shape: (channels, height, width). count: images that it is trained on.
    """
    side = max(shape[1:])
    blocks = ceil(side / LARGEST)
    passes = PASSES * 1024 * blocks**2 / (shape[1] * shape[2])
    epochs = min(METRIC.epochs, max(4, round(passes / count)))
    return replace(METRIC, epochs=epochs, blocks=blocks, shift=METRIC.shift * side / 28)


def make_extractor(data: str, out: Path, options: ExtractorOptions) -> tuple[Extractor, str]:
    """Write an extractor for a data set or folder; return it, and what it is, in words.

    With labels it is a classifier, tested once; else it is the principal directions of the pixels.
    Where there is no test split, what a run would hold out is left out of its training, so that
    `evaluate` may use it. out: a .safetensors file.
    Raises ConfigError for another name, DataError for fewer than 100 images.
    """
    if out.suffix != SUFFIX:
        raise ConfigError(f"--out must end in {SUFFIX}, got {out}")
    refuse_existing(out, options.overwrite, folder=False)
    size, fit = options.image_size, options.fit
    chosen = {"image_size": size, "fit": fit, **options.image_options()}
    images = load_images(data, **chosen)
    test, whose = None, "test images"
    if has_test(data):
        test = load_images(data, "test", **chosen)
    else:
        held_out = usual_hold_out(len(images))
        parts = divide(images, held_out, held_out, "random")
        images, test, whose = parts.training, parts.reporting, "held-out images"
    if images.labels is None:
        extractor, dtype = pixels_extractor(images), torch.float32
        told = "principal directions of the pixels, as the images have no labels"
    else:
        device = pick_device(options.device)
        recipe = recipe_for(images.shape, len(images) // 2)
        precision = pick_precision(options.precision, device)
        recipe = replace(recipe, epochs=options.epochs or recipe.epochs, precision=precision)
        advance = counter("training", run_length(len(images) // 2, recipe))
        extractor = train_extractor(out.stem, images, recipe, "A", device=device, advance=advance)
        dtype = torch.float16
        if test is None:
            test, whose = images.select(split_halves(len(images))[1]), "images it has not seen"
        reached = agreement(extractor(test.images), test).value
        extractor.facts["test_accuracy"] = reached
        told = f"{len(images.classes)} classes, accuracy {reached:.2%} of {len(test)} {whose}"
    extractor.facts["reading"] = how_read(images)
    return replace(extractor, sha256=save_extractor(out, extractor, dtype)), told


def how_read(images: ImageSet) -> dict[str, str]:
    """Return how image files became these images: options, where they have an effect."""
    reading = images.reading
    if reading is None:
        return {}
    read = {"stretch": "no" if reading.span in (None, (0.0, 1.0)) else "yes"}
    read |= {"fit": reading.fit} if reading.size else {}
    is_padded = read.get("fit") in ("pad", "contain")
    ground = reading.background or (PADDED_WITH if is_padded else None)
    return read | ({"background": ground} if ground else {})


def own_classifier(images: ImageSet, device: torch.device) -> Extractor:
    """Return a classifier of half A of a labelled training set, kept in the user's cache.

    Raises DataError for fewer than 100 images.
    """
    half_a, _ = split_halves(len(images))
    recipe = recipe_for(images.shape, len(half_a))
    name = hashlib.sha256(repr((VERSION, fingerprint(images), recipe)).encode()).hexdigest()[:16]
    path = cache_root() / "extractors" / f"{name}{SUFFIX}"

    extractor = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):  # of several processes one trains
            if path.is_file():
                with suppress(DataError):  # damaged: trained again
                    return load_extractor(OWN, path)
            extractor = _trained(images, recipe, device)
            return replace(extractor, sha256=save_extractor(path, extractor, torch.float16))
    except (OSError, NotImplementedError, OutputError) as error:
        say(f"the classifier of {images.name} is not kept: {path} cannot be written ({error})")
        return extractor or _trained(images, recipe, device)


def _trained(images: ImageSet, recipe: Recipe, device: torch.device) -> Extractor:
    length = run_length(len(images) // 2, recipe)
    advance = counter(f"training a classifier of {images.name}", length)
    return train_extractor(OWN, images, recipe, "A", device=device, advance=advance)


def train_extractor(
    name: str,
    images: ImageSet,
    recipe: Recipe,
    half: Literal["A", "B"],
    *,
    device: torch.device | str = "cpu",
    advance: Advance | None = None,
) -> Extractor:
    """Return a classifier trained on one half of a labelled training set (metrics A, judges B).

    Raises DataError without labels, or when a half is smaller than 50 images.
    """
    if images.labels is None:
        raise DataError(f"{images.name} has no labels; its extractor is pixels-pca")
    part = _half(images, half)
    # A batch must be full, and batch statistics need several.
    recipe = replace(recipe, batch_size=min(recipe.batch_size, max(2, len(part) // 8)))
    network = train_classifier(
        images.select(part).images,
        images.labels[part],
        len(images.classes),
        recipe,
        device=device,
        advance=advance,
    )
    facts = {
        "architecture": recipe.architecture,
        "data": images.name,
        "fingerprint": fingerprint(images),
        "half": half,
        "images": len(part),
        "recipe": asdict(recipe),
    }
    return Extractor(name, "", network.cpu(), images.shape, images.classes, facts)


def pixels_extractor(images: ImageSet) -> Extractor:
    """Return the principal directions of half A's pixels; DataError when half A is too small."""
    return fit_pixels_pca(images.select(_half(images, "A")).images, images.name)


def _half(images: ImageSet, half: Literal["A", "B"]) -> NDArray[np.int64]:
    part = split_halves(len(images))[half == "B"]
    if len(part) < FEWEST:
        raise DataError(
            f"{images.name}: {len(images)} training images are too few for an extractor; "
            f"it needs {2 * FEWEST}"
        )
    return part


def train_classifier(
    images: ImageArray,
    labels: NDArray[np.int64],
    classes: int,
    recipe: Recipe,
    *,
    device: torch.device | str = "cpu",
    advance: Advance | None = None,
) -> nn.Module:
    """Return a trained classifier, its norms folded, with weights that float16 holds exactly.

    images: uint8 [N,C,H,W]. labels: int64 [N]. advance(k): called after k more images.
    The result is a function of the arguments, on one machine and thread count.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network: nn.Module = ARCHITECTURES[recipe.architecture](
            images.shape[1], classes, recipe.blocks
        )
        # torch's own annotations leave memory_format out.
        network = network.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        mean = _train(network, images, labels, recipe, advance)
    network.load_state_dict(mean)
    # A network of averaged weights needs batch statistics of its own.
    _renew_statistics(network, images)
    fold(network)
    return network.half().float()  # what is used is what is stored


def run_length(total: int, recipe: Recipe) -> int:
    """Return how many images a run on `total` of them goes through, for progress bars."""
    size = min(recipe.batch_size, total)
    return recipe.epochs * max(1, total // recipe.batch_size) * size


def _train(
    network: nn.Module,
    images: ImageArray,
    labels: NDArray[np.int64],
    recipe: Recipe,
    advance: Advance | None,
) -> dict[str, Tensor]:
    """Train the network; return the mean of its weights over the last steps."""
    device = next(network.parameters()).device
    groups = [
        {"params": [p for p in network.parameters() if p.ndim >= 2]},
        {"params": [p for p in network.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(
        groups, lr=recipe.lr, betas=(0.9, 0.99), weight_decay=recipe.weight_decay
    )
    steps = recipe.epochs * max(1, len(images) // recipe.batch_size)
    mean: dict[str, Tensor] = {}
    averaged = 0
    network.train()
    for step, index in enumerate(_batches(len(images), recipe)):
        for group in optimiser.param_groups:
            group["lr"] = recipe.lr * one_cycle(step / steps, recipe.warmup)
        x = torch.from_numpy(images[index]).to(device).float() / 255
        y = torch.from_numpy(labels[index]).to(device)
        with torch.no_grad():
            x = distort(x, recipe)
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            _, logits = network(x)
        loss = F.cross_entropy(logits.float(), y, label_smoothing=recipe.smoothing)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if step >= int(steps * (1 - recipe.average)):
            averaged += 1
            state = network.state_dict()
            mean = mean or {name: value.clone() for name, value in state.items()}
            for name, value in state.items():
                if value.is_floating_point():
                    mean[name].lerp_(value, 1 / averaged)
        if advance is not None:
            advance(len(index))
    return mean


def one_cycle(share: float, warmup: float) -> float:
    """Return the learning rate's factor: up linearly for `warmup` of the run, then a cosine."""
    if share < warmup:
        return (share + 1e-3) / (warmup + 1e-3)
    return 0.5 * (1 + cos(pi * (share - warmup) / (1 - warmup)))


def _batches(total: int, recipe: Recipe) -> Iterator[NDArray[np.int64]]:
    size = min(recipe.batch_size, total)
    for epoch in range(recipe.epochs):
        noise = uniform(recipe.seed, Role.EVALUATE, torch.arange(total), step=epoch + 1)
        order = noise.argsort().numpy()
        for k in range(max(1, total // recipe.batch_size)):
            yield order[k * size : (k + 1) * size]


def distort(x: Tensor, recipe: Recipe) -> Tensor:
    """Return images [B,C,H,W] in 0..1, each turned, stretched, shifted, and some with a patch out.

    Zeros come in from outside. Uses torch's global generator.
    """
    n, _, height, width = x.shape
    u = 2 * torch.rand(n, 6, device=x.device) - 1
    angle = u[:, 0] * recipe.turn * pi / 180
    across, down = 1 + u[:, 1] * recipe.stretch, 1 + u[:, 2] * recipe.stretch
    theta = torch.zeros(n, 2, 3, device=x.device)
    theta[:, 0, 0], theta[:, 0, 1] = angle.cos() * across, -angle.sin() * height / width
    theta[:, 1, 0], theta[:, 1, 1] = angle.sin() * width / height, angle.cos() * down
    theta[:, 0, 2] = u[:, 3] * 2 * recipe.shift / width
    theta[:, 1, 2] = u[:, 4] * 2 * recipe.shift / height
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    if recipe.erase == 0:
        return x
    # A patch of a fifth to two fifths of each side, somewhere.
    v = torch.rand(n, 5, device=x.device)
    rows, columns = (torch.arange(s, device=x.device)[None] for s in (height, width))
    tall, wide = ((0.2 + 0.2 * v[:, k]) * s for k, s in ((0, height), (1, width)))
    top, left = v[:, 2] * (height - tall), v[:, 3] * (width - wide)
    inside_rows = (rows >= top[:, None]) & (rows < (top + tall)[:, None])  # [B,H]
    inside_columns = (columns >= left[:, None]) & (columns < (left + wide)[:, None])  # [B,W]
    patch = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
    chosen = (v[:, 4] < recipe.erase)[:, None, None, None]
    return x.masked_fill(patch & chosen, 0.0)


def _renew_statistics(network: nn.Module, images: ImageArray) -> None:
    """Compute the batch norms' statistics anew, from undistorted images as in evaluation."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # a plain mean over the batches
    device = next(network.parameters()).device
    network.train()
    with torch.no_grad():
        for start in range(0, min(len(images), 10_000), 500):
            x = torch.from_numpy(images[start : start + 500].copy()).to(device).float() / 255
            if len(x) > 1:
                network(x.contiguous(memory_format=torch.channels_last))
