"""Restoring images from measurements y = A x + sigma n: samples of the posterior p(x | y).

`diffusion.operators` has the A, `diffusion.conditioning` the methods; samplers, grids and denoiser
are those of every edit. y and sigma are in model units, in which black and white lie 2 apart unless
a model has another scaling. Sample j of measurement k depends on (seed, first + k, j) alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pocketddpm.config import Options
from pocketddpm.diffusion.conditioning import Measurement, build_method
from pocketddpm.diffusion.operators import Linear
from pocketddpm.diffusion.sampling import start_noise, step_noise
from pocketddpm.errors import ConfigError
from pocketddpm.models.editing import DEFAULT, Editing, Settings, numbers_for, to_model
from pocketddpm.models.inputs import read_images
from pocketddpm.models.labels import Labels
from pocketddpm.models.model import Model
from pocketddpm.models.samples import Images, Samples, Watch
from pocketddpm.noise import Role, normal
from pocketddpm.output import expanded
from pocketddpm.pictures import save_grid
from pocketddpm.values import real, whole

STEPS = 50  # unless a number is asked for: the model's own few are chosen for plain sampling
EACH = ">= 1, <= 1000"  # samples of a measurement
SAMPLE = 40  # bits of an image's number below those of the sample's


@dataclass(frozen=True)
class Restored(Samples):
    """Samples of the posterior: images [N,C,H,W] with N = M * each, in rows of M measurements.

    measured: the measurements as pictures, uint8 [M,C,H,W]. truth: the images that were measured,
    likewise, or None. distance: |A x - y| / |y| of each sample, [N]. expected: that of the noise
    alone, sigma sqrt(numbers in y) / |y|, [M]. gradients: backward passes for each image.
    """

    each: int = 1
    measured: Images | None = None
    truth: Images | None = None
    distance: NDArray[np.float64] | None = None
    expected: NDArray[np.float64] | None = None
    gradients: int = 0

    def rows(self) -> Images:
        """Return the samples by their measurement, uint8 [M,each,C,H,W]."""
        return self.images.reshape(-1, self.each, *self.images.shape[1:])

    def mean(self) -> Images:
        """Return the mean of each measurement's samples, uint8 [M,C,H,W]."""
        return np.rint(self.rows().mean(1)).astype(np.uint8)

    def spread(self) -> NDArray[np.float64]:
        """Return each pixel's standard deviation over the samples, [M,C,H,W], in grey levels."""
        return self.rows().std(1)

    def psnr(self) -> dict[str, float]:
        """Return the PSNR in dB of the pictures of measurements, of samples and of their mean.

        Each is the mean over images of 10 log10(255^2 / mean square error). Empty without a truth.
        """
        if self.truth is None or self.measured is None:
            return {}
        truth = np.repeat(self.truth, self.each, 0)
        found = {
            "measurement": _psnr(self.measured, self.truth),
            "samples": _psnr(self.images, truth),
        }
        return found | ({"their mean": _psnr(self.mean(), self.truth)} if self.each > 1 else {})

    def text(self) -> str:
        """Return in a few lines what it took, how near the truth it is, and how near to y."""
        assert self.distance is not None and self.expected is not None
        lines = [f"{self.nfe} evaluations and {self.gradients} gradients for each image"]
        if self.truth is not None:
            told = ", ".join(f"{name} {value:.1f}" for name, value in self.psnr().items())
            lines.append(f"PSNR in dB: {told}")
        lines.append(
            f"|A x - y| / |y|: {self.distance.mean():.3g}; of the noise alone "
            f"{self.expected.mean():.3g}"
        )
        return "\n".join(lines)

    def save_rows(self, path: str | Path) -> None:
        """Write a PNG: truth, measurement, samples, their mean and their spread, a row each.

        Of the spread, white is a deviation of 128 grey levels. OutputError if it cannot be written.
        """
        rows = self.rows()
        named = [("truth", self.truth), ("measured", self.measured)]
        named += [(f"sample {j + 1}", rows[:, j]) for j in range(self.each)]
        if self.each > 1:
            spread = np.rint(2 * self.spread()).clip(0, 255).astype(np.uint8)
            named += [("mean", self.mean()), ("spread", spread)]
        shown = [(name, images) for name, images in named if images is not None]
        board = np.concatenate([images for _, images in shown])
        save_grid(expanded(path), board, len(rows), sides=[name for name, _ in shown])


def measure(
    model: Model, images: Images, operator: Linear, sigma: float, *, seed: int = 0, first: int = 0
) -> Tensor:
    """Return y = A x + sigma n of images, uint8 [N,C,H,W]: float32 [N,...] in model units."""
    y = operator(to_model(model, images))
    index = torch.arange(first, first + len(images), device=model.device)
    return y + sigma * normal(seed, Role.MEASURE, index, tuple(y.shape[1:]))


def read_measured(
    model: Model,
    source: str | Path | Sequence[str | Path] | Images,
    index: Sequence[int],
    split: Literal["train", "test"],
    operator: Linear,
    *,
    pixels: bool = False,
) -> Tensor:
    """Return pictures of measurements, files or others as `read_images` takes them, as y.

    They have the size of y: a quarter of a side for super-resolution by 4, one channel for grey.
    pixels: whether y are some pixels of an image: then they have its size. Raises what
    `read_images` raises, and ConfigError for an operator whose measurements are no pictures.
    """
    size = tuple(operator(torch.zeros(1, *model.shape, device=model.device)).shape[1:])
    shape = model.shape if pixels else size
    if len(shape) != 3:
        raise ConfigError(
            f"measurements of this task are {list(size)} numbers and no pictures; leave --measured "
            "out, or give them to models.restoration.restore from Python"
        )
    pictures, _ = read_images(model, source, index, split, shape=shape)
    if pictures.dtype != np.uint8 or pictures.shape[1:] != shape:
        raise ConfigError(
            f"measurements of this task are uint8 [N, {', '.join(map(str, shape))}], got "
            f"{pictures.dtype} {list(pictures.shape)}"
        )
    y = replace(model.scaling, mean=None).to_model(torch.tensor(pictures, device=model.device))
    if pixels:
        y = operator(y)
    # A is linear: what is subtracted from an image is subtracted from its measurement through A.
    mean = model.scaling.mean
    return y if mean is None else y - operator(mean[None].to(y))


def restore(
    model: Model,
    y: Tensor,
    operator: Linear,
    *,
    sigma: float,
    method: str = "mmps",
    options: Options | None = None,
    samples: int = 4,
    labels: Labels = None,
    settings: Settings = DEFAULT,
    watch: Watch | None = None,
) -> Restored:
    """Return samples of the posterior of images given their measurements, `samples` for each.

    y: float [M,...], as `measure` makes it. sigma: the deviation of its noise, at least 0.
    method, options: a name of METHODS, and its options. labels: one for each measurement, cycled;
    None is no label. The sampler is the method's unless named, and takes 50 steps unless told.
    Raises ConfigError for settings that cannot work, for a y that the operator cannot have made,
    and for a model that has learned to draw in one or two evaluations: its estimate is a sample and
    not the mean that all methods build on.
    """
    how = build_method(method, options)
    sigma = real(sigma, "--noise", ">= 0")
    samples = whole(samples, "--samples", EACH)
    whole(settings.first + len(y), "first", f"<= {1 << SAMPLE}")
    if model.experiment.objective.loss == "consistency":
        raise ConfigError(
            "this model was distilled to draw in one or two evaluations, and its estimate is no "
            "mean of what an image may be; restore with the model that it was distilled from"
        )
    expected = operator(torch.zeros(1, *model.shape, device=model.device)).shape[1:]
    if y.shape[1:] != expected:
        raise ConfigError(
            f"measurements of images {list(model.shape)} are [N, {', '.join(map(str, expected))}] "
            f"here, got {list(y.shape)}"
        )
    steps = min(STEPS, model.schedule.T) if settings.steps is None else settings.steps
    settings = replace(settings, sampler=settings.sampler or how.sampler, steps=steps)
    numbers = numbers_for(model, labels, len(y))
    repeated = None if numbers is None else np.repeat(numbers, samples)
    edit = Editing(model, settings, repeated, len(y) * samples)
    if edit.plan.guidance.cfg_plus_plus:
        raise ConfigError("CFG++ has an eps of its own, and so has a measurement; guide without it")
    clip = edit.denoiser.clip or (lambda x0: x0)
    edit.denoiser = replace(edit.denoiser, clip=None)
    known = Measurement(y.repeat_interleave(samples, 0), operator, sigma)
    denoise = how.condition(edit.denoiser, known, edit.plan.grid, clip)
    # The numbers of a measurement's further samples are beyond those of all measurements.
    number = torch.arange(len(y), device=model.device)[:, None] + settings.first
    index = (number + (torch.arange(samples, device=model.device) << SAMPLE)).flatten()
    x = start_noise(settings.seed, index, model.shape)
    x = edit.walk(x, step_noise(settings.seed, index, model.shape), watch, denoise)
    drawn = edit.samples(x)
    gap = operator(to_model(model, drawn.images)) - known.y
    size = y.flatten(1).norm(dim=1).clamp_min(1e-12).double().cpu().numpy()
    numbers_in_y = y[0].numel()
    own: dict[str, Any] = {f.name: getattr(drawn, f.name) for f in fields(Samples)}
    own["columns"] = samples
    return Restored(
        **own,
        each=samples,
        measured=as_pictures(model, y, operator),
        distance=gap.flatten(1).norm(dim=1).double().cpu().numpy() / np.repeat(size, samples),
        expected=sigma * numbers_in_y**0.5 / size,
        gradients=drawn.nfe * how.gradients,
    )


def as_pictures(model: Model, y: Tensor, operator: Linear) -> Images:
    """Return measurements as pictures, uint8 [M,C,H,W]: y itself if it is one, else A^+ y."""
    plain, mean = replace(model.scaling, mean=None), model.scaling.mean
    y = y if mean is None else y + operator(mean[None].to(y))
    if y.shape[1:] != model.shape:
        y = operator.adjoint(operator.solve(y, 0.0))
    return plain.to_uint8(y).cpu().numpy()


def _psnr(images: Images, truth: Images) -> float:
    """Return the mean PSNR in dB of images, uint8 [N,C,H,W]; infinite where one is exact."""
    error = np.square(images.astype(np.float64) - truth).mean((1, 2, 3))
    with np.errstate(divide="ignore"):
        return float((10 * np.log10(255**2 / error)).mean())
