"""A look inside: the noise schedule, the loss at each time, the estimate of x0 on the way."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pocketddpm.demo.drawing import Film
from pocketddpm.demo.streaming import stream
from pocketddpm.diffusion.process import add_noise
from pocketddpm.models.model import Model
from pocketddpm.noise import Role, normal

POINTS = 16


@dataclass(frozen=True)
class Errors:
    """Mean squared errors per pixel in model units at the times t, so far. total: how many t.

    eps, x0: of the network's estimates of the noise and of the clean image.
    """

    t: list[int]
    eps: list[float]
    x0: list[float]
    total: int


def times_to_ask(T: int, points: int = POINTS) -> list[int]:
    """Return up to `points` times in 1..T, evenly spaced, both ends among them."""
    return sorted({round(t) for t in np.linspace(1, T, points)})


def errors_by_time(
    model: Model,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64] | None = None,
    *,
    seed: int = 0,
) -> Iterator[Errors]:
    """Yield the network's errors on images, uint8 [N,C,H,W], as more times are asked.

    labels: what the network is told, int64 [N]. Nothing is clipped: these are its own errors.
    """

    def work(report: Callable[[Errors], None]) -> None:
        x0 = model.scaling.to_model(torch.tensor(images, device=model.device))
        index = torch.arange(len(x0), device=model.device)
        told = None if labels is None else torch.from_numpy(labels)
        denoise = model.denoiser(told, clip=False)
        times = times_to_ask(model.schedule.T)
        found = Errors([], [], [], len(times))
        for step, t in enumerate(times):
            alpha_bar = float(model.schedule.alpha_bar[t])
            eps = normal(seed, Role.EVALUATE, index, model.shape, step)
            x_t = add_noise(x0, eps, model.schedule.at(torch.full((len(x0),), t)))
            estimate = denoise(x_t, float(t), alpha_bar)
            found = Errors(
                [*found.t, t],
                [*found.eps, float((estimate.eps - eps).square().mean())],
                [*found.x0, float((estimate.x0 - x0).square().mean())],
                len(times),
            )
            report(found)

    return stream(work)


def strip(film: Film, panels: int = 10) -> NDArray[np.uint8]:
    """Return two rows of panels of a film's first image: x_t, and below it the x0 estimate.

    uint8 [2 * panels,C,H,W]; fewer panels where the film has fewer frames after the noise.
    """
    frames = film.frames[1:]
    panels = min(panels, len(frames))
    picks = [frames[round(k)] for k in np.linspace(0, len(frames) - 1, panels)]
    return np.stack([f.x[0] for f in picks] + [f.x0[0] for f in picks])


def strip_times(film: Film, panels: int = 10) -> list[float]:
    """Return the time of each column of `strip`."""
    frames = film.frames[1:]
    return [frames[round(k)].t for k in np.linspace(0, len(frames) - 1, min(panels, len(frames)))]
