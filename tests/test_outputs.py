"""A name that cannot be written is refused before anything is drawn, trained or measured."""

import os

import pytest

from test_cli import refused

LONG = "x" * 300


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a file and a folder in it; nothing can be loaded or drawn."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("here")
    (tmp_path / "file.safetensors").write_text("here")
    for name in ("full", "full.safetensors"):
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
    ):
        monkeypatch.setattr(f"pocketddpm.{name}", too_late)
    return tmp_path


VERBS = {
    "evaluate": ["evaluate", "mnist"],
    "likelihood": ["likelihood", "mnist"],
    "compare": ["compare", "mnist"],
    "extractor": ["extractor", "digits"],
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
    is_file = verb == "extractor"
    if name == "WRONG KIND":
        name = "full" if is_file else "file"
    name += ".safetensors" * is_file
    before = sorted(folder.rglob("*"))
    line = refused(capsys, *VERBS[verb], "--out", name, *["--overwrite"] * overwrite)
    assert name.split("/")[0][:100] in line
    assert sorted(folder.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("verb", VERBS)
def test_folders_that_are_read_only(verb, folder, capsys):
    (folder / "full").chmod(0o500)
    name = "full/x.safetensors" if verb == "extractor" else "full"
    assert "full" in refused(capsys, *VERBS[verb], "--out", name, "--overwrite")
