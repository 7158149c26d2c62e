"""`sample_states`: from noise to images, in batches, with one seed per image.

A sampler is a function in one file of `samplers/`; it yields a `State` after each step, so that the
caller decides what to keep: the last image, a strip, a GIF.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pocketddpm.diffusion.denoiser import Denoise
from pocketddpm.diffusion.grid import Grid
from pocketddpm.noise import Role, normal


@dataclass(frozen=True)
class State:
    """A sampler's state after step i (1..N).

    t: the time reached. x: the images at that time, [B,C,H,W], in model units. x0: the latest
    estimate of the clean images, likewise. nfe: calls of the denoiser so far.
    """

    i: int
    t: float
    x: Tensor
    x0: Tensor
    nfe: int


Noise = Callable[[int], Tensor]  # step number -> standard normal noise of the images' shape
States = Iterator[State]
Sampler = Callable[[Denoise, Tensor, Grid, Noise, Any], States]


def start_noise(seed: int, index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return x_T ~ N(0, I), float32 [B, *shape]; image k depends on (seed, index[k]) alone."""
    return normal(seed, Role.START, index, shape)


def step_noise(seed: int, index: Tensor, shape: tuple[int, ...]) -> Noise:
    """Return the noise source of a stochastic sampler for the images `index`, int64 [B]."""
    return lambda step: normal(seed, Role.STEP, index, shape, step)


@torch.no_grad()
def sample_states(
    denoise: Denoise,
    sampler: Sampler,
    grid: Grid,
    config: Any,
    *,
    index: Tensor,
    shape: tuple[int, ...],
    seed: int,
) -> States:
    """Yield the states of one batch of images, beginning with the pure noise (i = 0).

    sampler, config: `sample` and an instance of `Config` of one file of `samplers/`. grid: the
    times, from noise to image. index: int64 [B] on the network's device; the images' numbers, which
    with `seed` fix all noise. shape: of one image, (C, H, W). Images are float32 [B,C,H,W].
    """
    x = start_noise(seed, index, shape)
    yield State(0, grid.t[0], x, torch.zeros_like(x), 0)
    yield from sampler(denoise, x, grid, step_noise(seed, index, shape), config)
