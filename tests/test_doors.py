"""What a model refuses at its doors, whoever asks: from Python, and from the command line."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image

import pocketddpm as pd
from models import Labelled, model_around
from pocketddpm.diffusion.guidance import Guidance
from pocketddpm.errors import CheckpointError, ConfigError
from pocketddpm.models.editing import Settings, decode, encode, img2img, inpaint, interpolate
from pocketddpm.models.samples import Samples
from test_cli import refused, run

IMAGES = np.zeros((2, 1, 4, 4), np.uint8)
FAST = "mnist-fast"  # it was distilled with every label shown


def unlabelled():
    """A model with classes that never saw an image without its label."""
    return model_around(Labelled(), label_dropout=0.0)


# Numbers and names -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "values"),
    [
        ({"batch_size": -1}, ["--batch-size", "-1"]),
        ({"batch_size": 0}, ["--batch-size", "0"]),
        ({"n": 0}, ["--n", "0"]),
        ({"n": -3}, ["--n", "-3"]),
        ({"steps": 0}, ["steps", "1..1000", "0"]),
        ({"steps": 1001}, ["steps", "1..1000", "1001"]),
        ({"sampler": "dimm"}, ["'dimm'", "ddim"]),
        ({"sampler": "ddim-inversion"}, ["ddim-inversion"]),
        ({"spacing": "trailling"}, ["'trailling'", "trailing"]),
        ({"options": {"etta": 1.0}}, ["'etta'", "eta"]),
        ({"precision": "banana"}, ["'banana'", "float32", "bf16", "auto"]),
        ({"precision": "fp16"}, ["'fp16'", "float32", "bf16", "auto"]),
        ({"guidance": float("nan")}, ["guidance", "nan"]),
        ({"guidance": "strong"}, ["guidance", "strong"]),
        *(
            ({name: value}, [name.replace("_", "-"), repr(value)])
            for name in ("n", "batch_size", "seed", "first")
            for value in (1.5, float("nan"), float("inf"), "many", True, 2**64)
            if not (value == 2**64 and name in ("n", "batch_size"))
        ),
        ({"seed": -(2**63) - 1}, ["seed", str(-(2**63) - 1)]),
        ({"first": -1}, ["first", "-1"]),
        ({"first": 2**56}, ["first", str(2**56)]),  # which would be 0 again
    ],
    ids=str,
)
def test_sample_refuses_a_wrong_value_and_names_it(options, values):
    network = Labelled()
    model = model_around(network)
    with pytest.raises(ConfigError) as caught:
        model.sample(**{"n": 2, "steps": 2, **options})
    assert all(value in str(caught.value) for value in values), caught.value
    assert network.batches == [], "something was drawn"


@pytest.mark.parametrize(
    ("args", "values"),
    [
        (["--n", "0"], ["--n", "got 0"]),
        (["--batch-size", "0"], ["--batch-size", "got 0"]),
        (["--weights", "banana"], ["'banana'", "ema, model"]),
        (["--panels", "1", "--strip", "x.png"], ["--panels", "got 1"]),
        (["--strip", "name"], ["name", ".png"]),
        (["--strip", "strip.gif"], ["strip.gif", ".png"]),
        (["--gif", "anim.mp4"], ["anim.mp4", ".gif"]),
        (["--out", "picture.jpg"], ["picture.jpg", ".png", ".npz"]),
    ],
    ids=str,
)
def test_the_command_refuses_them_before_it_draws(args, values, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Samples, "save", lambda *_: pytest.fail("drawn"))
    message = refused(capsys, "sample", "mnist", "--steps", "1", "--device", "cpu", *args)
    assert all(value in message for value in values), message
    assert not list(tmp_path.iterdir()), "something was written"


def test_load_refuses_weights_and_devices_that_are_not_there():
    with pytest.raises(ConfigError, match=r"'banana'.*ema, model"):
        pd.load("mnist", weights="banana")
    for device in ("tpu", "meta", "cuda:63", "", 63, 1.5, None):
        with pytest.raises(ConfigError) as caught:
            pd.load("mnist", device=device)
        assert f"--device {device} " in str(caught.value)
    with pytest.raises(CheckpointError, match="absent"):
        pd.load("absent")
    assert pd.load("mnist", device="auto").device == pd.load("mnist", torch.device("cpu")).device
    given = pd.load("mnist", weights="model")  # a shipped model has the average alone
    assert torch.equal(*(next(m.network.parameters()) for m in (given, pd.load("mnist"))))


# No label ----------------------------------------------------------------------------------------

MASK = np.ones((4, 4), np.bool_)
SETTINGS = Settings(steps=12)


@pytest.mark.parametrize(
    "ask",
    [
        lambda m: m.sample(2, labels=None, steps=2),
        lambda m: m.sample(2, labels=[10], steps=2),
        lambda m: m.sample(2, labels=[3, 10], steps=2),
        lambda m: m.sample(2, labels=[3], guidance=2.0, steps=2),
        lambda m: m.sample(2, labels=[3], guidance=0.0, steps=2),
        lambda m: m.sample(2, labels=[3], guidance=Guidance(2.0, negative_label=10), steps=2),
        lambda m: m.sample(2, labels=[3], guidance=Guidance(0.5, cfg_plus_plus=True), steps=2),
        lambda m: m.sample(2, labels=None, guide=m, guidance=2.0, steps=2),
        lambda m: m.denoiser(),
        lambda m: m.denoiser(torch.tensor([10])),
        lambda m: m.denoiser(torch.tensor([3]), guidance=2.0),
        lambda m: encode(m, IMAGES, settings=SETTINGS),
        lambda m: decode(m, torch.zeros(2, 1, 4, 4), settings=SETTINGS),
        lambda m: img2img(m, IMAGES, settings=SETTINGS),
        lambda m: inpaint(m, IMAGES, MASK, settings=SETTINGS),
        lambda m: interpolate(m, IMAGES, IMAGES, settings=SETTINGS),
        lambda m: interpolate(m, IMAGES, IMAGES, t=400, settings=SETTINGS),
        lambda m: pd.sample(m, 2, labels=None, steps=2),
        lambda m: pd.edit("img2img", m, IMAGES, steps=12),
        lambda m: pd.edit("restore", m, IMAGES, task="noise", steps=12),
    ],
)
def test_a_model_that_never_saw_a_hidden_label_is_not_asked_for_one(ask):
    model = unlabelled()
    assert model.null is None
    with pytest.raises(ConfigError, match="label dropout 0"):
        ask(model)
    assert model.network.batches == [], "the network was asked"
    learned = model_around(Labelled(), sampler="ddim")
    assert learned.null == 10
    ask(learned)


def test_what_needs_no_hidden_label_is_drawn():
    model = unlabelled()
    plain = model.sample(3, labels=[3], steps=2)
    assert plain.labels is not None and plain.labels.tolist() == [3, 3, 3]
    away = model.sample(3, labels=[3], guidance=Guidance(2.0, negative_label=7), steps=2)
    weak = model_around(Labelled(0.2), label_dropout=0.0)
    auto = model.sample(3, labels=[3], guidance=2.0, guide=weak, steps=2)
    assert len({s.images.tobytes() for s in (plain, away, auto)}) == 3
    assert model_around(Labelled(), classes=(), label_dropout=0.0).sample(2, steps=2).labels is None


def test_the_default_is_all_classes_in_the_training_sets_proportions():
    samples = unlabelled().sample(20, steps=1)
    assert samples.labels is not None
    assert np.bincount(samples.labels).tolist() == [2] * 10
    again = model_around(Labelled()).sample(20, steps=1)
    assert np.array_equal(samples.labels, again.labels)
    unequal = replace(model_around(Labelled(), classes=("a", "b", "c")), class_counts=(90, 9, 1))
    labels = unequal.sample(200, steps=1).labels
    assert labels is not None
    assert np.bincount(labels).tolist() == [180, 18, 2]


@pytest.mark.parametrize(
    "args", [["--guidance", "3"], ["--guidance", "2", "--negative-label", "11"]], ids=str
)
def test_the_shipped_fast_model_takes_no_guidance(args, capsys, tmp_path):
    out = tmp_path / "x.png"
    refused(capsys, "sample", FAST, "--n", "1", "--device", "cpu", "--out", out, *args)
    assert not out.exists()
    run("sample", FAST, "--n", "2", "--device", "cpu", "--out", out)
    assert Image.open(out).size[0] > 0


# Plans -------------------------------------------------------------------------------------------


def test_a_plan_is_the_experiments_with_what_was_asked_for_in_its_place():
    model = model_around(
        Labelled(), sampler="dpmpp", steps=7, spacing="karras", options={"order": 3}, guidance=2.0
    )
    own = model.plan()
    assert (own.sampler.name, own.grid.steps, own.spacing) == ("dpmpp", 7, "karras")
    assert (own.options, own.guidance, own.clip) == ({"order": 3}, Guidance(2.0), True)
    same = model.plan(sampler="dpmpp", options={"lower_order_final": False}, steps=9)
    assert same.options == {"order": 3, "lower_order_final": False}
    other = model.plan(sampler="ddim", options={"eta": 1.0}, guidance=1.0, clip=False)
    assert (other.options, other.guidance, other.clip) == ({"eta": 1.0}, Guidance(), False)
    assert model.plan(sampler="ddim").options == {}
    assert model.plan(steps=10, spacing="trailing", t_start=300).grid.steps == 3


# Files -------------------------------------------------------------------------------------------


def test_samples_write_what_their_suffix_says(tmp_path):
    samples = model_around(Labelled()).sample(labels=[3, 7], n=6, steps=4, record=True)
    samples.save(tmp_path / "grid.png")
    # A column holds one of the labels that are cycled.
    assert samples.columns is not None and samples.columns % 2 == 0
    width, height = Image.open(tmp_path / "grid.png").size
    assert (width > height) == (samples.columns == 6)
    samples.save(tmp_path / "s.npz")
    with np.load(tmp_path / "s.npz") as arrays:
        np.testing.assert_array_equal(arrays["images"], samples.images[:, 0])
        assert arrays["labels"].tolist() == [3, 7] * 3
    samples.save(tmp_path / "folder")
    files = sorted((tmp_path / "folder").iterdir())
    np.testing.assert_array_equal([np.array(Image.open(f)) for f in files], samples.images[:, 0])
    samples.save_gif(tmp_path / "x.gif")
    assert Image.open(tmp_path / "x.gif").n_frames == 5
    samples.save_gif(tmp_path / "gifs")
    assert sorted(p.name for p in (tmp_path / "gifs").iterdir()) == ["3.gif", "7.gif"]
    samples.save_strip(tmp_path / "strip.png", panels=5, rows=2)
    assert samples.frames is not None
    np.testing.assert_array_equal(samples.frames[-1], samples.images)
    for save, name in ((samples.save, "x.jpg"), (samples.save_gif, "x.mp4")):
        with pytest.raises(ConfigError, match=name):
            save(tmp_path / name)
    with pytest.raises(ConfigError, match="record"):
        model_around(Labelled()).sample(1, steps=1).save_gif(tmp_path / "y.gif")


def test_frames_join_the_batches_and_keep_to_the_first_hundred():
    model = model_around(Labelled())
    whole = model.sample(130, steps=5, record=True)
    parts = model.sample(130, steps=5, record=True, batch_size=30)
    assert whole.frames is not None and parts.frames is not None
    assert whole.frames.shape == (6, 100, 1, 4, 4)
    np.testing.assert_array_equal(whole.frames, parts.frames)
    long = model.sample(1, steps=1000, record=True)
    assert long.frames is not None and len(long.frames) == 101


def test_stretched_samples_reach_from_black_to_white():
    samples = model_around(Labelled()).sample(3, steps=2, record=True).stretched()
    assert samples.frames is not None
    for images in (samples.images, samples.frames[1]):
        assert images.min((1, 2, 3)).tolist() == [0] * 3
        assert images.max((1, 2, 3)).tolist() == [255] * 3


@pytest.mark.parametrize(
    ("options", "values"),
    [
        ({"what": "impaint"}, ["'impaint'", "inpaint", "img2img", "interpolate", "restore"]),
        ({"split": "val", "images": "digits"}, ["'val'", "train", "test"]),
        ({"strength": "much"}, ["strength", "much"]),
        ({"strength": float("nan")}, ["strength", "nan"]),
        *(({"seed": value}, ["seed", repr(value)]) for value in (1.5, "x", 2**64, None)),
        *(
            ({"what": "interpolate", "frames": value}, ["frames", repr(value)])
            for value in (1, 2.5, -3, "few")
        ),
        ({"guidance": "x"}, ["guidance", "x"]),
        ({"steps": 0}, ["steps", "0"]),
    ],
    ids=str,
)
def test_edit_refuses_a_wrong_value_and_names_it(options, values, tmp_path):
    network = Labelled()
    asked = {"what": "img2img", "images": np.zeros((2, 1, 8, 8), np.uint8), "labels": [1]}
    asked |= {"steps": 2, "out": tmp_path / "x.png"} | options
    with pytest.raises(ConfigError) as caught:
        pd.edit(model=model_around(network, (1, 8, 8)), **asked)
    assert all(value in str(caught.value) for value in values), caught.value
    assert network.batches == [] and not list(tmp_path.iterdir())


def numbers_of(door) -> list[tuple[str, Any, int]]:
    """Return the parameters of a door that are numbers: name, type, and how many in a tuple."""
    found = []
    for name, hint in get_type_hints(door.__init__ if isinstance(door, type) else door).items():
        for each in get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,):
            if name in ("labels", "return"):  # labels are names too
                break
            if each in (int, float):
                found.append((name, each, 0))
            elif get_origin(each) in (tuple, Sequence) and get_args(each)[0] in (int, float):
                args = get_args(each)
                variable = len(args) == 1 or args[1] is Ellipsis
                found.append((name, args[0], 4 if variable else len(args)))
    return found


EIGHT = (1, 8, 8)
MASK8 = np.ones(EIGHT[1:], np.bool_)
Asked = dict[str, Any]


def asks(tmp_path) -> dict[Any, tuple[Callable[..., Any], dict[str, Asked]]]:
    """Return each door of Python's, how it is asked, and what some of its options need beside."""
    model, images = model_around(Labelled(), EIGHT), np.zeros((2, *EIGHT), np.uint8)
    drawn = model.sample(2, steps=2, record=True)

    def edit(what="img2img", images=images, **asked):
        asked = {"labels": [1], "steps": 4} | asked
        return pd.edit(what, model, images, **asked)

    def foreign(**asked):
        asked = {"shape": (1, 1), "predicts": "x0", "steps": 2} | asked
        return pd.diffusion.sample(lambda x, sigma: x, **asked)

    inpaint = {"what": "inpaint", "mask": MASK8}
    restore = {"what": "restore", "task": "super-resolution"}
    return {
        pd.Model.sample: (lambda **a: model.sample(**{"n": 2, "steps": 2} | a), {}),
        pd.Model.plan: (model.plan, {}),
        pd.sample: (
            lambda **a: pd.sample(model, **{"n": 2, "steps": 2} | a),
            {k: {"strip": tmp_path / "x.png", "overwrite": True} for k in ("panels", "rows")},
        ),
        pd.edit: (
            edit,
            {
                "index": {"images": "digits"},
                "frames": {"what": "interpolate"},
                "mask": {"what": "inpaint"},
                "jump_length": inpaint | {"steps": 12},
                "jump_count": inpaint,
                **dict.fromkeys(("factor", "noise", "samples"), restore),
            },
        ),
        Guidance: (Guidance, {}),
        Samples.save_strip: (lambda **a: drawn.save_strip(tmp_path / "y.png", **a), {}),
        pd.load_images: (lambda **a: pd.load_images("digits", **a), {}),
        pd.diffusion.sample: (foreign, {}),
    }


def test_every_number_of_pythons_doors_is_one(tmp_path):
    """Text is none, though an option of `train` may be text; 1.5 is no whole number."""
    walked = 0
    for door, (ask, needs) in asks(tmp_path).items():
        for name, kind, count in numbers_of(door):
            wrong = ["2", "x", math.nan, True, [2], {}] + [1.5] * (kind is int)
            for value in wrong:
                given = (value,) * count if count else value
                with pytest.raises(ConfigError) as caught:
                    ask(**needs.get(name, {}), **{name: given})
                assert repr(value) in str(caught.value), (door, name, value)
                walked += 1
        for name, _, count in numbers_of(door):
            for given in ((1,) * 9, 1) if count and name not in ("index", "shape") else ():
                with pytest.raises(ConfigError) as caught:
                    ask(**needs.get(name, {}), **{name: given})
                assert name in str(caught.value) or name == "mask"
                walked += 1
    page = (Path(__file__).parents[1] / "docs" / "reliability.md").read_text(encoding="utf-8")
    (said,) = re.findall(r"Python's doors .* over (\d+) \|", page)
    assert walked >= int(said)


def test_numbers_of_numpy_and_whole_floats_are_numbers(tmp_path):
    same = {"frames": 3, "jump_length": 2, "jump_count": 2, "panels": 3, "rows": 1, "index": 1}
    same |= {
        "samples": 2,
        "factor": 2,
        "t_start": 400,
        "n": 2,
        "first": 0,
        "steps": 4,
        "subset": 9,
        "batch_size": 2,
    }
    for door, (ask, needs) in asks(tmp_path).items():
        for name, kind, count in numbers_of(door):
            if kind is int and not count and name in same:
                for value in (np.int64(same[name]), float(same[name])):
                    ask(**needs.get(name, {}), **{name: value})


@pytest.mark.parametrize("negative", [1.5, "x", float("nan"), True])
def test_a_negative_label_is_a_whole_number(negative):
    with pytest.raises(ConfigError, match=f"negative label.*{negative}"):
        Guidance(2.0, negative_label=negative)


@pytest.mark.parametrize("name", ["seed", "first"])
@pytest.mark.parametrize("value", [1.5, "x", 2**64])
def test_sampling_a_function_takes_the_same_numbers(name, value):
    with pytest.raises(ConfigError) as caught:
        pd.diffusion.sample(
            lambda x, sigma: x,
            shape=(1, 1),
            takes="x, sigma",
            predicts="x0",
            steps=2,
            **{name: value},
        )
    assert name in str(caught.value) and repr(value) in str(caught.value)


@pytest.mark.parametrize("name", ["split", "fit", "selection"])
def test_images_are_loaded_by_known_names_only(name):
    with pytest.raises(ConfigError) as caught:
        pd.load_images("digits", **{name: "banana"})
    assert name in str(caught.value) and "'banana'" in str(caught.value)


def test_edits_from_python_are_those_of_the_command(tmp_path):
    model = model_around(Labelled())
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 4, 4), np.uint8)
    painted = pd.edit("inpaint", model, images, mask=(0, 0, 2, 4), labels=["3"], steps=12,
                      gif=tmp_path / "x.gif", out=tmp_path / "x.png")  # fmt: skip
    mask = np.zeros((4, 4), np.bool_)
    mask[:2] = True
    wanted = inpaint(model, images, mask, labels=[3], settings=Settings(steps=12))
    np.testing.assert_array_equal(painted.images, wanted.images)
    assert painted.labels is not None and painted.labels.tolist() == [3, 3, 3]
    assert Image.open(tmp_path / "x.gif").n_frames > 12
    for what, options in (("inpaint", {}), ("img2img", {"mask": mask}), ("interpolate", {})):
        given = images[:1] if what == "interpolate" else images
        with pytest.raises(ConfigError, match=what):
            pd.edit(what, model, given, **options)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_image_k_depends_on_first_plus_k_alone(sampler):
    model = model_around(Labelled())
    settings = {"labels": [3], "sampler": sampler, "steps": 4, "seed": 5}
    whole = model.sample(7, **settings)
    part = model.sample(4, first=2, batch_size=3, **settings)
    np.testing.assert_array_equal(part.images, whole.images[2:6])
    assert not np.array_equal(part.images, whole.images[:4])
