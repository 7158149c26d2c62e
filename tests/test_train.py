"""The trainer, its plan, checkpoints and sessions: learning, resuming exactly, losing nothing."""

import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from array import array
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from conftest import with_training
from pocketddpm.commands.main import main
from pocketddpm.config import (
    Experiment,
    NetworkConfig,
    ObjectiveConfig,
    OptimiserConfig,
    TrainingConfig,
)
from pocketddpm.errors import CheckpointError, ConfigError, DataError, OutputError
from pocketddpm.models.checkpoint import (
    Checkpoint,
    find_checkpoint,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from pocketddpm.models.model import WEIGHTS, load
from pocketddpm.pictures import _running_mean, save_loss_curve
from pocketddpm.presets import PRESETS, get_preset
from pocketddpm.runs.options import RunOptions
from pocketddpm.runs.run import Session
from pocketddpm.runs.start import start
from pocketddpm.training.ema import ema_decay
from pocketddpm.training.plan import Plan, check_budget, learning_rate, plan_for
from pocketddpm.values import from_dict, parse_options


def session(experiment, out, checkpoint=None, **options):
    defaults = {"device": "cpu", "sample_every": 0, "checkpoint_every": 0}
    return Session(experiment, out, RunOptions(**(defaults | options)), checkpoint=checkpoint)


def tensors_of(path):
    return load_checkpoint(path).tensors


def losses_of(out):
    return [line.split(",")[3] for line in (out / "log.csv").read_text().splitlines()[1:]]


# Plan and learning rate --------------------------------------------------------------------------


def test_learning_rate_is_a_pure_function_of_images():
    config = OptimiserConfig(lr=1.0, warmup=100, decay="linear")
    plan = Plan(1000)
    assert learning_rate(0, plan, config) == pytest.approx(0.01)
    assert learning_rate(49, plan, config) == pytest.approx(0.5 * (1 - 0.049))
    assert learning_rate(500, plan, config) == pytest.approx(0.5)
    assert learning_rate(1000, plan, config) == pytest.approx(0)
    flat = replace(config, decay="none")
    assert learning_rate(999, plan, flat) == pytest.approx(1)
    assert learning_rate(500, plan, replace(config, decay="cosine")) == pytest.approx(0.5)
    # A short run is not all warm-up.
    assert learning_rate(20, Plan(200), config) == pytest.approx(0.9)


def test_a_moved_end_makes_no_jump():
    plan = Plan(1000)
    short = plan.moved(400, 700)
    assert short.run_fraction(400) == pytest.approx(plan.run_fraction(400))
    assert short.run_fraction(550) == pytest.approx(0.7)
    assert short.run_fraction(700) == 1
    assert Plan.from_dict(json.loads(json.dumps(asdict(short)))) == short


def test_ema_half_life():
    assert ema_decay(10**6, 1000, 1000, 0.05) == pytest.approx(0.5)
    assert ema_decay(10**6, 100, 1000, 0.05) ** 10 == pytest.approx(0.5)
    assert ema_decay(2000, 100, 1000, 0.05) == pytest.approx(0.5)  # half-life 5 % of 2000
    assert ema_decay(0, 100, 1000, 0.05) == 0


@pytest.mark.parametrize(
    ("values", "total"),
    [({"steps": 7}, 70), ({"epochs": 2.5}, 250), ({"images": 95}, 100), ({"epochs": 0.31}, 40)],
)
def test_budgets_become_whole_steps(values, total):
    config = TrainingConfig(batch_size=10, **values)
    assert plan_for(config, epoch_images=100).total == total


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "--steps.*--minutes"),
        ({"steps": 3, "minutes": 1.0}, "--steps 3 --minutes 1"),
    ],
)
def test_wrong_budgets_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        check_budget(TrainingConfig(**values))


# Configuration -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_json(name):
    experiment = get_preset(name)
    stored = json.loads(json.dumps(experiment.to_dict()))
    again = from_dict(Experiment, stored)
    assert json.loads(json.dumps(again.to_dict())) == stored


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": "x", "data": {"nam": "mnist"}}, "nam.*name"),
        ({"preset": "x", "data": {"name": "mnist", "subset": "many"}}, "subset.*many"),
        ({"preset": "x", "data": {"name": "mnist", "fit": "squash"}}, "fit.*squash.*pad, resize"),
        ({"preset": "x", "data": "mnist"}, "data.*mnist"),
        ({"preset": "x"}, "Experiment.*data"),
        ({"preset": "x", "data": {"name": "a", "image_size": [28]}}, "image_size.*2.*28"),
    ],
)
def test_wrong_configurations_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        from_dict(Experiment, values)


def test_options_are_parsed():
    assert parse_options("width=48,depths=2/3/2") == {"width": "48", "depths": "2/3/2"}
    assert parse_options("") == {}
    for text in ("width", "=3", "width="):
        with pytest.raises(ConfigError, match=f"key=value.*'{text}'"):
            parse_options(text)


# Learning ----------------------------------------------------------------------------------------


def test_a_run_can_begin_with_another_models_weights(tmp_path, capsys):
    trained, out = tmp_path / "first", tmp_path / "tuned"
    train = ["train", "digits", "--net", "widths=8/16,groups=4,head_width=8", "--sample-every", "0"]
    main([*train, "--steps", "3", "--out", str(trained)])
    tune = [*train, "--out", str(out)]
    main([*tune, "--begin-with", str(trained), "--steps", "2", "--lr", "1e-9"])
    before, after = load(trained), load(out)
    for name, tensor in before.network.state_dict().items():
        assert_close(after.network.state_dict()[name], tensor, rtol=0, atol=1e-5)
    # It is a run of its own, and goes on as one.
    main([*tune, "--resume", "auto", "--begin-with", str(trained), "--steps", "3"])
    meta = load_checkpoint(out / "last.safetensors").meta
    assert meta["run"]["step"] == 3
    assert meta["init_from"]["images_seen"] == 3 * 64
    for wrong, message in (
        (["--net", "widths=8/24,groups=4,head_width=8"], "does not fit this network"),
        (["--resume", str(out)], "leave one of them out"),
    ):
        with pytest.raises(SystemExit) as error:
            main([*tune, "--begin-with", str(trained), "--steps", "2", "--overwrite", *wrong])
        assert error.value.code == 2
        assert message in capsys.readouterr().err


def test_the_curves_mean_is_over_finite_losses(tmp_path):
    loss = np.array([1.0, 3.0, np.nan, 5.0, np.nan, np.nan])
    assert_close(_running_mean(loss, 2), np.array([2.0, 3.0, 5.0, 5.0, 0.0]))
    assert_close(_running_mean(loss[:4], 4), np.array([3.0]))


def test_a_long_runs_curve_takes_no_memory_and_no_time(tmp_path):
    seen, loss = array("q", range(0, 3_200_000, 16)), array("d", [0.5] * 200_000)
    save_loss_curve(tmp_path / "loss.png", seen[:10], loss[:10])  # imports matplotlib
    tracemalloc.start()
    for _ in range(3):
        save_loss_curve(tmp_path / "loss.png", seen, loss)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    seen.append(0)  # the run goes on
    loss.append(0.5)
    # 3.2 MB of numbers, some copies of them; as Python objects one curve alone would be 50 MB.
    assert peak < 25e6


@pytest.mark.slow
def test_training_learns(tiny, tmp_path):
    """A few hundred steps bring the loss well below that of a network that says nothing."""
    run = session(
        replace(
            with_training(tiny, steps=200, batch_size=32),
            optimiser=OptimiserConfig(lr=3e-3, warmup=320, ema_half_life=1000),
        ),
        tmp_path / "run",
    )
    run.run()
    first = np.mean(run.log.loss[:5])
    assert run.log.final_loss() < 0.5 * first
    model = run.model()
    images = model.sample(30, labels=model.label_numbers("all", 30), steps=20).images
    real = run.images.images
    # Not yet digits, but ink in the right amount and where digits have it.
    assert abs(images.mean() - real.mean()) < 25
    correlation = np.corrcoef(images.mean(0).ravel(), real.mean(0).ravel())[0, 1]
    assert correlation > 0.8


def test_ema_is_the_average_of_the_weights(tiny, tmp_path):
    parts = {"ema": 1000, "ema-20": 20, "ema-90": 90}
    optimiser = replace(tiny.optimiser, ema_half_life=1000, ema_also=(20, 90), ema_ramp=1.0)
    tiny = replace(tiny, optimiser=optimiser)
    run = session(with_training(tiny, steps=3), tmp_path / "run")
    name = "conv_in.weight"
    averages = {part: run.trainer.averages[part][name].clone() for part in parts}
    for progress in run.trainer.steps():
        for part, half_life in parts.items():
            share = ema_decay(progress.images_seen, 16, half_life, 1.0)
            now = run.trainer.network.state_dict()[name]
            averages[part] = share * averages[part] + (1 - share) * now
    run.save()
    run.close()
    for part in parts:
        assert_close(run.trainer.averages[part][name], averages[part], rtol=1e-5, atol=1e-7)
        loaded = load(tmp_path / "run", weights=part).network.state_dict()[name]
        assert torch.equal(loaded, run.trainer.averages[part][name])
    last = load_checkpoint(tmp_path / "run" / "last.safetensors")
    resumed = session(with_training(tiny, steps=3), tmp_path / "run", last)
    resumed.close()
    for part in parts:
        assert torch.equal(resumed.trainer.averages[part][name], run.trainer.averages[part][name])
    with pytest.raises(ConfigError, match=r"ema-30.*ema-20"):
        load(tmp_path / "run", weights="ema-30")


@pytest.mark.parametrize(
    "stored", [{"ema_half_life": -5}, {"ema_ramp": -0.5}, {"ema_half_life": -5, "ema_ramp": -0.5}]
)
def test_a_negative_average_of_an_old_run_is_the_weights_themselves(tiny, tmp_path, stored):
    """Versions without bounds took one: 0.5^(batch / half-life) only for half-lives above 0."""
    config = OptimiserConfig(ema_half_life=64, ema_ramp=0.0)
    for each in (config, replace(config, **stored)):
        assert ema_decay(1000, 16, each.ema_half_life, each.ema_ramp) == 0
    whole = session(replace(with_training(tiny, steps=4), optimiser=config), tmp_path / "whole",
                    checkpoint_every=2)  # fmt: skip
    whole.run()
    checkpoint = load_checkpoint(tmp_path / "whole" / "previous.safetensors")
    checkpoint.meta["experiment"]["optimiser"] |= stored
    save_checkpoint(tmp_path / "old" / "last.safetensors", checkpoint)
    model = load(tmp_path / "old", weights="ema")
    for name, weight in model.network.state_dict().items():
        assert torch.equal(weight, checkpoint.part("model")[name])
    start(tiny, resume=tmp_path / "old", device="cpu", sample_every=0).run()
    done, wanted = (tensors_of(tmp_path / k / "last.safetensors") for k in ("old", "whole"))
    assert done.keys() == wanted.keys()
    assert all(torch.equal(done[name], wanted[name]) for name in wanted)


def test_a_model_has_the_weights_that_were_asked_for(tiny, tmp_path):
    run = session(with_training(tiny, steps=3), tmp_path)
    run.run()
    parts = {name: load_checkpoint(tmp_path / "last.safetensors").part(name) for name in WEIGHTS}
    assert not torch.equal(*(part["conv_in.weight"] for part in parts.values()))
    models = {name: load(tmp_path, weights=name) for name in WEIGHTS}
    for model, name in (*((models[n], n) for n in WEIGHTS), (load(tmp_path), "ema"),
                        (run.model(), "ema")):  # fmt: skip
        for key, weight in model.network.state_dict().items():
            assert torch.equal(weight, parts[name][key]), (name, key)


def test_accumulation_is_the_same_step(tiny, tmp_path):
    whole = session(with_training(tiny, steps=3), tmp_path / "whole")
    parts = session(with_training(tiny, steps=3, accumulate=4), tmp_path / "parts")
    losses = [[float(p.loss) for p in run.trainer.steps()] for run in (whole, parts)]
    assert_close(torch.tensor(losses[1]), torch.tensor(losses[0]), rtol=1e-4, atol=1e-6)


def test_the_batch_must_divide(tiny, tmp_path):
    with pytest.raises(ConfigError, match=r"16 .*1 x 3"):
        session(with_training(tiny, accumulate=3), tmp_path / "run")


def test_the_mean_image_is_subtracted_and_kept(tiny, tmp_path):
    run = session(fast(tiny), tmp_path / "run")
    x = run.trainer.scaling.to_model(torch.from_numpy(np.array(run.images.images)))
    assert_close(x.mean(0), torch.zeros_like(x[0]), rtol=0, atol=1e-6)
    run.run()
    model = load(tmp_path / "run")
    assert_close(model.scaling.mean, run.trainer.scaling.mean, rtol=0, atol=0)
    # The mean picture comes back in the samples: an untrained network draws little else.
    drawn = model.sample(200, labels=np.zeros(200, np.int64), steps=10).images.mean(0)
    assert np.corrcoef(drawn.ravel(), run.images.images.mean(0).ravel())[0, 1] > 0.8


# Resuming ----------------------------------------------------------------------------------------


def fast(experiment):
    """Return the experiment on the fast path: lean network, Muon, mean image, EDM."""
    return replace(
        experiment,
        data=replace(experiment.data, center=True),
        network=NetworkConfig("lean", {"widths": (16, 32), "blocks": (1, 1), "head_width": 8}),
        optimiser=replace(experiment.optimiser, name="muon"),
        objective=ObjectiveConfig(prediction="edm", weighting="edm", times="log-normal"),
    )


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("recipe", [lambda e: e, fast], ids=["plain", "fast"])
def test_resuming_is_exact(tiny, tmp_path, accumulate, precision, recipe):
    """10 steps equal 5, save, load, 5: weights, average, optimiser and loss log, bit for bit."""
    tiny = recipe(with_training(tiny, accumulate=accumulate, precision=precision))
    session(tiny, tmp_path / "whole").run()

    half = session(tiny, tmp_path / "halves")
    for progress in half.trainer.steps():
        half.log.add(progress)
        if progress.step == 5:
            break
    half.save()
    half.close()
    checkpoint = newest_checkpoint(tmp_path / "halves")
    assert checkpoint is not None
    assert checkpoint.meta["run"]["step"] == 5
    session(tiny, tmp_path / "halves", checkpoint=checkpoint).run()

    whole, halves = (tensors_of(tmp_path / d / "last.safetensors") for d in ("whole", "halves"))
    assert whole.keys() == halves.keys()
    assert any(k.startswith("optimizer.") for k in whole)
    for name, tensor in whole.items():
        assert_close(halves[name], tensor, rtol=0, atol=0, msg=name)
    assert losses_of(tmp_path / "whole") == losses_of(tmp_path / "halves")
    assert len(losses_of(tmp_path / "whole")) == 10


def test_a_longer_budget_goes_on(tiny, tmp_path):
    session(tiny, tmp_path).run()
    checkpoint = newest_checkpoint(tmp_path)
    session(with_training(tiny, steps=12), tmp_path, checkpoint=checkpoint).run()
    assert load_checkpoint(tmp_path / "last.safetensors").meta["run"]["step"] == 12


def test_changed_data_is_noticed(tiny, tmp_path):
    session(tiny, tmp_path / "run").run()
    checkpoint = newest_checkpoint(tmp_path / "run")
    other = replace(tiny, data=replace(tiny.data, subset=100))
    with pytest.raises(DataError, match=r"digits .*1500 images.* 100"):
        session(other, tmp_path / "run", checkpoint=checkpoint)


def test_a_run_in_the_way_is_refused(tiny, tmp_path):
    session(tiny, tmp_path / "run").run()
    before = (tmp_path / "run" / "last.safetensors").read_bytes()
    with pytest.raises(OutputError, match="--overwrite"):
        session(tiny, tmp_path / "run")
    assert (tmp_path / "run" / "last.safetensors").read_bytes() == before


def test_auto_resume_skips_a_damaged_checkpoint(tiny, tmp_path, capsys):
    session(tiny, tmp_path, checkpoint_every=4).run()
    assert newest_checkpoint(tmp_path).meta["run"]["step"] == 10
    last = tmp_path / "last.safetensors"
    last.write_bytes(last.read_bytes()[:-100])
    assert newest_checkpoint(tmp_path).meta["run"]["step"] == 8
    assert "last.safetensors is damaged" in capsys.readouterr().err
    (tmp_path / "previous.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"previous.safetensors.*--overwrite"):
        newest_checkpoint(tmp_path)
    assert newest_checkpoint(tmp_path / "nothing here") is None


def test_best_is_the_lowest_epoch_loss_and_cannot_be_resumed(tiny, tmp_path):
    tiny = with_training(tiny, steps=None, epochs=4, batches_per_epoch=3)
    run = session(tiny, tmp_path)
    epochs = []
    run._end_epoch = lambda loss: (epochs.append(loss), Session._end_epoch(run, loss))
    run.run()
    assert len(epochs) == 4
    rows = [float(x) for x in losses_of(tmp_path)]
    assert_close(epochs, [float(np.mean(rows[i : i + 3])) for i in (0, 3, 6, 9)], rtol=1e-6, atol=0)
    best = load_checkpoint(tmp_path / "best.safetensors")
    assert best.meta["run"]["best_loss"] == min(epochs)
    with pytest.raises(CheckpointError, match="resume"):
        session(tiny, tmp_path / "other", checkpoint=best)


# Minutes -----------------------------------------------------------------------------------------


def test_minutes_become_images_once(tiny, tmp_path):
    tiny = with_training(tiny, steps=None, minutes=0.02)
    started = time.monotonic()
    run = session(tiny, tmp_path)
    plan = run.trainer.make_plan()
    assert plan.total % 16 == 0
    for _ in run.trainer.steps():
        pass
    assert time.monotonic() - started < 10
    assert run.trainer.images_seen == run.trainer.plan.total
    assert run.trainer.plan == plan or run.trainer.plan.event is not None


def test_minutes_hold_the_start_the_previews_and_the_end(tiny, tmp_path, monkeypatch):
    run = session(with_training(tiny, steps=None, minutes=1.0), tmp_path)
    trainer = run.trainer
    monkeypatch.setattr(trainer, "_measure_rate", lambda: 100.0)  # images a second
    trainer.seconds, trainer.ending = 20.0, 800.0
    assert trainer.make_plan().total == pytest.approx(100 * 40 - 800, abs=16)
    trainer.seconds = 20.0
    assert trainer.make_plan(pauses=0.25).total == pytest.approx((100 * 40 - 800) / 1.25, abs=16)
    # Half-way after 26 s, with four more for the end: near enough to a minute.
    trainer.ending = 4 * 1600 / 26
    trainer.plan, trainer.images_seen, trainer.seconds = Plan(16 * 200), 16 * 100, 26.0
    trainer._keep_to_minutes(trainer.plan)
    assert trainer.plan.event is None
    trainer.ending = 16 * 100 * 10 / 26  # ten seconds
    trainer.seconds = 29.0
    trainer._keep_to_minutes(trainer.plan)
    assert trainer.plan.total < 16 * 200


def test_what_a_session_did_before_its_steps_counts(tiny, tmp_path):
    run = session(with_training(tiny, steps=None, minutes=0.05), tmp_path)
    run._started -= 2.9  # of three seconds
    run.run()
    assert run.trainer.images_seen <= 16 * 200
    assert run.trainer.seconds > 2.9


@pytest.mark.parametrize(("seconds", "rest"), [(45.0, 15 * 800 / 45), (20.0, 40 * 800 / 20)])
def test_another_speed_moves_the_end_once(tiny, tmp_path, seconds, rest):
    run = session(with_training(tiny, steps=None, minutes=1.0), tmp_path)
    trainer = run.trainer
    trainer.plan = Plan(16 * 100)
    trainer.images_seen, trainer.seconds = 16 * 50, seconds  # half-way, of a minute
    trainer._keep_to_minutes(trainer.plan)
    (event,) = trainer._events
    assert "1600" in event
    assert trainer.plan.event == (800, 0.5)
    assert trainer.plan.total == 16 * 50 + int(rest) // 16 * 16
    trainer._keep_to_minutes(trainer.plan)
    assert trainer._events == [event]


# Checkpoints -------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path):
    tensors = {
        "model.a": torch.arange(6.0).view(2, 3),
        "model.b": torch.ones(()),
        "ema.a": torch.zeros(0),
    }
    path = tmp_path / "small.safetensors"
    save_checkpoint(path, Checkpoint({"run": {"step": 1}}, tensors))
    return path


def test_checkpoints_round_trip(small):
    checkpoint = load_checkpoint(small)
    assert checkpoint.meta["run"] == {"step": 1}
    assert_close(checkpoint.part("model")["a"], torch.arange(6.0).view(2, 3))
    assert checkpoint.part("optimizer") == {}
    assert not list(small.parent.glob(".*"))


def test_every_damaged_byte_is_noticed(small):
    whole = small.read_bytes()
    for position in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        small.write_bytes(bytes(damaged))
        with pytest.raises(CheckpointError, match=r"small\.safetensors"):
            load_checkpoint(small)


def test_every_truncation_is_noticed(small):
    whole = small.read_bytes()
    for length in range(0, len(whole), 11):
        small.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"small\.safetensors"):
            load_checkpoint(small)


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04" + bytes(100), b"\xff" * 40, bytes(8) + b"{"]
)
def test_foreign_files_are_refused(tmp_path, content):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.pt"):
        load_checkpoint(path)


def test_other_safetensors_are_refused(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match=r"other\.safetensors"):
        load_checkpoint(path)


def test_newer_formats_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("pocketddpm.models.checkpoint.FORMAT_VERSION", 99)
    save_checkpoint(tmp_path / "new.safetensors", Checkpoint({}, {}))
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="format_version 99"):
        load_checkpoint(tmp_path / "new.safetensors")


def test_nothing_is_found_where_nothing_is(tmp_path):
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        find_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"absent.*mnist"):
        find_checkpoint(tmp_path / "absent")


# Processes and signals ---------------------------------------------------------------------------

RUN = [sys.executable, "-m", "pocketddpm"]
TINY_OPTIONS = [
    "train", "digits", "--net", "widths=8/16,head_width=8,groups=4", "--batch-size", "16",
    "--precision", "float32", "--device", "cpu", "--sample-every", "0",
]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of 60 steps that nothing stopped."""
    out = tmp_path_factory.mktemp("undisturbed")
    main([*TINY_OPTIONS, "--steps", "60", "--out", str(out)])
    return out


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_and_resuming_is_exact(undisturbed, tmp_path, number, status):
    out = tmp_path / "run"
    command = [*TINY_OPTIONS, "--steps", "60", "--out", str(out)]
    process = subprocess.Popen([*RUN, *command], stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stderr is not None
    for line in process.stderr:
        if "steps of 16" in line:
            break
    time.sleep(0.3)
    process.send_signal(number)
    message = process.stderr.read()
    assert process.wait(60) == status, message
    assert f"train digits --resume {out}" in message
    stopped = load_checkpoint(out / "last.safetensors").meta["run"]["step"]
    assert stopped < 60
    main([*command, "--resume", "auto"])
    found, wanted = (tensors_of(run / "last.safetensors") for run in (out, undisturbed))
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert_close(found[name], tensor, rtol=0, atol=0, msg=name)
    assert losses_of(out) == losses_of(undisturbed)


@pytest.mark.slow
def test_two_processes_learn_the_same(tmp_path):
    """torchrun with two CPU processes: the losses of one process, up to the order of sums."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    torchrun += ["--standalone", "-m", "pocketddpm"]
    main([*TINY_OPTIONS, "--steps", "6", "--out", str(tmp_path / "one")])
    done = subprocess.run(
        [*torchrun, *TINY_OPTIONS, "--steps", "6", "--out", str(tmp_path / "two")],
        env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "x 2" in done.stderr
    one, two = (torch.tensor([float(x) for x in losses_of(tmp_path / n)]) for n in ("one", "two"))
    assert_close(two, one, rtol=1e-3, atol=1e-5)
    model = load(tmp_path / "two")
    assert model.meta["run"]["step"] == 6
