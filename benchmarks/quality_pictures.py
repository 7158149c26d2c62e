"""Draw quality against minutes and against evaluations, from the rows that other benchmarks wrote.

    python benchmarks/time_to_quality.py --minutes 10 --out benchmarks/results/time_to_quality.jsonl
    python benchmarks/quality_pictures.py

Writes quality-minutes.png and quality-nfe.png, and prints the table of docs/results.md.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import NullLocator

HERE = Path(__file__).parent
RESULTS, PICTURES = HERE / "results", HERE.parent / "docs" / "pictures"
NFE = [RESULTS / f"{name}_mnist_2026-11.jsonl" for name in ("ten_minutes", "distilled")]
Row = dict[str, Any]


def rows(path: Path) -> list[Row]:
    """Return the rows of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def table(found: list[Row]) -> str:
    """Return the systems' rows as Markdown, the longest budget only, best first."""
    last = max(row["minutes"] for row in found if row["images_seen"])
    lines = [
        "| | images seen | evaluations | Frechet distance | label agreement |",
        "|---|---|---|---|---|",
    ]
    for row in sorted(found, key=lambda row: row["frechet"]):
        real = not row["images_seen"]
        if real or row["minutes"] == last:
            seen = "" if real else f"{row['images_seen']:,}"
            agreement = f"{row['agreement']} %" if "agreement" in row else "takes no labels"
            cells = (row["system"], seen, row["nfe"] or "", row["frechet"], agreement)
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def draw(found: list[Row], name: str, against: str, label: str, out: Path) -> None:
    """Draw the Frechet distance of each `name` against another value, both axes logarithmic.

    Rows that have seen no images are the floor: a line.
    """
    _, axes = plt.subplots(figsize=(6.4, 4))
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in found:
        groups[row[name].split(",")[0]].append(row)
    for system, its in groups.items():
        if its[0].get("images_seen") == 0:
            axes.axhline(its[0]["frechet"], color="grey", ls=":", label=system)
            continue
        its.sort(key=lambda row: row[against])
        axes.plot([r[against] for r in its], [r["frechet"] for r in its], "o-", label=system)
    axes.set(xlabel=label, ylabel="Frechet distance to half B (digits-cnn)")
    axes.set(xscale="log", yscale="log")
    ticks = sorted({row[against] for row in found})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")
    if axes.get_ylim()[1] < 10 * axes.get_ylim()[0]:
        axes.yaxis.set_minor_formatter("{x:.1g}")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8, loc="upper left")
    axes.figure.tight_layout()
    axes.figure.savefig(out, dpi=110)
    plt.close(axes.figure)
    print(f"wrote {out}")


def main() -> None:
    """Write both pictures and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=Path, default=RESULTS / "time_to_quality_2026-11.jsonl")
    parser.add_argument("--nfe", type=Path, nargs="+", default=NFE)
    args = parser.parse_args()
    systems, models = rows(args.minutes), [row for path in args.nfe for row in rows(path)]
    minutes, nfe = "minutes of training, two CPU cores", "evaluations of the network for one image"
    draw(systems, "system", "minutes", minutes, PICTURES / "quality-minutes.png")
    draw(models, "run", "nfe", nfe, PICTURES / "quality-nfe.png")
    print(table(systems))


if __name__ == "__main__":
    main()
