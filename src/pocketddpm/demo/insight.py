"""A look inside: the noise schedule, the loss at each time, the estimate of x0 on the way."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pocketddpm.demo.drawing import Film
from pocketddpm.demo.noising import noise_images
from pocketddpm.demo.streaming import stream
from pocketddpm.models.model import Model
from pocketddpm.noise import Role

POINTS = 16  # at most; the first and the last time are among them


@dataclass(frozen=True)
class Errors:
    """Mean squared errors per pixel in model units at the times t, so far. total: how many t.

    eps, x0: of the network's estimates of the noise and of the clean image.
    """

    t: list[int]
    eps: list[float]
    x0: list[float]
    total: int


def errors_by_time(
    model: Model, images: NDArray[np.uint8], labels: NDArray[np.int64] | None = None
) -> Iterator[Errors]:
    """Yield the network's errors on images, uint8 [N,C,H,W], as more times are asked.

    labels: what the network is told, int64 [N] or None. Nothing is clipped.
    """

    def work(report: Callable[[Errors], None]) -> None:
        denoise = model.denoiser(None if labels is None else torch.from_numpy(labels), clip=False)
        times = sorted({round(t) for t in np.linspace(1, model.schedule.T, POINTS)})
        of_eps, of_x0 = [], []
        for step, t in enumerate(times):
            x0, eps, x_t = noise_images(model, images, t, Role.EVALUATE, step)
            estimate = denoise(x_t, float(t), float(model.schedule.alpha_bar[t]))
            of_eps.append(float((estimate.eps - eps).square().mean()))
            of_x0.append(float((estimate.x0 - x0).square().mean()))
            report(Errors(times[: step + 1], of_eps.copy(), of_x0.copy(), len(times)))

    return stream(work)


def strip(film: Film, panels: int = 10) -> tuple[list[float], NDArray[np.uint8]]:
    """Return the times, and two rows of panels of a film's first image: x_t, below it x0_hat.

    uint8 [2 * panels,C,H,W]; fewer panels where the film has fewer frames after the noise.
    """
    frames = film.frames[1:]
    picks = [frames[round(k)] for k in np.linspace(0, len(frames) - 1, min(panels, len(frames)))]
    return [f.t for f in picks], np.stack([f.x[0] for f in picks] + [f.x0[0] for f in picks])
