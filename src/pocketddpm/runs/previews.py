"""What a run shows of itself: pictures of its data, previews."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pocketddpm.data.scaling import Scaling
from pocketddpm.diffusion.process import add_noise
from pocketddpm.diffusion.schedule import Schedule
from pocketddpm.models.model import Model
from pocketddpm.noise import Role, normal
from pocketddpm.pictures import columns_for, names_of, save_grid, short_number, time_text
from pocketddpm.training.trainer import Trainer

PREVIEW_ROWS, PREVIEW_CLASSES, PREVIEW_STEPS = 6, 10, 50
FORWARD_SHARES = (0, 0.25, 0.5, 0.75, 1)  # of T


def save_first_pictures(out: Path, trainer: Trainer, classes: Sequence[str]) -> None:
    """Write data.png, the first batch, and forward.png, what the forward process does to it."""
    training = trainer.experiment.training
    first = trainer.loader.batch(0, min(64, training.batch_size))
    images, names = first.images.cpu().numpy(), names_of(first.labels, classes)
    save_grid(out / "data.png", images, names=names)
    schedule, scaling = trainer.objective.schedule, trainer.scaling
    save_forward(
        out / "forward.png", images[:8], schedule, names[:8], scaling=scaling, seed=training.seed
    )


def save_forward(
    path: Path,
    images: NDArray[np.uint8],
    schedule: Schedule,
    names: Sequence[str] = (),
    *,
    scaling: Scaling | None = None,
    seed: int = 0,
) -> None:
    """Write a PNG of what the forward process does to images, uint8 [N,C,H,W], a row for each.

    Above each column stand t and the noise level, sigma = sqrt((1 - alpha_bar) / alpha_bar).
    """
    times = [round(share * schedule.T) for share in FORWARD_SHARES]
    heads = [f"{time_text(t)}\nσ = {short_number(float(schedule.sigma[t]))}" for t in times]
    panels = forward_panels(images, schedule, scaling=scaling, seed=seed)
    save_grid(path, panels, len(heads), heads=heads, sides=names)


def preview_columns(classes: int) -> int:
    """Return the columns of a preview of so many classes."""
    return (
        columns_for(60, min(classes, PREVIEW_CLASSES), PREVIEW_CLASSES) if classes else PREVIEW_ROWS
    )


def preview_cost(classes: int, timesteps: int) -> float:
    """Return on how many images training takes as long as a preview: a step has a backward pass."""
    return PREVIEW_ROWS * preview_columns(classes) * min(PREVIEW_STEPS, timesteps) / 3


def save_preview(path: Path, model: Model, seed: int, progress: str = "") -> None:
    """Write a grid, every class in its column, by a quick sampler whatever the preset's.

    progress: what a bar on stderr is called; without a name there is none.
    """
    labels = model.classes[:PREVIEW_CLASSES] or None
    columns = preview_columns(len(model.classes))
    settings = {"sampler": "ddim", "steps": min(PREVIEW_STEPS, model.schedule.T), "seed": seed}
    drawn = model.sample(PREVIEW_ROWS * columns, labels=labels, progress=progress, **settings)
    drawn.save(path, columns)


def forward_panels(
    images: NDArray[np.uint8],
    schedule: Schedule,
    *,
    shares: tuple[float, ...] = FORWARD_SHARES,
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
