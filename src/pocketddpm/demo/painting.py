"""Editing by hand: masks and sketches out of an image editor, and the films of what follows."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pocketddpm.data.decode import crop_resize
from pocketddpm.demo.drawing import LARGEST_SEED, MOST_IMAGES, ROW, Film, Wish, record, whole
from pocketddpm.diffusion.conditioning import build_method
from pocketddpm.diffusion.operators import TASKS, Linear, build_operator
from pocketddpm.diffusion.sampling import State, start_noise
from pocketddpm.errors import ConfigError
from pocketddpm.models.editing import (
    Settings,
    decode,
    img2img,
    inpaint,
    resampling_path,
    slerp,
    start_time,
)
from pocketddpm.models.model import Model
from pocketddpm.models.restoration import as_pictures, measure, restore
from pocketddpm.models.samples import Images, Watch
from pocketddpm.pictures import to_image

Shape = tuple[int, int, int]
BRUSH = "what I brushed over"
REGIONS = (BRUSH, "left half", "right half", "upper half", "lower half", "middle")
COVERED = 0.3  # share of a pixel that a brush must cover


def region(name: str, shape: Shape) -> NDArray[np.bool_]:
    """Return the mask of a named part of the image, bool [H,W]; for those who cannot brush."""
    _, height, width = shape
    y, x = np.mgrid[:height, :width]
    masks = {
        "left half": x < width // 2,
        "right half": x >= width // 2,
        "upper half": y < height // 2,
        "lower half": y >= height // 2,
        "middle": (abs(2 * y + 1 - height) < height / 2) & (abs(2 * x + 1 - width) < width / 2),
    }
    return masks[name]


def mask_of(value: dict[str, Any] | None, shape: Shape) -> NDArray[np.bool_]:
    """Return where an editor's layers were brushed, bool [H,W].

    value: an editor's {'layers': [RGBA arrays [h,w,4], ...]}. Raises ConfigError for no stroke.
    """
    from PIL import Image

    height, width = shape[1:]
    covered = np.zeros((height, width), np.float64)
    for layer in (value or {}).get("layers") or []:
        brushed = Image.fromarray(layer[..., 3])
        small = brushed.resize((width, height), Image.Resampling.BOX)  # averages over areas
        covered = np.maximum(covered, np.asarray(small, np.float64) / 255)
    mask = covered >= COVERED
    if not mask.any():
        raise ConfigError("Image: nothing is marked. Brush over a part of it, or choose a Part.")
    return mask


def sketch_of(value: dict[str, Any] | None, shape: Shape) -> Images:
    """Return an editor's picture in the model's shape, uint8 [C,H,W], over black.

    Raises ConfigError when it is empty.
    """
    from PIL import Image

    composite = (value or {}).get("composite")
    if composite is None or not composite[..., 3].any() or not composite[..., :3].any():
        raise ConfigError("The sheet is empty: draw something on it first, or put an image in.")
    ground = Image.new("RGBA", (composite.shape[1], composite.shape[0]), "black")
    ground.alpha_composite(Image.fromarray(composite, "RGBA"))
    flat = crop_resize(ground.convert("L" if shape[0] == 1 else "RGB"), shape[1:])
    array = np.asarray(flat)
    return array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)


def enlarged(image: Images, size: int) -> Images:
    """Return an image [C,H,W] for an editor's canvas: RGBA [h,w,4], its pixels as plain squares."""
    from PIL import Image

    picture = to_image(image.transpose(1, 2, 0))
    scale = size / max(picture.size)
    wide, high = (round(side * scale) for side in picture.size)
    return np.asarray(picture.resize((wide, high), Image.Resampling.NEAREST).convert("RGBA"))


def blank(size: int) -> Any:
    """Return an editor's value: a black sheet of size x size."""
    sheet = np.zeros((size, size, 4), np.uint8)
    sheet[..., 3] = 255
    return {"background": sheet, "layers": [], "composite": sheet}


def inpainted(
    model: Model, image: Images, mask: NDArray[np.bool_], wanted: Wish, repeats: float | None
) -> Iterator[Film]:
    """Yield the film of n ways to paint the masked part of an image, uint8 [C,H,W], anew."""
    count = whole(repeats, "Repeats", 1, 10)
    length = max(1, min(10, wanted.steps // 4))
    steps = sum(b > a for a, b in pairwise(resampling_path(wanted.steps, length, count)))
    film = _film(model, f"inpaint-seed{wanted.seed}", steps, wanted)
    if steps > wanted.steps:
        film.note = f"{wanted.steps} steps, some repeated"
    images = np.repeat(image[None], wanted.n, 0)
    jumps = {"jump_length": length, "jump_count": count}
    seen = itertools.count(1)  # a state's own number counts the jumps back as well

    def run(watch: Watch) -> None:
        def counted(which: slice, state: State) -> None:
            watch(which, replace(state, i=next(seen)))

        inpaint(model, images, mask, **jumps, **_settings(film, wanted), watch=counted)

    return record(model, film, run)


def finished(model: Model, sketch: Images, strength: float, wanted: Wish) -> Iterator[Film]:
    """Yield the film of n images that grow from a sketch, uint8 [C,H,W], noised to strength * T."""
    t = start_time(model, strength)
    if t == 0:
        raise ConfigError("Strength: 0 returns the sketch as it is; choose more.")
    plan = model.plan(steps=wanted.steps, spacing=wanted.spacing, t_start=t)
    film = _film(model, f"sketch-seed{wanted.seed}", plan.grid.steps, wanted)
    if plan.grid.steps < wanted.steps:
        film.note = f"the last of {wanted.steps}, from t = {t}"
    images = np.repeat(sketch[None], wanted.n, 0)
    run = partial(img2img, model, images, strength=strength, **_settings(film, wanted))
    return record(model, film, lambda watch: run(watch=watch), wanted.branches(film.labels))


def between(model: Model, other_seed: float | None, wanted: Wish) -> Iterator[Film]:
    """Yield the film of n images on the way from the noise of one seed to that of another.

    Along the great circle between both noises, drawn by DDIM, which adds none of its own.
    """
    other = whole(other_seed, "To seed", 0, LARGEST_SEED)
    whole(wanted.n, "Images on the way", 2, MOST_IMAGES)
    film = _film(model, f"between-{wanted.seed}-{other}", wanted.steps, wanted)
    index = torch.zeros(1, dtype=torch.int64, device=model.device)
    start, end = (start_noise(seed, index, model.shape) for seed in (wanted.seed, other))
    share = torch.linspace(0, 1, wanted.n, device=model.device)
    noise = slerp(start, end, share).flatten(0, 1)
    run = partial(decode, model, noise, **_settings(film, replace(wanted, sampler="ddim")))
    return record(model, film, lambda watch: run(watch=watch), wanted.branches(film.labels))


def tasks(model: Model) -> list[str]:
    """Return what an image of the model may have to be restored from."""
    return [task for task in TASKS if task != "grey" or model.shape[0] > 1]


def measured(
    model: Model, image: Images, task: str, noise: float
) -> tuple[Linear, torch.Tensor, Images]:
    """Return how an image, uint8 [C,H,W], was measured, what came of it, and that as a picture.

    The same measurement whatever the seed of the samples. ConfigError for a task that does not fit.
    """
    operator = build_operator(task, model.shape, device=model.device)
    y = measure(model, image[None], operator, noise)
    return operator, y, as_pictures(model, y, operator)


def restored(
    model: Model, image: Images, task: str, noise: float, method: str, wanted: Wish
) -> Iterator[Film]:
    """Yield the film of n samples of what an image, uint8 [C,H,W], may be, given a measurement."""
    operator, y, _ = measured(model, image, task, noise)
    wanted = replace(wanted, sampler=build_method(method).sampler)
    film = _film(model, f"restore-{task}-seed{wanted.seed}", wanted.steps, wanted)
    how = _settings(film, wanted) | {"sigma": noise, "method": method, "samples": wanted.n}
    if film.labels is not None:
        how["labels"] = film.labels[:1]
    run = partial(restore, model, y, operator, **how)
    return record(model, film, lambda watch: run(watch=watch), wanted.branches(film.labels))


def _film(model: Model, name: str, steps: int, wanted: Wish) -> Film:
    labels = wanted.numbers(model) if wanted.labels else None
    return Film(name, steps, labels, model.classes, min(wanted.n, ROW))


def _settings(film: Film, wanted: Wish) -> dict[str, Any]:
    if film.labels is None:  # there is nothing to guide towards
        wanted = replace(wanted, guidance=1.0)
    return {"labels": film.labels, "settings": Settings(**wanted.settings())}
