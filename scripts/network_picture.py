"""Draw the network `lean`, at its default sizes for 28x28 images, as docs/pictures/network.png."""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from pocketddpm.networks.lean import Config

OUT = Path(__file__).parent.parent / "docs" / "pictures" / "network.png"
DATA, LAYER, BLOCK, TIME = "#f2f2f2", "#dfeaf7", "#b5cfee", "#fbe3c0"


def main() -> None:
    """Draw time and label, the two levels, and the inside of a block."""
    c = Config()
    side, low, wide = 28 // c.patch, 28 // c.patch // 2, 4 * c.widths[0]
    square, fine = f"{side}×{side}×{c.patch**2}", f"{side}×{side}×{c.widths[0]}"
    coarse, heads = f"{low}×{low}×{c.widths[1]}", c.widths[1] // c.head_width
    twice = (f"{c.blocks[0]} blocks\n{fine}", BLOCK)
    rows = [  # height, first column, boxes that arrows join
        (4.0, 0, [("time t", DATA), (f"cos, sin\n{c.widths[0]}", TIME)]),
        (4.0, 2, [(f"linear, SiLU,\nlinear: {wide}", TIME), (f"+ label's row\n{wide}", TIME)]),
        (4.0, 4, [(f"SiLU\n{wide}", TIME)]),
        (2.4, 0, [("input\n28×28×1", DATA), (f"squares to\nchannels\n{square}", LAYER)]),
        (2.4, 2, [(f"conv 3×3\n{fine}", LAYER), twice]),
        (2.4, 5, [twice, (f"norm, SiLU,\nconv 3×3\n{square}", LAYER)]),
        (2.4, 7, [("channels to\nsquares: F\n28×28×1", DATA)]),
        (0.6, 3, [(f"block\n{coarse}", BLOCK)]),
        (0.6, 4, [(f"attention of\n{low * low} pixels,\n{heads} heads", LAYER)]),
        (0.6, 5, [(f"{c.blocks[1] - 1} blocks\n{coarse}", BLOCK)]),
        (-1.2, 1, [("norm, SiLU", LAYER), ("conv 3×3", LAYER), ("norm", LAYER)]),
        (-1.2, 4, [("× (1 + scale)\n+ shift", TIME), ("SiLU", LAYER)]),
        (-1.2, 6, [("conv 3×3,\n0 at first", LAYER)]),
    ]
    figure, ax = plt.subplots(figsize=(11.5, 6), dpi=100, layout="constrained")
    ax.set(xlim=(-0.5, 7.5), ylim=(-2.1, 4.5))
    ax.axis("off")
    lines = [(3, 1.98, 3, 1.02, "-"), (5, 1.02, 5, 1.98, "-"), (0.1, -1.2, 0.6, -1.2, "-")]
    lines.append((6.4, -1.2, 6.8, -1.2, "-"))
    lines += [(4, 3.58, 3.3, 2.82, ":"), (4, 3.58, 4.7, 2.82, ":"), (3.4, 2.4, 4.6, 2.4, "-")]
    for y, first, boxes in rows:
        for x, (text, colour) in enumerate(boxes, first):
            corner = x - 0.4, y - 0.42
            ax.add_patch(Rectangle(corner, 0.8, 0.84, facecolor=colour, edgecolor="#444444"))
            ax.text(x, y, text, ha="center", va="center", fontsize=9)
            if (y, x) not in [(4.0, 4), (2.4, 3), (2.4, 7), (0.6, 5), (-1.2, 6)]:
                lines.append((x + 0.4, y, x + 0.6, y, "-"))
    for x, y, to_x, to_y, style in lines:
        ax.annotate("", (to_x, to_y), (x, y), arrowprops={"arrowstyle": "->", "linestyle": style})
    ax.plot([0.3, 0.3, 6.5, 6.5], [-1.2, -1.85, -1.85, -1.2], color="black", linewidth=1)
    ax.text(4, 2.52, "added", ha="center", fontsize=9)
    ax.text(3.5, -1.78, "added", ha="center", fontsize=9)
    ax.text(2.95, 1.45, "conv 2×2, stride 2", ha="right", fontsize=9)
    ax.text(5.05, 1.45, "conv 1×1, channels to squares", fontsize=9)
    ax.text(
        4.45, 3.25, "scale and shift: a linear layer in each block, of either level", fontsize=9
    )
    ax.text(-0.4, -0.55, "Inside a block:", fontsize=9)
    figure.savefig(OUT)


if __name__ == "__main__":
    main()
