"""The experiments: one small function per preset, returning the whole configuration.

Standard library only. The first line of a function's docstring is its help text.
"""

from collections.abc import Callable
from dataclasses import replace

from pocketddpm.config import (
    DataConfig,
    Experiment,
    NetworkConfig,
    OptimiserConfig,
    TrainingConfig,
)
from pocketddpm.errors import unknown


def mnist() -> Experiment:
    """Handwritten digits, 28x28 grey, class-conditional: ten minutes on two cores."""
    return Experiment(preset="mnist", data=DataConfig("mnist"), training=TrainingConfig(minutes=10))


def fashion_mnist() -> Experiment:
    """Clothes, 28x28 grey, class-conditional: ten minutes on two cores."""
    return replace(mnist(), preset="fashion-mnist", data=DataConfig("fashion-mnist"))


def digits() -> Experiment:
    """scikit-learn's 8x8 handwritten digits: needs no download, a minute on two cores."""
    return Experiment(
        preset="digits",
        data=DataConfig("digits"),
        network=NetworkConfig(sizes={"widths": (32, 64)}),
        optimiser=OptimiserConfig(warmup=2_000, ema_half_life=5_000),
        training=TrainingConfig(minutes=1, batch_size=64),
    )


def cifar10() -> Experiment:
    """CIFAR-10, 32x32 colour, class-conditional, with flips: for a GPU."""
    return Experiment(
        preset="cifar10",
        data=DataConfig("cifar10"),
        network=NetworkConfig(
            sizes={"widths": (128, 256, 256), "blocks": 2, "attention": 2, "dropout": 0.1}
        ),
        optimiser=OptimiserConfig(lr=5e-4, warmup=100_000, ema_half_life=500_000),
        training=TrainingConfig(epochs=200, batch_size=256),
    )


def folder() -> Experiment:
    """Your own images: `--data PATH`, with labels from sub-folder names when there are any."""
    return Experiment(
        preset="folder",
        data=DataConfig(""),
        network=NetworkConfig(sizes={"widths": (32, 64, 128)}),
        optimiser=OptimiserConfig(lr=1e-3),
        training=TrainingConfig(minutes=30, batch_size=64),
    )


PRESETS: dict[str, Callable[[], Experiment]] = {
    "mnist": mnist,
    "fashion-mnist": fashion_mnist,
    "digits": digits,
    "cifar10": cifar10,
    "folder": folder,
}


def get_preset(name: str) -> Experiment:
    """Return the experiment called `name`; ConfigError, with the nearest names, if none is."""
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return PRESETS[name]()


def describe_presets() -> dict[str, str]:
    """Return name -> first docstring line."""
    return {name: (make.__doc__ or "").split("\n", 1)[0] for name, make in PRESETS.items()}
