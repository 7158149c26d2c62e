"""A name that cannot be written is refused before the work; old files do not mix with new ones."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pocketddpm.metrics.intervals import Interval
from pocketddpm.metrics.likelihood import LikelihoodReport
from pocketddpm.metrics.protocol import drop_samples
from pocketddpm.metrics.report import Report, Row
from pocketddpm.models.checkpoint import find_checkpoint, load_checkpoint
from pocketddpm.models.samples import Samples
from pocketddpm.runs.comparison import Comparison, Measured
from test_cli import refused, run

LONG = "x" * 300


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a file and a folder in it; nothing can be loaded or drawn."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("here")
    for suffix in set(SUFFIXES.values()):
        (tmp_path / f"file{suffix}").write_text("here")
    for name in ("full", *(f"full{suffix}" for suffix in set(SUFFIXES.values()))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text("here")

    def too_late(*args, **options):
        raise AssertionError("the work began")

    for name in (
        "metrics.protocol.load_reference_data",
        "metrics.protocol.load_subject",
        "metrics.likelihood.load_subject",
        "metrics.train_extractor.load_images",
        "runs.comparison._measure",
        "runs.run.load_run_data",
        "models.model.Model.sample",
        "models.inputs.load_images",
        "data.load.load_images",
        "convert.web.write_onnx",
        "convert.onnx.write_onnx",
        "convert.diffusers_read.read_diffusers",
    ):
        monkeypatch.setattr(f"pocketddpm.{name}", too_late)
    return tmp_path


VERBS = {
    "evaluate": ["evaluate", "mnist"],
    "likelihood": ["likelihood", "mnist"],
    "compare": ["compare", "mnist"],
    "extractor": ["extractor", "digits"],
    "train": ["train", "digits", "--steps", "1", "--device", "cpu"],
    "distill": ["distill", "mnist", "--steps", "1", "--device", "cpu"],
    "sample": ["sample", "mnist", "--n", "1"],
    "sample, one file": ["sample", "mnist", "--n", "1"],
    "edit": ["edit", "img2img", "mnist", "--images", "digits"],
    "show": ["show", "data", "digits"],
    "export, a folder": ["export", "mnist", "--to", "web"],
    "export": ["export", "mnist", "--to", "onnx"],
    "import": ["import", "diffusers-model", "--from", "diffusers"],
}
SUFFIXES = {
    "extractor": ".safetensors",
    "sample, one file": ".npz",
    "edit": ".png",
    "show": ".png",
    "export": ".onnx",
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("name", "overwrite"),
    [
        ("full", False),
        ("file", False),
        ("WRONG KIND", True),
        ("file/below", True),
        ("file/below/it", True),
        (LONG, True),
        (f"{LONG}/below", True),
        ("x" * 250, True),
    ],
)
def test_names_that_cannot_be_written(verb, name, overwrite, folder, capsys):
    suffix = SUFFIXES.get(verb, "")
    if name == "WRONG KIND":
        name = "full" if suffix else "file"
    name += suffix
    before = sorted(folder.rglob("*"))
    line = refused(capsys, *VERBS[verb], "--out", name, *["--overwrite"] * overwrite)
    assert name.split("/")[0][:100] in line
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("verb", [verb for verb in SUFFIXES if verb != "export"])
@pytest.mark.parametrize("name", ["free", "free.mp4", "free.PnG", "free.png.tmp"])
def test_suffixes_that_say_nothing(verb, name, folder, capsys):
    """Without one, `sample --out` writes a folder; ONNX files may have any name."""
    if verb == "sample, one file":
        name = f"{name}.jpg"
    before = sorted(folder.rglob("*"))
    assert name in refused(capsys, *VERBS[verb], "--out", name)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("verb", VERBS)
def test_folders_that_are_read_only(verb, folder, capsys):
    (folder / "full").chmod(0o500)
    name = "full/x.safetensors" if verb == "extractor" else "full"
    assert "full" in refused(capsys, *VERBS[verb], "--out", name, "--overwrite")


# Again, into the same folder ---------------------------------------------------------------------

VALUE = Interval(1.0, 0.9, 1.1)
PIXELS = np.zeros((20, 1, 4, 4), np.uint8)
STEP = dict.fromkeys(("first", "last", "bits_per_step", "error_per_step", "rate", "rmse"), 1.0)


def comparison(folder, large):
    row = Measured("a", "lean", 1, 1.0, 1.0, 1.0, "ddim", None, 1, 1.0, None)
    count = 11 if large else 1
    Comparison([row] * count, [Samples(PIXELS, None, 1)] * count, 0).save(folder)


def scores(folder, large):
    report = Report(20, "digits", rows=[Row("distinct", "distinct", VALUE, None, "difference")])
    replace(report, closest=PIXELS[:1].repeat(80, 0) if large else None).save(folder)


def bits(folder, large):
    report = LikelihoodReport({"bound": ("the bound", VALUE)})
    replace(report, curve=[STEP] * 3 if large else []).save(folder)


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("write", [comparison, scores, bits])
def test_no_file_of_an_earlier_larger_report_stays(write, tmp_path):
    once, twice = tmp_path / "once", tmp_path / "twice"
    twice.mkdir()
    mine = {"notes.txt", "samples-of-mine.png", "portrait.png"}
    for name in mine:
        (twice / name).write_text("mine")
    write(twice, True)
    larger = files(twice)
    write(twice, False)
    write(once, False)
    assert files(twice) == files(once) | mine < larger


def test_samples_of_an_earlier_report_go_unless_they_are_scored(tmp_path):
    for scored, stays in (("others.npz", False), ("samples.npz", True), ("", True)):
        (tmp_path / "samples.npz").write_text("old")
        drop_samples(tmp_path, tmp_path / scored)
        assert (tmp_path / "samples.npz").exists() == stays


def test_an_import_over_a_run_leaves_nothing_of_it(tmp_path, monkeypatch):
    out, other = tmp_path / "run", load_checkpoint(find_checkpoint(Path("mnist")))
    name = "pocketddpm.convert.diffusers_read.read_diffusers"
    monkeypatch.setattr(name, lambda path, data: other)
    out.mkdir()
    for old in ("previous.safetensors", "best.safetensors", "log.csv", "config.json", "notes.txt"):
        (out / old).write_text("old")
    run("import", tmp_path / "theirs", "--from", "diffusers", "--out", out, "--overwrite")
    assert files(out) == {"last.safetensors", "notes.txt"}
    run("import", out, "--from", "diffusers", "--out", out, "--overwrite")
    assert files(out) == {"last.safetensors", "notes.txt"}, "its own source"
