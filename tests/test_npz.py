"""A data set that is one .npz file: of ours, MedMNIST's and Keras' names; at every door."""

import json

import numpy as np
import pytest

from pocketddpm.data.load import has_test, load_images
from pocketddpm.errors import ConfigError, DataError
from pocketddpm.models.model import load
from pocketddpm.models.samples import Samples
from test_cli import TINY_NET, refused, run

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 5, 4), np.uint8)
COLOUR = RNG.integers(0, 256, (6, 5, 4, 3), np.uint8)


def written(path, **arrays):
    np.savez_compressed(path, **arrays)
    return str(path)


@pytest.mark.parametrize("channels", [1, 3])
def test_what_sample_writes_is_read_again(tmp_path, channels):
    images = RNG.integers(0, 256, (6, channels, 5, 4), np.uint8)
    labels = np.array([2, 0, 1, 2, 0, 1])
    Samples(images, labels, 1, ("ant", "bee", "cat")).save(tmp_path / "s.npz")
    found = load_images(str(tmp_path / "s.npz"))
    np.testing.assert_array_equal(found.images, images)
    np.testing.assert_array_equal(found.labels, labels)
    assert (found.classes, found.name, found.notes) == (("ant", "bee", "cat"), "s.npz", ())
    chosen = load_images(str(tmp_path / "s.npz"), classes=["Bee"], image_size=(8, 8), fit="pad")
    np.testing.assert_array_equal(chosen.images[:, :, 1:6, 2:6], images[labels == 1])
    assert not has_test(str(tmp_path / "s.npz"))


def test_labels_without_names_name_themselves(tmp_path):
    path = written(tmp_path / "x.npz", images=COLOUR, labels=np.array([9, 2, 30, 2, 9, 9]))
    found = load_images(path)
    assert found.classes == ("2", "9", "30")
    assert found.labels is not None and found.labels.tolist() == [1, 0, 2, 0, 1, 1]
    np.testing.assert_array_equal(found.images, COLOUR.transpose(0, 3, 1, 2))
    assert load_images(written(tmp_path / "y.npz", images=GREY)).labels is None


@pytest.mark.parametrize(
    ("names", "more"),
    [
        (("train_images", "train_labels", "test_images", "test_labels"), ["val_images"]),
        (("x_train", "y_train", "x_test", "y_test"), []),
    ],
    ids=["medmnist", "keras"],
)
def test_files_of_others_have_splits(tmp_path, names, more):
    """Numbered alike, though the test split has one of the classes only."""
    arrays = (GREY, np.array([[3], [5], [7], [5], [3], [7]]), GREY[:2] // 2, np.array([[7], [7]]))
    extra = dict.fromkeys(more, GREY)
    path = written(tmp_path / "x.npz", **dict(zip(names, arrays, strict=True)), **extra)
    assert has_test(path)
    train, test = (load_images(path, split) for split in ("train", "test"))
    np.testing.assert_array_equal(train.images[:, 0], GREY)
    np.testing.assert_array_equal(test.images[:, 0], GREY[:2] // 2)
    assert train.classes == test.classes == ("3", "5", "7")
    assert train.labels is not None and train.labels.tolist() == [0, 1, 2, 1, 0, 2]
    assert test.labels is not None and test.labels.tolist() == [2, 2]
    assert any(more[0] in note for note in train.notes) if more else not train.notes


LABELS = np.zeros(6, np.int64)


@pytest.mark.parametrize(
    ("arrays", "values"),
    [
        ({"images": GREY / 255}, ["uint8", "float64", "[6, 5, 4]"]),
        ({"images": GREY[0]}, ["[N,H,W]", "[5, 4]"]),
        ({"images": GREY[:0]}, ["[0, 5, 4]"]),
        ({"images": COLOUR.transpose(0, 3, 1, 2)}, ["[6, 3, 5, 4]", "1 or 3"]),
        ({"pictures": GREY}, ["images", "pictures"]),
        ({"images": GREY, "labels": LABELS[:5]}, ["6", "[5]"]),
        ({"images": GREY, "labels": np.zeros((6, 14), np.uint8)}, ["6", "[6, 14]"]),
        ({"images": GREY, "labels": LABELS / 2}, ["6", "float64"]),
        ({"images": GREY, "labels": np.int64(3)}, ["6", "[]"]),
        ({"images": GREY, "labels": LABELS - 1, "classes": np.array(["a", "b"])}, ["-1", "2"]),
        ({"images": GREY, "labels": LABELS + 3, "classes": np.array(["a", "b"])}, ["3", "2"]),
        ({"images": GREY, "labels": LABELS, "classes": np.array([1.5])}, ["float64"]),
        ({"images": GREY, "labels": LABELS, "classes": np.array(["a", "b", "a"])}, ["2", "'a'"]),
        ({"images": np.array([{}], object)}, ["object"]),
    ],
)
def test_arrays_of_another_kind_are_one_line(tmp_path, arrays, values):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError) as caught:
        load_images(str(tmp_path / "x.npz"))
    assert "x.npz" in str(caught.value) and "\n" not in str(caught.value)
    assert all(value in str(caught.value) for value in values), caught.value


def test_labels_of_some_images_only(tmp_path):
    names = np.array(["a", "b"])
    labels = np.array([0, 1, 2, 0, 2, 1])
    path = written(tmp_path / "x.npz", images=GREY, labels=labels, classes=names)
    with pytest.raises(DataError, match=r"x\.npz: 2 of 6 .*number 2 "):
        load_images(path)
    path = written(tmp_path / "y.npz", images=GREY, labels=LABELS + 2, classes=names)
    found = load_images(path)
    assert found.labels is None and any("no labels" in note for note in found.notes)


def test_what_cannot_be_had_is_said(tmp_path):
    with pytest.raises(DataError, match=r"none\.npz"):
        load_images(str(tmp_path / "none.npz"))
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(DataError, match=r"torn\.npz"):
        load_images(str(tmp_path / "torn.npz"))
    path = written(tmp_path / "x.npz", images=GREY)
    with pytest.raises(DataError, match=r"x\.npz.* test .*test_images"):
        load_images(path, "test")
    with pytest.raises(ConfigError, match=r"--stretch.*x\.npz"):
        load_images(path, stretch=True)
    with pytest.raises(ConfigError, match="'npz'"):
        load_images("npz")


def test_a_file_is_trained_on_evaluated_and_looked_at(tmp_path, capsys, monkeypatch):
    """It is the same file from elsewhere, and stands where a folder may stand."""
    digits = load_images("digits", classes=["0", "1"])
    first, second = (digits.select(np.arange(len(digits))[k::2]) for k in (0, 1))
    for name, part in (("real", first), ("others", second)):
        Samples(np.asarray(part.images), part.labels, 1, part.classes).save(
            tmp_path / f"{name}.npz"
        )
    monkeypatch.chdir(tmp_path)
    options = ["--network", "unet", "--net", TINY_NET, "--batch-size", "8", "--device", "cpu",
               "--sample-every", "0", "--out", "run"]  # fmt: skip
    run("train", "folder", "--data", "real.npz", *options, "--steps", "1")
    assert load("run").experiment.data.name == str(tmp_path / "real.npz")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run("train", "folder", "--resume", "../run", "--steps", "2", "--device", "cpu")
    assert load("../run").meta["run"]["step"] == 2
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    run("info", "real.npz")
    assert f"real.npz: {len(first)} images 1x8x8" in capsys.readouterr().out
    told = refused(capsys, "train", "real.npz")
    assert "folder" in told and "--data real.npz" in told
    Samples(np.asarray(first.images), None, 1).save("plain.npz")
    run("evaluate", "others.npz", "--data", "plain.npz", "--json", "--n", "20")
    report = json.loads(capsys.readouterr().out)
    assert report["data"] == "plain.npz"
    assert 0.2 < report["measures"]["frechet pixels-pca"]["ratio"]["value"] < 5
    run("show", "data", "plain.npz", "--out", "plain.png")
    assert (tmp_path / "plain.png").exists()
