"""`Samples`: images that a model drew, and the files that they are written to."""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pocketddpm.diffusion.sampling import State
from pocketddpm.errors import ConfigError
from pocketddpm.output import expanded, file_name, replacing
from pocketddpm.pictures import grid, names_of, save_gif, save_grid, save_png, stretched, time_text
from pocketddpm.values import whole

Images = NDArray[np.uint8]
Watch = Callable[[slice, State], None]
"""watch(which, state): called with the state of the images `which` after every step."""

NO_LABEL = "no-label"
MOST_SHOWN = 100  # images in a notebook
MOST_RECORDED = 100  # images, and about as many frames


@dataclass(frozen=True)
class Samples:
    """Images that a model drew; in a notebook they show themselves.

    images: uint8 [N,C,H,W]. labels: int64 [N], positions in `classes`, or None. nfe: network
    evaluations per image. columns: those of a grid that suit the labels; None: about a square.
    frames: the first images on their way from noise, uint8 [F,M,C,H,W], or None if not recorded.
    times: the frames' t. seconds: how long drawing took.

    >>> import pocketddpm as pd
    >>> samples = pd.load("mnist-fast").sample(labels=[3, 7])
    >>> samples
    Samples: 2 images 1x28x28, of 3 and 7, 2 network evaluations each
    >>> samples.images.shape, samples.labels.tolist()
    ((2, 1, 28, 28), [3, 7])
    >>> samples.save("digits.png")
    >>> samples.save("digits.npz")
    """

    images: Images
    labels: NDArray[np.int64] | None
    nfe: int
    classes: tuple[str, ...] = ()
    columns: int | None = None
    frames: Images | None = None
    seconds: float = 0.0
    times: tuple[float, ...] = ()

    def __repr__(self) -> str:
        n, c, h, w = self.images.shape
        counts = self.label_counts() or {}
        named = "" if not counts else f", of {len(counts)} classes"
        if 0 < len(counts) <= 3:
            named = f", of {' and '.join(counts)}"
        calls = "1 network evaluation" if self.nfe == 1 else f"{self.nfe} network evaluations"
        return f"Samples: {n} {'image' if n == 1 else 'images'} {c}x{h}x{w}{named}, {calls} each"

    def _repr_png_(self) -> bytes:
        """Return the first images as a PNG with the names of classes: notebooks ask for it."""
        shown = self.images[:MOST_SHOWN]
        file = io.BytesIO()
        names = self._names()[:MOST_SHOWN]
        grid(shown, self.columns, names=names).save(file, "PNG")
        return file.getvalue()

    def save(self, path: str | Path, columns: int | None = None, *, names: bool = True) -> None:
        """Write a grid (.png), an array file (.npz), or single PNGs into a folder (no suffix).

        names: whether a grid has the classes' names on it, where there are labels.
        The array file holds images, uint8 [N,H,W] or [N,H,W,C]; where there are labels, these and
        `classes`, the names that they stand for, in order (a label after the last of them: none).
        Single files are called NUMBER-CLASS.png, or NUMBER.png without a label.
        Raises ConfigError for another suffix, OutputError when it cannot be written.
        """
        path = expanded(path)
        check_suffix(path, ".png", ".npz", "")
        if path.suffix == ".png":
            save_grid(path, self.images, columns or self.columns, names=self._names(names))
        elif path.suffix == ".npz":
            images = self.images.transpose(0, 2, 3, 1)
            arrays = {"images": images[..., 0] if images.shape[3] == 1 else images}
            if self.labels is not None:
                arrays["labels"] = self.labels
                arrays |= {"classes": np.array(self.classes)} if self.classes else {}
            with replacing(path) as temporary:
                np.savez_compressed(temporary, **arrays)
        else:
            digits = len(str(len(self.images) - 1))
            for k, image in enumerate(self.images):
                label = "" if self.labels is None else f"-{self._class_of(self.labels[k])}"
                save_png(path / f"{k:0{digits}d}{label}.png", image)

    def label_counts(self) -> dict[str, int] | None:
        """Return how many images there are of each class that was drawn; None without labels."""
        if self.labels is None:
            return None
        names = (*self.classes, NO_LABEL) if self.classes else range(int(self.labels.max()) + 1)
        return {str(names[k]): int((self.labels == k).sum()) for k in np.unique(self.labels)}

    def save_gif(self, path: str | Path, *, names: bool = True) -> None:
        """Write the frames as an animation (.gif), or one for each class into a folder (no suffix).

        names: whether it has names of classes and times on it.
        Raises ConfigError for another suffix, OutputError when it cannot be written.
        """
        path, (frames, times) = expanded(path), self._frames(MOST_RECORDED)
        check_suffix(path, ".gif", "")
        told, notes = self._names(names)[: frames.shape[1]], times if names else []
        if path.suffix == ".gif":
            save_gif(path, frames, self.columns, names=told, notes=notes)
        elif self.labels is None:
            save_gif(path / "all.gif", frames, self.columns, notes=notes)
        else:
            shown = self.labels[: frames.shape[1]]
            for label in np.unique(shown):
                own = [name for name, k in zip(told, shown, strict=False) if k == label]
                file = path / f"{self._class_of(label)}.gif"
                save_gif(file, frames[:, shown == label], names=own, notes=notes)

    def save_strip(
        self, path: str | Path, panels: int = 10, rows: int = 8, *, names: bool = True
    ) -> None:
        """Write a PNG with a row for each of the first images: so many panels from noise to image.

        A run of fewer steps than panels repeats its last frame. names: whether times stand over
        the panels, and names of classes beside the rows. Raises ConfigError for another suffix,
        for fewer than two panels or no rows, OutputError when it cannot be written.
        """
        path = expanded(path)
        check_suffix(path, ".png")
        panels, rows = check_strip(panels, rows)
        frames, times = self._frames(panels)
        missing = panels - len(frames)
        frames = np.concatenate([frames, *[frames[-1:]] * missing])
        rows_first = frames[:, :rows].swapaxes(0, 1)  # [rows,panels,C,H,W]
        heads = times + times[-1:] * missing if names else []
        sides = self._names(names)[: len(rows_first)]
        flat = rows_first.reshape(-1, *frames.shape[2:])
        save_grid(path, flat, panels, heads=heads, sides=sides)

    def stretched(self) -> "Samples":
        """Return the same with each image stretched from its own darkest to its brightest pixel."""
        frames = None if self.frames is None else stretched(self.frames)
        return replace(self, images=stretched(self.images), frames=frames)

    def _class_of(self, label: int) -> str:
        """Return the name of a label's class, as a part of a file's name."""
        if not self.classes:  # of somebody who made these samples without
            return str(label)
        return file_name(self.classes[label]) if label < len(self.classes) else NO_LABEL

    def _names(self, wanted: bool = True) -> list[str]:
        """Return what pictures call each image's class; none without labels, or if not wanted."""
        return names_of(self.labels if wanted else None, self.classes)

    def _frames(self, most: int) -> tuple[Images, list[str]]:
        """Return at most so many frames, evenly spaced, the first and the last among them.

        With each comes its time as text, where times are known.
        """
        if self.frames is None:
            raise ConfigError("these samples hold no frames; draw them with record=True")
        last = len(self.frames) - 1
        picks = sorted({round(k * last / (most - 1)) for k in range(most)})
        return self.frames[picks], [time_text(self.times[k]) for k in picks if self.times]


class Recorder:
    """Keeps states of the first images of a run as frames; it is a `Watch`."""

    def __init__(self, steps: int, to_uint8: Callable[[Tensor], Tensor]) -> None:
        """Take the number of the last state, and what turns its images into pixels."""
        self.steps, self.to_uint8 = steps, to_uint8
        # Enough frames for an animation; a run of 1000 steps need not be kept whole.
        self.every = max(1, steps // MOST_RECORDED)
        self.kept: dict[int, list[Images]] = {}
        self.times: dict[int, float] = {}

    def __call__(self, which: slice, state: State) -> None:
        """Keep a state of the images `which`, if they are among the first; batches come in turn."""
        if which.start < MOST_RECORDED and (state.i % self.every == 0 or state.i == self.steps):
            pixels = self.to_uint8(state.x[: MOST_RECORDED - which.start]).cpu().numpy()
            self.kept.setdefault(state.i, []).append(pixels)
            self.times[state.i] = float(state.t)

    def recorded(self) -> dict[str, Any]:
        """Return `frames`, uint8 [F,M,C,H,W], and `times` of `Samples`, in the order of steps."""
        order = sorted(self.kept)
        frames = np.stack([np.concatenate(self.kept[i]) for i in order])
        return {"frames": frames, "times": tuple(self.times[i] for i in order)}


def check_suffix(path: Path, *allowed: str) -> None:
    """Raise ConfigError unless the path ends in one of the suffixes ('': it has none)."""
    if path.suffix not in allowed:
        wanted = " or ".join(filter(None, allowed)) + (", or be a folder" if "" in allowed else "")
        raise ConfigError(f"{path} must end in {wanted}")


def check_strip(panels: int, rows: int) -> tuple[int, int]:
    """Return both as whole numbers; ConfigError for fewer than two panels, or no rows."""
    return whole(panels, "--panels", ">= 2"), whole(rows, "rows", ">= 1")
