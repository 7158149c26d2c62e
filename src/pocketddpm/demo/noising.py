"""The forward process under a slider: images at a time t, and what the network makes of them."""

from dataclasses import dataclass
from math import inf, log10

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pocketddpm.diffusion.process import add_noise
from pocketddpm.models.model import Model
from pocketddpm.models.samples import Images
from pocketddpm.noise import Role, normal


@dataclass(frozen=True)
class Noised:
    """x_t: images at time t. guess: the network's x0 estimate from them; both uint8 [N,C,H,W].

    error: root mean squared error of the guess, in grey levels of 255.
    """

    t: int
    alpha_bar: float
    x_t: Images
    guess: Images
    error: float

    @property
    def signal(self) -> float:
        """What x0 is multiplied by, sqrt(alpha_bar)."""
        return self.alpha_bar**0.5

    @property
    def noise(self) -> float:
        """What eps is multiplied by, sqrt(1 - alpha_bar)."""
        return (1 - self.alpha_bar) ** 0.5

    @property
    def decibels(self) -> float:
        """The signal-to-noise ratio in dB; infinite at t = 0."""
        if self.alpha_bar in (0, 1):
            return inf if self.alpha_bar else -inf
        return 10 * log10(self.alpha_bar / (1 - self.alpha_bar))


def noise_images(
    model: Model, images: Images, t: int, role: Role, step: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (x0, eps, x_t) of images, uint8 [N,C,H,W], in model units.

    role, step: which noise; it is always the same.
    """
    x0 = model.scaling.to_model(torch.tensor(images, device=model.device))
    eps = normal(0, role, torch.arange(len(x0), device=model.device), model.shape, step)
    return x0, eps, add_noise(x0, eps, model.schedule.at(torch.full((len(x0),), t)))


@torch.no_grad()
def noised(model: Model, images: Images, labels: NDArray[np.int64] | None, t: int) -> Noised:
    """Return images, uint8 [N,C,H,W], at time t in 0..T under a noise that is always the same.

    labels: what the network is told, int64 [N] or None. At t = 0 it is not asked.
    """
    alpha_bar, to_uint8 = float(model.schedule.alpha_bar[t]), model.scaling.to_uint8
    _, _, x_t = noise_images(model, images, t, Role.START)
    seen = to_uint8(x_t).cpu().numpy()
    if t == 0:
        return Noised(t, alpha_bar, seen, seen, 0.0)
    denoise = model.denoiser(None if labels is None else torch.from_numpy(labels))
    guess = to_uint8(denoise(x_t, float(t), alpha_bar).x0).cpu().numpy()
    error = float(np.sqrt(np.mean((guess.astype(np.float64) - images) ** 2)))
    return Noised(t, alpha_bar, seen, guess, error)
