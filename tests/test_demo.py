"""The demo's plain functions: what the page's fields mean, films, masks, races; no browser."""

import gc
import re
import threading
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models import Labelled, model_around
from pocketddpm.demo import insight, markup, painting
from pocketddpm.demo.drawing import MOST_FRAMES, Wish, draw, wish, write
from pocketddpm.demo.model_list import Examples, ModelList
from pocketddpm.demo.noising import noised
from pocketddpm.demo.racing import drawing_samplers, lanes, race, steps_for
from pocketddpm.demo.streaming import Stopped, stream
from pocketddpm.errors import CheckpointError, ConfigError
from pocketddpm.models.editing import Settings
from pocketddpm.models.restoration import restore


@pytest.fixture
def model():
    return model_around(Labelled(), steps=5)


@pytest.fixture
def plain():
    return model_around(Labelled(), (3, 6, 4), classes=(), steps=5)


# Streaming ---------------------------------------------------------------------------------------


def test_a_stream_ends_with_its_last_report():
    def work(report):
        for k in range(100):
            report(k)

    seen = list(stream(work))
    assert seen[-1] == 99
    assert seen == sorted(set(seen))


def test_a_closed_stream_stops_the_work():
    ended, count = threading.Event(), []

    def work(report):
        try:
            for k in range(10_000):
                count.append(k)
                report(k)
                time.sleep(0.001)
        except Stopped:
            ended.set()

    films = stream(work)
    next(films)
    del films  # what Gradio does when a person presses Stop
    gc.collect()
    assert ended.wait(5)
    assert len(count) < 9_000


def test_a_stream_passes_errors_on():
    def work(report):
        report(1)
        raise ConfigError("no")

    films = stream(work)
    assert next(films) == 1
    with pytest.raises(ConfigError, match="no"):
        next(films)


# Wishes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n": 0}, "Images.*1.*40.*0"),
        ({"n": None}, "Images.*1.*40"),
        ({"n": float("nan")}, "Images.*nan"),
        ({"n": 41, "called": {"n": "Variants"}}, "Variants.*1.*40.*41"),
        ({"steps": 2.5}, r"Steps.*1.*250.*2\.5"),
        ({"steps": 251}, "Steps.*250.*251"),
        ({"seed": -1}, "Seed.*-1"),
        ({"seed": None}, "Seed.*0.*9007199254740991"),
        ({"seed": 1.5, "called": {"seed": "From seed"}}, r"From seed.*1\.5"),
        ({"seed": 1e300}, r"Seed.*1e\+300"),
        ({"guidance": None}, "Guidance.*0.*10"),
        ({"guidance": float("nan")}, "Guidance.*0.*10"),
        ({"guidance": 11}, "Guidance.*0.*10"),
    ],
)
def test_bad_values_are_explained(model, values, message):
    with pytest.raises(ConfigError, match=message):
        wish(model, **values)


def test_labels_are_cycled_and_laid_out_in_columns(model, plain):
    wanted = wish(model, labels=["3", "7"], n=5)
    assert wanted.numbers(model).tolist() == [3, 7, 3, 7, 3]
    assert wanted.columns(model) == 4
    assert wish(model, n=12).numbers(model).tolist() == [*range(10), 0, 1]
    assert wish(model, n=12).columns(model) == 10
    assert wish(model, n=4).columns(model) == 4
    assert wish(model).spacing == "trailing"
    assert wish(model_around(Labelled(), spacing="karras")).spacing == "karras"
    unlabelled = wish(plain, labels=["3"], n=12, guidance=3)
    assert (unlabelled.numbers(plain), unlabelled.guidance) == (None, 1.0)
    assert unlabelled.columns(plain) == 10


def test_no_label_is_no_class_and_is_not_guided(model):
    wanted = wish(model, "no-label", n=2, guidance=3.0)
    assert (wanted.guidance, wanted.numbers(model).tolist()) == (1.0, [10, 10])
    *_, film = draw(model, wanted)
    assert film.names == ["no label"] * 2
    np.testing.assert_array_equal(
        film.frames[-1].x,
        model.sample(2, labels=None, sampler="ddim", steps=20, guidance=1.0).images,
    )


# Drawing -----------------------------------------------------------------------------------------


def test_a_drawing_is_what_sample_draws(model):
    wanted = Wish(("2",), n=3, steps=4, guidance=2.0, seed=5)
    *_, film = draw(model, wanted)
    labels = np.array([2, 2, 2])
    samples = model.sample(3, labels=labels, sampler="ddim", steps=4, guidance=2.0, seed=5)
    np.testing.assert_array_equal(film.frames[-1].x, samples.images)
    assert [frame.i for frame in film.frames] == [0, 1, 2, 3, 4]
    assert [frame.nfe for frame in film.frames] == [0, 2, 4, 6, 8]
    assert film.done
    np.testing.assert_array_equal(film.frames[-1].x, film.frames[-1].x0)  # DDIM ends on its guess


def test_long_films_keep_their_ends(model):
    *_, film = draw(model, Wish(n=1, steps=250))
    steps = [frame.i for frame in film.frames]
    assert (steps[0], steps[-1]) == (0, 250)
    assert len(steps) <= MOST_FRAMES
    assert {b - a for a, b in pairwise(steps[1:])} == {film.every} == {3}


def test_downloads(model, tmp_path):
    *_, film = draw(model, Wish(n=3, steps=4))
    png, gif, npz = write(film, tmp_path, "a/b")
    assert png.name == "pocketddpm-a-b-ddim-4-seed0.png"
    assert Image.open(png).size[0] > Image.open(png).size[1]
    assert Image.open(gif).n_frames == 5
    with np.load(npz) as arrays:
        np.testing.assert_array_equal(arrays["images"], film.frames[-1].x[:, 0])
        assert arrays["labels"].tolist() == [0, 1, 2]


def test_an_unconditional_colour_model_draws(plain, tmp_path):
    *_, film = draw(plain, wish(plain, n=2, steps=3))
    assert film.frames[-1].x.shape == (2, 3, 6, 4)
    with np.load(write(film, tmp_path, "m")[2]) as arrays:
        assert arrays["images"].shape == (2, 6, 4, 3)
        assert "labels" not in arrays


# The forward process and the look inside ---------------------------------------------------------


def test_noised_images(model):
    images = np.full((2, 1, 4, 4), 200, np.uint8)
    clean = noised(model, images, None, 0)
    np.testing.assert_array_equal(clean.guess, images)
    assert (clean.signal, clean.noise, clean.error) == (1, 0, 0)
    assert clean.decibels == float("inf")
    middle = noised(model, images, None, 500)
    assert middle.signal**2 + middle.noise**2 == pytest.approx(1)
    snr = model.schedule.snr[500]
    assert middle.decibels == pytest.approx(float(10 * snr.log10()))
    assert (middle.x_t != images).any()
    assert noised(model, images, None, 1000).error > 0


def test_errors_by_time_are_two_views_of_one_error(model):
    images = np.random.default_rng(0).integers(0, 256, (8, 1, 4, 4), np.uint8)
    *_, found = insight.errors_by_time(model, images)
    assert (found.t[0], found.t[-1], len(found.t)) == (1, 1000, found.total)
    # x_t = a x0 + b eps, so that a (x0_hat - x0) = -b (eps_hat - eps).
    alpha_bar = model.schedule.alpha_bar[found.t]
    expected = torch.tensor(found.x0) * (alpha_bar / (1 - alpha_bar))
    torch.testing.assert_close(
        torch.tensor(found.eps).double(), expected.double(), rtol=1e-3, atol=0
    )


def test_strips_show_few_steps_and_many(model):
    for steps, panels in ((1, 1), (4, 4), (50, 10)):
        *_, film = draw(model, Wish(n=1, steps=steps))
        times, rows = insight.strip(film)
        assert rows.shape == (2 * panels, 1, 4, 4)
        assert (len(times), times[-1]) == (panels, 0)


def test_a_model_that_needs_labels_is_told_them():
    """`mnist-fast` never saw an image without its label: it is told those of its examples."""
    fast = model_around(Labelled(), label_dropout=0.0)
    models = ModelList([Path("mnist-fast")], torch.device("cpu"))
    examples = models.examples(models.model("mnist-fast"))
    assert examples.labels is not None and len(examples.labels) == len(examples.images)
    assert examples.first(3)[0].shape[0] == 3
    images, labels = np.zeros((2, 1, 4, 4), np.uint8), np.array([3, 7])
    with pytest.raises(ConfigError, match="label dropout 0"):
        noised(fast, images, None, 500)
    assert (
        noised(fast, images, labels, 500).guess
        != noised(fast, images, labels[::-1].copy(), 500).guess
    ).any()
    *_, found = insight.errors_by_time(fast, images, labels)
    assert len(found.t) == found.total
    assert wish(fast, "3", guidance=3.0).guidance == 1.0


def test_examples_of_a_model_of_fewer_classes_are_of_these(tmp_path):
    for k, name in enumerate(("ant", "bee", "cow")):
        (tmp_path / name).mkdir()
        for j in range(3):
            Image.new("L", (4, 4), 10 * k + j).save(tmp_path / name / f"{j}.png")
    few = model_around(Labelled(2), classes=("cow", "ant"))
    data = replace(few.experiment.data, name=str(tmp_path))
    few = replace(few, experiment=replace(few.experiment, data=data))
    models = ModelList([Path("mnist-fast")], torch.device("cpu"))
    found = models.examples(few)
    assert found.labels.tolist()[:2] == [0, 1] and len(found.labels) == 8
    assert found.images[0].max() >= 20 > 10 > found.images[1].max()


def test_a_model_that_does_not_need_labels_is_told_none():
    assert Examples(np.zeros((4, 1, 2, 2), np.uint8), "").first(2)[1] is None
    models = ModelList([Path("mnist")], torch.device("cpu"))
    examples = models.examples(models.model("mnist"))
    assert examples.labels is not None and examples.labels[:10].tolist() == [*range(10)]
    assert examples.first(10)[1] is None


# Races -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("branches", [1, 2])
@pytest.mark.parametrize("name", drawing_samplers())
def test_a_race_is_fair(model, name, branches):
    steps = steps_for(model, name, 12, branches=branches)
    calls = model.plan(sampler=name).sampler.calls
    assert calls(steps) * branches <= 12 < calls(steps + 1) * branches


def test_race(model):
    wanted = Wish(n=2, guidance=2.0, seed=1)
    start = lanes(model, ["ddim", "heun"], 8, wanted)
    *_, found = race(model, start, wanted)
    assert [(lane.steps, lane.nfe) for lane in found] == [(4, 8), (2, 6)]
    labels = np.array([0, 1])
    alone = model.sample(2, labels=labels, sampler="heun", steps=2, guidance=2.0, seed=1)
    np.testing.assert_array_equal(found[1].images, alone.images)


def test_race_needs_runners_and_a_budget(model):
    with pytest.raises(ConfigError, match=r"6 samplers.*0"):
        lanes(model, [], 10, Wish())
    with pytest.raises(ConfigError, match=r"ddim.*2.*guidance.*1"):
        lanes(model, ["ddim"], 1, Wish(guidance=2.0))


# Editing -----------------------------------------------------------------------------------------


def layer(box, size=40):
    array = np.zeros((size, size, 4), np.uint8)
    top, left, bottom, right = box
    array[top:bottom, left:right] = (217, 119, 6, 255)
    return array


def test_masks_from_brush_strokes():
    mask = painting.mask_of({"layers": [layer((0, 0, 20, 40))]}, (1, 4, 4))
    assert mask.tolist() == [[True] * 4] * 2 + [[False] * 4] * 2
    # A stroke that covers a tenth of a pixel does not mark it.
    with pytest.raises(ConfigError, match="marked"):
        painting.mask_of({"layers": [layer((0, 0, 1, 40))]}, (1, 4, 4))
    for nothing in (None, {}, {"layers": []}, {"layers": [layer((0, 0, 0, 0))]}):
        with pytest.raises(ConfigError, match="marked"):
            painting.mask_of(nothing, (1, 4, 4))


def test_named_regions():
    for name in painting.REGIONS[1:]:
        mask = painting.region(name, (1, 5, 8))
        assert mask is not None
        assert mask.shape == (5, 8)
        assert 0 < mask.mean() < 0.7
    assert painting.region("left half", (1, 2, 4)).tolist() == [[True, True, False, False]] * 2
    together = painting.region("upper half", (1, 5, 8)) ^ painting.region("lower half", (1, 5, 8))
    assert together.all()


def test_sketches():
    sheet = painting.blank(40)["composite"].copy()
    sheet[:20] = 255
    sketch = painting.sketch_of({"composite": sheet}, (1, 4, 4))
    assert (sketch.dtype, sketch.shape) == (np.uint8, (1, 4, 4))
    assert sketch[0, 0].min() > 200 > 50 > sketch[0, 3].max()
    assert painting.sketch_of({"composite": sheet}, (3, 4, 4)).shape == (3, 4, 4)
    for nothing in (None, {}, painting.blank(40), {"composite": np.zeros((9, 9, 4), np.uint8)}):
        with pytest.raises(ConfigError, match="empty"):
            painting.sketch_of(nothing, (1, 4, 4))


def test_inpainting_keeps_the_rest(model):
    image = np.random.default_rng(0).integers(0, 256, (1, 4, 4), np.uint8)
    mask = painting.region("left half", model.shape)
    wanted = Wish(("3",), n=3, sampler="ddpm", steps=8)
    *_, film = painting.inpainted(model, image, mask, wanted, 2)
    last = film.frames[-1].x
    np.testing.assert_array_equal(last[:, :, ~mask], np.repeat(image[None], 3, 0)[:, :, ~mask])
    assert (last[0] != last[1]).any()
    assert film.done
    assert film.frames[-1].i == film.steps > wanted.steps
    assert "8" in film.note
    assert film.names == ["3"] * 3


def test_a_sketch_is_finished(model):
    sketch = np.full((1, 4, 4), 128, np.uint8)
    *_, film = painting.finished(model, sketch, 0.5, Wish(n=2, steps=10))
    assert film.done
    assert (film.steps, film.labels) == (5, None)
    assert "10" in film.note
    with pytest.raises(ConfigError, match="Strength"):
        painting.finished(model, sketch, 0.0, Wish())


def test_between_two_seeds_lie_both(model):
    wanted = Wish(("3",), n=4, steps=6, seed=8)
    *_, film = painting.between(model, 9, wanted)
    ends = [
        model.sample(1, labels=np.array([3]), sampler="ddim", steps=6, seed=seed).images[0]
        for seed in (8, 9)
    ]
    # The circle's ends are the noises up to rounding, and so are the images.
    for found, expected in zip(film.frames[-1].x[[0, -1]], ends, strict=True):
        assert np.abs(found.astype(int) - expected).max() <= 1
    with pytest.raises(ConfigError, match=r"on the way.*2.*1"):
        painting.between(model, 9, Wish(n=1))
    with pytest.raises(ConfigError, match="To seed"):
        painting.between(model, None, Wish(n=2))


def test_an_image_is_restored_from_its_measurement(model, plain):
    image = np.random.default_rng(0).integers(0, 256, (1, 4, 4), np.uint8)
    assert painting.tasks(model) == [task for task in painting.tasks(plain) if task != "grey"]
    operator, y, picture = painting.measured(model, image, "super-resolution", 0.1)
    assert (tuple(y.shape), picture.shape) == ((1, 1, 1, 1), (1, 1, 4, 4))
    assert len(np.unique(picture)) == 1
    wanted = wish(model, "no-label", n=3, steps=4, seed=2, sampler="ddpm")
    *_, film = painting.restored(model, image, "super-resolution", 0.1, "dps", wanted)
    assert film.done and film.frames[-1].x.shape == (3, 1, 4, 4)
    settings = Settings(steps=4, seed=2)
    how = {"sigma": 0.1, "method": "dps", "samples": 3, "settings": settings}
    found = restore(model, y, operator, labels="no-label", **how)
    np.testing.assert_array_equal(film.frames[-1].x, found.images)
    labelled = wish(model, "3", n=2, steps=4)
    *_, film = painting.restored(model, image, "blur", 0.1, "mmps", labelled)
    assert film.names == ["3"] * 2
    *_, film = painting.restored(plain, np.zeros((3, 6, 4), np.uint8), "grey", 0.1, "diffpir",
                                 wish(plain, n=2, steps=3))  # fmt: skip
    assert film.done and film.names == []


# Markup and the list of models -----------------------------------------------------------------


def test_markup_escapes_what_they_are_given():
    assert "<b>" not in markup.panel("<b>", "")
    assert "<b>" not in markup.facts(["<b>"])
    assert '"><b>' not in markup.board(np.zeros((1, 1, 2, 2), np.uint8), alt='"><b>')


def test_boards_have_a_name_under_each_image():
    html = markup.board(np.zeros((5, 1, 4, 6), np.uint8), 3, alt="five", names=[*"abcd", '<"&>'])
    assert html.count("<img") == 2  # a row each
    assert re.findall(r"<span[^>]*>([^<]*)</span>", html) == [*"abcd", "&lt;&quot;&amp;&gt;"]
    assert 'alt="five: a, b, c"' in html and 'alt="five: d, &lt;&quot;&amp;&gt;"' in html
    assert html.count("repeat(3,") == 2
    assert "problem" in markup.problem("<b>") and "<b>" not in markup.problem("<b>")


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_boards_of_any_channels(channels):
    html = markup.board(np.zeros((5, channels, 4, 6), np.uint8), 3, alt="five")
    assert html.startswith('<img class="pixels" alt="five"')


def test_the_list_of_models_refuses_what_is_not_there(tmp_path):
    cpu = torch.device("cpu")
    with pytest.raises(CheckpointError, match="train"):
        ModelList([], cpu)
    with pytest.raises(CheckpointError, match="absent"):
        ModelList([tmp_path / "absent"], cpu)
    with pytest.raises(CheckpointError, match="twice"):
        ModelList([tmp_path, tmp_path], cpu)
