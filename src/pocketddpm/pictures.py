"""Pictures: grids, strips, GIFs (pillow) and curves (matplotlib), all written in one piece."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from itertools import groupby
from math import ceil, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pocketddpm.output import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

Pixels = NDArray[np.uint8]
CURVE_POINTS = 4000  # in a picture of 720 pixels
GROUND = 128  # of grids, in grey levels
PAPER, INK = 192, 0  # of grids with text, which is black on it: 11 to 1
SIZES = (11, 10)  # of letters, in pixels: the smaller one where long names fit by that
NAME_WIDTH, SIDE_WIDTH = 64, 120  # pixels that a picture is made wider for, at most
TALLEST = 128  # pixels of an image that is enlarged for its name, at most


def tile(images: Pixels, columns: int | None = None, gap: int = 2, ground: int = GROUND) -> Pixels:
    """Return one picture [H',W',C] of images [N,C,H,W], row by row, on a grey ground."""
    n, c, h, w = images.shape
    columns = columns or ceil(sqrt(n))
    rows = ceil(n / columns)
    board = np.full((rows * (h + gap) + gap, columns * (w + gap) + gap, c), ground, np.uint8)
    for k, image in enumerate(images):
        y, x = divmod(k, columns)
        top, left = gap + y * (h + gap), gap + x * (w + gap)
        board[top : top + h, left : left + w] = image.transpose(1, 2, 0)
    return board


def columns_for(n: int, cycle: int, most: int = 10) -> int:
    """Return the columns of a grid of n images whose `cycle` classes come in turn.

    A multiple of `cycle`, so that a column holds one class, and few classes fill the width; at
    most `most` or a square's, and never fewer than one column a class where there are n.
    """
    widest = min(n, max(most, ceil(sqrt(n))))
    return max(widest // cycle * cycle, min(n, cycle))


def names_of(labels: Iterable[Any] | None, classes: Sequence[str]) -> list[str]:
    """Return what a picture calls the class of each label; nothing for None.

    labels: positions in `classes`; the one after the last is no label. A class with letters that
    the font lacks is called by its position.
    """
    names = [name if _has_letters(name) else str(k) for k, name in enumerate(classes)]
    names.append("no label")
    return [] if labels is None else [names[int(k)] if classes else str(int(k)) for k in labels]


def time_text(t: float) -> str:
    """Return a time t as pictures write it, which may lie between whole numbers."""
    return f"t = {short_number(t)}"


def short_number(value: float) -> str:
    """Return a number in three digits, or as many as its whole part has."""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def grid(
    images: Pixels,
    columns: int | None = None,
    scale: int | None = None,
    *,
    names: Sequence[str] = (),
    heads: Sequence[str] = (),
    sides: Sequence[str] = (),
    note: str = "",
) -> "Image":
    """Return a pillow image of images, uint8 [N,C,H,W], with text where some is given.

    names: of each image; over the columns where all images of each have one name, else below every
    image. heads, sides: over the columns and left of the rows. note: at the bottom. Images are
    enlarged until short names fit, long names shortened in their middle.
    Without text it is `tile`, enlarged, to the bit.
    """
    n, _, h, w = images.shape
    columns, gap = columns or ceil(sqrt(n)), 2
    scale = scale or scale_for(h)
    if not (names or heads or sides or note):
        return to_image(tile(images, columns, gap), scale)
    from PIL import Image, ImageDraw

    if names and len({*zip(np.arange(n) % columns, names, strict=True)}) == min(n, columns):
        names, heads = (), names[:columns]
    line = SIZES[0] + 4
    width = min(max(map(_width, (*names, *heads)), default=0) + 2, NAME_WIDTH)
    scale = max(scale, min(ceil(width / (w + gap)), TALLEST // h))
    # A caption's place is a part of its image, in the colour of the paper; so is missing width.
    below, beside = ceil(line / scale) if names else 0, max(0, ceil(width / scale) - w - gap)
    left = (beside // 2, beside - beside // 2)
    padded = np.pad(images, ((0, 0), (0, 0), (0, below), left), constant_values=PAPER)
    board = to_image(tile(padded, columns, gap, PAPER), scale)
    x0 = min(ceil(max(map(_width, sides), default=-8)) + 8, SIDE_WIDTH)
    y0 = line * max((text.count("\n") + 1 for text in heads), default=0)
    size = (board.width + x0, board.height + y0 + line * bool(note))
    picture = Image.new(board.mode, size, (PAPER,) * len(board.getbands()))
    picture.paste(board, (x0, y0))
    wide, high, edge = (w + beside + gap) * scale, (h + below + gap) * scale, gap * scale
    texts: list[tuple[str, float, float, float, str]] = []  # with x, y, room and anchor
    start = 0
    for text, same in groupby(heads):
        span = len(list(same))
        x = x0 + edge / 2 + (start + span / 2) * wide
        texts.append((text, x, (y0 + edge) / 2, span * wide - 2, "mm"))
        start += span
    for k, text in enumerate(names):
        row, column = divmod(k, columns)
        x, y = x0 + edge / 2 + (column + 0.5) * wide, y0 + edge + row * high + h * scale
        texts.append((text, x, y + line / 2, wide - 2, "mm"))
    for k, text in enumerate(sides):
        texts.append((text, 4, y0 + edge / 2 + (k + 0.5) * high, x0 - 6, "lm"))
    texts += [(note, x0 + edge, size[1] - line / 2 - 1, board.width, "lm")] * bool(note)
    letters = next((s for s in SIZES if all(_width(t, s) <= r for t, _, _, r, _ in texts)), 10)
    draw = ImageDraw.Draw(picture)
    for text, x, y, room, anchor in texts:
        fill = (INK,) * len(board.getbands())
        text = "\n".join(shortened(part, room) for part in text.split("\n"))
        draw.text((x, y), text, fill, _font(letters), anchor, align="center")
    return picture


def shortened(text: str, room: float) -> str:
    """Return text as it fits into so many pixels: an ellipsis stands for its middle."""
    if _width(text) <= room:
        return text
    cut = (f"{text[: k - k // 2].rstrip()}…{text[len(text) - k // 2 :].lstrip()}"
           for k in range(len(text) - 1, 0, -1))  # fmt: skip
    return next((short for short in cut if _width(short) <= room), "…")


def _width(text: str, size: int = SIZES[-1]) -> float:
    return max(map(_font(size).getlength, text.split("\n")))


@cache
def _font(size: int) -> "FreeTypeFont":
    """Return DejaVu Sans, which comes with matplotlib: Latin, Greek, Cyrillic and more."""
    from PIL import ImageFont

    found = find_spec("matplotlib")  # importing it would delay the first picture
    assert found is not None and found.origin is not None
    path = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), size)


@cache
def _has_letters(text: str) -> bool:
    """Return whether the font has all letters of a text: it draws one box for all others."""

    from PIL import Image, ImageDraw

    def drawn(letter: str) -> bytes:
        picture = Image.new("L", (32, 32))
        ImageDraw.Draw(picture).text((8, 8), letter, 255, _font(SIZES[0]))
        return picture.tobytes()

    return (
        bool(text.strip())
        and text.isprintable()
        and all(c == " " or drawn(c) != drawn("\uffff") for c in text)
    )


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
    path: Path,
    images: Pixels,
    columns: int | None = None,
    scale: int | None = None,
    *,
    names: Sequence[str] = (),
    heads: Sequence[str] = (),
    sides: Sequence[str] = (),
) -> None:
    """Write images, uint8 [N,C,H,W], as one PNG (or what the suffix says), with text as `grid`."""
    with replacing(path) as temporary:
        grid(images, columns, scale, names=names, heads=heads, sides=sides).save(temporary)


def save_png(path: Path, image: Pixels) -> None:
    """Write one image, uint8 [C,H,W], at its own size."""
    with replacing(path) as temporary:
        to_image(image.transpose(1, 2, 0)).save(temporary)


def save_gif(
    path: Path,
    frames: Iterable[Pixels],
    columns: int | None = None,
    *,
    names: Sequence[str] = (),
    notes: Sequence[str] = (),
    seconds: float = 4.0,
    hold: float = 1 / 3,
) -> None:
    """Write a GIF of grids. frames: uint8 [N,C,H,W] each; names of images, a note for each frame.

    The last frame is held for the share `hold` of the whole length.
    """
    frames = list(frames)
    # Noise does not compress: an animation is kept to about 400 pixels.
    scale = max(1, 400 // max(tile(frames[0], columns).shape[:2]))
    told = notes or [""] * len(frames)
    pictures = [
        grid(frame, columns, scale, names=names, note=note)
        for frame, note in zip(frames, told, strict=True)
    ]
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
    # A distance may be 0: of copies, or where all real images are two or three.
    scale = "log" if min(floor, *distance) > 0 else "linear"
    axes.set(xlabel="images seen", ylabel="Frechet distance to held-out images", yscale=scale)
    save_figure(path, fig)


def save_loss_curve(path: Path, images_seen: Sequence[int], loss: Sequence[float]) -> None:
    """Write the training loss against images seen, with its running mean; NaN leaves a gap.

    Of a long run only `CURVE_POINTS` points or so are drawn, evenly spaced.
    """
    from matplotlib.ticker import EngFormatter, FuncFormatter, NullFormatter

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
    # Within one decade matplotlib writes 6 x 10^-1; people read 0.6, and 20k images.
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_formatter(plain)
    axes.yaxis.set_minor_formatter(plain if _decades(axes.get_ylim()) < 1.5 else NullFormatter())
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    save_figure(path, fig)


def _decades(limits: tuple[float, float]) -> float:
    """Return the powers of ten between two numbers."""
    low, high = limits
    return float(np.log10(high / low)) if low > 0 else 0.0


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
