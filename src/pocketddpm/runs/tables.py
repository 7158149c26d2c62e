"""Tables that grow while a run trains: CSV files with a row per step, cut back when it resumes."""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pocketddpm.errors import ConfigError
from pocketddpm.output import replacing, writing

Row = dict[str, float]
WHOLE = ("step", "images_seen")


def read_log(path: Path, columns: Sequence[str], step: int) -> list[Row]:
    """Return the rows of a log up to a step; what was logged after the checkpoint is dropped.

    A killed run, or a full disk, may leave half a row behind, after the checkpoint: reading ends
    at the first damaged row.
    """
    if not path.exists():
        return []
    rows: list[Row] = []
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        try:
            for values in csv.DictReader(file):
                row = _row(values, columns)
                if row is None or row["step"] > step:
                    break
                rows.append(row)
        except csv.Error:
            pass
    return rows


def _row(values: Mapping[str, Any], columns: Sequence[str]) -> Row | None:
    try:
        row = {name: (int if name in WHOLE else float)(values[name]) for name in columns}
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


def summary_writer(out: Path, images_seen: int = 0) -> Any:
    """Return TensorBoard's writer into a run folder; ConfigError when it is not installed.

    images_seen: where the run resumes; what an interrupted one wrote after that is hidden.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigError(
            "--tensorboard needs the extra 'tensorboard': pip install 'pocketddpm[tensorboard]'"
        ) from None
    purge = images_seen + 1 if images_seen else None
    return SummaryWriter(str(out / "tensorboard"), purge_step=purge)
