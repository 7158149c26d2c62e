"""Evaluation during training: on held-out training images, without a trace in the training."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from conftest import with_training
from pocketddpm.catalog import DATASETS
from pocketddpm.config import EvaluationConfig
from pocketddpm.data.image_set import ImageSet
from pocketddpm.data.load import load_images
from pocketddpm.data.split import hold_out, usual_hold_out
from pocketddpm.models.checkpoint import load_checkpoint, newest_checkpoint
from pocketddpm.runs.evaluation import Validation
from pocketddpm.runs.options import RunOptions
from pocketddpm.runs.run import Session
from test_cli import TINY_NET, refused, run


def session(experiment, out, checkpoint=None, **options):
    defaults = {"device": "cpu", "sample_every": 0, "checkpoint_every": 0}
    return Session(experiment, out, RunOptions(**(defaults | options)), checkpoint=checkpoint)


def evaluated(experiment, every=4, n=30, **values):
    return replace(experiment, evaluation=EvaluationConfig(every, n, **values))


def rows_of(out, name="evaluation.csv"):
    """The log without its last column, the seconds."""
    return [line.rsplit(",", 1)[0] for line in (out / name).read_text().splitlines()]


def test_how_many_are_held_out():
    assert [usual_hold_out(n) for n in (60_000, 50_000, 1500, 200)] == [5000, 5000, 150, 20]
    assert [usual_hold_out(n) for n in (199, 20, 1)] == [0, 0, 0]


def test_the_held_out_images_are_never_trained_on_nor_the_test_set_read(
    tiny, tmp_path, monkeypatch
):
    digits = DATASETS.load("digits")
    load = digits.load
    monkeypatch.setattr(digits, "load", lambda split, **k: load({"train": "train"}[split], **k))
    whole = load_images("digits")
    trained = session(evaluated(with_training(tiny, steps=4)), tmp_path / "run")
    trained.run()
    training, held_out = hold_out(whole, 150, "random")
    np.testing.assert_array_equal(trained.trainer.loader.images, training.images)
    wanted = trained.validation._features(held_out.images)
    assert torch.equal(trained.validation.reference, wanted)
    assert trained.validation.held_out == 150
    meta = load_checkpoint(tmp_path / "run" / "last.safetensors").meta
    assert meta["data"]["images"] == sum(meta["class_counts"]) == 1350
    assert meta["data"]["held_out"] == meta["experiment"]["data"]["held_out"] == 150
    assert meta["evaluation"]["step"] == 4
    assert rows_of(tmp_path / "run")[0] == "step,images_seen,frechet,ratio,precision,recall,copies"
    assert (tmp_path / "run" / "evaluation.png").stat().st_size > 1000


def test_a_schedule_of_few_levels_is_evaluated_in_as_many_steps(tiny, tmp_path):
    few = replace(tiny, schedule=replace(tiny.schedule, T=4))
    trained = session(evaluated(with_training(few, steps=4)), tmp_path / "run")
    trained.run()
    assert [row["step"] for row in trained.validation.rows] == [4]


def test_resuming_is_exact_and_the_log_goes_on(tiny, tmp_path):
    """10 steps equal 5, save, load, 5, with evaluations at 4, 8 and 10; and 10 without any."""
    held_out = replace(tiny, data=replace(tiny.data, held_out=150))
    session(held_out, tmp_path / "silent").run()
    tiny = evaluated(tiny)
    session(tiny, tmp_path / "whole").run()
    half = session(tiny, tmp_path / "halves")
    for progress in half.trainer.steps():
        half.log.add(progress)
        if progress.step == 4:
            half._evaluate()
        if progress.step == 5:
            half.save()
        if progress.step == 6:
            half._evaluate()  # after the checkpoint: forgotten
            break
    half.log.flush()
    half.close()
    assert [row.split(",")[0] for row in rows_of(tmp_path / "halves")[1:]] == ["4", "6"]
    checkpoint = newest_checkpoint(tmp_path / "halves")
    assert checkpoint is not None
    session(tiny, tmp_path / "halves", checkpoint=checkpoint).run()

    tensors = [
        load_checkpoint(tmp_path / name / "last.safetensors").tensors
        for name in ("silent", "whole", "halves")
    ]
    for name, tensor in tensors[0].items():
        for other in tensors[1:]:
            assert_close(other[name], tensor, rtol=0, atol=0, msg=name)
    logs = [rows_of(tmp_path / name, "log.csv") for name in ("silent", "whole", "halves")]
    assert logs[0] == logs[1] == logs[2]
    assert rows_of(tmp_path / "whole") == rows_of(tmp_path / "halves")
    assert [row.split(",")[0] for row in rows_of(tmp_path / "whole")[1:]] == ["4", "8", "10"]


@pytest.mark.parametrize(("best_by", "step"), [("evaluation", 4), ("loss", 10)])
def test_the_best_is_what_was_asked_for(tiny, tmp_path, monkeypatch, best_by, step):
    distances = iter([1.0, 7.0, 3.0, 3.0, 5.0, 4.0])  # the floor's, then at steps 2, 4, 6, 8, 10
    monkeypatch.setattr("pocketddpm.runs.evaluation.frechet_distance", lambda a, b: next(distances))
    session(evaluated(tiny, 2, best_by=best_by), tmp_path / "run").run()
    best = load_checkpoint(tmp_path / "run" / "best.safetensors")
    assert best.meta["run"]["step"] == step
    if best_by == "evaluation":
        assert best.meta["evaluation"]["frechet"] == 3.0
        assert not best.part("optimizer")


def test_a_run_stops_when_evaluations_do_not_become_better(tiny, tmp_path, monkeypatch):
    """The floor's distance is 1; the best is at step 4, and two in a row are no better at 8."""
    distances = iter([1.0, 7.0, 3.0, 3.0, 5.0, 0.1])
    monkeypatch.setattr("pocketddpm.runs.evaluation.frechet_distance", lambda a, b: next(distances))
    session(evaluated(tiny, 2, best_by="evaluation", patience=2), tmp_path / "run").run()
    last, best = (
        load_checkpoint(tmp_path / "run" / f"{name}.safetensors") for name in ("last", "best")
    )
    assert (last.meta["run"]["step"], best.meta["run"]["step"]) == (8, 4)
    assert len(rows_of(tmp_path / "run", "log.csv")) == 1 + 8


def test_a_log_of_before_copies_were_counted_goes_on(tiny, tmp_path, monkeypatch):
    tiny = evaluated(tiny, 5, best_by="evaluation")
    session(with_training(tiny, steps=5), tmp_path).run()
    head, row = (line.split(",") for line in (tmp_path / "evaluation.csv").read_text().splitlines())
    place = head.index("copies")
    old = [",".join(cells[:place] + cells[place + 1 :]) for cells in (head, row)]
    (tmp_path / "evaluation.csv").write_text("\n".join(old) + "\n")
    session(tiny, tmp_path, checkpoint=newest_checkpoint(tmp_path)).run()
    rows = [line.split(",")[place] for line in rows_of(tmp_path)]
    assert rows[:2] == ["copies", "nan"] and 0 <= float(rows[2]) <= 1


def test_a_resumed_run_remembers_its_best(tiny, tmp_path, monkeypatch):
    tiny = evaluated(tiny, 5, best_by="evaluation")
    distances = iter([1.0, 2.0, 1.0, 3.0])
    monkeypatch.setattr("pocketddpm.runs.evaluation.frechet_distance", lambda a, b: next(distances))
    session(with_training(tiny, steps=5), tmp_path).run()
    session(tiny, tmp_path, checkpoint=newest_checkpoint(tmp_path)).run()
    assert load_checkpoint(tmp_path / "best.safetensors").meta["run"]["step"] == 5
    assert [row.split(",")[2] for row in rows_of(tmp_path)] == ["frechet", "2.0", "3.0"]


def drawn(images):
    """A model that 'draws' these images."""
    return SimpleNamespace(
        label_numbers=lambda *a: None, sample=lambda n, **k: SimpleNamespace(images=images)
    )


def test_real_images_score_one_and_noise_does_not(tiny, tmp_path):
    whole = load_images("digits")
    kept, rest = (
        replace(whole, images=whole.images[part], labels=whole.labels[part])
        for part in (slice(0, 1000), slice(1000, 1300))
    )
    validation = Validation(evaluated(tiny, n=200), kept, rest, tmp_path)
    assert validation.extractor.name == "pixels-pca"
    row = validation(drawn(whole.images[1300:]), 1, 16)
    assert 0.5 < row["ratio"] < 2
    assert row["precision"] > 0.7
    noise = np.random.default_rng(0).integers(0, 256, (200, 1, 8, 8), dtype=np.uint8)
    worse = validation(drawn(noise), 2, 32)
    assert worse["ratio"] > 10 * row["ratio"]
    # New images are no copies, and three of four images of the training set are.
    assert row["copies"] < 0.05
    mixed = np.concatenate([kept.images[:150], noise[:50]])
    assert validation(drawn(mixed), 3, 48)["copies"] == 0.75
    assert "copies 75.0%" in validation.summary()
    assert not validation.is_best()
    assert validation.evaluated(3)
    assert " 300 " in validation.describe()


def shades(*values):
    """A set of blank images of these shades, a hundred of each, in turns."""
    pixels = np.tile(np.array(values, np.uint8), 100)[:, None, None, None]
    return ImageSet(np.broadcast_to(pixels, (len(pixels), 1, 8, 8)).copy(), None, (), "shades")


def test_real_images_that_score_zero_give_no_ratio(tiny, tmp_path):
    """Two shades in equal parts: training and held-out images have the same moments."""
    images = shades(30, 200)
    validation = Validation(evaluated(tiny, n=200), images, images, tmp_path)
    assert validation.floor == 0
    row = validation(drawn(images.images), 1, 16)
    assert row["frechet"] == 0 and np.isnan(row["ratio"])
    worse = validation(drawn(shades(30, 100).images), 2, 32)
    assert worse["frechet"] > 0 and np.isnan(worse["ratio"])
    assert f"{worse['frechet']:.4g}" in validation.summary()
    assert not validation.is_best()
    validation.record()
    again = Validation(evaluated(tiny, n=200), images, images, tmp_path, resumed_at=2)
    assert again.evaluated(2) and np.isnan(again.rows[-1]["ratio"])


def test_images_that_are_all_the_same_are_refused(tmp_path, capsys):
    """By an evaluation while training, and by `evaluate`; training itself can be had."""
    (tmp_path / "set").mkdir()
    for k in range(60):
        Image.new("L", (8, 8), 7).save(tmp_path / "set" / f"{k}.png")
    train = ["train", "folder", "--data", tmp_path / "set", "--network", "unet", "--net", TINY_NET,
             "--steps", "1", "--batch-size", "4", "--device", "cpu", "--sample-every", "0",
             "--out", tmp_path / "run"]  # fmt: skip
    told = refused(capsys, *train, "--evaluate-every", "1", "--hold-out", "20")
    assert "--evaluate-every" in told and "set" in told
    assert not (tmp_path / "run").exists()
    run(*train)
    said = capsys.readouterr().err
    assert "all values are" in said and "--stretch" not in said
    told = refused(capsys, "evaluate", tmp_path / "run", "--n", "20", "--device", "cpu")
    assert "set" in told and " 60 " in told
    told = refused(capsys, "evaluate", tmp_path / "set", "--data", tmp_path / "set")
    assert "set" in told and " 60 " in told


@pytest.mark.parametrize("fit", ["pad", "resize"])
def test_other_sizes_are_to_data_size_the_shipped_extractor(tiny, tmp_path, fit):
    rng = np.random.default_rng(0)
    images = ImageSet(rng.integers(0, 256, (90, 1, 32, 32), dtype=np.uint8), None, (), "mnist")
    tiny = replace(tiny, data=replace(tiny.data, name="mnist", image_size=(32, 32), fit=fit))
    validation = Validation(evaluated(tiny), images, images, tmp_path)
    assert validation.extractor.name == "digits-cnn"
    assert np.isfinite(validation(drawn(images.images[:30]), 1, 16)["ratio"])


def test_the_command_and_its_refusals(tmp_path, capsys):
    out = tmp_path / "run"
    options = ["train", "digits", "--net", TINY_NET, "--batch-size", "16", "--device", "cpu",
               "--sample-every", "0", "--precision", "float32", "--out", out]  # fmt: skip
    for more, values in (
        (["--best-by", "evaluation"], ["--evaluate-every"]),
        (["--patience", "2", "--evaluate-every", "2"], ["--patience", "--best-by evaluation"]),
        (["--evaluate-every", "-1"], ["--evaluate-every", ">= 0", "-1"]),
        (["--evaluate-every", "2", "--evaluate-n", "3"], ["--evaluate-n", ">= 20", "3"]),
        (["--evaluate-every", "2", "--subset", "100"], ["--evaluate-every", "100 images"]),
        (["--evaluate-every", "2", "--hold-out", "0"], ["--hold-out", "10", "0"]),
        (["--hold-out", "1500"], ["1500", "digits", "1499"]),
        (["--hold-out", "-1"], ["--hold-out", ">= 0", "-1"]),
    ):
        told = refused(capsys, *options, "--steps", "2", *more)
        assert all(value in told for value in values), told
    run(*options, "--steps", "2", "--evaluate-every", "2", "--evaluate-n", "20")
    told = capsys.readouterr().err
    assert "150 training images" in told
    assert "step 2: " in told
    resume = ["train", "digits", "--device", "cpu", "--resume", out, "--steps", "4"]
    refused(capsys, *resume, "--evaluate-every", "3")
    run(*resume)
    assert [row.split(",")[0] for row in rows_of(out)[1:]] == ["2", "4"]
    capsys.readouterr()
    run("info", out)
    printed = capsys.readouterr().out
    assert "1350 images and 150 held out" in printed
    assert "step 4, images_seen 64" in printed


def test_evaluation_leaves_torchs_generator_alone(tiny, tmp_path):
    trained = session(evaluated(tiny), tmp_path)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    trained._evaluate()
    assert torch.equal(torch.get_rng_state(), before)


def test_an_evaluation_that_was_cut_off_is_made_again(tiny, tmp_path, monkeypatch):
    """The last comes after the last checkpoint: resuming from there must not take it for done."""
    experiment = with_training(evaluated(tiny, every=4, best_by="evaluation"), steps=5)
    session(experiment, tmp_path / "whole", checkpoint_every=5).run()
    cut = session(experiment, tmp_path / "cut", checkpoint_every=5)

    def lost(path, images_seen, *values):
        if len(images_seen) == 2:
            raise RuntimeError("cut off")

    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="cut off"):
        patched.setattr("pocketddpm.runs.evaluation.save_distance_curve", lost)
        cut.run()
    checkpoint = newest_checkpoint(tmp_path / "cut")
    assert checkpoint is not None and checkpoint.meta["run"]["step"] == 5
    session(experiment, tmp_path / "cut", checkpoint=checkpoint).run()
    assert rows_of(tmp_path / "cut") == rows_of(tmp_path / "whole")
    pictures = [(tmp_path / run / "evaluation.png").read_bytes() for run in ("cut", "whole")]
    assert pictures[0] == pictures[1]
