"""Extractors of one's own by one command, and Inception's with random weights."""

import hashlib
import json
import shlex
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from pocketddpm.data.load import fingerprint, load_images
from pocketddpm.data.split import divide
from pocketddpm.errors import ConfigError, DataError
from pocketddpm.metrics import inception, pca
from pocketddpm.metrics.extractor import load_extractor
from pocketddpm.metrics.inception import load_inception
from pocketddpm.metrics.pca import fit_pixels_pca
from pocketddpm.metrics.reference_data import load_reference_data
from pocketddpm.metrics.split import split_halves
from test_cli import TINY_NET, refused, run

# Extractors of one's own -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A labelled folder with train/ and test/, of two sizes: digits 0, 1 and 2."""
    root = tmp_path_factory.mktemp("photos")
    for split, count in (("train", 240), ("test", 60)):
        found = load_images("digits", split, classes=("0", "1", "2"))
        for k in range(min(count, len(found))):
            folder = root / split / f"no-{found.labels[k]}"
            folder.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(found.images[k, 0])
            image.resize((9, 9) if k % 2 else (8, 8)).save(folder / f"{k}.png")
    return root


@pytest.fixture(scope="module")
def own(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("own") / "photos.safetensors"
    run("extractor", photos, "--out", out, "--image-size", "8", "--epochs", "6",
        "--device", "cpu", "--precision", "float32")  # fmt: skip
    return out


def test_a_labelled_folder_gets_a_classifier_and_is_evaluated_with_it(
    photos, own, tmp_path, capsys
):
    extractor = load_extractor("photos", own)
    assert extractor.classes == ("no-0", "no-1", "no-2")
    assert extractor.facts["test_accuracy"] > 0.8
    half_a, _ = split_halves(len(load_images(str(photos), image_size=(8, 8))))
    assert extractor.facts["images"] == len(half_a)
    test = load_images(str(photos), "test", image_size=(8, 8))
    np.savez(tmp_path / "s.npz", images=test.images[:, 0], labels=test.labels)
    run("evaluate", tmp_path / "s.npz", "--data", photos, "--extractor", own, "--json")
    report = json.loads(capsys.readouterr().out)
    measures = report["measures"]
    assert measures["frechet photos"]["ratio"]["value"] == pytest.approx(1)
    assert measures["class score"]["samples"]["value"] > 2
    assert report["facts"]["extractors"]["photos"] == extractor.sha256
    assert "resized to 8x8" in report["facts"]["real images"]
    assert "no judge" in report["skipped"]["label agreement"]


def test_a_model_of_a_folder_is_measured_at_its_own_size(photos, quick_scores, tmp_path, capsys):
    out = tmp_path / "run"
    run("train", "unet-folder", "--data", photos, "--image-size", "12", "--net", TINY_NET,
        "--steps", "2", "--batch-size", "16", "--out", out, "--device", "cpu",
        "--sample-every", "0")  # fmt: skip
    capsys.readouterr()
    run("evaluate", out, "--n", "30", "--steps", "2", "--json")
    report = json.loads(capsys.readouterr().out)
    assert "frechet pixels-pca" in report["measures"]
    assert "resized to 12x12" in report["facts"]["real images"]


def test_an_unlabelled_folder_gets_principal_directions(photos, tmp_path, capsys):
    plain = tmp_path / "plain"
    plain.mkdir()
    for k, path in enumerate(sorted(photos.glob("train/*/*.png"))):
        Image.open(path).resize((8, 8)).save(plain / f"{k}.png")
    out = tmp_path / "of plain.safetensors"
    run("extractor", plain, "--out", out)
    command = shlex.split(capsys.readouterr().out.split("use it with: ")[1])
    assert command[3:] == ["--data", str(plain), "--extractor", str(out)]
    extractor = load_extractor("plain", out)
    # What a run holds out is left out here too.
    images = divide(load_images(str(plain)), 24, 12, "random").training
    assert (extractor.shape, extractor.classes) == ((1, 8, 8), ())
    half_a, _ = split_halves(len(images))
    truth = fit_pixels_pca(images.images[half_a], "plain")(images.images).values
    torch.testing.assert_close(extractor(images.images).values, truth)


def test_without_a_test_split_what_a_run_holds_out_tests_the_classifier(photos, tmp_path, capsys):
    out = tmp_path / "x.safetensors"
    more = ["extractor", photos / "train", "--out", out, "--image-size", "8", "--device", "cpu"]
    run(*more, "--epochs", "1")
    told = capsys.readouterr().out
    facts = load_extractor("x", out).facts
    assert f"3 classes, accuracy {facts['test_accuracy']:.2%} of 24 held-out images" in told
    images = divide(load_images(str(photos / "train"), image_size=(8, 8)), 24, 24, "random")
    assert facts["fingerprint"] == fingerprint(images.training)
    assert facts["images"] == len(images.training) // 2
    assert "--overwrite" in refused(capsys, *more)


@pytest.mark.parametrize(
    ("args", "values"),
    [
        (["digits", "--out", "x.pt"], ["--out", ".safetensors", "x.pt"]),
        (["digits", "--out", "x.safetensors", "--epochs", "0"], ["epochs", ">= 1", "0"]),
        (["mnits", "--out", "x.safetensors"], ["mnits", "mnist"]),
        (["few", "--out", "x.safetensors"], ["few", "5", "100"]),
    ],
)
def test_bad_extractors_are_one_line(args, values, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "few").mkdir()
    for k in range(5):
        Image.new("L", (8, 8), k).save(tmp_path / "few" / f"{k}.png")
    line = refused(capsys, "extractor", *args)
    assert all(value in line for value in values), line


def test_large_images_have_the_same_directions(monkeypatch):
    images = load_images("digits").images[:60]
    truth = fit_pixels_pca(images, "digits")(images).values
    monkeypatch.setattr(pca, "LARGEST", 63)
    monkeypatch.setattr(pca, "BLOCK", 25)
    found = fit_pixels_pca(images, "digits")(images).values
    kept = found.shape[1]
    assert 40 < kept <= 59
    # Coordinates up to the sign, which rounding may turn where two entries are equally large.
    torch.testing.assert_close(found[:, :30].abs(), truth[:, :30].abs(), rtol=1e-3, atol=1e-3)
    monkeypatch.setattr(pca, "LARGEST", 40)
    assert fit_pixels_pca(images, "digits")(images).values.shape[1] <= 39
    same = np.repeat(images[:1], 50, axis=0)
    assert bool(fit_pixels_pca(same, "digits")(same).values.isfinite().all())


# Inception ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A data root with a file of random weights, named and hashed as the real one."""
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    patch = pytest.MonkeyPatch()
    patch.setattr(module, "load_state_dict_from_url", lambda *a, **k: {})
    patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda *a: None)
    torch.manual_seed(0)
    network = module.FeatureExtractorInceptionV3("x", ["2048", "logits_unbiased"])
    patch.undo()
    root = tmp_path_factory.mktemp("weights")
    torch.save(network.state_dict(), root / inception.FILE)
    return root, network


def trust(monkeypatch, root):
    digest = hashlib.sha256((root / inception.FILE).read_bytes()).hexdigest()
    monkeypatch.setattr(inception, "SHA256", digest[:8])
    monkeypatch.setenv("POCKETDDPM_DATA", str(root))


def test_inception_sees_the_bytes_tiled_to_three_channels(weights, monkeypatch):
    root, network = weights
    trust(monkeypatch, root)
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 28, 28), dtype=np.uint8)
    images[0, 0, 0, :2] = 0, 255
    found = load_inception((1, 28, 28))(images, batch_size=2)
    features, logits = network(torch.from_numpy(images).repeat(1, 3, 1, 1))
    torch.testing.assert_close(found.values, features, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found.logits, logits, rtol=1e-3, atol=1e-5)
    assert found.values.shape == (3, 2048)
    colour = np.repeat(images, 3, axis=1)[:1]
    same = load_inception((3, 28, 28))(colour).values
    torch.testing.assert_close(same, found.values[:1], rtol=1e-3, atol=1e-5)


def test_inception_is_an_extractor_by_name(weights, monkeypatch):
    trust(monkeypatch, weights[0])
    monkeypatch.setattr(
        "pocketddpm.metrics.reference_data.load_images",
        lambda data, split, **k: load_images(data, split, subset=5),
    )
    reference = load_reference_data("digits", "inception")
    assert [s.extractor.name for s in reference.spaces] == ["inception", "pixels-pca"]
    assert reference.spaces[0].train.values.shape == (5, 2048)


def test_inceptions_absence_is_one_line(weights, monkeypatch, tmp_path, capsys):
    root, _ = weights
    monkeypatch.setenv("POCKETDDPM_DATA", str(tmp_path))
    np.savez(tmp_path / "s.npz", images=np.zeros((30, 8, 8), np.uint8))
    words = ["evaluate", tmp_path / "s.npz", "--data", "digits", "--extractor", "inception"]
    told = refused(capsys, *words)
    assert "https://github.com/toshas/torch-fidelity/" in told
    assert "POCKETDDPM_DATA" in told and inception.FILE in told
    (tmp_path / inception.FILE).write_bytes(b"other")
    assert inception.SHA256 in refused(capsys, *words)
    torch.save({"x": Image.new("L", (2, 2))}, tmp_path / inception.FILE)
    trust(monkeypatch, tmp_path)
    with pytest.raises(DataError, match=inception.FILE):
        load_inception((1, 8, 8))
    trust(monkeypatch, root)
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(ConfigError, match=r"pocketddpm\[inception\]"):
        load_inception((1, 8, 8))
