"""Editing images by sampling: encode and decode, interpolation, image-to-image, inpainting.

All edits use the samplers, grids and denoiser of `Model.sample`; they differ in where a run starts,
and in what is done between its steps. Images are uint8 [N,C,H,W] of the model's shape. Image k's
noise depends on (seed, first + k) alone, so a large set can be edited part by part. Labels are
those of `Model.sample`, cycled; an array has one for each image. None is no label.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pocketddpm.config import Options
from pocketddpm.diffusion.build import build_sampler
from pocketddpm.diffusion.denoiser import Denoise
from pocketddpm.diffusion.grid import Grid
from pocketddpm.diffusion.guidance import Guidance
from pocketddpm.diffusion.process import step_beta
from pocketddpm.diffusion.sampling import Noise, State, start_noise, step_noise
from pocketddpm.errors import ConfigError
from pocketddpm.models.labels import Labels
from pocketddpm.models.model import Model
from pocketddpm.models.samples import Images, Recorder, Samples, Watch
from pocketddpm.noise import Role, normal
from pocketddpm.progress import bar
from pocketddpm.values import IMAGES, SEEDS, real, whole


@dataclass(frozen=True)
class Settings:
    """How an edit samples.

    steps, spacing: None means what the checkpoint's experiment says; an edit that starts below T
      keeps their stride and so takes fewer. sampler: None means the edit's own choice.
    guidance: a `Guidance` or its scale; None means the experiment's, or none without labels.
    guide: a weaker model, for autoguidance. first: the number of the first image. record: keep
      frames of the first images on their way (img2img and inpaint). progress: draw a bar on stderr.
    """

    sampler: str | None = None
    options: Options | None = None
    steps: int | None = None
    spacing: str | None = None
    guidance: Guidance | float | None = None
    guide: Model | None = None
    seed: int = 0
    first: int = 0
    record: bool = False
    progress: bool = False

    def __post_init__(self) -> None:
        for name, bound in (("seed", SEEDS), ("first", IMAGES)):
            object.__setattr__(self, name, whole(getattr(self, name), name, bound))


DEFAULT = Settings()


def encode(
    model: Model, images: Images, *, labels: Labels = None, settings: Settings = DEFAULT
) -> Tensor:
    """Return the noise that DDIM makes of images, [N,C,H,W] (arXiv 2010.02502, section 4.3).

    `decode` with the same labels and settings returns the images, the better the more steps.
    """
    edit = Editing(model, replace(settings, sampler="ddim", options=None), labels, len(images))
    edit.plan = replace(edit.plan, sampler=build_sampler("ddim-inversion", inverse=True))
    return edit.walk(to_model(model, images), _no_noise)


def decode(
    model: Model,
    noise: Tensor,
    *,
    labels: Labels = None,
    settings: Settings = DEFAULT,
    watch: Watch | None = None,
) -> Samples:
    """Return the images of noise [N,C,H,W] from `encode`. The sampler is ddim unless named.

    Raises ConfigError for a sampler that adds noise.
    """
    if settings.sampler is None:
        options = {"eta": 0.0} | (settings.options or {})
        settings = replace(settings, sampler="ddim", options=options)
    edit = Editing(model, settings, labels, len(noise))
    if edit.plan.sampler.stochastic:
        raise ConfigError(
            f"decoding needs a deterministic sampler, and {edit.plan.sampler.name} adds noise; "
            "use --sampler ddim"
        )
    return edit.samples(edit.walk(noise, _no_noise, watch))


def interpolate(
    model: Model,
    one: Images,
    other: Images,
    *,
    frames: int = 8,
    t: int | None = None,
    labels: Labels = None,
    settings: Settings = DEFAULT,
) -> Samples:
    """Return `frames` images from each of `one` to its partner in `other`, [N * frames,C,H,W].

    t: None encodes both with DDIM and decodes along the great circle between their noises, so that
    both ends are reconstructions (arXiv 2010.02502, section 5.3). A time blends both images there,
    under one shared noise, and lets the model finish the blend; its ends are variations of the
    inputs, the wilder the higher t (arXiv 2006.11239, section 4.3). labels: int64 [N], one a pair.
    The result's nfe is that of drawing a frame; encoding takes as many for each input once.
    Raises ConfigError for fewer than two frames and for different numbers of images.
    """
    frames = whole(frames, "--frames", ">= 2")
    if len(one) != len(other):
        raise ConfigError(
            f"interpolation needs as many first as second images, got {len(one)} and {len(other)}"
        )
    share = torch.linspace(0, 1, frames, device=model.device)
    numbers = numbers_for(model, labels, len(one))
    repeated = None if numbers is None else numbers.repeat(frames)
    if t is None:
        start, end = (encode(model, i, labels=numbers, settings=settings) for i in (one, other))
        between = slerp(start, end, share).flatten(0, 1)
        return decode(model, between, labels=repeated, settings=settings)
    edit = Editing(model, settings, repeated, len(one) * frames, t_start=t)
    index = edit.index[: len(one)]
    start, end = to_model(model, one), to_model(model, other)
    blend = torch.lerp(start[:, None], end[:, None], share.view(1, -1, 1, 1, 1))
    eps = normal(settings.seed, Role.EDIT, index, model.shape)[:, None]
    x = edit.mixed(blend, eps).flatten(0, 1)
    # All frames of a pair share their steps' noise as well, so that only the blend moves.
    noise = step_noise(settings.seed, index.repeat_interleave(frames), model.shape)
    return edit.samples(edit.walk(x, noise))


def slerp(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """Return points on the great circle from start to end, [N,F,...], exact at 0 and at 1.

    sin((1 - share) theta) / sin(theta) start + sin(share theta) / sin(theta) end, with theta the
    angle between them. start, end: [N,...]. share: [F] in 0..1.
    """
    ends = torch.stack([start, end], 1).flatten(2)  # [N,2,pixels]
    cosine = torch.cosine_similarity(ends[:, 0], ends[:, 1], dim=1).clamp(-1, 1)
    theta = cosine.acos()[:, None]  # [N,1]
    weights = torch.stack([((1 - share) * theta).sin(), (share * theta).sin()], -1)
    # Where start and end are (anti)parallel there is no single circle: the straight line.
    straight = torch.stack([1 - share, share], -1)
    circle = theta.sin()[..., None] > 1e-3
    weights = torch.where(circle, weights / theta.sin()[..., None], straight)  # [N,F,2]
    return (weights @ ends).unflatten(2, start.shape[1:])


def img2img(
    model: Model,
    images: Images,
    *,
    strength: float = 0.5,
    labels: Labels = None,
    settings: Settings = DEFAULT,
    watch: Watch | None = None,
) -> Samples:
    """Return images noised up to the time strength * T and drawn from there (arXiv 2108.01073).

    strength: 0 returns the images, 1 forgets them: then it is `Model.sample` of the same seed.
    Raises ConfigError for a strength outside 0..1.
    """
    t, x0 = start_time(model, strength), to_model(model, images)
    if t == 0:
        return Samples(images.copy(), numbers_for(model, labels, len(images)), 0, model.classes)
    edit = Editing(model, settings, labels, len(images), t_start=t)
    x = start_noise(settings.seed, edit.index, model.shape)
    if t < model.schedule.T:
        x = edit.mixed(x0, x)
    noise = step_noise(settings.seed, edit.index, model.shape)
    return edit.samples(edit.walk(x, noise, watch))


def start_time(model: Model, strength: float) -> int:
    """Return the time, 0..T, that a strength stands for; ConfigError outside of 0..1."""
    return round(real(strength, "--strength", ">= 0, <= 1") * model.schedule.T)


def inpaint(
    model: Model,
    images: Images,
    mask: NDArray[np.bool_],
    *,
    jump_length: int | None = None,
    jump_count: int = 10,
    labels: Labels = None,
    settings: Settings = DEFAULT,
    watch: Watch | None = None,
) -> Samples:
    """Return images whose masked part is painted anew; the rest is kept exactly (RePaint).

    After each step the known part is put in from q(x_s | x0); every `jump_length` steps the run
    jumps as far back into noise and repeats them, so that each stretch is walked `jump_count`
    times and the new part comes to agree with the known (arXiv 2201.09865, algorithm 1). The
    sampler is ddpm unless named; steps are taken one by one, so multistep samplers act at order 1.

    mask: bool [H,W] or [N,H,W], True where to paint. jump_length: None is 10, or a quarter of the
    steps where there are no more than 10. The states that `watch` sees are counted on
    through the repetitions. Raises ConfigError for a mask of another size, and where jumps do not
    fit the steps.
    """
    settings = replace(settings, sampler=settings.sampler or "ddpm")
    edit = Editing(model, settings, labels, len(images))
    grid, sampler = edit.plan.grid, edit.plan.sampler
    if jump_length is None:
        jump_length = 10 if grid.steps > 10 else max(1, grid.steps // 4)
    path = resampling_path(grid.steps, jump_length, jump_count)
    x0 = to_model(model, images)
    painted = _mask(model, mask, len(images))
    x = start_noise(settings.seed, edit.index, model.shape)
    steps_noise = step_noise(settings.seed, edit.index, model.shape)
    with edit.watching(len(path) - 1, watch) as see:
        for visit, (i, j) in enumerate(pairwise(path)):
            eps = normal(settings.seed, Role.EDIT, edit.index, model.shape, visit)
            ab_i, ab_j = grid.alpha_bar[i], grid.alpha_bar[j]
            if j < i:
                beta = step_beta(ab_j, ab_i)
                x = (1 - beta) ** 0.5 * x + beta**0.5 * eps
                continue
            step = Grid(grid.t[i : j + 1], grid.alpha_bar[i : j + 1], grid.schedule)

            def noise(_: int, visit: int = visit) -> Tensor:
                return steps_noise(visit)

            for state in sampler.sample(edit.denoiser, x, step, noise, sampler.config):
                x = torch.where(painted, state.x, ab_j**0.5 * x0 + (1 - ab_j) ** 0.5 * eps)
                see(replace(state, i=visit + 1, x=x, nfe=edit.denoiser.nfe))
    return edit.samples(x)


def resampling_path(steps: int, jump_length: int, jump_count: int) -> list[int]:
    """Return the points of a grid, 0 (noise) to `steps` (clean), in the order of their visits.

    A stretch of `jump_length` steps is walked `jump_count` times; stretches are counted from the
    last step but one, which is never repeated, as there is nothing left to harmonise.
    Raises ConfigError for values below 1 and for jumps longer than the run.
    """
    jump_length = whole(jump_length, "--jump-length", ">= 1")
    jump_count = whole(jump_count, "--jump-count", ">= 1")
    if jump_count > 1 and jump_length >= steps:
        raise ConfigError(
            f"jumps of {jump_length} do not fit into {steps} steps; "
            "use more steps, a shorter --jump-length, or --jump-count 1"
        )
    path = [0]
    for i in range(1, steps + 1):
        path.append(i)
        if i < steps and i >= jump_length and (steps - 1 - i) % jump_length == 0:
            path += list(range(i - jump_length, i + 1)) * (jump_count - 1)
    return path


class Editing:
    """What every edit of `count` images has: labels, plan, denoiser and the images' numbers."""

    def __init__(
        self,
        model: Model,
        settings: Settings,
        labels: Labels,
        count: int,
        *,
        t_start: int | None = None,
    ) -> None:
        self.model, self.settings = model, settings
        self.labels = numbers_for(model, labels, count)
        self.recorder: Recorder | None = None
        self.index = torch.arange(settings.first, settings.first + count, device=model.device)
        # Without labels there is nothing to be guided towards.
        unguided = settings.guidance is None and self.labels is None
        self.plan = model.plan(
            sampler=settings.sampler,
            steps=settings.steps,
            spacing=settings.spacing,
            options=settings.options,
            guidance=1.0 if unguided else settings.guidance,
            t_start=t_start,
        )
        self.denoiser = model.denoiser(
            None if self.labels is None else torch.from_numpy(self.labels),
            guidance=self.plan.guidance,
            guide=settings.guide,
            clip=self.plan.clip,
        )

    def mixed(self, x0: Tensor, eps: Tensor) -> Tensor:
        """Return x0 under the noise eps at the time where the plan begins."""
        alpha_bar = self.plan.grid.alpha_bar[0]
        return alpha_bar**0.5 * x0 + (1 - alpha_bar) ** 0.5 * eps

    def walk(
        self, x: Tensor, noise: Noise, watch: Watch | None = None, denoise: Denoise | None = None
    ) -> Tensor:
        """Return where the plan's sampler leads from x, [N,C,H,W]. denoise: None is the model's."""
        sampler, grid = self.plan.sampler, self.plan.grid
        with self.watching(grid.steps, watch) as see:
            for state in sampler.sample(denoise or self.denoiser, x, grid, noise, sampler.config):
                x = state.x
                see(state)
        return x

    @contextmanager
    def watching(self, steps: int, watch: Watch | None) -> Iterator[Callable[[State], None]]:
        """Yield what shows a state to `watch`, and draws and records it as the settings say."""
        if self.settings.record:
            self.recorder = Recorder(steps, self.model.scaling.to_uint8)
        hidden = not self.settings.progress
        with bar(total=steps, desc="editing", unit="step", delay=0.5, disable=hidden) as shown:

            def see(state: State) -> None:
                shown.update(state.i - shown.n)
                for seen_by in filter(None, (self.recorder, watch)):
                    seen_by(slice(0, len(state.x)), state)

            yield see

    def samples(self, x: Tensor) -> Samples:
        """Return the images that an edit ends with."""
        return Samples(
            self.model.scaling.to_uint8(x).cpu().numpy(),
            self.labels,
            self.denoiser.nfe,
            self.model.classes,
            **({} if self.recorder is None else self.recorder.recorded()),
        )


def numbers_for(model: Model, labels: Labels, count: int) -> NDArray[np.int64] | None:
    """Return so many labels, int64 [count], or None; ConfigError for an array of others."""
    if isinstance(labels, np.ndarray) and len(labels) != count:
        raise ConfigError(f"there are {len(labels)} labels for {count} images")
    return model.label_numbers(labels, count)


def to_model(model: Model, images: Images) -> Tensor:
    """Return images in model units, float32 [N,C,H,W] on the model's device."""
    if images.dtype != np.uint8 or images.shape[1:] != model.shape:
        raise ConfigError(
            f"images for this model are uint8 [N, {', '.join(map(str, model.shape))}], "
            f"got {images.dtype} {list(images.shape)}"
        )
    return model.scaling.to_model(torch.tensor(images, device=model.device))


def _mask(model: Model, mask: NDArray[np.bool_], count: int) -> Tensor:
    """Return a mask as bool [N or 1,1,H,W] on the model's device."""
    _, height, width = model.shape
    if mask.dtype != np.bool_ or mask.shape not in ((height, width), (count, height, width)):
        raise ConfigError(
            f"a mask is bool [{height}, {width}], or one for each of the {count} images, "
            f"got {mask.dtype} {list(mask.shape)}"
        )
    return torch.tensor(mask.reshape(-1, 1, height, width), device=model.device)


def _no_noise(step: int) -> Tensor:
    raise ConfigError(
        "decoding needs a deterministic sampler, and this one's options make it add noise"
    )
