"""Draw quality against minutes and against evaluations, from the rows that other benchmarks wrote.

    python benchmarks/time_to_quality.py --minutes 10 --out benchmarks/results/time_to_quality.jsonl
    python benchmarks/quality_pictures.py

Writes docs/pictures/quality-minutes.png and quality-nfe.png, and prints the table of the README.
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
            name = row["system"] if real else f"{row['system']}, seed {row['seed']}"
            agreement = f"{row['agreement']} %" if "agreement" in row else "takes no labels"
            lines.append(
                f"| {name} | {seen} | {row['nfe'] or ''} | {row['frechet']} | {agreement} |"
            )
    return "\n".join(lines)


def against_minutes(found: list[Row], out: Path) -> None:
    """Draw the Frechet distance of each system against its minutes of training."""
    _, axes = plt.subplots(figsize=(6.4, 4))
    by_system: dict[str, list[Row]] = defaultdict(list)
    for row in found:
        by_system[row["system"]].append(row)
    for name, its in by_system.items():
        if not its[0]["images_seen"]:
            axes.axhline(its[0]["frechet"], color="grey", ls=":", label=name)
            continue
        its.sort(key=lambda row: row["minutes"])
        axes.plot([r["minutes"] for r in its], [r["frechet"] for r in its], "o-", label=name)
    finish(axes, "minutes of training, two CPU cores", out)


def against_nfe(found: list[Row], out: Path) -> None:
    """Draw the Frechet distance of each model against the evaluations of one image."""
    _, axes = plt.subplots(figsize=(6.4, 4))
    by_run: dict[str, list[Row]] = defaultdict(list)
    for row in found:
        by_run[row["run"]].append(row)
    for name, its in by_run.items():
        its.sort(key=lambda row: row["nfe"])
        label = name.split(",")[0]
        axes.plot([r["nfe"] for r in its], [r["frechet"] for r in its], "o-", label=label)
    finish(axes, "evaluations of the network for one image", out)


def finish(axes: Any, x: str, out: Path) -> None:
    """Label both axes, which are logarithmic, and write the picture."""
    axes.set(xlabel=x, ylabel="Frechet distance to half B (digits-cnn)", xscale="log", yscale="log")
    ticks = sorted({x for line in axes.lines for x in line.get_xdata() if x >= 1})
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
    against_minutes(rows(args.minutes), PICTURES / "quality-minutes.png")
    against_nfe([row for path in args.nfe for row in rows(path)], PICTURES / "quality-nfe.png")
    print(table(rows(args.minutes)))


if __name__ == "__main__":
    main()
