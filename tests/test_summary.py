"""What is said before a run trains: images, network, budget; what `info` says of a folder."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from pocketddpm.commands.main import main
from pocketddpm.data.image_set import ImageSet
from pocketddpm.presets import get_preset
from pocketddpm.runs.start import start
from pocketddpm.runs.summary import FEW, OFTEN, SHAPES, describe_images, expectations


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POCKETDDPM_CACHE", str(tmp_path / "cache"))


def picture(path: Path, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Path:
    """Write noise; size is (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    shape = (*size, *channels)
    random = np.random.default_rng(len(path.name))
    PIL.Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(path)
    return path


def images(*counts: int) -> ImageSet:
    labels = np.repeat(np.arange(len(counts)), counts)
    pixels = np.zeros((sum(counts), 1, 4, 4), np.uint8)
    return ImageSet(pixels, labels, tuple(f"c{k}" for k in range(len(counts))), "set", notes=("x",))


def test_images_are_said_with_the_smallest_and_the_largest_class() -> None:
    first, note = describe_images(images(5, 1200, 7))
    for value in ("set", "1,212", "1x4x4", "3 classes", "c0 (5 images)", "c1 (1,200)"):
        assert value in first
    assert note.strip() == "x"
    assert "3 classes of 7 images" in describe_images(images(7, 7, 7))[0]
    unlabelled = ImageSet(np.zeros((2, 1, 4, 4), np.uint8), None, (), "set")
    assert describe_images(unlabelled)[0].endswith("no labels")


@pytest.mark.parametrize(
    ("size", "total", "minutes", "said"),
    [
        ((28, 28), SHAPES, None, ()),
        ((28, 28), SHAPES - 1, None, (f"--images {SHAPES}",)),
        ((64, 64), 3_900, 10.0, ("--minutes 40",)),
        ((64, 64), 5_148, 10.0, ("--minutes 31",)),  # rounded up
        ((14, 14), SHAPES // 4, 1.0, ()),
        ((14, 14), SHAPES // 8, 1.0, ("--minutes 2",)),
    ],
)
def test_a_budget_that_is_too_little_is_said(
    size: tuple[int, int], total: int, minutes: float | None, said: tuple[str, ...]
) -> None:
    lines = expectations(50_000, size, total, minutes)
    assert len(lines) == len(said)
    assert all(value in line for value, line in zip(said, lines, strict=True))


def test_what_the_model_to_begin_with_has_seen_counts() -> None:
    assert not expectations(50_000, (28, 28), 600, before=SHAPES - 600)
    (line,) = expectations(50_000, (28, 28), 600, before=SHAPES - 700)
    assert "--images 700" in line


@pytest.mark.parametrize(
    ("count", "times", "said"),
    [(FEW - 1, OFTEN + 1, 1), (FEW - 1, OFTEN, 0), (FEW, OFTEN + 1, 0), (20, 10_000, 1)],
)
def test_so_few_images_that_they_are_learned_by_heart(count: int, times: int, said: int) -> None:
    lines = expectations(count, (8, 8), count * times)
    heart = [line for line in lines if f"{times:,} times" in line and f"{count:,} images" in line]
    assert len(heart) == said


def test_a_run_says_what_it_found_before_it_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything in order: images, what was done to them, what is held out, network, budget."""
    data = tmp_path / "sprites"
    for k in range(240):
        picture(data / ("cat" if k < 200 else "dog") / f"{k}.png", (8 + k % 2, 8), "RGBA")
    (data / "notes.txt").write_text("x")
    out = tmp_path / "run"
    session = start(
        get_preset("folder"),
        data=str(data),
        image_size=8,
        background="black",
        steps=1,
        batch_size=8,
        net={"widths": (16, 32), "blocks": (1, 1), "head_width": 8},
        out=out,
        sample_every=0,
        device="cpu",
    )
    assert capsys.readouterr().err == ""
    session.run()
    told = capsys.readouterr().err
    wanted = [
        "sprites: 216 images 3x8x8",
        "2 classes",
        "dog (36 images)",
        "cat (180)",
        "1 .txt",
        "2 sizes, 8x8 to 9x8",
        "240 images have transparency, which is laid over black",
        "24 of the 240 images",
        "12 may choose",
        "12 are for `evaluate`",
        "lean (",
        "8 images in 1 steps of 8 (0.0 epochs)",
        "--images",
    ]
    places = [told.find(value) for value in wanted]
    assert -1 not in places and places == sorted(places), list(zip(wanted, places, strict=True))
    record = json.loads((out / "config.json").read_text())["data"]
    assert any("black" in note for note in record["notes"]) and not record["has_test"]
    main(["info", str(out)])
    assert "laid over black" in capsys.readouterr().out


def test_a_network_that_takes_no_labels_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = start(
        get_preset("digits"),
        network="small-unet",
        net={"widths": (4, 8, 8)},
        steps=1,
        batch_size=4,
        out=tmp_path / "run",
        sample_every=0,
        device="cpu",
    )
    session.run()
    told = capsys.readouterr().err
    assert "small-unet takes none" in told and "10 classes" in told


def test_info_says_what_a_folder_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for k in range(3):
        picture(tmp_path / "set" / "ab"[k % 2] / f"{k}.png", mode="L")
    main(["info", str(tmp_path / "set")])
    printed = capsys.readouterr()
    assert "set: 3 images 1x8x8" in printed.out and "b (1 images)" in printed.out
    assert printed.err == ""
    main(["info", str(tmp_path / "set"), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told == {"images": 3, "shape": [1, 8, 8], "classes": {"a": 2, "b": 1}, "notes": []}


# A folder of every number and size ---------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[(1, 1)], [(5, 400)], [(1, 1), (5, 400)], [(8, 8)] * 20])
def test_a_folder_of_few_images_or_odd_sizes_trains(
    tmp_path: Path,
    sizes: list[tuple[int, int]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A line that says how, or a model that draws images of that size."""
    monkeypatch.setenv("POCKETDDPM_QUIET", "1")
    for k, size in enumerate(sizes):
        picture(tmp_path / "set" / f"{k}.png", size, "L")
    small = ["--steps", "1", "--batch-size", "4", "--device", "cpu", "--sample-every", "0"]
    small += ["--net", "widths=16/32,blocks=1/1,head_width=8"]
    out, data = str(tmp_path / "run"), str(tmp_path / "set")
    words = ["train", "folder", "--data", data, "--out", out, *small]
    if len(set(sizes)) > 1:
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "1x1" in line and "5x400" in line and "--image-size, such as 3" in line
        words += ["--image-size", "3"]
    main(words)
    main(["sample", out, "--n", "1", "--steps", "2", "--out", str(tmp_path / "x.npz")])
    shape = (3, 3) if len(set(sizes)) > 1 else sizes[0]
    assert np.load(tmp_path / "x.npz")["images"].shape[1:3] == shape
