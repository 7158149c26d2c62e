"""Who is trained on and who is held out: at random, every class in proportion, or as it was."""

import json
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest

from conftest import with_training
from pocketddpm.commands.main import main
from pocketddpm.config import DataConfig, EvaluationConfig, Experiment
from pocketddpm.data.image_set import ImageSet
from pocketddpm.data.load import class_counts, load_images
from pocketddpm.data.split import drawn, hold_out, subset
from pocketddpm.errors import ConfigError
from pocketddpm.models.checkpoint import load_checkpoint, save_checkpoint
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
    seen = np.sort(run.trainer.loader.images[:, 0, 0, 0].numpy())
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
