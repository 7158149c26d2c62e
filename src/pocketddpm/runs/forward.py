"""The forward process in pictures: images on their way to noise."""

import numpy as np
import torch
from numpy.typing import NDArray

from pocketddpm.data.scaling import Scaling
from pocketddpm.diffusion.process import add_noise
from pocketddpm.diffusion.schedule import Schedule
from pocketddpm.noise import Role, normal


def forward_panels(
    images: NDArray[np.uint8],
    schedule: Schedule,
    *,
    shares: tuple[float, ...] = (0, 0.25, 0.5, 0.75, 1),
    scaling: Scaling | None = None,
    seed: int = 0,
) -> NDArray[np.uint8]:
    """Return each image [C,H,W] of images [N,C,H,W] at the given shares of T, image by image.

    One noise per image, so that a row shows one path.
    """
    scaling = scaling or Scaling()
    x0 = scaling.to_model(torch.from_numpy(np.array(images)))
    eps = normal(seed, Role.START, torch.arange(len(x0)), tuple(x0.shape[1:]))
    times = torch.tensor([round(share * schedule.T) for share in shares])
    panels = torch.stack([add_noise(x0, eps, schedule.at(t).expand(len(x0))) for t in times], dim=1)
    return scaling.to_uint8(panels.flatten(0, 1)).numpy()
