"""log.csv, one row for each optimiser step; resuming keeps exactly the rows of its checkpoint.

In memory only what the curve and the reports need is kept, 16 bytes a step.
"""

import csv
import os
import sys
from array import array
from collections.abc import Iterator, Mapping
from math import isfinite, nan
from pathlib import Path
from typing import Any

from pocketddpm.errors import ConfigError
from pocketddpm.output import replacing, writing
from pocketddpm.pictures import save_loss_curve
from pocketddpm.training.trainer import Progress

COLUMNS: tuple[str, ...] = ("step", "images_seen", "epoch", "loss", "grad_norm", "lr", "seconds")


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
        with (
            replacing(self.path) as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for row in _read(self.path, until):
                writer.writerow(row)
                self.images_seen.append(int(row[1]))
                self.loss.append(float(row[3]))
        if tensorboard:
            last = max(self.images_seen, default=0)
            self._writer = _summary_writer(folder, last)
        if len(self.loss) < until:
            print(
                f"pocketddpm: {self.path} holds {len(self.loss)} of the {until} steps before the "
                "checkpoint; the others are not in the log any more",
                file=sys.stderr,
            )

    def __len__(self) -> int:
        return len(self.loss) + len(self._pending)

    def add(self, progress: Progress) -> None:
        """Take note of a step; its loss is read from the device by `flush`."""
        self._pending.append(progress)

    def flush(self) -> float:
        """Write what is pending to the disk; return its mean loss (NaN when nothing is pending)."""
        rows = [_row(progress) for progress in self._pending]
        self._pending.clear()
        if not rows:
            return nan
        self.images_seen.extend(row[1] for row in rows)
        self.loss.extend(row[3] for row in rows)
        if self.writes:
            with writing(self.path), open(self.path, "a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows(rows)
                # A checkpoint is written after its rows: a power cut must not undo that order.
                file.flush()
                os.fsync(file.fileno())
        if self._writer is not None:
            for row in rows:
                for name in ("loss", "grad_norm", "lr"):
                    self._writer.add_scalar(name, row[COLUMNS.index(name)], row[1])
        return _mean(row[3] for row in rows)

    def note(self, images_seen: int, values: Mapping[str, float]) -> None:
        """Write named numbers to the TensorBoard log, where there is one."""
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


def read_log(folder: Path) -> list[dict[str, float]]:
    """Return the whole rows of a run's log, by column; empty when there is none."""
    rows = _read(folder / "log.csv", sys.maxsize)
    return [dict(zip(COLUMNS, map(float, row), strict=True)) for row in rows]


def _row(progress: Progress) -> tuple[Any, ...]:
    return (
        progress.step,
        progress.images_seen,
        progress.epoch,
        float(progress.loss),
        float(progress.grad_norm),
        progress.lr,
        round(progress.seconds, 3),
    )


def _mean(losses: Any) -> float:
    """Return the mean of the finite ones (a skipped step has no loss)."""
    finite = [loss for loss in losses if isfinite(loss)]
    return sum(finite) / len(finite) if finite else nan


def _read(path: Path, until: int) -> Iterator[list[str]]:
    """Yield the rows of steps 1..until, up to the first that is missing or damaged.

    A killed run, or a full disk, may leave half a row; it comes after the checkpoint.
    """
    if not path.exists():
        return
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        rows = csv.reader(file)
        try:
            if next(rows, None) != list(COLUMNS):
                return
            for step, row in enumerate(rows, 1):
                if step > until or not _whole(row, step):
                    return
                yield row
        except csv.Error:
            return


def _whole(row: list[str], step: int) -> bool:
    try:
        numbers = [float(value) for value in row]
        return len(numbers) == len(COLUMNS) and int(row[0]) == step and 0 < int(row[1]) < 2**63
    except ValueError:
        return False


def _summary_writer(folder: Path, last: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigError(
            "--tensorboard needs the extra 'tensorboard': pip install 'pocketddpm[tensorboard]'"
        ) from None
    # What an interrupted run wrote after its checkpoint is hidden.
    return SummaryWriter(str(folder / "tensorboard"), purge_step=last + 1 if last else None)
