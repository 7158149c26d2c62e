"""What is printed and what is typed: encodings, full disks, homes, names with blanks."""

import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import pocketddpm as pd
from pocketddpm.commands import main
from pocketddpm.errors import CheckpointError
from pocketddpm.models.checkpoint import (
    Checkpoint,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from test_cli import TINY_NET, refused, run

ENCODINGS = ("gbk", "cp1252", "ascii", "latin-1", "shift_jis", "utf-8")
VERBS = list(main.VERBS)


def pocketddpm(*words, encoding="utf-8", home=None, stdout=subprocess.PIPE):
    """Run the command in a process of its own; return what it did, in bytes."""
    env = {**os.environ, "PYTHONIOENCODING": encoding}
    if home is not None:
        env["HOME"] = str(home)
    command = [sys.executable, "-m", "pocketddpm", *map(str, words)]
    return subprocess.run(command, env=env, stdout=stdout, stderr=subprocess.PIPE, check=False)


@pytest.fixture
def typed(monkeypatch):
    """Run the command here, with streams in an encoding, as a terminal that has it."""

    def type_in(*words, encoding):
        streams = [io.TextIOWrapper(io.BytesIO(), encoding) for _ in range(2)]
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", streams[0])
            patch.setattr(sys, "stderr", streams[1])
            try:
                run(*words)
                status = 0
            except SystemExit as stop:
                status = stop.code
        for stream in streams:
            stream.flush()
        stdout, stderr = (stream.buffer.getvalue() for stream in streams)
        return SimpleNamespace(returncode=status, stdout=stdout, stderr=stderr)

    return type_in


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run in a folder with a blank and a sign that few encodings have; classes likewise."""
    out = tmp_path_factory.mktemp("terminal") / "my 漢 run"
    model = pd.train("digits", net=TINY_NET, steps=2, batch_size=8, sample_every=0, out=out,
                     device="cpu", precision="float32")  # fmt: skip
    stored = load_checkpoint(out / "last.safetensors")
    classes = ["漢", "é", "\x1b[31m", "a/b", *model.classes[4:]]
    save_checkpoint(
        out / "last.safetensors", Checkpoint({**stored.meta, "classes": classes}, stored.tensors)
    )
    return out


# Encodings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_help_can_be_printed_in_every_encoding(encoding):
    done = pocketddpm("sample", "--help", encoding=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"--labels" in done.stdout
    wrong = pocketddpm("sample", "--no-such-option", encoding=encoding)
    assert wrong.returncode == 2
    assert b"Traceback" not in wrong.stderr + wrong.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_every_verb_can_be_printed(typed, verb):
    done = typed(verb, "--help", encoding="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"usage: pocketddpm" in done.stdout


def test_a_name_that_an_encoding_lacks_is_printed_by_a_process_of_its_own(trained):
    done = pocketddpm("info", trained, encoding="cp1252")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\u6f22" in done.stdout


@pytest.mark.parametrize("encoding", ["gbk", "cp1252", "utf-8"])
def test_names_that_an_encoding_lacks_are_written_as_numbers(typed, trained, tmp_path, encoding):
    known = typed("info", trained, encoding=encoding)
    assert (known.returncode, known.stderr) == (0, b"")
    sign = b"\\u6f22" if encoding == "cp1252" else "漢".encode(encoding)
    assert sign in known.stdout
    drawn = typed("sample", trained, "--labels", "漢", "--n", "1", "--steps", "1", "--device",
                  "cpu", "--out", tmp_path / "漢.npz", encoding=encoding)  # fmt: skip
    assert drawn.returncode == 0, drawn.stderr
    with np.load(tmp_path / "漢.npz") as arrays:
        assert arrays["labels"].tolist() == [0]
    wrong = typed("sample", trained, "--labels", "漢字", encoding=encoding)
    assert wrong.returncode == 2
    assert b"Traceback" not in wrong.stderr
    assert wrong.stderr.count(b"\n") == 1


# A full disk, a closed pipe ----------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    "words",
    [("info", "mnist"), ("info", "mnist", "--json"), ("list",), ("--version",),
     ("sample", "mnist", "--n", "1", "--steps", "1", "--device", "cpu", "--json")],
    ids=str,
)  # fmt: skip
def test_a_full_stdout_is_one_line(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open("/dev/full", "w") as full:
        done = pocketddpm(*words, stdout=full)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if b"call/s" not in line]
    assert len(lines) == 1 and b"No space left" in lines[0], done.stderr


# Places ------------------------------------------------------------------------------------------


def test_a_folder_of_a_shipped_models_name_hides_it_only_with_a_model_in_it(
    tmp_path, monkeypatch, trained
):
    monkeypatch.chdir(tmp_path)
    shipped = find_checkpoint(Path("mnist"))
    for entry in (None, "train-images-idx3-ubyte", "sub/last.safetensors"):
        folder = tmp_path / "mnist"
        folder.mkdir(exist_ok=True)
        if entry is not None:
            (folder / entry).parent.mkdir(exist_ok=True)
            (folder / entry).write_bytes(b"")
        assert find_checkpoint(Path("mnist")) == shipped
    run("sample", "mnist", "--n", "1", "--steps", "1", "--device", "cpu")
    assert (tmp_path / "samples" / "mnist-seed-0.png").exists()
    mine = tmp_path / "mnist" / "last.safetensors"
    mine.write_bytes((trained / "last.safetensors").read_bytes())
    assert find_checkpoint(Path("mnist")) == Path("mnist") / "last.safetensors"
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="empty"):
        find_checkpoint(Path("empty"))


def test_a_home_is_expanded_wherever_a_path_is_given(tmp_path, monkeypatch, trained):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").symlink_to(trained)
    model = pd.load("~/run", "cpu")
    quick = {"steps": 1, "device": "cpu", "labels": [0, 1]}
    for name in ("a.png", "a.npz", "a"):
        pd.sample(
            "~/run", 2, out=f"~/{name}", gif="~/a.gif", strip="~/strip.png", overwrite=True, **quick
        )
        assert (tmp_path / name).exists()
    samples = model.sample(labels=[0], steps=1, record=True)
    samples.save("~/b.png")
    samples.save_gif("~/b.gif")
    samples.save_strip("~/b-strip.png")
    pd.edit("img2img", "~/run", ["~/b.png"], labels=[0], out="~/c.png", steps=2, device="cpu")
    run("sample", "~/run", "--n", "1", "--steps", "1", "--device", "cpu", "--out", "~/d.png",
        "--gif", "~/d.gif", "--strip", "~/d-strip.png", "--guide", "~/run", "--guidance", "2",
        "--labels", "4")  # fmt: skip
    run(
        "edit",
        "img2img",
        "~/run",
        "--images",
        "~/b.png",
        "--labels",
        "4",
        "--steps",
        "2",
        "--out",
        "~/e.png",
    )
    run("show", "data", "digits", "--n", "4", "--out", "~/f.png")
    run("info", "~/run")
    for name in ("a.gif", "strip.png", "b.png", "b.gif", "b-strip.png", "c.png", "d.png", "d.gif",
                 "d-strip.png", "e.png", "f.png"):  # fmt: skip
        assert (tmp_path / name).exists(), name
    assert not Path("~").exists()
    with pytest.raises(CheckpointError, match="~nobody-of-that-name"):
        pd.load("~nobody-of-that-name/run")


def test_suggested_commands_can_be_pasted(trained, capsys):
    run("info", trained)
    (line,) = re.findall(r"^again +(.*)$", capsys.readouterr().out, re.MULTILINE)
    assert shlex.split(line) == ["pocketddpm", "reproduce", str(trained)]
    out = trained.parent / "another run"
    pd.train("digits", net=TINY_NET, steps=1, batch_size=8, sample_every=0, out=out, device="cpu")
    (line,) = re.findall(r"draw with: (.*)$", capsys.readouterr().err, re.MULTILINE)
    assert shlex.split(line) == ["pocketddpm", "sample", str(out)]


# What was there before ---------------------------------------------------------------------------


def test_no_file_of_an_earlier_larger_output_stays(trained, tmp_path):
    out, gifs = tmp_path / "pngs", tmp_path / "gifs"
    args = ("sample", trained, "--steps", "1", "--device", "cpu", "--out", out, "--gif", gifs)
    run(*args, "--labels", "4,5,a/b,7", "--n", "12")
    (out / "notes.txt").write_text("mine")
    (out / "portrait.png").write_bytes(b"mine")
    (gifs / "holiday.gif").write_bytes(b"mine")
    run(*args, "--labels", "4", "--n", "2", "--overwrite")
    kept = {path.name for path in out.iterdir()}
    assert {"notes.txt", "portrait.png"} <= kept and len(kept) == 4
    assert len(list(gifs.iterdir())) == 2 and (gifs / "holiday.gif").exists()
    assert len(Image.open(next(iter(out.glob("0-*.png")))).size) == 2


def test_what_is_in_the_way_is_refused_for_each_output(trained, tmp_path, capsys):
    args = ("sample", trained, "--n", "1", "--steps", "1", "--device", "cpu")
    for option, name in (("--out", "x.npz"), ("--gif", "x.gif"), ("--strip", "x.png")):
        (tmp_path / name).write_text("mine")
        others = () if option == "--out" else ("--out", tmp_path / "free.npz")
        message = refused(capsys, *args, option, tmp_path / name, *others)
        assert name in message and "--overwrite" in message
        assert (tmp_path / name).read_text() == "mine"
    assert not (tmp_path / "free.npz").exists()
