"""Training a small classifier: for feature extractors and judges, and for train-on-synthetic.

AdamW (arXiv 1711.05101) in one cycle, label smoothing, small affine distortions and erased patches
(arXiv 1708.04896), and an average of the weights over the last epochs. There is no early stopping
and no choice by a validation set: a recipe is run to its end, and the test set is looked at once.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import cos, pi

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from pocketddpm.metrics.classifiers import ARCHITECTURES, fold
from pocketddpm.noise import Role, uniform

Progress = Callable[[int], object]


@dataclass(frozen=True)
class Recipe:
    """How a classifier is trained.

    shift: largest shift, in pixels. turn: largest rotation, in degrees. stretch: largest relative
    change of size. erase: the share of images with a patch erased. average: the share of the run,
    at its end, over which the weights are averaged. No flips: digits and shoes have a side.
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


def train_classifier(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    classes: int,
    recipe: Recipe,
    *,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> nn.Module:
    """Return a trained classifier, folded, with weights that float16 holds exactly.

    images: uint8 [N,C,H,W]. labels: int64 [N]. progress(k) is called after every k images.
    The result is a function of the arguments, on one machine and thread count.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network: nn.Module = ARCHITECTURES[recipe.architecture](images.shape[1], classes)
        # torch's own annotations leave memory_format out.
        network = network.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        mean = _train(network, images, labels, recipe, progress)
    network.load_state_dict(mean)
    # A network of averaged weights needs batch statistics of its own.
    _renew_statistics(network, images, recipe)
    fold(network)
    return round_to_half(network)


def run_length(total: int, recipe: Recipe) -> int:
    """Return how many images a run on `total` of them goes through, for progress bars."""
    size = min(recipe.batch_size, total)
    return recipe.epochs * max(1, total // recipe.batch_size) * size


def round_to_half(network: nn.Module) -> nn.Module:
    """Round the weights to float16 and keep them in float32: what is used is what is stored."""
    return network.half().float()


def _train(
    network: nn.Module,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    recipe: Recipe,
    progress: Progress | None,
) -> dict[str, Tensor]:
    device = next(network.parameters()).device
    flat = [p for p in network.parameters() if p.ndim < 2]
    deep = [p for p in network.parameters() if p.ndim >= 2]
    groups = [
        {"params": deep, "weight_decay": recipe.weight_decay},
        {"params": flat, "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.99))
    per_epoch = max(1, len(images) // recipe.batch_size)
    steps = recipe.epochs * per_epoch
    mean: dict[str, Tensor] = {}
    averaged = 0
    network.train()
    for step, which in enumerate(_batches(len(images), recipe)):
        for group in optimiser.param_groups:
            group["lr"] = recipe.lr * one_cycle(step / steps, recipe.warmup)
        x = torch.from_numpy(images[which]).to(device).float() / 255
        y = torch.from_numpy(labels[which]).to(device)
        with torch.no_grad():
            x = distort(x, recipe)
        x = x.contiguous(memory_format=torch.channels_last)
        with _autocast(recipe, device):
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
        if progress is not None:
            progress(len(which))
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


def _renew_statistics(network: nn.Module, images: NDArray[np.uint8], recipe: Recipe) -> None:
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
    device = next(network.parameters()).device
    network.train()
    with torch.no_grad():
        # Undistorted images: the statistics are those that evaluation will meet.
        for start in range(0, min(len(images), 10_000), 500):
            x = torch.from_numpy(images[start : start + 500].copy()).to(device).float() / 255
            if len(x) > 1:
                network(x.contiguous(memory_format=torch.channels_last))


def _autocast(recipe: Recipe, device: torch.device) -> AbstractContextManager[object]:
    wanted = recipe.precision == "bf16"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=wanted)
