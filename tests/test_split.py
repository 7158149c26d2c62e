"""Who is trained on and who is held out: at random, every class in proportion, or as it was."""

import json
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch

from conftest import with_training
from pocketddpm.commands.main import main
from pocketddpm.config import DataConfig, EvaluationConfig, Experiment
from pocketddpm.data.image_set import ImageSet
from pocketddpm.data.load import class_counts, has_test, load_images
from pocketddpm.data.split import divide, drawn, hold_out, subset
from pocketddpm.errors import ConfigError, DataError
from pocketddpm.models.checkpoint import load_checkpoint, save_checkpoint
from pocketddpm.models.run_images import run_images
from pocketddpm.runs.data import load_run_data
from pocketddpm.runs.options import RunOptions
from pocketddpm.runs.run import Session
from pocketddpm.values import from_dict


def sorted_set(sizes, labelled=True):
    """A set sorted by class, in which an image's value is its number."""
    total = sum(sizes)
    values = np.arange(total, dtype=np.uint8)
    images = np.broadcast_to(values[:, None, None, None], (total, 1, 2, 2))
    labels = np.repeat(np.arange(len(sizes)), sizes) if labelled else None
    names = tuple("abcdefghij"[: len(sizes)]) if labelled else ()
    return ImageSet(images, labels, names, "sorted")


def numbers(images):
    return images.images[:, 0, 0, 0].tolist()


def folder_of_classes(path, classes=10, each=25):
    """Write class folders; the shade of an image is that of its class."""
    for c in range(classes):
        (path / f"class{c}").mkdir(parents=True)
        for k in range(each):
            PIL.Image.new("L", (8, 8), 10 * c + k % 5).save(path / f"class{c}" / f"{k}.png")
    return path


@pytest.mark.parametrize("sizes", [(25,) * 10, (100, 50, 30, 20), (7, 90), (200,)])
@pytest.mark.parametrize("share", [0.1, 0.34, 0.5])
def test_every_class_is_in_proportion(sizes, share):
    images = sorted_set(sizes)
    count = round(sum(sizes) * share)
    training, held_out = hold_out(images, count, "random")
    assert sorted(numbers(training) + numbers(held_out)) == list(range(sum(sizes)))
    assert len(held_out) == count
    for counted, part in ((class_counts(held_out), count), (class_counts(training), None)):
        expected = [n * (count if part else sum(sizes) - count) / sum(sizes) for n in sizes]
        assert np.abs(np.array(counted) - expected).max() <= 1
    assert numbers(training) == sorted(numbers(training))
    for part in (training, held_out):  # labels go with their images
        assert part.labels is not None
        assert part.labels.tolist() == [int(images.labels[k]) for k in numbers(part)]
    # The first of the held-out images are in proportion as well: some numbers use only these.
    half = np.bincount(held_out.labels[: count // 2], minlength=len(sizes))
    assert np.abs(half - np.array(sizes) * (count // 2) / sum(sizes)).max() <= 1
    kept = subset(images, count, "random")
    assert sorted(numbers(kept)) == numbers(kept)
    assert class_counts(kept) == class_counts(held_out)


def test_the_draw_is_at_random_and_always_the_same():
    held_out = hold_out(sorted_set((25,) * 10), 25, "random")[1]
    assert numbers(held_out) == DRAWN
    plain = hold_out(sorted_set((250,), labelled=False), 25, "random")[1]
    assert plain.labels is None
    # Neither end is preferred: the numbers 0..249 have the mean 124.5, of 25 drawn +- 14.
    assert 80 < np.mean(numbers(plain)) < 170
    assert len(set(numbers(plain))) == 25
    order = drawn(sorted_set((25,) * 10))
    assert sorted(order.tolist()) == list(range(250))


DRAWN = [
    17,
    249,
    143,
    90,
    49,
    198,
    119,
    155,
    217,
    68,
    127,
    11,
    238,
    33,
    86,
    166,
    107,
    192,
    55,
    215,
    132,
    12,
    30,
    81,
    173,
]


def test_the_first_and_the_last_as_it_was():
    images = sorted_set((25,) * 10)
    training, held_out = hold_out(images, 25, "first")
    assert numbers(training) == list(range(225))
    assert numbers(held_out) == list(range(225, 250))
    assert numbers(subset(images, 50, "first")) == list(range(50))


def test_a_class_left_empty_is_said(capsys):
    images = sorted_set((3, 40, 40))
    training, held_out = hold_out(images, 8, "random")
    assert class_counts(held_out) == [0, 4, 4]
    (line,) = capsys.readouterr().err.splitlines()
    assert "sorted" in line and "8 held-out" in line and line.endswith("1 classes (a)")
    assert class_counts(training) == [3, 36, 36]
    subset(images, 2, "first")
    assert capsys.readouterr().err.strip().endswith("2 classes (b, c)")
    subset(images, 40, "random")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("selection", ["random", "first"])
def test_counts_that_leave_nothing_are_refused(selection):
    images = sorted_set((5, 5))
    for count in (0, 10, 11, -1):
        with pytest.raises(ConfigError, match=f"^{count} .*sorted.* 1 to 9"):
            hold_out(images, count, selection)
    for count in (0, 11, -1):
        with pytest.raises(ConfigError, match=f" {count} images of sorted.* 1 to 10"):
            subset(images, count, selection)


# In a run ----------------------------------------------------------------------------------------


def test_a_folder_of_sorted_classes_is_held_out_of_every_class(tiny, tmp_path):
    data = folder_of_classes(tmp_path / "set")
    tiny = replace(
        with_training(tiny, steps=2),
        data=DataConfig(str(data)),
        evaluation=EvaluationConfig(every=2, n=20),
    )
    run = Session(tiny, tmp_path / "run", RunOptions(device="cpu", sample_every=0))
    run.run()
    assert sorted(run.meta["class_counts"]) == [22] * 5 + [23] * 5
    assert run.meta["experiment"]["data"]["selection"] == "random"
    seen = np.sort(np.asarray(run.trainer.loader.images)[:, 0, 0, 0])
    assert set(seen // 10) == set(range(10))


def test_subset_takes_every_class(tmp_path):
    data = folder_of_classes(tmp_path / "set")
    found = load_images(str(data), subset=50)
    assert class_counts(found) == [5] * 10
    assert sorted({int(v) // 10 for v in found.images[:, 0, 0, 0]}) == list(range(10))
    assert class_counts(load_images(str(data), subset=50, selection="first"))[:3] == [25, 25, 0]


def test_the_command_line_chooses_the_rule(tmp_path):
    data = folder_of_classes(tmp_path / "set")
    for rule, counts in (("random", [5] * 10), ("first", [25, 25, *[0] * 8])):
        out = tmp_path / rule
        main(
            [
                "train",
                "folder",
                "--data",
                str(data),
                "--subset",
                "50",
                "--selection",
                rule,
                "--net",
                "widths=8/16,head_width=8,groups=4",
                "--network",
                "unet",
                "--steps",
                "1",
                "--batch-size",
                "4",
                "--sample-every",
                "0",
                "--out",
                str(out),
            ]
        )
        assert load_checkpoint(out / "last.safetensors").meta["class_counts"] == counts


def test_a_run_of_before_there_was_a_choice_keeps_its_rule_and_resumes_exactly(tiny, tmp_path):
    """Its checkpoint says nothing of the rule: the last images stay held out."""
    tiny = with_training(tiny, steps=6)
    held_out = replace(tiny, data=replace(tiny.data, held_out=150, selection="first"))
    Session(held_out, tmp_path / "whole", RunOptions(device="cpu", sample_every=0)).run()
    Session(
        with_training(held_out, steps=6),
        tmp_path / "old",
        RunOptions(device="cpu", sample_every=0, checkpoint_every=3),
    ).run()
    early = load_checkpoint(tmp_path / "old" / "previous.safetensors")
    assert early.meta["run"]["step"] == 3
    del early.meta["experiment"]["data"]["selection"]
    save_checkpoint(tmp_path / "early.safetensors", early)
    assert "selection" not in json.dumps(early.meta)
    stored = load_checkpoint(tmp_path / "early.safetensors")
    experiment = from_dict(Experiment, stored.meta["experiment"])
    assert experiment.data.selection == "first"
    again = Session(
        experiment, tmp_path / "again", RunOptions(device="cpu", sample_every=0), checkpoint=stored
    )
    again.run()
    np.testing.assert_array_equal(again.trainer.loader.images, load_images("digits").images[:1350])
    whole, resumed = (
        load_checkpoint(tmp_path / name / "last.safetensors").tensors for name in ("whole", "again")
    )
    assert all((whole[key] == resumed[key]).all() for key in whole)


def trained(tiny, out, data, **chosen):
    """A run of two steps on a folder."""
    experiment = replace(with_training(tiny, steps=2), data=DataConfig(str(data), **chosen))
    run = Session(experiment, out, RunOptions(device="cpu", sample_every=0))
    run.run()
    return run


def shades(images):
    return sorted(images[:, 0, 0, 0].tolist())


def test_two_draws_are_held_out_where_there_is_no_test_split(tiny, tmp_path, capsys):
    data = folder_of_classes(tmp_path / "set", each=40)
    run = trained(tiny, tmp_path / "run", data)
    told = capsys.readouterr().err
    assert all(value in told for value in ("40 of the 400", "20 may", "20 are", "--hold-out 0"))
    whole = load_images(str(data))
    order = drawn(whole)
    model = load_checkpoint(tmp_path / "run" / "last.safetensors").meta
    assert model["experiment"]["data"]["held_out"] == model["data"]["held_out"] == 40
    assert (model["data"]["reporting"], model["data"]["images"]) == (20, 360)
    config = from_dict(DataConfig, model["experiment"]["data"])
    parts = run_images(config, model["data"])
    for part, index in (
        (parts.choosing, order[:20]),
        (parts.reporting, order[20:40]),
        (parts.training, np.sort(order[40:])),
    ):
        np.testing.assert_array_equal(part.images, whole.images[index])
        assert max(class_counts(part)) - min(class_counts(part)) <= 1
    assert shades(np.asarray(run.trainer.loader.images)) == shades(parts.training.images)
    PIL.Image.new("L", (8, 8), 200).save(data / "class3" / "7.png")
    with pytest.raises(DataError, match=model["data"]["fingerprint"]):
        run_images(config, model["data"])


@pytest.mark.parametrize(
    ("chosen", "held_out", "images"),
    [({"held_out": 0}, 0, 400), ({"held_out": 7}, 7, 393), ({"subset": 300}, 30, 270),
     ({"subset": 199}, 0, 199), ({"classes": ("class1", "class2")}, 0, 80)],
)  # fmt: skip
def test_how_many_are_held_out_can_be_chosen(tiny, tmp_path, capsys, chosen, held_out, images):
    data = folder_of_classes(tmp_path / "set", each=40)
    run = trained(tiny, tmp_path / "run", data, **chosen)
    record = run.meta["data"]
    found = record["held_out"], record["reporting"], record["images"]
    assert found == (held_out, (held_out + 1) // 2, images)
    told = capsys.readouterr().err
    assert f"held out: {held_out or 'none'} of the {images + held_out} images" in told


def test_data_with_a_test_split_hold_out_nothing(tiny, tmp_path, capsys):
    for split in ("train", "val"):
        folder_of_classes(tmp_path / "set" / split)
    for name in (str(tmp_path / "set"), "digits"):
        assert has_test(name)
        data = load_run_data(replace(tiny, data=DataConfig(name)), torch.device("cpu"))
        assert (data.config.held_out, data.parts.held_out) == (0, None)
        assert "held out" not in capsys.readouterr().err
    assert not has_test(str(tmp_path / "set" / "train"))


def test_an_evaluation_during_training_never_sees_what_reports(tiny, tmp_path):
    data = folder_of_classes(tmp_path / "set", each=40)
    tiny = replace(
        with_training(tiny, steps=2),
        data=DataConfig(str(data)),
        evaluation=EvaluationConfig(every=2, n=20),
    )
    run = Session(tiny, tmp_path / "run", RunOptions(device="cpu", sample_every=0))
    run.run()
    choosing = divide(load_images(str(data)), 40, 20, "random").choosing
    assert run.validation.held_out == 20
    assert torch.equal(run.validation.reference, run.validation._features(choosing.images))


def test_a_run_of_before_there_were_two_draws_keeps_its_rule(tiny, tmp_path):
    """Its checkpoint says nothing of reporting: all that is held out may choose."""
    data = folder_of_classes(tmp_path / "set", each=40)
    trained(with_training(tiny, steps=2), tmp_path / "run", data)
    for held_out in (40, 0):
        early = load_checkpoint(tmp_path / "run" / "last.safetensors")
        early.meta["experiment"]["data"]["held_out"] = held_out
        del early.meta["data"]["reporting"]
        experiment = from_dict(Experiment, early.meta["experiment"])
        found = load_run_data(experiment, torch.device("cpu"), early)
        assert found.parts.reporting is None
        kept = 0 if found.parts.choosing is None else len(found.parts.choosing)
        assert (kept, len(found.images)) == (held_out, 400 - held_out)
    del early.meta["experiment"]["data"]["held_out"]  # of before one could hold out
    save_checkpoint(tmp_path / "early.safetensors", early)
    early = load_checkpoint(tmp_path / "early.safetensors")
    assert from_dict(Experiment, early.meta["experiment"]).data.held_out == 0
