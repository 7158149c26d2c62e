"""Pictures with names on them: what stands where, and that no name covers an image."""

import numpy as np
import pytest
from PIL import Image

import pocketddpm as pd
from models import Labelled, model_around
from pocketddpm.models.samples import Samples
from pocketddpm.pictures import (
    INK,
    PAPER,
    SIZES,
    _width,
    columns_for,
    grid,
    names_of,
    save_gif,
    scale_for,
    shortened,
    tile,
    time_text,
    to_image,
)

FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker",
           "Bag", "Ankle boot")  # fmt: skip
SHAPES = [(1, 28, 28), (3, 32, 32), (3, 64, 64), (1, 8, 8), (1, 1, 1), (2, 7, 9), (1, 100, 8)]


def flat(n, shape):
    """Return n images, each of one grey of its own that neither paper nor ink has."""
    greys = PAPER + 1 + np.arange(n)
    return np.ones((n, *shape), np.uint8) * greys.astype(np.uint8)[:, None, None, None]


def pixels(picture):
    return np.asarray(picture if picture.mode == "L" else picture.getchannel(0))


@pytest.mark.parametrize("shape", SHAPES)
def test_without_text_a_grid_is_the_bare_tiles(shape):
    images = flat(7, shape)
    bare = to_image(tile(images, 3), scale_for(shape[1]))
    assert grid(images, 3).tobytes() == bare.tobytes()
    assert grid(images, 3, names=names_of(None, FASHION)).tobytes() == bare.tobytes()


@pytest.mark.parametrize(
    "text",
    [
        {"names": [FASHION[k % 10] for k in range(12)]},
        {"names": ["Ankle boot"] * 12},
        {"names": ["cat", "a dog of a very long name that no picture has room for"] * 6},
        {"heads": ["t = 0\nσ = 0", "t = 500", "t = 750", "t = 1000"]},
        {"sides": ["7", "Ankle boot", "a dog of a very long name that no picture has room for"]},
        {"names": list("0123456789ab"), "note": "t = 1000"},
    ],
)
@pytest.mark.parametrize("shape", SHAPES)
def test_no_text_covers_an_image(shape, text):
    images = flat(12, shape)
    picture = pixels(grid(images, 4, **text))
    counts = [int((picture == k).sum()) for k in images[:, 0, 0, 0]]
    scale = round((counts[0] / (shape[1] * shape[2])) ** 0.5)
    assert counts == [scale**2 * shape[1] * shape[2]] * 12
    written = (picture < PAPER).any()
    assert written
    top, bottom = picture[0], picture[-1]
    for edge in (top, bottom, picture[:, 0], picture[:, -1]):
        assert (edge == PAPER).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_class_to_a_column_is_named_once(shape):
    images, names = flat(12, shape), ["cat", "dog", "cow", "hen"] * 3
    once, each = (grid(images, 4, names=n) for n in (names, [*names[:-1], "pig"]))
    assert once.height < each.height
    picture = pixels(once)
    first = int(np.argmax((picture > PAPER).any(1)))
    assert (picture[:first] < PAPER).any()
    assert not (picture[first:] < PAPER).any()


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 64, 64), (1, 8, 8)])
def test_letters_are_large_enough_to_read(shape):
    images = flat(10, shape)
    picture = pixels(grid(images, 10, names=["Ag"] * 9 + ["Shirt"]))
    ink = np.flatnonzero((picture < (INK + PAPER) / 2).any(1))
    assert ink[-1] - ink[0] + 1 >= 9
    # The names of Fashion-MNIST stand in full.
    assert all(_width(name) <= (28 + 2) * 2 - 2 for name in FASHION)


@pytest.mark.parametrize("name", [*FASHION, "smiling face with open mouth", "x" * 200, "Größe"])
@pytest.mark.parametrize("room", [5, 20, 40, 64, 1000])
def test_long_names_keep_their_ends(name, room):
    short = shortened(name, room)
    if _width(name) <= room:
        assert short == name
        return
    assert _width(short) <= room or short == "…"
    start, end = short.split("…")
    assert name.startswith(start) and name.endswith(end)
    assert len(start) - len(end) in (0, 1, 2, -1)


def test_names_in_letters_that_the_font_lacks_are_numbers():
    classes = ("Größe", "Ёлка", "naïve", "Ωμέγα", "日本", "한국", "a\nb", " ", "\U00020000")
    assert names_of(range(10), classes) == [
        "Größe", "Ёлка", "naïve", "Ωμέγα", "4", "5", "6", "7", "8", "no label",
    ]  # fmt: skip
    assert names_of(np.array([3]), ()) == ["3"]
    assert names_of(None, classes) == []


@pytest.mark.parametrize(
    ("n", "cycle", "columns"),
    [(20, 2, 10), (20, 10, 10), (100, 3, 9), (400, 2, 20), (60, 1, 10), (5, 10, 5), (3, 2, 2),
     (40, 12, 12), (40, 40, 40), (1, 1, 1)],
)  # fmt: skip
def test_few_classes_fill_the_width(n, cycle, columns):
    assert columns_for(n, cycle) == columns


def test_times_are_short():
    assert [time_text(t) for t in (0, 0.25, 12.345, 384.3, 1000)] == [
        "t = 0", "t = 0.25", "t = 12.3", "t = 384", "t = 1000",
    ]  # fmt: skip


def sizes_and_frames(path):
    with Image.open(path) as gif:
        return gif.size, getattr(gif, "n_frames", 1)


def test_samples_write_names_or_not(tmp_path):
    model = model_around(Labelled(), (1, 28, 28), steps=4)
    drawn = model.sample(20, labels="3,7", steps=3, record=True)
    assert drawn.columns == 10
    assert drawn.times == (1000, 667, 333, 0)
    drawn.save(tmp_path / "a.png")
    drawn.save(tmp_path / "b.png", names=False)
    bare = to_image(tile(drawn.images, 10), 2)
    with Image.open(tmp_path / "b.png") as picture:
        assert picture.tobytes() == bare.tobytes()
    with Image.open(tmp_path / "a.png") as picture:
        assert (picture.width, picture.height) == (bare.width, bare.height + SIZES[0] + 4)
    heights = {}
    for names in (True, False):
        drawn.save_gif(tmp_path / "x.gif", names=names)
        drawn.save_strip(tmp_path / "x.png", panels=4, rows=2, names=names)
        (_, height), frames = sizes_and_frames(tmp_path / "x.gif")
        assert frames == 4
        with Image.open(tmp_path / "x.png") as strip:
            heights[names] = (height, *strip.size)
    line = SIZES[0] + 4
    assert heights[True][0] == heights[False][0] + 2 * line  # names above, t below
    assert heights[True][1] > heights[False][1]
    assert heights[True][2] == heights[False][2] + line
    assert heights[False][1:] == (4 * 30 * 2 + 4, 2 * 30 * 2 + 4)


def test_the_doors_pass_the_choice_on(tmp_path):
    model = model_around(Labelled(), (1, 28, 28), steps=2)
    for names in (True, False):
        places = {"out": tmp_path / "a.png", "gif": tmp_path / "a.gif", "strip": tmp_path / "s.png"}
        pd.sample(model, 10, labels="3,7", names=names, overwrite=True, panels=3, **places)
        found = []
        for path in places.values():
            with Image.open(path) as picture:
                found.append(picture.height)
        assert found == ([79, 62, 499] if names else [64, 32, 484])


def test_a_gif_of_each_class_is_named(tmp_path):
    images = np.stack([np.full((4, 1, 28, 28), grey, np.uint8) for grey in (0, 9)])
    labels = np.array([0, 9, 0, 9])
    samples = Samples(images[-1], labels, 1, FASHION, frames=images, times=(5.0, 0.0))
    samples.save_gif(tmp_path / "all")
    assert {p.name for p in (tmp_path / "all").iterdir()} == {"T-shirt-top.gif", "Ankle boot.gif"}
    save_gif(tmp_path / "bare.gif", list(images[:, labels == 0]))
    bare, named = (sizes_and_frames(tmp_path / name) for name in ("bare.gif", "all/Ankle boot.gif"))
    assert named[1] == bare[1] == 2 and named[0][1] == bare[0][1] + 2 * (SIZES[0] + 4)
