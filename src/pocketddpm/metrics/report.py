"""`Report`: numbers of samples beside those of real images, as text, Markdown and JSON."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite, isnan
from pathlib import Path
from textwrap import wrap
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pocketddpm.metrics.intervals import Interval, difference, ratio
from pocketddpm.output import remove_files, write_json, write_text
from pocketddpm.pictures import save_grid

FEW = 10_000
WIDTH = 100  # columns of a terminal
PAIRS = 20  # columns of the picture of closest pairs
COLUMNS = ("measure", "samples", "real images", "samples to real", "predicted bias")
CLOSEST = """
## Closest pairs

![samples above their nearest training images](closest.png)

Rows: the 20 samples nearest to a training image by pixels, those training images, then the same by
features.
"""


@dataclass(frozen=True)
class Row:
    """One measure: its value for the samples, for real images (the floor), and how they compare.

    key: its name in JSON. name: its name in tables. by: whether value and floor are compared by
    their ratio or their difference. percent: shown in percent. bias: the expected value of a
    perfect generator, which is not 0 because n is finite.
    """

    key: str
    name: str
    value: Interval
    floor: Interval | None
    by: Literal["ratio", "difference"]
    percent: bool = False
    bias: float | None = None

    @property
    def comparison(self) -> Interval | None:
        """The value divided by the floor, or minus the floor; None without one, or by 0."""
        if self.floor is None or (self.by == "ratio" and not self.floor.value):
            return None
        return (ratio if self.by == "ratio" else difference)(self.value, self.floor)

    def cells(self, *, narrow: bool = False) -> list[str]:
        """Return the row as text, one cell per column; narrow: real images without interval."""
        compared = ""
        if (comparison := self.comparison) is not None:
            compared = number(comparison, self.percent, sign=self.by == "difference")
            if self.by == "ratio":
                compared = f"x {compared}"
            elif self.percent:
                compared = compared.replace("%", " pp")
        floor = ""
        if self.floor is not None:
            shown = Interval(self.floor.value) if narrow else self.floor
            floor = number(shown, self.percent)
        bias = "" if self.bias is None else f"{self.bias:.4f}"
        return [self.name, number(self.value, self.percent), floor, compared, bias]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        values: dict[str, Any] = {"name": self.name, "samples": _plain(self.value)}
        values["real"] = None if self.floor is None else _plain(self.floor)
        values[self.by] = None if self.comparison is None else _plain(self.comparison)
        if self.bias is not None:
            values["predicted_bias"] = self.bias
        return values


@dataclass
class Report:
    """The result of an evaluation.

    n: how many samples were scored. data: the reference data set. real: what the real images beside
    the samples are. threshold: than which of them copies are nearer to a training image.
    skipped: measure -> why it is
    missing. notes: what must be known before quoting a number. facts: what is needed to repeat it,
    as plain JSON. closest: uint8 [4*20,C,H,W], rows of 20: samples and their nearest training
    images by pixels, then by features.
    """

    n: int
    data: str
    real: str = "test images"
    threshold: str = ""
    rows: list[Row] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    closest: NDArray[np.uint8] | None = None

    def row(self, key: str) -> Row:
        """Return the row called `key`; KeyError when it was skipped."""
        return {row.key: row for row in self.rows}[key]

    def headline(self) -> str:
        """Return the result in one sentence: the first row's ratio to real images."""
        first = self.rows[0]
        if not first.key.startswith("frechet"):
            value = number(first.value, first.percent)
            return f"{first.name}: {value} of {self.n} samples; too few real images for distances"
        found = first.comparison
        if found is None:
            why = "no floor" if first.floor is None else f"{self.real} score 0: there is no ratio"
            return f"{first.name} {first.value.value:.4g} at n = {self.n}; {why}"
        interval = "" if isnan(found.low) else f" ({found.low:.2f} to {found.high:.2f})"
        return (
            f"{found.value:.2f}{interval} times the {first.name} of real {self.data} "
            f"{self.real} at n = {self.n}; 1 is what new real images score"
        )

    def remarks(self) -> list[str]:
        """Return the notes, and what follows from n and from the intervals."""
        remarks = []
        first = self.rows[0].comparison if self.rows[0].by == "ratio" else None
        if self.n < FEW:
            remarks.append(
                f"n = {self.n} is fewer than {FEW:,}: rough numbers, each to be compared with its "
                "own floor only, never with numbers at another n"
            )
            if first is not None and first.high > first.low > 0:
                width = (first.high / first.low) ** 0.5 - 1
                remarks.append(
                    f"the interval of the first ratio is {width:.0%} wide to each side; four times "
                    "the images would halve that"
                )
        if self.real == "training images":
            remarks.append(
                "memorisation-prone: too few images were held out to compare with, so that "
                "samples and real images alike are measured against images that were trained on; "
                "only copies tell learning from copying here"
            )
        if first is not None and first.value < 0.9 and first.high < 1:
            remarks.append(
                "closer to the reference than new real images are: suspect copied training images "
                "or a generator fitted to this metric"
            )
        copies = [row for row in self.rows if row.key.startswith("copies")]
        if copies and self.threshold:
            others = "another one" if self.real == "training images" else "one"
            remarks.append(
                "copies: the share of samples nearer to a training image than "
                f"{self.threshold} {self.real} are to {others}"
            )
        for row in copies:
            if row.comparison is not None and row.comparison.low > 0:
                remarks.append(
                    f"suspect {row.name}: {number(row.value, True)} of the samples, beside "
                    f"{number(row.floor, True) if row.floor else ''} of {self.real}; flat or "
                    "blurred samples lie near many images too: look at closest.png of --out"
                )
        return remarks + self.notes

    def text(self) -> str:
        """Return the table for a terminal of 100 columns; long names go on in the next line.

        The intervals of real images and the predicted bias stand in the Markdown page only.
        """
        table = [list(COLUMNS[1:-1]), *(row.cells(narrow=True)[1:-1] for row in self.rows)]
        widths = [max(len(line[k]) for line in table) for k in range(len(table[0]))]
        first = WIDTH - sum(widths) - 2 * len(widths)
        titles = [COLUMNS[0], *(row.name for row in self.rows)]
        names = [wrap(title, first, subsequent_indent="  ") for title in titles]
        first = max(len(part) for parts in names for part in parts)
        lines = [self.headline(), ""]
        for parts, line in zip(names, table, strict=True):
            cells = (cell.ljust(w) for cell, w in zip(line, widths, strict=True))
            lines.append("  ".join([parts[0].ljust(first), *cells]).rstrip())
            lines += parts[1:]
        lines += ["", *(f"skipped: {name} ({why})" for name, why in self.skipped.items())]
        lines += [f"note: {remark}" for remark in self.remarks()]
        return "\n".join([*lines, facts_line(self.facts)])

    def markdown(self) -> str:
        """Return the table, the remarks and all facts as a Markdown page."""
        lines = [f"# {self.data}, n = {self.n}", "", self.headline() + ".", ""]
        lines += markdown_table(COLUMNS, [row.cells() for row in self.rows])
        lines += ["", "Brackets hold 95 % intervals.", ""]
        lines += [f"- {remark}" for remark in self.remarks()]
        lines += [f"- skipped: {name} ({why})" for name, why in self.skipped.items()]
        lines += facts_section(self.facts)
        return "\n".join(lines) + "\n" + ("" if self.closest is None else CLOSEST)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "headline": self.headline(),
            "n": self.n,
            "data": self.data,
            "measures": {row.key: row.to_json() for row in self.rows},
            "skipped": self.skipped,
            "remarks": self.remarks(),
            "facts": self.facts,
        }

    def save(self, folder: Path) -> None:
        """Write report.md, report.json and closest.png; OutputError when that fails."""
        remove_files(folder, "closest.png")
        if self.closest is not None:
            save_grid(folder / "closest.png", self.closest, PAIRS)
        write_text(folder / "report.md", self.markdown())
        write_json(folder / "report.json", self.to_json())


def facts_line(facts: dict[str, Any]) -> str:
    """Return facts in one line, for a terminal."""
    return "repeat: " + ", ".join(f"{k} {v}" for k, v in flatten(facts).items())


def facts_section(facts: dict[str, Any]) -> list[str]:
    """Return facts as the last section of a Markdown page."""
    rows = [[key, str(value)] for key, value in flatten(facts).items()]
    return ["", "## To repeat it", "", *markdown_table(("what", "value"), rows)]


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def flatten(facts: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested facts as one level, {'a': {'b': 1}} as {'a b': 1}; None is left out."""
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key} ")
        elif value is not None:
            flat[f"{prefix}{key}"] = value
    return flat


def number(value: Interval, percent: bool = False, *, sign: bool = False) -> str:
    """Return a number with its interval, as shown in tables."""
    factor = 100 if percent else 1
    plus = "+" if sign else ""
    places = 2 if percent else _places(value.value or max(abs(value.low), abs(value.high)))
    shown = f"{value.value * factor:{plus}.{places}f}{'%' if percent else ''}"
    if not (isfinite(value.low) and isfinite(value.high)):
        return shown
    low, high = (f"{v * factor:{plus}.{places}f}" for v in (value.low, value.high))
    return f"{shown} [{low}, {high}]"


def _places(value: float) -> int:
    """Return enough decimal places for two or three significant digits, between 1 and 6."""
    size = abs(value)
    return 1 if size >= 100 else 2 if size >= 10 else 3 if size >= 0.1 else 4 if size > 0.001 else 6


def _plain(number: Interval) -> dict[str, float | None]:
    values = {"value": number.value, "low": number.low, "high": number.high}
    return {key: value if isfinite(value) else None for key, value in values.items()}
