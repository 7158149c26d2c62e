"""Data sets of the Hugging Face hub, from local parquet files."""

import os
import shutil
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

import pocketddpm as pd
from pocketddpm.commands.main import main
from pocketddpm.data import cores, files
from pocketddpm.data.load import class_counts, load_images
from pocketddpm.data.split import hold_out
from pocketddpm.datasets import hf
from pocketddpm.errors import ConfigError, DataError

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path_factory):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    cache = str(tmp_path_factory.getbasetemp() / "hf")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    datasets.disable_progress_bars()


def picture(value, size=(8, 6), mode="L") -> bytes:
    buffer = BytesIO()
    Image.new(mode, size, value).save(buffer, "PNG")
    return buffer.getvalue()


def parquet(folder, name, pictures, labels=None, names=("cat", "dog"), **columns):
    """Write one split as the hub stores it; columns: of plain values, besides the images."""
    values = {"image": [p if p is None else {"bytes": p, "path": None} for p in pictures]}
    features = {"image": datasets.Image()}
    for key, column in columns.items():
        values[key] = column
        kinds = {bool: "bool", int: "int64", float: "float64"}
        features[key] = datasets.Value(kinds.get(type(column[0]), "string"))
    if labels is not None:
        values["label"] = labels
        features["label"] = datasets.ClassLabel(names=list(names))
    rows = datasets.Dataset.from_dict(values, features=datasets.Features(features))
    (folder / "data").mkdir(parents=True, exist_ok=True)
    rows.to_parquet(folder / "data" / f"{name}-00000-of-00001.parquet")


@pytest.fixture
def local(tmp_path):
    grey = [picture(20 * k) for k in range(10)]
    parquet(tmp_path / "set", "train", grey, [0, 1] * 5)
    parquet(tmp_path / "set", "test", grey[:4], [1, 1, 0, 0])
    return tmp_path / "set"


def test_a_data_set_from_parquet(local):
    images = load_images(f"hf:{local}")
    assert images.shape == (1, 6, 8)
    assert images.images[:, 0, 0, 0].tolist() == [20 * k for k in range(10)]
    assert images.labels is not None
    assert images.labels.tolist() == [0, 1] * 5
    assert images.classes == ("cat", "dog")
    test = load_images(f"hf:{local}", "test", classes=("dog",))
    assert (len(test), test.classes) == (2, ("dog",))
    assert load_images(f"hf:{local}", image_size=(4, 4)).shape == (1, 4, 4)


def test_a_set_is_decoded_once_and_then_mapped(local, tmp_path, monkeypatch):
    """As a folder is: its files are read twice, for headers and pixels; then they lie in the cache.

    What differs in what is asked, or in the files, has an entry of its own.
    """
    monkeypatch.setenv("POCKETDDPM_CACHE", str(tmp_path / "cache"))
    read = []
    of = hf._Column.__getitem__
    monkeypatch.setattr(
        hf._Column, "__getitem__", lambda *asked: (read.append(asked[1]), of(*asked))[1]
    )
    first = load_images(f"hf:{local}")
    assert isinstance(first.images, np.memmap)
    assert len(read) == 2 * 10
    second, test = load_images(f"hf:{local}"), load_images(f"hf:{local}", "test")
    assert isinstance(second.images, np.memmap)
    assert isinstance(test.images, np.memmap)
    assert len(read) == 2 * 10 + 3 * 4  # the four are dark: would stretching spread them?
    np.testing.assert_array_equal(second.images, first.images)
    np.testing.assert_array_equal(test.images, first.images[:4])
    assert second.notes == first.notes
    stretched = load_images(f"hf:{local}", stretch=True)
    assert stretched.images[:, 0, 0, 0].tolist() == [round(255 * k / 9) for k in range(10)]
    parquet(local, "train", [picture(200 - k) for k in range(10)], [0, 1] * 5)
    changed = load_images(f"hf:{local}")
    assert changed.images[:, 0, 0, 0].tolist() == [200 - k for k in range(10)]


def test_a_set_that_the_library_prepares_anew_is_decoded_anew(local, tmp_path, monkeypatch):
    """It lies where it lay before, as the library goes by the time of the file."""
    monkeypatch.setenv("POCKETDDPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    file = local / "data" / "train-00000-of-00001.parquet"
    os.utime(file, (1e9, 1e9))
    load_images(f"hf:{local}")
    before = sorted((tmp_path / "hf").rglob("*.arrow"))
    shutil.rmtree(tmp_path / "hf")
    parquet(local, "train", [picture(200 - k) for k in range(10)], [0, 1] * 5)
    os.utime(file, (1e9, 1e9))
    images = load_images(f"hf:{local}")
    assert sorted((tmp_path / "hf").rglob("*.arrow")) == before
    assert images.images[:, 0, 0, 0].tolist() == [200 - k for k in range(10)]


def test_image_files_of_a_set_may_change(tmp_path, monkeypatch):
    """A folder of image files: the library stores their paths, and not their content."""
    monkeypatch.setenv("POCKETDDPM_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "set" / "train"
    folder.mkdir(parents=True)
    for k in range(3):
        (folder / f"{k}.png").write_bytes(picture(50 + k))
    assert load_images(f"hf:{tmp_path / 'set'}").images[:, 0, 0, 0].tolist() == [50, 51, 52]
    (folder / "1.png").write_bytes(picture(99))
    os.utime(folder / "1.png", (1e9, 1e9))
    assert load_images(f"hf:{tmp_path / 'set'}").images[:, 0, 0, 0].tolist() == [50, 99, 52]


def test_a_set_that_the_library_keeps_in_memory_stays_there(local, monkeypatch):
    monkeypatch.setattr(datasets.config, "IN_MEMORY_MAX_SIZE", 10**9)
    images = load_images(f"hf:{local}")
    assert not isinstance(images.images, np.memmap)
    assert images.images[:, 0, 0, 0].tolist() == [20 * k for k in range(10)]


def test_a_set_is_decoded_on_all_cores(tmp_path, monkeypatch):
    parquet(tmp_path / "a", "train", [picture(k) for k in range(30)])
    monkeypatch.setattr(cores, "ALONE", -1)
    monkeypatch.setattr(cores, "cores", lambda: 2)
    monkeypatch.setattr(files, "decode", lambda *_, **__: pytest.fail("decoded here"))
    images = load_images(f"hf:{tmp_path / 'a'}")
    assert images.images[:, 0, 0, 0].tolist() == list(range(30))


def test_a_folder_is_the_same_from_elsewhere(local, tmp_path, monkeypatch):
    """By ~, by a relative path, and when it was moved."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load_images("hf:~/set")) == 10
    with pytest.raises(DataError, match="~nobody-of-that-name"):
        load_images("hf:~nobody-of-that-name/set")
    monkeypatch.chdir(tmp_path)
    net = {"widths": (4,), "head_width": 4, "groups": 2, "blocks": 1}
    tiny = {"net": net, "steps": 1, "batch_size": 4, "device": "cpu", "sample_every": 0}
    for data in ("hf:set", "hf:~/set"):
        model = pd.train("folder", data=data, network="unet", out="run", overwrite=True, **tiny)
        assert model.experiment.data.name == f"hf:{local}"
    (tmp_path / "elsewhere").mkdir()
    local.rename(tmp_path / "elsewhere" / "moved")
    monkeypatch.chdir(tmp_path / "elsewhere")
    model = pd.train(
        "folder", resume=tmp_path / "run", data="hf:moved", steps=2, device="cpu", sample_every=0
    )
    assert model.experiment.data.name == f"hf:{tmp_path / 'elsewhere' / 'moved'}"


def test_colour_mixed_sizes_and_no_labels(tmp_path):
    parquet(tmp_path / "a", "train", [picture(9), picture((1, 2, 3), (4, 4), "RGB")])
    with pytest.raises(DataError, match=r"0 is 6x8.* 1 is 4x4.*--image-size"):
        load_images(f"hf:{tmp_path / 'a'}")
    images = load_images(f"hf:{tmp_path / 'a'}", image_size=(4, 4))
    assert images.shape == (3, 4, 4)
    assert images.labels is None
    assert images.images[1, :, 0, 0].tolist() == [1, 2, 3]


def test_a_set_that_is_sorted_by_label_keeps_every_class(tmp_path):
    parquet(tmp_path / "a", "train", [picture(k) for k in range(100)], [0] * 50 + [1] * 50)
    found = load_images(f"hf:{tmp_path / 'a'}", subset=20)
    assert class_counts(found) == [10, 10]
    training, held_out = hold_out(found, 4, "random")
    assert (class_counts(training), class_counts(held_out)) == ([8, 8], [2, 2])


@pytest.mark.parametrize(
    ("train", "test", "classes", "numbers"),
    [
        ([7, 3, 12, 3], [12, 3], ("3", "7", "12"), [1, 0, 2, 0]),
        (["b10", "b9", "a", "b9"], ["a"], ("a", "b9", "b10"), [2, 1, 0, 1]),
        ([True, False, False, True], [True], ("False", "True"), [1, 0, 0, 1]),
        ([-5, 0, 2, 0], [2], ("-5", "0", "2"), [0, 1, 2, 1]),
    ],
    ids=["int", "text", "bool", "negative"],
)
@pytest.mark.parametrize("column", ["label", "Class"])
def test_labels_that_are_no_class_labels_are_kept(
    tmp_path, capsys, column, train, test, classes, numbers
):
    for split, values in (("train", train), ("test", test)):
        columns = {column: values, "caption": ["x"] * len(values)}
        parquet(tmp_path / "a", split, [picture(9)] * len(values), **columns)
    images, tests = (load_images(f"hf:{tmp_path / 'a'}", split) for split in ("train", "test"))
    assert images.classes == tests.classes == classes
    assert images.labels.tolist() == numbers
    # Numbered alike, though the test split has some of the classes only.
    assert [classes[k] for k in tests.labels] == [str(v) for v in test]
    first, *_ = capsys.readouterr().err.splitlines()[0].split("; ")
    assert first.endswith(": columns not used: caption")


def test_a_column_of_another_name_or_kind_is_no_label(tmp_path, capsys):
    parquet(tmp_path / "a", "train", [picture(9)] * 2, id=[1, 2], target=[0.5, 1.5])
    assert load_images(f"hf:{tmp_path / 'a'}").labels is None
    assert "id, target" in capsys.readouterr().err


@pytest.mark.parametrize("labels", [[0, None, 1, None], ["a", None, "b", None]])
def test_a_missing_label_is_one_line(tmp_path, labels):
    names = ("cat", "dog")
    if isinstance(labels[0], str):
        parquet(tmp_path / "a", "train", [picture(9)] * 4, label=labels)
    else:
        parquet(tmp_path / "a", "train", [picture(9)] * 4, labels, names=names)
    with pytest.raises(DataError, match=r"label: 2 of 4 .*number 1 ") as caught:
        load_images(f"hf:{tmp_path / 'a'}")
    assert "\n" not in str(caught.value)


def test_a_missing_image_is_one_line(tmp_path):
    parquet(tmp_path / "a", "train", [picture(9), None, picture(9)], [0, 1, 0])
    with pytest.raises(DataError, match="row 1 "):
        load_images(f"hf:{tmp_path / 'a'}")


def test_labels_that_nobody_knows_are_said(tmp_path, capsys):
    parquet(tmp_path / "a", "train", [picture(9)] * 2, label=[None, None])
    assert load_images(f"hf:{tmp_path / 'a'}").labels is None
    parquet(tmp_path / "b", "train", [picture(9)] * 3, [-1, -1, -1])
    assert load_images(f"hf:{tmp_path / 'b'}").labels is None
    lines = capsys.readouterr().err.splitlines()
    assert "no labels" in lines[-1]


def test_unknown_labels_are_none(tmp_path):
    parquet(tmp_path / "a", "train", [picture(9)] * 3, [-1, -1, -1])
    assert load_images(f"hf:{tmp_path / 'a'}").labels is None


def test_what_cannot_be_had_is_said(tmp_path, local):
    with pytest.raises(ConfigError, match="hf:"):
        load_images("hf")
    with pytest.raises(DataError, match=r"hf:nobody/nothing.*POCKETDDPM_OFFLINE"):
        load_images("hf:nobody/nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        load_images(f"hf:{tmp_path / 'empty'}")
    parquet(tmp_path / "a", "train", [picture(9), b"no picture"])
    with pytest.raises(DataError, match=r" 1 of 2 .*number 1 "):
        load_images(f"hf:{tmp_path / 'a'}")
    with pytest.raises(DataError, match=r"test .*train"):
        load_images(f"hf:{tmp_path / 'a'}", "test")
    rows = datasets.Dataset.from_dict({"text": ["a", "b"]})
    (tmp_path / "b").mkdir()
    rows.to_parquet(tmp_path / "b" / "train.parquet")
    with pytest.raises(DataError, match="text"):
        load_images(f"hf:{tmp_path / 'b'}")


def test_training_on_it(local, tmp_path):
    out = tmp_path / "run"
    main(["train", "digits", "--data", f"hf:{local}", "--image-size", "8", "--steps", "2", "--net",
          "widths=8/16,head_width=8,groups=4", "--batch-size", "4", "--sample-every", "0",
          "--out", str(out)])  # fmt: skip
    main(["sample", str(out), "--labels", "cat", "--n", "2", "--steps", "2", "--out",
          str(tmp_path / "x.npz")])  # fmt: skip
    assert np.load(tmp_path / "x.npz")["images"].shape == (2, 8, 8)
