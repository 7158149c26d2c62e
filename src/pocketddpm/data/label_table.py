"""Labels from a table beside the images: metadata.csv, metadata.jsonl or labels.csv.

The first two are the convention of Hugging Face's ImageFolder
(https://huggingface.co/docs/datasets/image_dataset): a column `file_name`, relative to the table.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pocketddpm.errors import DataError, listed

TABLES = ("metadata.csv", "metadata.jsonl", "labels.csv")  # the first one that is there counts
FILES = ("file_name", "filename", "file", "image", "path", "name", "id")
LABELS = ("label", "labels", "class", "category", "target")
"""The names of the columns of files and labels, in any case; the first one that is there counts."""
MAX_BYTES = 2**30


def find_table(folder: Path) -> Path | None:
    """Return the table of labels in a folder, if there is one."""
    return next((folder / name for name in TABLES if (folder / name).is_file()), None)


def labels_in(table: Path, names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return name -> label of the files that a table labels, and in words what it does not.

    names: the image files, relative to the table's folder and with '/'. A row may leave out the
    suffix. No labels are returned where the table has no column of labels.

    Raises DataError for a table that cannot be read, has no column of files, names no file that is
    there, or one twice with two labels.
    """
    rows = _rows(table)
    columns = {str(key).strip().lower(): key for row in rows[:1] for key in row}
    there = listed(map(str, columns.values()))
    file, label = (
        next((columns[name] for name in known if name in columns), None)
        for known in (FILES, LABELS)
    )
    if label is None:
        return {}, [f"{table.name} has no column of labels ({', '.join(LABELS)}) but {there}"]
    if file is None:
        raise DataError(f"{table}: no column of files ({', '.join(FILES)}); it has {there}")
    stems = {name.rpartition(".")[0]: name for name in names}
    known, found, missing, empty = set(names), dict[str, str](), 0, 0
    given = ""
    for row in rows:
        given = str(row[file]).strip().replace("\\", "/").removeprefix("./")
        name = given if given in known else stems.get(given)
        value = row[label]
        if name is None:
            missing += 1
        elif value is None or not str(value).strip():
            empty += 1
        elif found.setdefault(name, str(value).strip()) != str(value).strip():
            raise DataError(f"{table}: {given} has two labels, {found[name]} and {value}")
    if missing == len(rows):
        raise DataError(f"{table}: names none of the {len(names)} images here; {given} is its last")
    notes = [f"labels are those of {table.name}, column {label}"]
    notes += [f"{missing} rows of {table.name} name no image here"] if missing else []
    notes += [f"{empty} rows of {table.name} have no label"] if empty else []
    return found, notes


def _rows(table: Path) -> list[Mapping[Any, Any]]:
    """Return the rows of a table, each by its columns' names; DataError where it is damaged."""
    try:
        if table.stat().st_size > MAX_BYTES:
            raise DataError(f"{table}: larger than {MAX_BYTES:,} bytes")
        text = table.read_text(encoding="utf-8-sig")
        lines = text.splitlines()
        if table.suffix == ".jsonl":
            rows: list[Any] = [json.loads(line) for line in lines if line.strip()]
        else:
            first = lines[0] if lines else ""
            delimiter = max(",;\t", key=first.count)
            rows = list(csv.DictReader(lines, delimiter=delimiter, restval=None))
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise DataError(f"{table}: cannot be read ({' '.join(str(error).split())})") from None
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{table}: holds no rows with names of columns")
    columns = rows[0].keys()
    if wrong := next((k for k, row in enumerate(rows) if not columns <= row.keys()), None):
        raise DataError(f"{table}: row {wrong + 1} lacks a column of the first row")
    return rows
