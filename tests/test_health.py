"""Numerical health: steps that are skipped, runs that give up, averages that are never poisoned."""

import math
import random
from dataclasses import asdict, replace

import pytest
import torch
from torch.testing import assert_close

from conftest import with_training
from pocketddpm.config import ObjectiveConfig
from pocketddpm.errors import DDPMError
from pocketddpm.models.checkpoint import load_checkpoint, newest_checkpoint
from pocketddpm.runs.log import logged
from pocketddpm.runs.options import RunOptions
from pocketddpm.runs.run import Session
from pocketddpm.training.health import (
    COST,
    FIRST_SCALE,
    GROW_AFTER,
    LAST_SCALE,
    LIMIT,
    Health,
    LossScale,
    refuse_poisoned,
)


def session(experiment, out, broken=(), checkpoint=None, **options):
    """Return a session whose loss is infinite, or its gradient, at the steps in `broken`."""
    defaults = {"device": "cpu", "sample_every": 0, "checkpoint_every": 0}
    run = Session(experiment, out, RunOptions(**(defaults | options)), checkpoint=checkpoint)
    whole = run.trainer.objective

    class Broken:
        observe, state, load, times = whole.observe, whole.state, whole.load, whole.times

        def __call__(self, network, x0, y, stream_index, *more):
            losses = whole(network, x0, y, stream_index, *more)
            step = int(stream_index[0]) // experiment.training.batch_size + 1
            # By turns the loss, and the gradient of a loss that is finite.
            if step in broken:
                bad = losses * (math.nan if step % 2 else 1)
                return bad if step % 2 else bad + (losses - losses.detach()).sqrt()
            return losses

    run.trainer.objective = Broken()
    return run


def part_way(run, step):
    """Train to a step, save, and let go, as a stop would."""
    for progress in run.trainer.steps():
        run.log.add(progress)
        if progress.step == step:
            break
    run.save()
    run.close()


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_steps_that_are_not_finite_are_skipped(tiny, tmp_path, precision, capsys):
    """Weights, average and moments do not move in a skipped step; the run goes on after it."""
    run = session(with_training(tiny, steps=6, precision=precision), tmp_path, broken=(2, 3, 5))
    parts = []
    taken = []
    for progress in run.trainer.steps():
        groups = run.trainer.state().tensors.items()
        tensors = {f"{part}.{k}": v for part, group in groups for k, v in group.items()}
        parts.append({k: v.clone() for k, v in tensors.items()})
        taken.append(progress.event is None)
        if not taken[-1]:
            for name, before in parts[-2].items():
                assert_close(tensors[name], before, rtol=0, atol=0, msg=name)
            assert f"step {progress.step}: the loss or its gradient is not finite" in progress.event
    assert taken == [True, False, False, True, False, True]
    assert run.trainer.health.skipped == 3
    assert any(not torch.equal(parts[2][k], parts[3][k]) for k in parts[2] if "ema" in k)
    for name, tensor in parts[-1].items():
        assert torch.isfinite(tensor.float()).all(), name


def test_skipping_is_part_of_the_state(tiny, tmp_path):
    """Interrupted between skipped steps, a run ends bit for bit as it would have."""
    broken = (2, 3, 4, 7, 8)
    session(tiny, tmp_path / "whole", broken).run()
    for stop in (3, 5):
        out = tmp_path / f"halves-{stop}"
        part_way(session(tiny, out, broken), stop)
        session(tiny, out, broken, checkpoint=newest_checkpoint(out)).run()
        whole, halves = (load_checkpoint(p / "last.safetensors") for p in (tmp_path / "whole", out))
        for name, tensor in whole.tensors.items():
            assert_close(halves.tensors[name], tensor, rtol=0, atol=0, msg=name)
        assert halves.meta["run"]["health"] == whole.meta["run"]["health"]
        assert whole.meta["run"]["health"]["skipped"] == 5
        rows = [[r["loss"] for r in logged(p)] for p in (tmp_path / "whole", out)]
        assert [repr(x) for x in rows[0]] == [repr(x) for x in rows[1]]
        assert math.isnan(rows[0][2])


def test_the_scale_of_fp16_is_part_of_the_state(tiny, tmp_path):
    tiny = with_training(tiny, precision="fp16")
    session(tiny, tmp_path / "whole", (2,)).run()
    part_way(session(tiny, tmp_path / "halves", (2,)), 5)
    resumed = newest_checkpoint(tmp_path / "halves")
    assert resumed.meta["run"]["health"]["scale"] == FIRST_SCALE / 2
    session(tiny, tmp_path / "halves", (2,), checkpoint=resumed).run()
    whole, halves = (
        load_checkpoint(tmp_path / n / "last.safetensors").tensors for n in ("whole", "halves")
    )
    for name, tensor in whole.items():
        assert_close(halves[name], tensor, rtol=0, atol=0, msg=name)


def test_fp16_learns_as_float32_does(tiny, tmp_path):
    losses = []
    for precision in ("float32", "fp16"):
        run = session(with_training(tiny, precision=precision, steps=20), tmp_path / precision)
        run.run()
        losses.append(torch.tensor(run.log.loss))
    assert_close(losses[1], losses[0], rtol=0.02, atol=0.02)


def test_what_the_objective_remembers_is_not_poisoned(tiny, tmp_path):
    tiny = replace(tiny, objective=ObjectiveConfig(times="importance"))
    run = session(tiny, tmp_path, broken=(1, 3))
    run.run()
    history = load_checkpoint(tmp_path / "last.safetensors").part("objective")["history"]
    assert torch.isfinite(history).all()


def test_a_run_gives_up_and_keeps_its_checkpoint(tiny, tmp_path, capsys):
    limit = LIMIT // COST
    run = session(with_training(tiny, steps=50), tmp_path, broken=range(7, 100), checkpoint_every=5)
    with pytest.raises(DDPMError, match=rf"step {6 + limit}\b.*\b{limit} steps.*--lr"):
        run.run()
    checkpoint = newest_checkpoint(tmp_path)
    assert checkpoint.meta["run"]["step"] == 25
    refuse_poisoned(checkpoint.tensors)
    # It ends at the same step when it is resumed.
    again = session(with_training(tiny, steps=50), tmp_path, range(7, 100), checkpoint=checkpoint)
    with pytest.raises(DDPMError, match=rf"step {6 + limit}\b"):
        again.run()


def test_best_ignores_epochs_without_a_loss(tiny, tmp_path):
    tiny = with_training(tiny, steps=None, epochs=3, batches_per_epoch=2)
    run = session(tiny, tmp_path, broken=(1, 2))
    run.run()
    assert math.isfinite(load_checkpoint(tmp_path / "best.safetensors").meta["run"]["best_loss"])
    assert math.isfinite(run.log.final_loss())
    assert (tmp_path / "last.safetensors").exists()


def test_one_in_many_is_borne_and_one_in_ten_is_not():
    def after(every):
        health = Health()
        for step in range(1, 20_000):
            health.count(step % every != 0)
            health.check(step)
        return health.skipped

    assert after(12) > 1000
    with pytest.raises(DDPMError, match=f"{LIMIT // COST} in a row"):
        after(9)


def test_the_scale_of_fp16_falls_at_once_and_rises_slowly():
    health = Health.start("fp16")
    health.count(False)
    assert health.scale == FIRST_SCALE / 2
    for _ in range(GROW_AFTER):
        assert health.scale == FIRST_SCALE / 2
        health.count(True)
    assert health.scale == FIRST_SCALE
    assert Health.start("bf16").scale == 1
    again = Health.from_dict(asdict(health), "fp16")
    assert again == health


@pytest.mark.parametrize(("good_steps", "scale"), [(0, 64.0), (GROW_AFTER - 3, 2.0**24), (5, 1.0)])
def test_the_scale_on_the_device_is_that_of_the_checkpoint(good_steps, scale):
    """Both count the same steps by the same rule: down to 1, which it never leaves, and to 2^24."""
    health = Health(scale=scale, good_steps=good_steps)
    device = LossScale(health, torch.device("cpu"))
    draw = random.Random(0)
    taken = [*[draw.random() < 0.8 for _ in range(60)], *[True] * GROW_AFTER * 2]
    scales = set()
    for step in taken if scale < LAST_SCALE else [True] * 10 + taken:
        health.count(step)
        device.count(torch.tensor(step))
        assert (float(device.scale), int(device.good_steps)) == (health.scale, health.good_steps)
        scales.add(health.scale)
    assert len(scales) > 1 or scale == 1
    assert max(scales) <= LAST_SCALE


def test_weights_that_are_not_finite_replace_no_checkpoint(tiny, tmp_path):
    run = session(tiny, tmp_path)
    part_way(run, 3)
    before = (tmp_path / "last.safetensors").read_bytes()
    with torch.no_grad():
        run.network.conv_in.weight[0] = math.nan
    with pytest.raises(DDPMError, match=r"model\.conv_in\.weight"):
        run.save()
    assert (tmp_path / "last.safetensors").read_bytes() == before
