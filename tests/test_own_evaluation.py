"""`evaluate` on a folder of one's own: held-out images, its own classifier, few images, copies."""

import json
import shlex
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from pocketddpm.data.image_set import ImageSet
from pocketddpm.data.load import fingerprint, load_images
from pocketddpm.data.split import divide
from pocketddpm.metrics import reference_data, train_extractor
from pocketddpm.metrics.classifiers import ARCHITECTURES
from pocketddpm.metrics.extractor import Extractor, load_extractor, save_extractor
from pocketddpm.metrics.intervals import Interval
from pocketddpm.metrics.memorisation import nearest, suspects
from pocketddpm.metrics.protocol import score
from pocketddpm.metrics.reference_data import load_reference_data
from pocketddpm.metrics.report import Report, Row
from pocketddpm.metrics.split import split_halves
from pocketddpm.metrics.train_extractor import own_classifier, recipe_for
from test_cli import TINY_NET, refused, run


def write(folder, images):
    """Write an image set as a folder, with a sub-folder for each class."""
    for k in range(len(images)):
        place = folder if images.labels is None else folder / images.classes[images.labels[k]]
        place.mkdir(parents=True, exist_ok=True)
        pixels = images.images[k].transpose(1, 2, 0).squeeze()
        Image.fromarray(pixels).save(place / f"{k}.png")
    return folder


def some(count, labelled=True, classes=("0", "1", "2")):
    found = load_images("digits", classes=classes, subset=count)
    return found if labelled else replace(found, labels=None, classes=())


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write(tmp_path_factory.mktemp("own") / "digits", some(400))


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    return model_of(digits, tmp_path_factory.mktemp("own") / "run", "--hold-out", "200")


def model_of(data, out, *more):
    run("train", "folder", "--data", data, "--network", "unet", "--net", TINY_NET, "--steps", "2",
        "--batch-size", "16", "--out", out, "--device", "cpu", "--sample-every", "0",
        *more)  # fmt: skip
    return out


def evaluated(capsys, *words):
    capsys.readouterr()
    run("evaluate", *words, "--json")
    return json.loads(capsys.readouterr().out)


def test_a_run_is_measured_with_what_it_held_out(trained, digits, capsys, monkeypatch):
    report = evaluated(capsys, trained, "--steps", "2")
    parts = divide(load_images(str(digits)), 200, 100, "random")
    facts, measures = report["facts"], report["measures"]
    assert report["n"] == len(parts.reporting) == 100
    assert facts["real"] == "100 held-out images"
    assert facts["fingerprints"]["training set"] == fingerprint(parts.training)
    assert facts["fingerprints"]["test set"] == fingerprint(parts.reporting)
    assert {"frechet classifier", "frechet pixels-pca", "recall", "copies pixels", "agreement",
            "class score", "bits_per_dim"} <= measures.keys()  # fmt: skip
    accuracy = measures["agreement"]["real"]["value"]
    assert accuracy > 0.85
    assert any(f"accuracy {accuracy:.2%}" in remark for remark in report["remarks"])
    assert any("100 held-out" in remark and "bits" in remark for remark in report["remarks"])
    assert not any("memorisation-prone" in remark for remark in report["remarks"])

    def again(*args, **options):
        raise AssertionError("the classifier was trained again")

    monkeypatch.setattr(train_extractor, "train_classifier", again)
    second = evaluated(capsys, trained, "--steps", "2")
    assert second["measures"] == measures
    assert second["facts"]["extractors"] == facts["extractors"]


def test_the_table_fits_a_terminal_and_says_its_source(trained, capsys):
    run("evaluate", trained, "--steps", "2", "--n", "50")
    lines = capsys.readouterr().out.splitlines()
    assert "held-out images at n = 50" in lines[0]
    table = lines[2 : lines.index("", 2)]
    assert len(table) >= 14
    assert max(map(len, table)) <= 100


def test_long_names_and_numbers_fit_100_columns():
    wide = Interval(12345.678, 11234.567, 13456.789, torch.tensor([1.2e4, 1.3e4]).double())
    share = Interval(0.0, 0.0, 1.0)
    name = f"Frechet distance ({'a long name of an extractor ' * 4}and-one-word-{'x' * 90})"
    rows = [Row("frechet x", name, wide, wide, "ratio", bias=123456.0)]
    rows += [Row("copies x", "copies (x)", share, share, "difference", percent=True)]
    lines = Report(100, "set", rows=rows).text().splitlines()
    table = lines[2 : lines.index("", 2)]
    assert max(map(len, table)) <= 100
    column = table[0].index("samples")
    shown = "".join(line[:column] for line in table)
    assert name.replace(" ", "") in shown.replace(" ", "")  # nothing of it is left out


def test_the_hint_of_the_extractor_is_never_refused(trained, digits, tmp_path, capsys):
    out = tmp_path / "an extractor.safetensors"
    run("extractor", digits, "--out", out, "--epochs", "2", "--device", "cpu")
    hint = shlex.split(capsys.readouterr().out.split("use it with: ")[1])
    words = [str(trained) if word == "MODEL" else word for word in hint[2:]]
    report = evaluated(capsys, *words, "--steps", "1", "--n", "20")
    assert "frechet an extractor" in report["measures"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A folder of dark 8x8 images without labels, and the model of them padded to 12x12."""
    place = tmp_path_factory.mktemp("plain")
    found = some(300, labelled=False)
    data = write(place / "plain", replace(found, images=found.images // 2))
    size = ("--image-size", "12", "--fit", "pad", "--hold-out", "100")
    return data, model_of(data, place / "run", *size)


def extractor_of(data, out, *more):
    run("extractor", data, "--out", out, "--device", "cpu", *more)
    return out


def test_an_extractor_sees_what_it_was_made_of(plain, tmp_path, capsys):
    """Padding that a run added is taken off real images and samples alike, not shrunk."""
    data, model = plain
    mine = extractor_of(data, tmp_path / "mine.safetensors")
    parts = divide(load_images(str(data), image_size=(12, 12), fit="pad"), 100, 50, "random")
    found = load_reference_data(
        str(data), str(mine), size=(12, 12), fit="pad", parts=replace(parts, for_reporting=100)
    )
    native = divide(load_images(str(data)), 100, 50, "random")
    np.testing.assert_array_equal(found.train.images, native.training.images)
    np.testing.assert_array_equal(found.test.images, native.held_out.images)
    report = evaluated(capsys, model, "--extractor", mine, "--steps", "1", "--n", "20")
    assert "frechet mine" in report["measures"]


@pytest.mark.parametrize(
    ("made", "values"),
    [
        (["--image-size", "12"], ["--fit resize", "--fit pad", "--image-size 12x12"]),
        (
            ["--image-size", "12", "--fit", "pad", "--background", "red"],
            ["--background red", "--background black"],
        ),
        (["--stretch", "yes"], ["--stretch yes", "--stretch no"]),
        (["--image-size", "6"], ["--fit resize", "--fit pad", "--image-size 12x12"]),
        (["--image-size", "16", "--fit", "pad"], ["12x12", "16x16"]),
    ],
)
def test_an_extractor_of_other_images_is_refused(plain, tmp_path, capsys, made, values):
    data, model = plain
    made = extractor_of(data, tmp_path / "other.safetensors", *made)
    line = refused(capsys, "evaluate", model, "--extractor", made, "--steps", "1", "--n", "20")
    assert all(value in line for value in values), line


def test_an_extractor_of_other_sides_is_refused(plain, tmp_path, capsys):
    data, _ = plain
    model = model_of(data, tmp_path / "run", "--image-size", "12", "--hold-out", "100")
    made = extractor_of(data, tmp_path / "tall.safetensors", "--image-size", "16x8")
    line = refused(capsys, "evaluate", model, "--extractor", made, "--steps", "1", "--n", "20")
    assert all(value in line for value in ("16x8", "12x12", "--image-size 12x12")), line


def test_changed_images_are_refused(digits, tmp_path, capsys):
    data = write(tmp_path / "set", some(210))
    out = model_of(data, tmp_path / "run")
    Image.new("L", (8, 8), 9).save(data / "1" / "new.png")
    line = refused(capsys, "evaluate", out, "--steps", "1")
    assert "211 images" in line and "--data" in line


def test_other_training_images_are_said_where_there_is_a_test_split(tmp_path, capsys):
    for split, count in (("train", 60), ("test", 30)):
        write(tmp_path / "set" / split, some(count, labelled=False))
    out = model_of(tmp_path / "set", tmp_path / "run")
    for changed in (False, True):
        report = evaluated(capsys, out, "--steps", "1")
        assert report["facts"]["real"] == "30 test images"
        told = [remark for remark in report["remarks"] if "then" in remark]
        assert len(told) == changed
        Image.new("L", (8, 8), 9).save(tmp_path / "set" / "train" / "0.png")


@pytest.mark.parametrize(
    ("count", "more", "n", "of"),
    [(20, [], 100, 5), (200, [], 45, 45), (300, ["--hold-out", "0"], 75, 75)],
)
def test_few_images_stand_beside_each_other(count, more, n, of, tmp_path, capsys):
    data = write(tmp_path / "set", some(count, labelled=False))
    report = evaluated(capsys, model_of(data, tmp_path / "run", *more), "--steps", "1")
    assert report["n"] == n
    assert report["facts"]["real"] == f"{of} training images of half B"
    assert any("memorisation-prone" in remark for remark in report["remarks"])
    measures = report["measures"]
    assert ("frechet pixels-pca" in measures) == (of >= 20)
    assert ("distances, precision, recall" in report["skipped"]) == (of < 20)
    assert {"copies pixels", "copies features", "distinct"} <= measures.keys()
    assert "copies (pixels)" in report["headline"] or of >= 20
    assert any(remark.startswith("the interval") for remark in report["remarks"]) == (of >= 20)


def test_too_few_images_are_one_line(tmp_path, capsys):
    data = write(tmp_path / "set", some(7, labelled=False))
    line = refused(capsys, "evaluate", model_of(data, tmp_path / "run"), "--steps", "1")
    assert "set: 7 images" in line and "8" in line


# Copies ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [20, 200])
def test_copies_are_suspected_and_new_images_are_not(count, tmp_path):
    whole = some(450, labelled=False)
    train, new = whole.select(np.arange(count)), whole.select(np.arange(250, 450))
    reference = load_reference_data(str(write(tmp_path / "set", train)))
    assert reference.from_training
    for samples, suspect in ((reference.train, True), (new, False)):
        report = score(samples.select(np.arange(min(45, len(samples)))), reference)
        row = report.row("copies pixels")
        assert (row.comparison.low > 0) == suspect
        assert any(remark.startswith("suspect copies") for remark in report.remarks()) == suspect
        assert row.value.value == 1 if suspect else row.value.value < 0.2
        assert 0 <= row.floor.low <= row.floor.value <= row.floor.high <= 1


def test_closer_than_real_is_said_only_when_the_interval_says_so():
    moved = torch.linspace(-1, 1, 101).double()
    for width, suspect in ((0.05, True), (0.6, False)):
        value, floor = (Interval(v, 0, 1, v * (width * moved).exp()) for v in (0.8, 1.0))
        report = Report(10_000, "set", rows=[Row("frechet x", "x", value, floor, "ratio")])
        assert any("suspect" in remark for remark in report.remarks()) == suspect


def test_a_floor_of_zero_gives_no_ratio():
    report = Report(30, "photos", "test images")
    report.rows.append(Row("frechet x", "distance", Interval(2.5), Interval(0.0), "ratio"))
    assert report.rows[0].comparison is None
    assert report.rows[0].to_json()["ratio"] is None
    assert "2.5" in report.headline() and " 0" in report.headline()
    assert "nan" not in report.text() + report.markdown()


def test_a_training_image_is_not_its_own_neighbour(monkeypatch):
    monkeypatch.setattr("pocketddpm.metrics.memorisation.COLUMNS", 4)
    train = torch.tensor([[0.0], [1.0], [3.0], [7.0], [15.0], [31.0]])
    own = torch.tensor([5, 0, 3])
    found = nearest(train[own], train, own=own)
    assert found.index.tolist() == [4, 1, 2]
    assert found.distance.tolist() == [16, 1, 4]


def test_duplicates_among_real_images_move_the_threshold():
    real = torch.tensor([0.0] * 3 + [2.0] + [5.0] * 96)
    assert suspects(torch.tensor([0.0, 1.0, 2.0, 3.0]), real).tolist() == [True, True, False, False]
    assert not suspects(torch.zeros(3), torch.zeros(50)).any()


# The classifier ----------------------------------------------------------------------------------


def test_a_classifier_is_kept_by_its_images_and_its_recipe(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("POCKETDDPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(train_extractor, "METRIC", replace(train_extractor.METRIC, epochs=1))
    images = some(120)
    first = own_classifier(images, torch.device("cpu"))
    (path,) = (tmp_path / "cache" / "extractors").glob("*.safetensors")
    assert first.sha256 == load_extractor("x", path).sha256
    assert own_classifier(images, torch.device("cpu")).sha256 == first.sha256
    path.write_bytes(b"cut short")  # is made again
    assert own_classifier(images, torch.device("cpu")).sha256 == first.sha256
    own_classifier(some(121), torch.device("cpu"))
    assert len(list(path.parent.glob("*.safetensors"))) == 2
    (tmp_path / "file").touch()
    monkeypatch.setenv("POCKETDDPM_CACHE", str(tmp_path / "file"))
    capsys.readouterr()
    assert own_classifier(images, torch.device("cpu")).sha256 == ""
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_recipes_suit_the_images():
    small, large, many = (
        recipe_for((3, side, side), count) for side, count in ((8, 100), (128, 100), (32, 25_000))
    )
    assert (small.blocks, large.blocks, many.blocks) == (1, 4, 1)
    assert (small.epochs, large.epochs, many.epochs) == (40, 40, 4)
    assert small.shift < 1 < large.shift


@pytest.mark.parametrize("shape", [(1, 7, 7), (3, 30, 100), (3, 128, 128)])
def test_classifiers_take_any_size(shape, tmp_path):
    blocks = recipe_for(shape, 100).blocks
    for name in ARCHITECTURES:
        network = train_extractor.fold(ARCHITECTURES[name](shape[0], 3, blocks).eval())
        facts = {"architecture": name, "recipe": {"blocks": blocks}}
        made = Extractor("x", "", network.half().float(), shape, ("a", "b", "c"), facts)
        save_extractor(tmp_path / "x.safetensors", made, torch.float16)
        images = np.random.default_rng(0).integers(0, 256, (2, *shape), dtype=np.uint8)
        found = load_extractor("x", tmp_path / "x.safetensors")(images)
        torch.testing.assert_close(found.logits, made(images).logits)


def test_inception_is_used_without_labels_where_it_is_there(tmp_path, monkeypatch):
    images = some(60, labelled=False)
    rgb = ImageSet(np.repeat(images.images, 3, 1), None, (), "set")
    data = str(write(tmp_path / "set", rgb))
    assert [s.extractor.name for s in load_reference_data(data).spaces] == ["pixels-pca"]
    network = train_extractor.fold(ARCHITECTURES["plain"](3, 5).eval())
    stand_in = Extractor("inception", "x", network, rgb.shape, (), {})
    monkeypatch.setattr(reference_data, "has_inception", lambda: True)
    monkeypatch.setattr(reference_data, "load_inception", lambda shape: stand_in)
    found = load_reference_data(data)
    assert [s.extractor.name for s in found.spaces] == ["inception", "pixels-pca"]
    assert found.judge is None
    half_b = split_halves(60)[1]
    assert set(found.reference_indices(99)) < set(half_b)
