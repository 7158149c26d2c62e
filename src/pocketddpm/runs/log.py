"""log.csv, one row for each optimiser step; resuming keeps exactly the rows of its checkpoint.

In memory only what the curve and the reports need is kept, 16 bytes a step.
"""

import sys
from array import array
from collections.abc import Iterable, Mapping
from math import isfinite, nan
from pathlib import Path
from typing import Any

from pocketddpm.pictures import save_loss_curve
from pocketddpm.runs.tables import Row, append_log, read_log, summary_writer, write_log
from pocketddpm.training.trainer import Progress

COLUMNS = ("step", "images_seen", "epoch", "loss", "grad_norm", "lr", "seconds")


class RunLog:
    """The log of one run. images_seen, loss: of every step so far."""

    def __init__(
        self, folder: Path, *, until: int = 0, writes: bool = True, tensorboard: bool = False
    ) -> None:
        """Open the log in a run folder, keeping the rows of steps 1..until of what is there.

        writes: whether this process writes files. OutputError when it cannot.
        """
        self.path, self.writes = folder / "log.csv", writes
        self.images_seen, self.loss = array("q"), array("d")
        self._pending: list[Progress] = []
        self._writer: Any = None
        if not writes:
            return
        rows = logged(folder, until)
        write_log(self.path, COLUMNS, rows)
        self._keep(rows)
        if tensorboard:
            self._writer = summary_writer(folder, max(self.images_seen, default=0))
        if len(rows) < until:
            print(
                f"pocketddpm: {self.path} holds {len(rows)} of the {until} steps before the "
                "checkpoint; the others are not in the log any more",
                file=sys.stderr,
            )

    def add(self, progress: Progress) -> None:
        """Take note of a step; its loss is read from the device by `flush`."""
        self._pending.append(progress)

    def flush(self) -> float:
        """Write what is pending to the disk; return its mean loss (NaN when nothing is pending)."""
        rows = [_row(progress) for progress in self._pending]
        self._pending.clear()
        self._keep(rows)
        if self.writes and rows:
            append_log(self.path, COLUMNS, rows)
        for row in rows:
            values = {name: row[name] for name in ("loss", "grad_norm", "lr")}
            self.chart(values, int(row["images_seen"]))
        return _mean(row["loss"] for row in rows)

    def chart(self, values: Mapping[str, float], images_seen: int) -> None:
        """Write values to TensorBoard, if it is on."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, images_seen)

    def final_loss(self) -> float:
        """Return the mean loss of the last tenth of the steps."""
        self.flush()
        return _mean(self.loss[-max(1, len(self.loss) // 10) :])

    def save_curve(self, path: Path) -> None:
        """Write the loss curve."""
        self.flush()
        save_loss_curve(path, self.images_seen, self.loss)

    def close(self) -> None:
        """Write what is pending, and the rest of the TensorBoard log."""
        self.flush()
        if self._writer is not None:
            self._writer.close()

    def _keep(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self.images_seen.append(int(row["images_seen"]))
            self.loss.append(row["loss"])


def logged(folder: Path, until: int = sys.maxsize) -> list[Row]:
    """Return the rows of steps 1..until of a run's log, up to the first that is missing."""
    rows = read_log(folder / "log.csv", COLUMNS, until)
    gap = next((i for i, row in enumerate(rows) if row["step"] != i + 1), len(rows))
    return rows[:gap]


def _row(progress: Progress) -> Row:
    return {
        "step": progress.step,
        "images_seen": progress.images_seen,
        "epoch": progress.epoch,
        "loss": float(progress.loss),
        "grad_norm": float(progress.grad_norm),
        "lr": progress.lr,
        "seconds": round(progress.seconds, 3),
    }


def _mean(losses: Iterable[float]) -> float:
    """Return the mean of the finite ones (a skipped step has no loss)."""
    finite = [loss for loss in losses if isfinite(loss)]
    return sum(finite) / len(finite) if finite else nan
