"""Tables that grow while a run trains: CSV files with a row per step, cut back when it resumes."""

import csv
from collections.abc import Sequence
from pathlib import Path

from pocketddpm.output import replacing

Row = dict[str, float]
WHOLE = ("step", "images_seen")


def read_log(path: Path, columns: Sequence[str], step: int) -> list[Row]:
    """Return the rows of a log up to a step; what was logged after the checkpoint is dropped."""
    if not path.exists():
        return []
    rows: list[Row] = []
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            # A killed run may leave half a row behind; its step comes after the checkpoint.
            if None in row.values() or int(row["step"]) > step:
                break
            rows.append({name: (int if name in WHOLE else float)(row[name]) for name in columns})
    return rows


def write_log(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Write a log in one piece."""
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([row[name] for name in columns] for row in rows)


def append_log(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Add rows to a log that exists."""
    with open(path, "a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([row[name] for name in columns] for row in rows)
