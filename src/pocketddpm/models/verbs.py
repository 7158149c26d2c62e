"""`sample` and `edit`, the public verbs: draw with a progress bar, and write what was drawn."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from pocketddpm.config import Options
from pocketddpm.diffusion.conditioning import build_method
from pocketddpm.diffusion.guidance import Guidance
from pocketddpm.diffusion.operators import TASKS, build_operator
from pocketddpm.distributed import rank
from pocketddpm.errors import ConfigError, unknown
from pocketddpm.models.editing import Settings, img2img, inpaint, interpolate, start_time
from pocketddpm.models.inputs import read_images, read_mask
from pocketddpm.models.labels import NO_LABEL, Labels
from pocketddpm.models.model import Model, load
from pocketddpm.models.restoration import EACH, Restored, measure, read_measured, restore
from pocketddpm.models.samples import Images, Samples, check_strip, check_suffix
from pocketddpm.output import expanded, file_name, refuse_existing
from pocketddpm.pictures import save_gif, save_grid
from pocketddpm.values import real, whole

Place = str | Path
Edit = Literal["interpolate", "img2img", "inpaint", "restore"]


def sample(
    model: Model | Place,
    n: int,
    *,
    out: Place | None = None,
    gif: Place | None = None,
    strip: Place | None = None,
    panels: int = 10,
    rows: int = 8,
    stretch: bool = False,
    names: bool = True,
    overwrite: bool = False,
    guide: Model | Place | None = None,
    device: str = "auto",
    weights: str = "ema",
    **settings: Any,
) -> Samples:
    """Draw n images, in all processes of torchrun together, and write them where it is asked for.

    Args:
        model: a model; or what `load` takes, and then device and weights are for it.
        n: how many images.
        out: a .png grid, an .npz array file, or a folder for single PNGs.
        gif: an animation of the denoising; a folder gets one for each class.
        strip: a PNG of the first images, a row for each, from noise to image.
        panels: those of a row of the strip, at least 2.
        rows: those of the strip, at most.
        stretch: in pictures, stretch each image to its own darkest and brightest pixel.
        names: whether pictures have names of classes and times on them.
        overwrite: replace files that exist.
        guide: a weaker model, for autoguidance, or what `load` takes.
        settings: those of `Model.sample`: labels, sampler, steps, guidance, seed, ...

    Raises what `load` and `Model.sample` raise, and OutputError for a file that exists or cannot be
    written, before anything is drawn.

    >>> import pocketddpm as pd
    >>> pd.sample("mnist-fast", 6, labels="3,7", out="six.png", gif="six.gif")
    Samples: 6 images 1x28x28, of 3 and 7, 2 network evaluations each
    """
    _check_outputs(overwrite, (out, ".png", ".npz", ""), (gif, ".gif", ""), (strip, ".png"))
    check_strip(panels, rows)
    model = _loaded(model, device, weights)
    samples = model.sample(
        n,
        guide=None if guide is None else _loaded(guide, device, weights),
        record=gif is not None or strip is not None,
        together=True,
        progress="drawing",
        **settings,
    )
    if rank() == 0:
        if overwrite:
            _remove_old(model, out, gif)
        shown = samples.stretched() if stretch else samples
        if out is not None:
            (samples if Path(out).suffix == ".npz" else shown).save(out, names=names)
        if gif is not None:
            shown.save_gif(gif, names=names)
        if strip is not None:
            shown.save_strip(strip, panels, rows, names=names)
    return samples


def edit(
    what: Edit,
    model: Model | Place,
    images: Place | Sequence[Place] | Images,
    *,
    index: Sequence[int] = (0, 1, 2, 3),
    split: Literal["train", "test"] = "train",
    labels: Labels = "own",
    strength: float | None = None,
    mask: Place | tuple[int, ...] | NDArray[np.bool_] | None = None,
    jump_length: int | None = None,
    jump_count: int = 10,
    frames: int = 8,
    task: Any = None,
    factor: float | None = None,
    noise: float | None = None,
    method: str | None = None,
    method_options: Options | None = None,
    samples: int | None = None,
    measured: bool = False,
    sampler: str | None = None,
    steps: int | None = None,
    guidance: Guidance | float | None = None,
    seed: int = 0,
    out: Place | None = None,
    gif: Place | None = None,
    overwrite: bool = False,
    device: str = "auto",
) -> Samples:
    """Edit images by sampling, and write a picture and an animation where it is asked for.

    Args:
        what: 'interpolate' makes a row of images from each image to the next; 'img2img' noises the
            images, and draws them from there; 'inpaint' paints a part anew; 'restore' measures
            the images, and draws what they may have been (docs/restore.md), as `Restored`.
        model: a model; or what `load` takes, and then device is for it.
        images: uint8 [N,C,H,W] of the model's shape; or image files; or a data set's name or
            folder, of whose split the images `index` are taken.
        labels: classes to draw, as for `Model.sample`; None: no label. 'own' are the images' own,
            if they are known: of a data set whose classes the model has. What lies between two
            images with different labels has none, and what is restored, unless it is given.
        strength: how far up into noise, 0 to 1: 0.5 for img2img. With interpolate: blend the images
            there, in place of encoding them.
        mask: the part to paint: an image file, white there; (top, left, bottom, right) in pixels;
            or bool [H,W].
        jump_length: inpainting repeats the run in stretches of so many steps, 10 by default,
        jump_count: each so many times; 1 is no repetition.
        frames: images in a row of an interpolation.
        task: what is measured, for restore: super-resolution, blur, grey, noise, mask (the part to
            paint is missing), compressed-sensing; or a linear operator of your own, with `A(x)` and
            `A_adjoint(y)` for images [N,C,H,W] in model units, as deepinv.physics has.
        factor: how much is lost, see `pocketddpm list restore-tasks`.
        noise: the deviation of the measurement's noise, 0.05 by default; black and white are 2
            apart.
        method: mmps by default, dps or diffpir; method_options: such as {"iterations": 5}.
        samples: of each image, 4 by default.
        measured: whether the images are measurements already, to be restored as they are.
        sampler: ddpm for inpaint and restore (consistency for diffpir), ddim for interpolate, else
            the model's own.
        steps: those of a run from T; an edit that starts below takes fewer. restore: 50.
        guidance: a `Guidance`, or its scale.
        seed: of the noise.
        out: a .png: before, mask and after, a row each; or the rows of the interpolation; or truth,
            measurement, samples, their mean and their spread.
        gif: an animation: of the morphing, or of the denoising.
        overwrite: replace files that exist.

    Raises ConfigError for settings that cannot work, DataError for images that cannot be read,
    OutputError for a file that exists or cannot be written.

    >>> import pocketddpm as pd
    >>> model = pd.load("mnist")
    >>> three = model.sample(labels=[3], steps=4)
    >>> anew = pd.edit(
    ...     "inpaint", model, three.images, mask=(14, 0, 28, 28), labels=[3], steps=4, jump_count=1
    ... )
    >>> bool((anew.images[:, :, :14] == three.images[:, :, :14]).all())
    True
    """
    if what not in get_args(Edit):
        raise unknown("edit", str(what), get_args(Edit))
    if what != "restore" and (what == "inpaint") != (mask is not None):
        raise ConfigError(f"inpaint needs one of --mask and --box, {what} takes none of them")
    if what in ("inpaint", "restore") and strength is not None:
        raise ConfigError(f"--strength is for img2img and interpolate; {what} starts at T")
    _check_outputs(overwrite, (out, ".png"), (gif, ".gif"))
    restoring: dict[str, Any] = {"task": task, "factor": factor, "noise": noise, "method": method}
    restoring |= {"method_options": method_options, "samples": samples}
    restoring |= {"measured": measured or None}
    if what != "restore":
        for name, value in restoring.items():
            if value is not None:
                option = f"--{name.replace('_', '-')}"
                raise ConfigError(f"{option} is for restore, got {value!r:.100} for {what}")
    model = _loaded(model, device)
    if what == "restore":
        settings = Settings(
            sampler,
            steps=steps,
            guidance=guidance,
            seed=seed,
            record=gif is not None,
            progress=True,
        )
        unlabelled = isinstance(labels, str) and labels == "own"
        restored = _restored(
            model, images, index, split, mask, **restoring,
            labels=None if unlabelled else labels, settings=settings,
        )  # fmt: skip
        if out is not None:
            restored.save_rows(out)
        if gif is not None:
            restored.save_gif(gif, names=False)
        return restored
    before, own = read_images(model, images, index, split)
    if isinstance(labels, str) and labels == "own":
        labels = own if what != "interpolate" or own is None else _shared(own, len(model.classes))
    record = gif is not None
    settings = Settings(
        sampler, steps=steps, guidance=guidance, seed=seed, record=record, progress=True
    )
    how: dict[str, Any] = {"labels": labels, "settings": settings}
    if what == "interpolate":
        t = None if strength is None else start_time(model, strength)
        one, other = before[:-1], before[1:]
        if not len(one):
            raise ConfigError("interpolate needs at least 2 images; give more --images")
        edited = interpolate(model, one, other, frames=frames, t=t, **how)
        between = edited.images.reshape(len(one), -1, *model.shape)
        rows = np.concatenate([one[:, None], between, other[:, None]], 1)
    elif mask is None:
        edited = img2img(model, before, strength=0.5 if strength is None else strength, **how)
        rows = np.stack([before, edited.images])
    else:
        part = read_mask(model, mask)
        jumps: dict[str, Any] = {"jump_length": jump_length, "jump_count": jump_count}
        edited = inpaint(model, before, part, **jumps, **how)
        rows = np.stack([before, np.where(part, np.uint8(255), before), edited.images])
    if out is not None:
        save_grid(expanded(out), rows.reshape(-1, *model.shape), rows.shape[1])
    if gif is not None:
        still = rows[-1:] if edited.frames is None else edited.frames  # of a strength of 0
        film = rows.swapaxes(0, 1) if what == "interpolate" else still
        save_gif(expanded(gif), film, film.shape[1])
    return edited


def _restored(
    model: Model,
    images: Any,
    index: Sequence[int],
    split: Literal["train", "test"],
    mask: Any,
    *,
    task: Any,
    factor: float | None,
    noise: float | None,
    method: str | None,
    method_options: Options | None,
    samples: int | None,
    measured: bool | None,
    labels: Labels,
    settings: Settings,
) -> Restored:
    """Return the restored images of `edit`; all that can be refused is, before they are read."""
    if task is None:
        raise ConfigError(f"restore needs a --task: {', '.join(TASKS)}")
    how: dict[str, Any] = {"method": method or "mmps", "options": method_options}
    how["samples"] = whole(4 if samples is None else samples, "--samples", EACH)
    how["sigma"] = real(0.05 if noise is None else noise, "--noise", ">= 0")
    build_method(how["method"], how["options"])
    missing = None if mask is None else torch.from_numpy(read_mask(model, mask))
    operator = build_operator(
        task, model.shape, factor=factor, missing=missing, seed=settings.seed, device=model.device
    )
    if measured:
        truth = None
        pixels = isinstance(task, str) and task == "mask"
        y = read_measured(model, images, index, split, operator, pixels=pixels)
    else:
        truth, _ = read_images(model, images, index, split)
        y = measure(model, truth, operator, how["sigma"], seed=settings.seed)
    restored = restore(model, y, operator, **how, labels=labels, settings=settings)
    return replace(restored, truth=truth)


def _shared(labels: NDArray[np.int64], none: int) -> NDArray[np.int64]:
    """Return the label of each pair of neighbours, int64 [N - 1]: `none` where they differ."""
    return np.where(labels[:-1] == labels[1:], labels[:-1], none)


def _remove_old(model: Model, out: Place | None, gif: Place | None) -> None:
    """Remove the files that an earlier, larger output left in the folders of single files."""
    gifs = {f"{file_name(name)}.gif" for name in (*model.classes, NO_LABEL, "all")}
    for folder, ours in ((out, re.compile(r"\d+(-.+)?\.png").fullmatch), (gif, gifs.__contains__)):
        if folder is not None and (place := expanded(folder)).is_dir():
            for path in place.iterdir():
                if ours(path.name):
                    path.unlink()


def _check_outputs(overwrite: bool, *outputs: tuple[Any, ...]) -> None:
    """Refuse what cannot be written: each output is a path (or None) and the allowed suffixes."""
    for path, *suffixes in outputs:
        if path is not None:
            check_suffix(expanded(path), *suffixes)
            refuse_existing(expanded(path), overwrite, folder=not Path(path).suffix)


def _loaded(model: Model | Place, device: str, weights: str = "ema") -> Model:
    return model if isinstance(model, Model) else load(model, device, weights)
