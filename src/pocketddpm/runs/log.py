"""The logs of a run: CSV files with a row per step, cut back to the checkpoint when it resumes.

log.csv has a row for each optimiser step. In memory only what the curve and the reports
need is kept, 16 bytes a step.
"""

import csv
import os
import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite, nan
from pathlib import Path
from typing import Any

import torch

from pocketddpm.output import replacing, writing
from pocketddpm.pictures import save_loss_curve
from pocketddpm.runs.tracking import Tracker
from pocketddpm.training.trainer import StepResult

Row = dict[str, float]
WHOLE = ("step", "images_seen")
COLUMNS = ("step", "images_seen", "epoch", "loss", "grad_norm", "lr", "seconds")


class RunLog:
    """The log of one run. images_seen, loss: of every step so far."""

    def __init__(
        self,
        folder: Path,
        *,
        until: int = 0,
        writes: bool = True,
        trackers: Sequence[Tracker] = (),
    ) -> None:
        """Open the log in a run folder, keeping the rows of steps 1..until of what is there.

        writes: whether this process writes files. OutputError when it cannot. trackers: they are
        told of every row, and closed with the log.
        """
        self.path, self.writes = folder / "log.csv", writes
        self.images_seen, self.loss = array("q"), array("d")
        self._pending: list[StepResult] = []
        self._trackers = trackers
        if not writes:
            return
        rows = logged(folder, until)
        write_log(self.path, COLUMNS, rows)
        self._keep(rows)
        if len(rows) < until:
            print(
                f"pocketddpm: {self.path} holds {len(rows)} of the {until} steps before the "
                "checkpoint; the others are not in the log any more",
                file=sys.stderr,
            )

    def add(self, result: StepResult) -> None:
        """Take note of a step; its loss is read from the device by `flush`."""
        self._pending.append(result)

    def flush(self) -> float:
        """Write what is pending to the disk; return its mean loss (NaN when nothing is pending)."""
        measured = [torch.stack([result.loss, result.grad_norm]) for result in self._pending]
        values = torch.stack(measured).tolist() if measured else []  # one wait for the device
        rows = [
            {
                **_row(vars(result) | {"loss": loss, "grad_norm": grad_norm}, COLUMNS),
                "seconds": round(result.seconds, 3),
            }
            for result, (loss, grad_norm) in zip(self._pending, values, strict=True)
        ]
        self._pending.clear()
        self._keep(rows)
        if self.writes and rows:
            append_log(self.path, COLUMNS, rows)
        for row in rows:
            values = {name: row[name] for name in ("loss", "grad_norm", "lr")}
            self.chart(values, int(row["images_seen"]))
        return _mean(row["loss"] for row in rows)

    def chart(self, values: Mapping[str, float], images_seen: int) -> None:
        """Tell the trackers of values."""
        for tracker in self._trackers:
            tracker.log(values, images_seen)

    def final_loss(self) -> float:
        """Return the mean loss of the last tenth of the steps."""
        self.flush()
        return _mean(self.loss[-max(1, len(self.loss) // 10) :])

    def save_curve(self, path: Path) -> None:
        """Write the loss curve."""
        self.flush()
        save_loss_curve(path, self.images_seen, self.loss)

    def close(self) -> None:
        """Write what is pending, and let the trackers end."""
        self.flush()
        for tracker in self._trackers:
            tracker.close()

    def _keep(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self.images_seen.append(int(row["images_seen"]))
            self.loss.append(row["loss"])


def logged(folder: Path, until: int = sys.maxsize) -> list[Row]:
    """Return the rows of steps 1..until of a run's log, up to the first that is missing."""
    rows = read_log(folder / "log.csv", COLUMNS, until)
    gap = next((i for i, row in enumerate(rows) if row["step"] != i + 1), len(rows))
    return rows[:gap]


def _row(values: Mapping[str, Any], columns: Sequence[str]) -> Row:
    return {name: (int if name in WHOLE else float)(values[name]) for name in columns}


def _mean(losses: Iterable[float]) -> float:
    """Return the mean of the finite ones (a skipped step has no loss)."""
    finite = [loss for loss in losses if isfinite(loss)]
    return sum(finite) / len(finite) if finite else nan


def read_log(
    path: Path, columns: Sequence[str], step: int, missing: Mapping[str, float] | None = None
) -> list[Row]:
    """Return the rows of a log up to a step; what was logged after the checkpoint is dropped.

    missing: the values of columns that the log may lack.

    A killed run, or a full disk, may leave half a row behind, after the checkpoint: reading ends
    at the first damaged row.
    """
    if not path.exists():
        return []
    rows: list[Row] = []
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        try:
            for values in csv.DictReader(file):
                row = _parsed({**(missing or {}), **values}, columns)
                if row is None or row["step"] > step:
                    break
                rows.append(row)
        except csv.Error:
            pass
    return rows


def _parsed(values: Mapping[str, Any], columns: Sequence[str]) -> Row | None:
    try:
        row = _row(values, columns)
    except (KeyError, TypeError, ValueError):
        return None
    return row if all(0 < row[name] < 2**63 for name in WHOLE) else None


def write_log(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Write a log in one piece."""
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([row[name] for name in columns] for row in rows)


def append_log(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Add rows to a log that exists; OutputError when the disk is full."""
    with writing(path), open(path, "a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([row[name] for name in columns] for row in rows)
        # A checkpoint is written after its rows: a power cut must not undo that order.
        file.flush()
        os.fsync(file.fileno())
