"""Labels from metadata.csv, metadata.jsonl or labels.csv beside the images."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from pocketddpm.data.label_table import FILES, LABELS, TABLES
from pocketddpm.data.load import load_images
from pocketddpm.errors import ConfigError, DataError


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POCKETDDPM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures whose shade is 50 times their number."""
    for k, name in enumerate(("0.png", "1.png", "a/2.png", "a/3.png", "b/4.png")):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("L", (4, 4), 50 * k).save(path)
    return tmp_path / "set"


ROWS = {"0.png": "dog", "1.png": "cat", "a/2.png": "dog", "a/3.png": "10", "b/4.png": "9"}


def write(
    table: Path, rows: dict[str, str], file: str = "file_name", label: str = "label", by: str = ","
) -> None:
    if table.suffix == ".jsonl":
        lines = [json.dumps({"text": "x", label: v, file: k}) for k, v in rows.items()]
    else:
        lines = [
            by.join(row) for row in [("text", label, file), *(("x", v, k) for k, v in rows.items())]
        ]
    table.write_text("\n".join(lines), encoding="utf-8-sig" if by == ";" else "utf-8")


def found(folder: Path, **options) -> dict[int, str]:
    """Return each image's number and label."""
    images = load_images(str(folder), quiet=True, **options)
    assert images.labels is not None
    shades = (np.asarray(images.images)[:, 0, 0, 0] // 50).tolist()
    return {k: images.classes[label] for k, label in zip(shades, images.labels, strict=True)}


WANTED = dict(enumerate(ROWS.values()))


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("by", [",", ";", "\t"])
def test_every_table_gives_labels(folder: Path, name: str, by: str) -> None:
    write(folder / name, ROWS, by=by)
    assert found(folder) == WANTED
    images = load_images(str(folder), quiet=True)
    assert images.classes == ("9", "10", "cat", "dog")
    (note,) = images.notes
    assert name in note and "column label" in note


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("label", LABELS)
def test_columns_by_their_usual_names_in_any_case(folder: Path, file: str, label: str) -> None:
    write(folder / "labels.csv", ROWS, file.upper(), label.title())
    assert found(folder) == WANTED


def test_names_without_suffixes_and_with_other_separators(folder: Path) -> None:
    rows = {"0": "x", "./1.png": "y", "a\\2.png": "x", "a/3": "y", "b/4.png": "x"}
    write(folder / "labels.csv", rows)
    assert found(folder) == dict(enumerate("xyxyx"))


def test_numbers_are_labels_too(folder: Path) -> None:
    lines = [json.dumps({"file_name": name, "label": k % 2}) for k, name in enumerate(ROWS)]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    assert found(folder) == {0: "0", 1: "1", 2: "0", 3: "1", 4: "0"}


def test_what_a_table_leaves_out_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {"0.png": "dog", "1.png": "cat", "a/2.png": "", "gone.png": "dog"}
    write(folder / "metadata.csv", rows)
    images = load_images(str(folder))
    assert len(images) == 2 and images.classes == ("cat", "dog")
    (line,) = capsys.readouterr().err.splitlines()
    for value in ("1 rows of metadata.csv name no image", "1 rows of metadata.csv have no label",
                  "3 images without a label", "(a/2.png)"):  # fmt: skip
        assert value in line
    assert ".csv are left out" not in line and "1 .csv" not in line


def test_a_table_without_labels_leaves_the_sub_folders(folder: Path) -> None:
    for name in ("0.png", "1.png"):
        (folder / name).unlink()
    write(folder / "metadata.csv", ROWS, label="caption")
    assert found(folder) == {2: "a", 3: "a", 4: "b"}
    assert any("caption" in n for n in load_images(str(folder), quiet=True).notes)
    write(folder / "metadata.csv", dict.fromkeys(ROWS, "same"))
    assert any("same" in n for n in load_images(str(folder), quiet=True).notes)


def test_splits_have_tables_of_their_own(tmp_path: Path, folder: Path) -> None:
    folder.rename(tmp_path / "train")
    (tmp_path / "all").mkdir()
    (tmp_path / "train").rename(tmp_path / "all" / "train")
    (tmp_path / "all" / "test").mkdir()
    PIL.Image.new("L", (4, 4), 50).save(tmp_path / "all" / "test" / "x.png")
    write(tmp_path / "all" / "train" / "metadata.csv", ROWS)
    write(tmp_path / "all" / "test" / "metadata.csv", {"x.png": "cat"})
    assert found(tmp_path / "all", split="test") == {1: "cat"}
    write(tmp_path / "all" / "test" / "metadata.csv", {"x.png": "cow"})
    with pytest.raises(DataError, match=r"cow.*9, 10, cat, dog"):
        load_images(str(tmp_path / "all"), "test", quiet=True)


@pytest.mark.parametrize(
    ("name", "text", "values"),
    [
        ("metadata.csv", "", "no rows"),
        ("metadata.csv", "file_name,label", "no rows"),
        ("metadata.csv", "text,label\nx,cat", "text, label"),
        ("metadata.csv", "file_name,label\n0.png,cat\n0.png,dog", "two labels, cat and dog"),
        ("metadata.csv", "file_name,label\ngone.png,cat\nlost.png,dog", "the 5 images here"),
        ("metadata.jsonl", "{", "cannot be read"),
        ("metadata.jsonl", "[1]", "no rows"),
        ("metadata.jsonl", '{"file_name": "0.png", "label": 1}\n{"file_name": "1.png"}', "row 2"),
        ("labels.csv", "\xff\xfe", "cannot be read"),
    ],
)  # fmt: skip
def test_a_damaged_table_is_one_line(folder: Path, name: str, text: str, values: str) -> None:
    (folder / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError) as caught:
        load_images(str(folder), quiet=True)
    message = str(caught.value)
    assert name in message and values in message and "\n" not in message


def test_classes_are_chosen_in_any_case(folder: Path) -> None:
    write(folder / "metadata.csv", ROWS)
    assert found(folder, classes=["DOG", "Cat"]) == {0: "dog", 1: "cat", 2: "dog"}
    write(folder / "metadata.csv", {**ROWS, "b/4.png": "DOG"})
    assert found(folder, classes=["dog"]) == {0: "dog", 2: "dog"}
    with pytest.raises(ConfigError, match="'Dog'"):
        load_images(str(folder), quiet=True, classes=["Dog"])
