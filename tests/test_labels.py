"""Names travel with numbers: whatever writes labels, whoever reads them, 7 stays 7."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from torch import nn
from torch.nn import functional as F

import pocketddpm as pd
from models import Labelled, model_around
from pocketddpm.data.image_set import ImageSet
from pocketddpm.errors import DataError
from pocketddpm.metrics import protocol
from pocketddpm.metrics.extractor import Extractor
from pocketddpm.metrics.likelihood import likelihood_images
from pocketddpm.metrics.options import LikelihoodOptions
from pocketddpm.metrics.protocol import score
from pocketddpm.metrics.reference_data import FeatureSpace, ReferenceData
from pocketddpm.metrics.samples import read_samples
from pocketddpm.models.samples import NO_LABEL, Samples
from test_cli import TINY_NET, run

MNIST = tuple("0123456789")
# What people call their classes; the last ones must survive as parts of files' names.
CLASSES = [
    ("0", "1", "7"),
    tuple(reversed(MNIST)),
    ("T-shirt/top", "Ankle boot", "Sneaker"),
    ("a,b", "b-a", "12-3", "cat.png"),
    ("漢", "é", "x y"),
]
WRITERS = ["x.npz", "folder"]


def numbered(labels, size=(4, 4)):
    """Images [N,1,H,W] of different pixels, which say in their first pixel what they show."""
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 1, *size), dtype=np.uint8)
    images[:, :, 0, 0] = np.asarray(labels)[:, None]
    return images


class Reads(nn.Module):
    """Reads the label from the first pixel."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, x):
        label = (255 * x[:, 0, 0, 0]).round().long().clamp(max=self.classes - 1)
        return x.flatten(1)[:, 1:4], 20.0 * F.one_hot(label, self.classes).float()


def reference(classes=MNIST, judge=MNIST, n=60) -> ReferenceData:
    """Real images and a judge; pixels hold positions in the judge's classes."""

    def real(seed: int) -> ImageSet:
        labels = np.arange(n) % len(classes)
        shown = [judge.index(c) if c in judge else 0 for c in classes]
        pixels = numbered(np.array(shown)[labels])
        pixels[:, :, 1:] = np.random.default_rng(seed).integers(0, 256, (n, 1, 3, 4))
        return ImageSet(pixels, labels, classes, "real")

    train, test = real(1), real(2)
    features = Extractor("features", "", Reads(2), train.shape, (), {})
    space = FeatureSpace.of(features, features(train.images), features(test.images))
    reads = Extractor("judge", "", Reads(len(judge)), train.shape, judge, {"test_accuracy": 1.0})
    return ReferenceData("real", train, test, "", [space], reads, classes, "pad")


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("classes", CLASSES, ids=" ".join)
def test_what_samples_write_is_read_by_name(classes, writer, tmp_path):
    labels = np.arange(30) % len(classes)
    Samples(numbered(labels), labels, 1, classes).save(tmp_path / writer)
    for order in (classes, classes[::-1], ("more", *classes)):
        found = read_samples(tmp_path / writer, order)
        there = found.labels_in(order)
        assert there is not None
        assert [order[k] for k in there] == [classes[k] for k in found.images[:, 0, 0, 0]]


@pytest.mark.parametrize("writer", WRITERS)
def test_a_seven_of_three_classes_is_a_seven_of_ten(writer, tmp_path):
    """A model of the classes 0, 1 and 7 numbers its sevens 2."""
    Samples(numbered([7] * 40), np.full(40, 2), 1, ("0", "1", "7")).save(tmp_path / writer)
    report = score(read_samples(tmp_path / writer, MNIST), reference())
    assert report.row("agreement").value.value == 1
    assert report.row("agreement").floor.value == 1


def test_a_judge_with_another_order_is_asked_by_name():
    backwards = reference(judge=MNIST[::-1])
    assert score(backwards.test, backwards).row("agreement").value.value == 1


@pytest.mark.parametrize(
    ("files", "classes", "names"),
    [
        (["0-9.png", "1-2.png"], MNIST, ["9", "2"]),
        (["0-1.png", "1-0.png"], ("cat", "dog"), ["dog", "cat"]),
        (["dog/a.png", "cat/b.png"], ("cat", "dog"), ["cat", "dog"]),
        (["dog/a.png", "cat/b.png"], ("dog", "ant", "cat"), ["cat", "dog"]),
        (["00-Ankle boot.png", "01-T-shirt-top.png"], CLASSES[2], ["Ankle boot", "T-shirt/top"]),
    ],
)
def test_folders_name_their_classes(files, classes, names, tmp_path):
    for k, file in enumerate(files):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        Image.new("L", (4, 4), k).save(tmp_path / file)
    labels = read_samples(tmp_path, classes).labels_in(classes)
    assert labels is not None and [classes[k] for k in labels] == names


def test_numbers_without_names_are_positions(tmp_path):
    np.savez(tmp_path / "x.npz", images=numbered([1, 0, 2])[:, 0], labels=[1, 0, 2])
    assert read_samples(tmp_path / "x.npz", ("a", "b", "c")).labels.tolist() == [1, 0, 2]
    with pytest.raises(DataError, match=r"0\.\.1$"):
        read_samples(tmp_path / "x.npz", ("a", "b"))


def foreign(name, folder):
    """Samples of classes that are none of MNIST's, written in one of the ways."""
    labels = np.arange(40) % 2
    samples = Samples(numbered(labels), labels, 1, ("cat", "dog"))
    if name == "folders":
        for k, image in enumerate(samples.images):
            (folder / name / samples.classes[labels[k]]).mkdir(parents=True, exist_ok=True)
            path = folder / name / samples.classes[labels[k]] / f"{k}.png"
            Image.fromarray(image[0]).save(path)
    else:
        samples.save(folder / name)
    return read_samples(folder / name, MNIST)


@pytest.mark.parametrize("name", [*WRITERS, "folders"])
def test_a_mismatch_is_said(name, tmp_path):
    report = score(foreign(name, tmp_path), reference())
    said = report.skipped["label agreement"]
    assert "cat" in said and "dog" in said and "0, 1, 2" in said
    assert said in report.text() and said in report.markdown()
    assert report.to_json()["skipped"]["label agreement"] == said


@pytest.mark.parametrize("writer", WRITERS)
def test_samples_without_a_label_are_no_class(writer, tmp_path):
    labels = np.arange(40) % 11
    Samples(numbered(labels), labels, 1, MNIST).save(tmp_path / writer)
    found = read_samples(tmp_path / writer, MNIST)
    assert found.labels_in(MNIST) is None
    assert NO_LABEL in score(found, reference()).skipped["label agreement"]


def test_a_models_classes_are_matched_by_name(quick_scores, monkeypatch):
    """The model's classes lie in another order than the data set's."""
    names = tuple(reversed(MNIST))
    model = model_around(Labelled(), (1, 4, 4), names)
    data = replace(model.experiment.data, name="digits")
    model = replace(model, experiment=replace(model.experiment, data=data))
    labels = np.arange(40) % 10
    drawn = Samples(numbered(9 - labels), labels, 1, names)
    monkeypatch.setattr(protocol, "load_reference_data", lambda *a, **k: reference())
    monkeypatch.setattr(protocol, "draw_samples", lambda *a: (drawn, {}))
    assert pd.evaluate(model, n=40).row("agreement").value.value == 1


def test_real_labels_are_numbered_as_the_model_does():
    names = tuple(reversed(MNIST))
    model = model_around(Labelled(), (1, 8, 8), names)
    data = replace(model.experiment.data, name="digits")
    model = replace(model, experiment=replace(model.experiment, data=data))
    images = likelihood_images(model, LikelihoodOptions(n=20))
    truth = pd.load_images("digits", "test").select(images.index)
    assert [names[k] for k in images.labels] == [truth.classes[k] for k in truth.labels]


def test_damaged_names_are_refused(tmp_path):
    images = numbered([0, 1])[:, 0]
    for classes in (np.array([1, 2]), np.array([["a", "b"]])):
        np.savez(tmp_path / "x.npz", images=images, labels=[0, 1], classes=classes)
        with pytest.raises(DataError, match="classes"):
            read_samples(tmp_path / "x.npz", MNIST)
    np.savez(tmp_path / "x.npz", images=images, labels=[0, 9], classes=np.array(["a", "b"]))
    with pytest.raises(DataError, match=r"0\.\.2$"):
        read_samples(tmp_path / "x.npz", MNIST)


def test_the_commands_write_names(quick_scores, tmp_path, capsys):
    out = tmp_path / "run"
    run("train", "digits", "--classes", "0,1,7", "--net", TINY_NET, "--steps", "2", "--batch-size",
        "16", "--out", out, "--device", "cpu", "--sample-every", "0")  # fmt: skip
    draw = ["sample", out, "--labels", "7", "--n", "21", "--steps", "1"]
    run(*draw, "--out", tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as arrays:
        assert arrays["classes"][arrays["labels"]].tolist() == ["7"] * 21
    capsys.readouterr()
    run(*draw, "--out", tmp_path / "x", "--json")
    assert json.loads(capsys.readouterr().out)["labels"] == {"7": 21}
    assert all(path.name.endswith("-7.png") for path in (tmp_path / "x").iterdir())
    score_out = tmp_path / "score"
    run("evaluate", out, "--labels", "7", "--n", "20", "--steps", "1", "--out", score_out)
    with np.load(score_out / "samples.npz") as arrays:
        assert arrays["classes"][arrays["labels"]].tolist() == ["7"] * 20
    assert json.loads((score_out / "report.json").read_text())["facts"]["labels"] == "7"
