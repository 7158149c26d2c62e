"""The experiments: one small function per preset, returning the whole configuration.

Standard library only. The first line of a function's docstring is its help text. Image sets without
numbers of their own get one recipe, and `sized` chooses its sizes when the images are known.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from math import inf, sqrt
from pathlib import Path
from typing import NamedTuple

from pocketddpm.catalog import DATASETS
from pocketddpm.config import (
    DataConfig,
    Experiment,
    NetworkConfig,
    ObjectiveConfig,
    OptimiserConfig,
    Options,
    SamplingConfig,
    ScheduleConfig,
    TrainingConfig,
)
from pocketddpm.errors import ConfigError, unknown


def mnist() -> Experiment:
    """Handwritten digits, 28x28 grey, class-conditional: ten minutes on two cores.

    docs/experiments.md says what was tried. One minute makes digits, an hour better ones.
    """
    return Experiment(
        preset="mnist",
        data=DataConfig("mnist", center=True),
        network=NetworkConfig("lean"),
        schedule=ScheduleConfig("log-linear"),
        objective=ObjectiveConfig(
            prediction="edm",
            weighting="edm",
            times="log-normal",
            p_mean=0.0,
            p_std=1.4,
            sigma_data=0.5,
            guidance=1.5,
        ),
        optimiser=OptimiserConfig("muon", lr=5e-3),
        training=TrainingConfig(minutes=10),
        sampling=SamplingConfig("dpmpp", 10, spacing="karras"),
    )


def fashion_mnist() -> Experiment:
    """Clothes, 28x28 grey, class-conditional: ten minutes on two cores."""
    digits = mnist()
    return replace(
        digits,
        preset="fashion-mnist",
        data=DataConfig("fashion-mnist", center=True),
        # Guidance makes clothes clearer and less varied: Frechet distance rises.
        objective=replace(digits.objective, guidance=1.0),
    )


def unet_mnist() -> Experiment:
    """MNIST with the plain U-Net, v prediction and the cosine schedule; diffusers can hold it."""
    return Experiment(
        preset="unet-mnist", data=DataConfig("mnist"), training=TrainingConfig(minutes=20)
    )


def digits() -> Experiment:
    """The shipped 8x8 handwritten digits: no download, a minute on two cores."""
    return Experiment(
        preset="digits",
        data=DataConfig("digits"),
        network=NetworkConfig(sizes={"widths": (32, 64)}),
        optimiser=OptimiserConfig(warmup=2_000, ema_half_life=5_000),
        training=TrainingConfig(minutes=1, batch_size=64),
    )


def cifar10() -> Experiment:
    """CIFAR-10, 32x32 colour, class-conditional, with flips."""
    return _by_rule("cifar10", "cifar10")


def celeba() -> Experiment:
    """CelebA, faces at 64x64 in colour, unconditional, with flips."""
    faces = _by_rule("celeba", "celeba")
    return replace(faces, data=replace(faces.data, image_size=(64, 64)))


def folder() -> Experiment:
    """Your own images: `--data PATH`, with labels from sub-folder names when there are any."""
    return _by_rule("folder")


def hf() -> Experiment:
    """A set of the Hugging Face hub, or a copy of one on disk: `train hf:ORG/NAME`."""
    return _by_rule("hf")


def _by_rule(preset: str, data: str = "") -> Experiment:
    """Return the recipe of `mnist` for any images; `sized` makes it fit them."""
    recipe = mnist()
    return replace(
        recipe,
        preset=preset,
        data=DataConfig(data, center=True),
        # Guidance makes images clearer and less varied; it can be asked for.
        objective=replace(recipe.objective, sigma_data=None, guidance=1.0),
        training=TrainingConfig(minutes=30),
    )


class Found(NamedTuple):
    """What a run's images are, as far as the rule asks: their size, and how many to train on."""

    height: int
    width: int
    images: int


def follows_rule(preset: str) -> bool:
    """Return whether the rule, `sized`, completes the preset."""
    return preset in ("cifar10", "celeba", "folder", "hf") or preset not in PRESETS


def sized(recipe: Experiment, found: Found) -> Experiment:
    """Return the recipe with sizes for the images that were found: the rule (docs/recipe.md).

    Patches leave the finest level about 8 to 20 places a side, for more cost more than they give.
    Neither channels nor classes change anything.
    """
    side = sqrt(found.height * found.width)  # of a square with as many pixels
    sizes = next(sizes for most, sizes in SIZES if side <= most)
    return replace(
        recipe,
        network=NetworkConfig("lean", sizes),
        training=replace(recipe.training, batch_size=64 if found.images < MANY else 128),
    )


SIZES: tuple[tuple[float, Options], ...] = (
    (15, {"widths": (64, 128), "blocks": (2, 3), "patch": 1, "linear": True}),
    (40, {"widths": (64, 128), "blocks": (2, 3), "patch": 2, "linear": True}),
    (80, {"widths": (64, 128), "blocks": (2, 3), "patch": 4, "linear": True}),
    (inf, {"widths": (64, 128, 128), "blocks": (1, 2, 3), "patch": 4, "linear": True}),
)
"""Largest side, and the sizes of `lean` up to it."""
MANY = 100_000
"""Images from which on a batch is larger: short runs want steps before images."""
CHOSEN = {"net": "by the size of the images", "batch_size": "by the number of images"}
"""The options that the rule sets, and how."""


def unet_cifar10() -> Experiment:
    """CIFAR-10 with the plain U-Net, 29M parameters, v prediction: for a GPU."""
    return Experiment(
        preset="unet-cifar10",
        data=DataConfig("cifar10"),
        network=NetworkConfig(
            sizes={"widths": (128, 256, 256), "blocks": 2, "attention": 2, "dropout": 0.1}
        ),
        optimiser=OptimiserConfig(lr=5e-4, warmup=100_000, ema_half_life=500_000),
        training=TrainingConfig(epochs=200, batch_size=256),
    )


def unet_folder() -> Experiment:
    """Your own images, `--data PATH`, with the plain U-Net, which diffusers can hold."""
    return Experiment(
        preset="unet-folder",
        data=DataConfig(""),
        network=NetworkConfig(sizes={"widths": (32, 64, 128)}),
        optimiser=OptimiserConfig(lr=1e-3),
        training=TrainingConfig(minutes=30, batch_size=64),
    )


def diffunet_mnist() -> Experiment:
    """System A: unconditional MNIST at 32x32 with DeepInverse's DiffUNet (94M, extra 'deepinv').

    beta ends at 0.02: its write-up says 0.2, its code 0.02, and so do Ho et al.; with 0.2 half of
    the thousand steps see nothing but noise (`--schedule-options beta_end=0.2` gives it). The
    published run was 5 epochs of 31 batches; `--epochs 100 --batches-per-epoch 0` was intended.
    """
    return Experiment(
        preset="diffunet-mnist",
        data=DataConfig("mnist", image_size=(32, 32), fit="resize", low=0.0, high=1.0),
        network=NetworkConfig("diffunet"),
        schedule=ScheduleConfig("linear"),
        objective=ObjectiveConfig(prediction="eps", label_dropout=0.0),
        optimiser=_plain_adam(1e-4),
        training=TrainingConfig(batch_size=32, epochs=5, batches_per_epoch=31),
        sampling=SamplingConfig("ddpm", 1000, options={"variance": "beta"}, clip=False),
    )


def conditional_mnist() -> Experiment:
    """System B: class-conditional MNIST at 32x32 with a 51M attention U-Net, L1 loss.

    Its schedule is linear; its cosine alternative is `--schedule cosine --schedule-options
    beta_min=1e-4`. Labels are never dropped, as in the original; `--label-dropout 0.1` makes
    guidance possible.
    """
    return Experiment(
        preset="conditional-mnist",
        data=DataConfig("mnist", image_size=(32, 32), fit="resize"),
        network=NetworkConfig("conditional"),
        schedule=ScheduleConfig("linear"),
        objective=ObjectiveConfig(prediction="eps", loss="l1", label_dropout=0.0),
        optimiser=_plain_adam(1e-4),
        training=TrainingConfig(batch_size=64, epochs=1000),
        sampling=SamplingConfig("ddpm", 1000, options={"variance": "beta-tilde"}),
    )


def small_unet_mnist() -> Experiment:
    """System C: unconditional MNIST at 28x28 with a small LayerNorm U-Net (0.6M)."""
    return Experiment(
        preset="small-unet-mnist",
        data=DataConfig("mnist"),
        network=NetworkConfig("small-unet"),
        schedule=ScheduleConfig("linear"),
        objective=ObjectiveConfig(prediction="eps", label_dropout=0.0),
        optimiser=_plain_adam(1e-3),
        training=TrainingConfig(batch_size=128, epochs=20),
        sampling=SamplingConfig("ddpm", 1000, options={"variance": "beta"}, clip=False),
    )


def small_unet_fashion_mnist() -> Experiment:
    """System C on Fashion-MNIST."""
    return replace(
        small_unet_mnist(),
        preset="small-unet-fashion-mnist",
        data=DataConfig("fashion-mnist"),
    )


def _plain_adam(lr: float) -> OptimiserConfig:
    """Adam as the three systems use it: a constant rate, no clipping, no average."""
    return OptimiserConfig(
        name="adam",
        lr=lr,
        betas=(0.9, 0.999),
        warmup=0,
        decay="none",
        grad_clip=0.0,
        ema_half_life=0,
    )


PRESETS: dict[str, Callable[[], Experiment]] = {
    "mnist": mnist,
    "fashion-mnist": fashion_mnist,
    "unet-mnist": unet_mnist,
    "digits": digits,
    "cifar10": cifar10,
    "celeba": celeba,
    "folder": folder,
    "hf": hf,
    "unet-cifar10": unet_cifar10,
    "unet-folder": unet_folder,
    "diffunet-mnist": diffunet_mnist,
    "conditional-mnist": conditional_mnist,
    "small-unet-mnist": small_unet_mnist,
    "small-unet-fashion-mnist": small_unet_fashion_mnist,
}


def get_preset(name: str) -> Experiment:
    """Return the experiment called `name`, which may be a data set's name too, or hf:ORG/NAME.

    Raises ConfigError, with the nearest names, if there is none.
    """
    if name in PRESETS:
        return PRESETS[name]()
    if name.startswith("hf:"):
        return replace(hf(), data=replace(hf().data, name=name))
    if name in DATASETS.names():  # a plug-in's
        return _by_rule(name, name)
    if "/" in name or os.sep in name or Path(name).is_dir() or name.endswith(".npz"):
        raise ConfigError(
            f"{name!r} is no preset: for images of your own, the preset is folder "
            f"with --data {name}"
        )
    raise unknown("preset", name, [*PRESETS, *DATASETS.names()])


def describe_presets() -> dict[str, str]:
    """Return name -> first docstring line."""
    return {name: (make.__doc__ or "").split("\n", 1)[0] for name, make in PRESETS.items()}
