"""Folders of few files and of odd sizes, of one, and of very many: useful, or one clear line."""

import json
import os
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from pocketddpm.data import files
from pocketddpm.data.decode import opened
from pocketddpm.data.load import has_test, load_images
from test_cli import refused, run

NET = "widths=8/8,blocks=1/1,head_width=8"
RNG = np.random.default_rng(0)


def pictures(folder, count, size):
    folder.mkdir()
    for k in range(count):
        PIL.Image.fromarray(RNG.integers(0, 256, size, np.uint8)).save(folder / f"{k}.png")
    return folder


@pytest.mark.parametrize(
    ("count", "size", "values"),
    [
        (1, (8, 8), ["set", "1 ", "8"]),
        (1, (1, 1), ["set", "1 ", "8"]),
        (20, (8, 8), None),
        (30, (1, 1), None),
        (30, (5, 400), None),
    ],
    ids=["one", "one pixel", "twenty", "1x1", "5x400"],
)
def test_what_there_is_can_be_trained_on_drawn_and_measured(tmp_path, capsys, count, size, values):
    """values: of the line by which `evaluate` refuses; None where it has an answer."""
    data = pictures(tmp_path / "set", count, size)
    run("info", data, "--json")
    assert json.loads(capsys.readouterr().out)["shape"] == [1, *size]
    run("train", "folder", "--data", data, "--net", NET, "--steps", "2", "--batch-size", "4",
        "--device", "cpu", "--sample-every", "2", "--out", tmp_path / "run")  # fmt: skip
    assert f"{count} images 1x{size[0]}x{size[1]}" in capsys.readouterr().err
    run("sample", tmp_path / "run", "--n", "2", "--steps", "2", "--out", tmp_path / "s.npz")
    assert load_images(str(tmp_path / "s.npz")).images.shape == (2, 1, *size)
    words = ["evaluate", tmp_path / "run", "--n", "20", "--steps", "1", "--device", "cpu"]
    if values is not None:
        line = refused(capsys, *words)
        assert all(value in line for value in values), line
        return
    capsys.readouterr()
    run(*words, "--json")
    report = json.loads(capsys.readouterr().out)
    assert report["n"] == 20
    assert {"copies pixels", "distinct"} <= report["measures"].keys()
    assert "NaN" not in json.dumps(report)


def test_the_work_grows_with_the_files_and_no_faster(tmp_path, monkeypatch):
    """Of each file: headers and pixels are read once, its time is asked for once in every load.

    Whether there is a test split is known without asking any file.
    """
    monkeypatch.setenv("POCKETDDPM_CACHE", str(tmp_path / "cache"))
    data = pictures(tmp_path / "set", 120, (2, 2))
    counts = dict.fromkeys(("opened", "stat", "is_dir"), 0)

    def counted(name, function):
        def call(*args, **options):
            counts[name] += 1
            return function(*args, **options)

        return call

    monkeypatch.setattr(files, "opened", counted("opened", opened))
    monkeypatch.setattr("pocketddpm.data.decode.opened", counted("opened", opened))
    monkeypatch.setattr(Path, "stat", counted("stat", Path.stat))
    monkeypatch.setattr(Path, "is_dir", counted("is_dir", Path.is_dir))
    assert not has_test(str(data))
    assert sum(counts.values()) < 20
    load_images(str(data))
    assert counts["opened"] == 2 * 120
    assert 120 <= counts["stat"] < 120 + 60
    load_images(str(data))
    assert counts["opened"] == 2 * 120
    assert counts["stat"] < 2 * (120 + 60)
    assert counts["is_dir"] < 20


def test_long_lists_are_cut_short(tmp_path, capsys):
    data = tmp_path / "set"
    data.mkdir()
    pictures(data / "train", 3, (2, 2))
    pictures(data / "test", 3, (2, 2))
    for k in range(200):
        (data / f"other{k:03}").mkdir()
        (data / "train" / f"empty{k:03}.suffix{k}").write_text("")
    load_images(str(data))
    (line,) = capsys.readouterr().err.splitlines()
    assert len(line) < 1000
    for value in ("other000", "190 more", ".suffix0"):
        assert value in line


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_a_folder_that_may_not_be_read(tmp_path, capsys):
    data = pictures(tmp_path / "set", 1, (2, 2))
    data.chmod(0)
    try:
        assert "set" in refused(capsys, "info", data)
    finally:
        data.chmod(0o700)
