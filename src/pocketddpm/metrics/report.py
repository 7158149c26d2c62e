"""The result: rows of numbers beside their floors, as text, as Markdown and as JSON."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite, isnan
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pocketddpm.metrics.intervals import Estimate, difference, ratio

FEW = 10_000
COLUMNS = ("measure", "samples", "real images", "samples to real", "predicted bias")


@dataclass(frozen=True)
class Row:
    """One number of the samples, the same number of real images, and how the two compare.

    key: its name in JSON. by: 'ratio' or 'difference'. percent: shown in percent. bias: what a
    perfect generator is expected to score, from n alone.
    """

    key: str
    name: str
    value: Estimate
    floor: Estimate | None
    by: Literal["ratio", "difference"]
    percent: bool = False
    bias: float | None = None

    @property
    def against(self) -> Estimate | None:
        """The samples' number over the floor, or less the floor."""
        if self.floor is None:
            return None
        return (ratio if self.by == "ratio" else difference)(self.value, self.floor)

    def cells(self) -> list[str]:
        """Return the row as text, one cell per column."""
        against = ""
        if self.against is not None:
            against = number(self.against, False, sign=self.by == "difference")
            if self.by == "ratio":
                against = f"x {number(self.against, False)}"
            elif self.percent:
                against = number(self.against, True, sign=True).replace("%", " pp")
        floor = "" if self.floor is None else number(self.floor, self.percent)
        bias = "" if self.bias is None else f"{self.bias:.4f}"
        return [self.name, number(self.value, self.percent), floor, against, bias]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        values: dict[str, Any] = {"name": self.name, "samples": _plain(self.value)}
        values["real"] = None if self.floor is None else _plain(self.floor)
        values[self.by] = None if self.against is None else _plain(self.against)
        if self.bias is not None:
            values["predicted_bias"] = self.bias
        return values


@dataclass
class Report:
    """Everything that an evaluation found.

    skipped: name of a measure -> why it is not there. facts: what is needed to repeat it. closest:
    uint8 [20*4,C,H,W], rows of 20: samples and their nearest training images by pixels, then by
    features. n: how many samples were scored.
    """

    n: int
    data: str
    rows: list[Row] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    closest: NDArray[np.uint8] | None = None

    def row(self, key: str) -> Row:
        """Return the row called `key`; KeyError when it was skipped."""
        return {row.key: row for row in self.rows}[key]

    def headline(self) -> str:
        """Return the one sentence: how far from real images, in units of real images."""
        first = self.rows[0]
        against = first.against
        if against is None:
            return f"{first.name} {first.value.value:.4g} at n = {self.n}; no floor"
        interval = "" if isnan(against.low) else f" ({against.low:.2f} to {against.high:.2f})"
        return (
            f"{against.value:.2f}{interval} times the {first.name} of real {self.data} "
            f"test images at n = {self.n}; 1 is what new real images score"
        )

    def remarks(self) -> list[str]:
        """Return what a reader must know before quoting a number."""
        remarks = []
        if self.n < FEW:
            remarks.append(
                f"n = {self.n} is fewer than {FEW:,}: rough numbers, each to be compared with its "
                "own floor only, never with numbers at another n"
            )
        first = self.rows[0].against
        if first is not None and first.value < 0.9:
            remarks.append(
                "closer to the reference than new real images are: suspect copied training images "
                "or a generator fitted to this metric"
            )
        return remarks + self.notes

    def text(self) -> str:
        """Return the table for a terminal."""
        table = [list(COLUMNS), *(row.cells() for row in self.rows)]
        widths = [max(len(line[k]) for line in table) for k in range(len(COLUMNS))]
        lines = [self.headline(), ""]
        for line in table:
            cells = (cell.ljust(w) for cell, w in zip(line, widths, strict=True))
            lines.append("  ".join(cells).rstrip())
        lines += ["", *(f"skipped: {name} ({why})" for name, why in self.skipped.items())]
        lines += [f"note: {remark}" for remark in self.remarks()]
        lines.append("repeat: " + ", ".join(f"{k} {v}" for k, v in flatten(self.facts).items()))
        return "\n".join(lines)

    def markdown(self) -> str:
        """Return the table, the remarks and all facts as a Markdown page."""
        lines = [f"# {self.data}, n = {self.n}", "", self.headline() + ".", ""]
        lines += markdown_table(COLUMNS, [row.cells() for row in self.rows])
        lines += ["", "Brackets hold 95 % intervals.", ""]
        lines += [f"- {remark}" for remark in self.remarks()]
        lines += [f"- skipped: {name} ({why})" for name, why in self.skipped.items()]
        lines += ["", "## To repeat it", "", *markdown_table(("what", "value"), self._facts())]
        return "\n".join(lines) + "\n"

    def _facts(self) -> list[list[str]]:
        return [[key, str(value)] for key, value in flatten(self.facts).items()]

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


def number(estimate: Estimate, percent: bool, *, sign: bool = False) -> str:
    """Return a number with its interval, as shown in tables."""
    factor = 100 if percent else 1
    plus = "+" if sign else ""
    places = 2 if percent else _places(estimate.value)
    shown = f"{estimate.value * factor:{plus}.{places}f}{'%' if percent else ''}"
    if not (isfinite(estimate.low) and isfinite(estimate.high)):
        return shown
    low, high = (f"{v * factor:{plus}.{places}f}" for v in (estimate.low, estimate.high))
    return f"{shown} [{low}, {high}]"


def _places(value: float) -> int:
    """Enough digits for three significant ones, between 1 and 6."""
    size = abs(value)
    return 1 if size >= 100 else 2 if size >= 10 else 3 if size >= 0.1 else 4 if size > 0.01 else 6


def _plain(estimate: Estimate) -> dict[str, float | None]:
    values = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    return {key: value if isfinite(value) else None for key, value in values.items()}
