"""Pieces of the page as HTML: boards of images, progress, facts, tables, curves as SVG.

Images travel inside the page (data: addresses): a frame is a few kilobytes and one request less.
"""

import base64
import io
from collections.abc import Sequence
from html import escape
from math import ceil, sqrt
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pocketddpm.pictures import figure, tile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GAP = 2  # pixels of the images between them
TILE = 84  # the largest width of one image on the screen, in CSS pixels
# Legible on white and on black; told apart without seeing red or green (Okabe and Ito, darkened).
COLOURS = ("#d97706", "#2b8cc4", "#1a9e77", "#c05c9a")
INK = "#8a8a8a"


def board(
    images: NDArray[np.uint8],
    columns: int | None = None,
    *,
    alt: str,
    names: Sequence[str] = (),
) -> str:
    """Return an <img> of a grid of images, uint8 [N,C,H,W], with see-through gaps.

    names: text below each image; then there is an <img> for each row.
    """
    if not names:
        return _picture(images, columns, alt)
    columns = columns or ceil(sqrt(len(images)))
    rows = []
    gap = 100 * GAP / (columns * (images.shape[3] + GAP) - GAP)  # % of the width
    for first in range(0, len(images), columns):
        told = names[first : first + columns]
        cells = "".join(f'<span title="{escape(n, quote=True)}">{escape(n)}</span>' for n in told)
        which = f"{alt}: {', '.join(told)}"
        rows.append(
            f"{_picture(images[first : first + columns], columns, which)}"
            f'<div class="names" aria-hidden="true" '
            f'style="grid-template-columns:repeat({columns},minmax(0,1fr));'
            f'column-gap:{gap:.2f}%">{cells}</div>'
        )
    return f'<div class="board" style="max-width:{columns * TILE}px">{"".join(rows)}</div>'


def _picture(images: NDArray[np.uint8], columns: int | None, alt: str) -> str:
    from PIL import Image

    grid, black, white = (
        tile(pixels, columns, GAP)[GAP:-GAP, GAP:-GAP]
        for pixels in (images, np.zeros_like(images[:, :1]), np.full_like(images[:, :1], 255))
    )
    inside = (black[..., 0] == 0) & (white[..., 0] == 255)
    colours = grid if grid.shape[2] == 3 else grid[..., :1].repeat(3, 2)
    alpha = np.where(inside, 255, 0).astype(np.uint8)[..., None]
    file = io.BytesIO()
    Image.fromarray(np.concatenate([colours, alpha], 2), "RGBA").save(file, "PNG", compress_level=1)
    data = base64.b64encode(file.getvalue()).decode()
    wide = max(1, grid.shape[1] // images.shape[3])  # about as many images as lie in a row
    return (
        f'<img class="pixels" alt="{escape(alt, quote=True)}" width="{grid.shape[1]}" '
        f'height="{grid.shape[0]}" style="max-width:{wide * TILE}px" '
        f'src="data:image/png;base64,{data}">'
    )


def panel(title: str, content: str) -> str:
    """Return a titled part of the page."""
    return f'<figure class="panel"><figcaption>{escape(title)}</figcaption>{content}</figure>'


def empty(text: str) -> str:
    """Return a placeholder that says what will be here."""
    return f'<div class="empty">{escape(text)}</div>'


def progress(share: float, words: Sequence[str], *, busy: bool = True) -> str:
    """Return a bar, 0..1 full, with facts under it."""
    percent = round(100 * min(max(share, 0), 1))
    state = "busy" if busy else "still"
    return (
        f'<div class="progress {state}" role="progressbar" aria-valuenow="{percent}" '
        f'aria-valuemin="0" aria-valuemax="100" aria-label="progress of the run">'
        f'<div style="width:{percent}%"></div></div>{facts(words)}'
    )


def problem(text: str) -> str:
    """Return what went wrong, in the place of a run's progress; read aloud at once."""
    return f'<p class="problem" role="alert">{escape(text)}</p>'


def facts(words: Sequence[str]) -> str:
    """Return a line of short facts."""
    return '<p class="facts">' + "".join(f"<span>{escape(w)}</span>" for w in words) + "</p>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; cells are HTML, and escaped by the caller where they must be."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        '<div class="scroll"><table class="results">'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def curves(width: float = 6.4, height: float = 3.0) -> "tuple[Figure, Axes]":
    """Return an empty figure with axes in colours that suit a light and a dark page."""
    fig = figure(width, height)
    axes = fig.subplots()
    axes.tick_params(colors=INK, labelcolor=INK, which="both")
    axes.spines[:].set_color(INK)
    axes.spines[["top", "right"]].set_visible(False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_color(INK)
    axes.grid(alpha=0.25, color=INK)
    return fig, axes


def svg(fig: "Figure", alt: str) -> str:
    """Return a figure as an inline <img> of SVG, with its legend."""
    fig.axes[0].legend(frameon=False, labelcolor=INK)
    file = io.BytesIO()
    fig.savefig(file, format="svg", transparent=True)
    data = base64.b64encode(file.getvalue()).decode()
    return (
        f'<img class="curve" alt="{escape(alt, quote=True)}" '
        f'src="data:image/svg+xml;base64,{data}">'
    )
