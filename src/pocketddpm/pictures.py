"""Pictures: grids, strips, GIFs (pillow) and curves (matplotlib), all written in one piece."""

from collections.abc import Iterable, Mapping, Sequence
from math import ceil, sqrt
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pocketddpm.output import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

Pixels = NDArray[np.uint8]
CURVE_POINTS = 4000  # in a picture of 720 pixels


def tile(images: Pixels, columns: int | None = None, gap: int = 2) -> Pixels:
    """Return one picture [H',W',C] of images [N,C,H,W], row by row, on a mid-grey ground."""
    n, c, h, w = images.shape
    columns = columns or ceil(sqrt(n))
    rows = ceil(n / columns)
    board = np.full((rows * (h + gap) + gap, columns * (w + gap) + gap, c), 128, np.uint8)
    for k, image in enumerate(images):
        y, x = divmod(k, columns)
        top, left = gap + y * (h + gap), gap + x * (w + gap)
        board[top : top + h, left : left + w] = image.transpose(1, 2, 0)
    return board


def stretched(images: Pixels) -> Pixels:
    """Return images, uint8 [...,C,H,W], each from its own minimum to its own maximum."""
    low, high = (
        f(axis=(-3, -2, -1), keepdims=True).astype(float) for f in (images.min, images.max)
    )
    return np.rint((images - low) / np.maximum(high - low, 1) * 255).astype(np.uint8)


def scale_for(height: int, target: int = 64) -> int:
    """Return the whole factor that brings small images to about `target` pixels."""
    return max(1, target // height)


def to_image(pixels: Pixels, scale: int = 1) -> "Image":
    """Return a pillow image of [H,W,C] pixels (1 or 3 channels; of others the first is shown)."""
    from PIL import Image

    array = pixels if pixels.shape[2] == 3 else pixels[:, :, 0]
    image = Image.fromarray(np.ascontiguousarray(array))
    if scale == 1:
        return image
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def save_grid(
    path: Path, images: Pixels, columns: int | None = None, scale: int | None = None
) -> None:
    """Write images, uint8 [N,C,H,W], as one PNG (or what the suffix says)."""
    scale = scale or scale_for(images.shape[2])
    with replacing(path) as temporary:
        to_image(tile(images, columns), scale).save(temporary)


def save_png(path: Path, image: Pixels) -> None:
    """Write one image, uint8 [C,H,W], at its own size."""
    with replacing(path) as temporary:
        to_image(image.transpose(1, 2, 0)).save(temporary)


def save_gif(
    path: Path,
    frames: Iterable[Pixels],
    columns: int | None = None,
    *,
    seconds: float = 4.0,
    hold: float = 1 / 3,
) -> None:
    """Write a GIF of grids. frames: uint8 [N,C,H,W] each.

    The last frame is held for the share `hold` of the whole length.
    """
    boards = [tile(f, columns) for f in frames]
    # Noise does not compress: an animation is kept to about 400 pixels.
    scale = max(1, 400 // max(boards[0].shape[:2]))
    pictures = [to_image(board, scale) for board in boards]
    moving = max(len(pictures) - 1, 1)
    each = max(20, round(1000 * seconds * (1 - hold) / moving))
    durations = [each] * (len(pictures) - 1) + [round(1000 * seconds * hold)]
    with replacing(path) as temporary:
        pictures[0].save(
            temporary,
            save_all=True,
            append_images=pictures[1:],
            duration=durations,
            loop=0,
            optimize=False,
        )


def figure(width: float = 6.0, height: float = 3.6) -> "Figure":
    """Return an empty matplotlib figure that needs no screen."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(path: Path, fig: "Figure") -> None:
    """Write a matplotlib figure as PNG, with a grid, and a legend where there are labels."""
    for axes in fig.axes:
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0] and axes.get_legend() is None:
            axes.legend()
    with replacing(path) as temporary:
        fig.savefig(temporary, dpi=120)
    # A figure is a knot of references, which would stay in memory until the collector comes.
    fig.clear()


def save_distance_curve(
    path: Path, images_seen: Sequence[int], distance: Sequence[float], floor: float
) -> None:
    """Write the Frechet distance of samples against images seen, above that of real images."""
    fig = figure()
    axes = fig.subplots()
    axes.plot(images_seen, distance, marker="o", markersize=3, label="samples")
    axes.axhline(floor, color="grey", linestyle="--", linewidth=1, label="as many training images")
    axes.set(xlabel="images seen", ylabel="Frechet distance to held-out images", yscale="log")
    save_figure(path, fig)


def save_loss_curve(path: Path, images_seen: Sequence[int], loss: Sequence[float]) -> None:
    """Write the training loss against images seen, with its running mean; NaN leaves a gap.

    Of a long run only `CURVE_POINTS` points or so are drawn, evenly spaced.
    """
    # Plain arrays: matplotlib would take 40,000 values of any other sequence for 50 MB of objects.
    # Copies: a buffer that is lent out could not grow when the run goes on.
    seen, values = np.array(images_seen), np.array(loss, np.float64)
    every = max(1, len(values) // CURVE_POINTS)
    fig = figure()
    axes = fig.subplots()
    axes.plot(seen[::every], values[::every], linewidth=0.6, alpha=0.4, label="as logged")
    window = max(1, len(values) // 20)
    if len(values) > window:
        mean = _running_mean(values, window)
        axes.plot(seen[window - 1 :: every], mean[::every], label=f"mean of {window}")
    axes.set(xlabel="images seen", ylabel="loss", yscale="log")
    save_figure(path, fig)


def _running_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Return the means of every `window` values in a row, over those that are finite."""
    finite = np.isfinite(values)

    def sums(x: NDArray[np.generic]) -> NDArray[np.float64]:
        total = np.concatenate([[0.0], np.cumsum(x, dtype=np.float64)])
        return total[window:] - total[:-window]

    return sums(np.where(finite, values, 0)) / sums(finite).clip(min=1)


def save_bound_curve(path: Path, curve: Sequence[Mapping[str, float]]) -> None:
    """Write what each step of the variational bound costs, and its rate against its distortion.

    curve: rows of `metrics.likelihood.LikelihoodReport.curve`.
    """
    fig = figure(9.0, 3.6)
    left, right = fig.subplots(1, 2)
    t = [(row["first"] + row["last"]) / 2 for row in curve]
    bits, error = ([row[key] for row in curve] for key in ("bits_per_step", "error_per_step"))
    left.errorbar(t, bits, yerr=error, fmt=".-", linewidth=0.8, markersize=4)
    left.set(xlabel="t", ylabel="bits/dim of the step t to t - 1", xscale="log", yscale="log")
    right.plot([row["rate"] for row in curve], [row["rmse"] for row in curve], ".-", markersize=4)
    right.set(xlabel="rate, bits/dim of the steps above t", ylabel="error of x0_hat, grey levels")
    save_figure(path, fig)
