"""Drawing from noise, frame by frame: what a person wishes, and the film of how it came about."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketddpm.demo.streaming import stream
from pocketddpm.diffusion.sampling import State
from pocketddpm.errors import ConfigError
from pocketddpm.models.labels import NO_LABEL
from pocketddpm.models.model import Model
from pocketddpm.models.samples import Samples, Watch
from pocketddpm.pictures import columns_for

MOST_IMAGES = 40
ROW = 10  # images in a row, at most
MOST_STEPS = 250
MOST_FRAMES = 100
GUIDANCE = (0.0, 10.0)
KINDS = ("PNG", "GIF", "npz")  # of files
LARGEST_SEED = 2**53 - 1  # what a browser holds exactly


@dataclass(frozen=True)
class Wish:
    """What to draw. labels: class names, cycled; none means all classes in turn."""

    labels: tuple[str, ...] = ()
    n: int = 10
    sampler: str = "ddim"
    steps: int = 20
    spacing: str = "trailing"
    guidance: float = 1.0
    seed: int = 0

    def numbers(self, model: Model) -> NDArray[np.int64] | None:
        """Return the labels, int64 [n]; None for a model without classes."""
        return model.label_numbers(list(self.labels or model.classes) or None, self.n)

    def settings(self) -> dict[str, Any]:
        """Return what `Model.sample` and an edit's `Settings` both take."""
        names = ("sampler", "steps", "spacing", "guidance", "seed")
        return {name: getattr(self, name) for name in names}

    def branches(self, labels: NDArray[np.int64] | None) -> int:
        """Return the network evaluations of an image at a call: 2 with guidance, else 1."""
        return 1 if labels is None or self.guidance in (0, 1) else 2

    def columns(self, model: Model) -> int:
        """Return how many columns show it best: each of one class, where that works out."""
        classes = len(self.labels) or len(model.classes)
        return columns_for(self.n, classes if 1 < classes <= ROW else 1, ROW)


def wish(
    model: Model,
    labels: str | list[str] | None = None,
    n: float | None = 10,
    steps: float | None = 20,
    guidance: float | None = 1.0,
    seed: float | None = 0,
    sampler: str | None = "ddim",
    spacing: str | None = None,
    *,
    called: Mapping[str, str] | None = None,
) -> Wish:
    """Return the wish that a page's fields stand for. sampler, spacing: None is the model's own.

    called: how the page calls a field, where it is not Images, Steps or Seed.
    Raises ConfigError, in words for the person at the page, for an invalid value.
    """
    called = {"n": "Images", "steps": "Steps", "seed": "Seed", **(called or {})}
    low, high = GUIDANCE
    if guidance is None or not low <= guidance <= high:
        given = "nothing" if guidance is None else f"{guidance:g}"
        raise ConfigError(f"Guidance: a number from {low:g} to {high:g}, 1 is none; got {given}.")
    names = [labels] if isinstance(labels, str) else labels or []
    # Without a label there is nothing to be guided towards.
    guided = model.null is not None and names != [NO_LABEL]
    return Wish(
        labels=tuple(filter(None, names)) if model.classes else (),
        n=whole(n, called["n"], 1, MOST_IMAGES),
        sampler=sampler or model.experiment.sampling.sampler,
        steps=whole(steps, called["steps"], 1, min(MOST_STEPS, model.schedule.T)),
        spacing=spacing or model.experiment.sampling.spacing,
        guidance=float(guidance) if guided else 1.0,
        seed=whole(seed, called["seed"], 0, LARGEST_SEED),
    )


def whole(value: float | None, field: str, low: int, high: int) -> int:
    """Return the value of a field as an int; ConfigError if it is none, or not in low..high."""
    if value is None or not low <= value <= high or value != int(value):
        given = "nothing" if value is None else f"{value:g}"
        raise ConfigError(f"{field}: a whole number from {low} to {high}, please; got {given}.")
    return int(value)


@dataclass(frozen=True)
class Frame:
    """One step. x: the images at time t, x0: what the network takes them for; uint8 [N,C,H,W]."""

    i: int
    t: float
    nfe: int
    x: NDArray[np.uint8]
    x0: NDArray[np.uint8]


@dataclass
class Film:
    """All frames of a run so far. steps: how many there will be. name: for files.

    note: what the steps are, where they are others than were asked for. stop: set to have it shown
    no further. ended: set when it is shown no further.
    """

    name: str
    steps: int
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]
    columns: int
    frames: list[Frame] = field(default_factory=list)
    seconds: float = 0.0
    note: str = ""
    stop: Event = field(default_factory=Event)
    ended: Event = field(default_factory=Event)

    @property
    def every(self) -> int:
        """At every how many steps a frame is kept: at most `MOST_FRAMES` in all."""
        return -(-self.steps // MOST_FRAMES)

    @property
    def names(self) -> list[str]:
        """The class of each image; empty without labels."""
        names = [*self.classes, "no label"]
        return [] if self.labels is None else [names[k] for k in self.labels]

    @property
    def done(self) -> bool:
        """Whether the last step has been taken."""
        return bool(self.frames) and self.frames[-1].i >= self.steps

    def samples(self) -> Samples:
        """Return the last images, with all that came before as frames."""
        last, frames = self.frames[-1], np.stack([frame.x for frame in self.frames])
        times = tuple(frame.t for frame in self.frames)
        own = self.labels, last.nfe, self.classes, self.columns
        return Samples(last.x, *own, frames, times=times)


Run = Callable[[Watch], Any]


def record(model: Model, film: Film, run: Run, branches: int = 1) -> Iterator[Film]:
    """Yield the film as it grows while `run(watch)` samples; close the generator to stop it.

    branches: network evaluations of an image for each call that a state has counted. Frames are
    kept evenly, counted from the last step; the first one always.
    """
    started = time.monotonic()

    def work(report: Callable[[Film], None]) -> None:
        def watch(which: slice, state: State) -> None:
            film.seconds = time.monotonic() - started
            if (film.steps - state.i) % film.every == 0 or not film.frames:
                x = model.scaling.to_uint8(state.x).cpu().numpy()
                # Before the first step there is no estimate: the network has not been asked.
                x0 = model.scaling.to_uint8(state.x0).cpu().numpy() if state.i else x
                film.frames.append(Frame(state.i, state.t, state.nfe * branches, x, x0))
            report(film)

        run(watch)

    return stream(work)


def draw(model: Model, wanted: Wish) -> Iterator[Film]:
    """Yield the film of drawing from noise as it grows. Raises ConfigError like `Model.sample`."""
    labels = wanted.numbers(model)
    name = f"{wanted.sampler}-{wanted.steps}-seed{wanted.seed}"
    film = Film(name, wanted.steps, labels, model.classes, wanted.columns(model))
    run = partial(model.sample, wanted.n, labels=labels, **wanted.settings())
    return record(model, film, lambda watch: run(watch=watch), wanted.branches(labels))


def write(film: Film, folder: Path, model: str) -> tuple[Path, Path, Path]:
    """Write a film's last images as a PNG grid, the film as a GIF, and the arrays as npz.

    They go into a new folder of their own in `folder`; the npz is what `Samples.save` writes.
    """
    stem = f"pocketddpm-{model.replace('/', '-')}-{film.name}"
    place = Path(mkdtemp(dir=folder))
    png, gif, npz = (place / f"{stem}.{kind.lower()}" for kind in KINDS)
    samples = film.samples()
    samples.save(png)
    samples.save_gif(gif)
    samples.save(npz)
    return png, gif, npz
