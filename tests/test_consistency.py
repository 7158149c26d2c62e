"""Consistency tuning and sampling: against the exact flow map of Gaussian data."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from conftest import with_training
from pocketddpm.build import build_schedule
from pocketddpm.commands.main import main
from pocketddpm.config import NetworkConfig, ObjectiveConfig, ScheduleConfig
from pocketddpm.diffusion.build import build_objective
from pocketddpm.diffusion.consistency import STAGES, TEACHER_STAGES
from pocketddpm.diffusion.denoiser import DenoiserOutput
from pocketddpm.diffusion.grid import make_grid
from pocketddpm.diffusion.prediction import get_prediction
from pocketddpm.diffusion.process import amplitudes
from pocketddpm.models.checkpoint import load_checkpoint
from pocketddpm.models.model import load
from pocketddpm.noise import Role, normal
from pocketddpm.runs.options import RunOptions
from pocketddpm.runs.run import Session
from pocketddpm.samplers import consistency

TABLE = build_schedule(ScheduleConfig("log-linear", T=100))
DEVIATION = 0.5
POSITION = torch.arange(64)
EDM = ObjectiveConfig("edm", "consistency", times="log-normal", sigma_data=DEVIATION)


def images(n, deviation=DEVIATION):
    return deviation * normal(1, Role.TRAIN_EPS, torch.arange(n), (1, 4, 4))


def flow_map(x_t, alpha_bar):
    """Where the probability flow of N(0, DEVIATION^2) ends: x_t scaled to the data's deviation."""
    return x_t * DEVIATION / (alpha_bar * DEVIATION**2 + 1 - alpha_bar) ** 0.5


class Exact(torch.nn.Module):
    """The network whose x0 estimate under EDM is the flow map."""

    def forward(self, scaled, t, y=None):
        a2 = torch.sigmoid(log_snr_at(t)).view(-1, 1, 1, 1).to(scaled)
        a, b = a2.sqrt(), (1 - a2).sqrt()
        n = (b**2 + (a * DEVIATION) ** 2).sqrt()
        x_t = scaled * n
        return (flow_map(x_t, a2) - a * DEVIATION**2 / n**2 * x_t) * n / (b * DEVIATION)


def log_snr_at(t):
    """Return the log-SNR between the table's entries: log-linear, as the schedule is."""
    log_snr = TABLE.log_snr[1:]
    return log_snr[0] + (t.double() - 1) / (TABLE.T - 1) * (log_snr[-1] - log_snr[0])


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_exact_map_gives_the_exact_law_in_any_number_of_steps(steps):
    index = torch.arange(40_000)
    x = normal(0, Role.START, index, (1, 1, 2))

    def denoise(x_t, t, alpha_bar):
        return DenoiserOutput(flow_map(x_t, alpha_bar), x_t)

    def noise(i):
        return normal(0, Role.STEP, index, (1, 1, 2), i)

    *_, last = consistency.sample(denoise, x, make_grid(TABLE, steps), noise, consistency.Config())
    assert last.nfe == steps
    flat = last.x.flatten(1)
    assert_close(flat.mean(0), torch.zeros(2), rtol=0, atol=0.012)
    assert_close(flat.T.cov(), DEVIATION**2 * torch.eye(2), rtol=0, atol=0.006)


@pytest.mark.parametrize("run_fraction", [0.0, 0.5, 0.99])
def test_the_exact_map_has_no_loss_but_that_of_drawing_eps(run_fraction):
    """On x0 = 0 the estimates at t and r are multiples of eps: known, and equal only if exact."""
    objective = build_objective(EDM, TABLE, None, batch_size=64)
    x0 = torch.zeros(64, 1, 4, 4)
    loss = objective(Exact(), x0, None, POSITION, 0, run_fraction)
    t, _ = objective.times.draw(0, POSITION, run_fraction)
    eps = normal(0, Role.TRAIN_EPS, POSITION, (1, 4, 4)).double()
    sigma = TABLE.sigma[t]
    gap = (1 + 8 * torch.sigmoid(-sigma)) / 2 ** (1 + int(8 * run_fraction))
    r = sigma * (1 - gap).clamp(min=0)
    r = torch.where(r < TABLE.sigma[1], 0.0, r)

    def ends(s):
        return DEVIATION * s / (DEVIATION**2 + s**2).sqrt()

    size = (ends(sigma) - ends(r)) * eps.square().sum((1, 2, 3)).sqrt()
    c = 0.00054 * 4
    expected = ((size**2 + c**2).sqrt() - c) / (sigma - r) / 4
    assert_close(loss.double(), expected, rtol=2e-3, atol=1e-5)


class PosteriorMean(torch.nn.Module):
    """The network whose x0 estimate under EDM is E[x0 | x_t]: it answers 0."""

    def forward(self, scaled, t, y=None):
        return torch.zeros_like(scaled)


def test_along_the_teachers_flow_the_exact_map_errs_by_the_square_of_the_gap():
    """The teacher's step is Euler's, and its error of second order; the gap halves at each stage.

    Without a teacher the difference is of first order: what drawing eps costs.
    """
    alone = build_objective(EDM, TABLE, None, batch_size=64)
    following = alone.prepare(PosteriorMean())
    t, _ = alone.times.draw(0, POSITION, 0.0)
    a, b = amplitudes(TABLE.at(t), images(64))
    x0, eps = images(64), normal(0, Role.TRAIN_EPS, POSITION, (1, 4, 4))
    x_t = (a * x0 + b * eps).double()
    middle = ((b / a).flatten() > 0.1) & ((b / a).flatten() < 10)

    def off(objective, stage):
        """Return how far the exact map is from the objective's target, for each image."""
        stages = STAGES if objective is alone else TEACHER_STAGES
        run_fraction = (stages.index(stage) + 0.5) / len(stages)
        loss = objective(Exact(), x0, None, POSITION, 0, run_fraction).double()
        sigma = (b / a).flatten().double()
        gap = (1 + 8 * torch.sigmoid(-sigma)) / 2**stage
        c = 0.00054 * 4
        return ((loss * sigma * gap * 4 + c) ** 2 - c**2).clamp(min=0).sqrt()[middle]

    assert x_t.isfinite().all()
    ratio = (off(following, 5).mean() / off(following, 6).mean()).item()
    assert 3.3 < ratio < 5.0
    assert off(alone, 6).mean() > 5 * off(following, 6).mean()


def test_the_target_has_no_gradient():
    """A network that ignores its input moves towards the target, not the target to it."""
    level = torch.tensor(0.3, requires_grad=True)
    objective = build_objective(EDM, TABLE, None, batch_size=64)
    prediction = get_prediction("edm", DEVIATION)

    def network(scaled, t, y=None):
        return level.expand_as(scaled)

    objective(network, images(64), None, POSITION, 0, 0.9).mean().backward()
    assert level.grad is not None and float(level.grad.abs()) > 0
    assert prediction.name == "edm"


@pytest.fixture
def trained(tiny, tmp_path):
    experiment = replace(
        with_training(tiny, steps=30),
        data=replace(tiny.data, center=True),
        network=NetworkConfig("lean", {"widths": (16, 32), "blocks": (1, 1), "head_width": 8}),
        schedule=ScheduleConfig("log-linear"),
        objective=ObjectiveConfig("edm", weighting="edm", times="log-normal", guidance=1.5),
    )
    options = RunOptions(device="cpu", sample_every=0, checkpoint_every=0)
    Session(experiment, tmp_path / "teacher", options).run()
    return tmp_path / "teacher"


def test_distilling_begins_with_the_teacher_and_ends_as_a_run(trained, tmp_path, capsys):
    out = tmp_path / "student"
    main(["distill", str(trained), "--steps", "5", "--lr", "1e-9", "--out", str(out)])
    teacher, student = load(trained), load(out)
    assert student.learned_guidance == teacher.learned_guidance == 1.5
    assert student.experiment.objective.guidance == 1
    for name, tensor in teacher.network.state_dict().items():
        assert_close(student.network.state_dict()[name], tensor, rtol=0, atol=1e-5)
    assert json.loads((out / "config.json").read_text())["experiment"]["sampling"]["steps"] == 2
    drawn = student.sample(3, labels=np.array([0, 1, 2]))
    assert drawn.nfe == 2
    main(["train", "digits", "--resume", str(out), "--steps", "7"])
    assert "7 steps" in capsys.readouterr().err


def test_distilling_is_resumed_exactly_with_the_same_teacher(trained, tmp_path):
    whole, part = tmp_path / "whole", tmp_path / "part"
    tune = ["distill", str(trained), "--steps", "6", "--checkpoint-every", "3"]
    main([*tune, "--out", str(whole)])
    shutil.copytree(whole, part)
    (part / "previous.safetensors").replace(part / "last.safetensors")
    assert load_checkpoint(part / "last.safetensors").meta["run"]["step"] == 3
    main(["train", "digits", "--resume", str(part)])
    ends = [load_checkpoint(folder / "last.safetensors") for folder in (whole, part)]
    assert ends[1].meta["run"]["step"] == 6
    assert_close(ends[1].tensors, ends[0].tensors, rtol=0, atol=0)
    teacher = load_checkpoint(trained / "last.safetensors").part("ema")
    assert_close(ends[0].part("objective.teacher"), teacher, rtol=0, atol=0)


def test_what_is_distilled_is_no_teacher(trained, tmp_path, capsys):
    main(["distill", str(trained), "--steps", "1", "--out", str(tmp_path / "student")])
    again = tmp_path / "again"
    with pytest.raises(SystemExit) as error:
        main(["distill", str(tmp_path / "student"), "--steps", "1", "--out", str(again)])
    assert error.value.code == 2
    assert "distilled already" in capsys.readouterr().err
    assert not again.exists()


@pytest.mark.parametrize("claim", ["another model's weights", 5, {"objective": []}, {}])
def test_what_a_stranger_says_of_the_teacher_ends_nothing(trained, tmp_path, claim):
    main(["distill", str(trained), "--steps", "1", "--out", str(tmp_path / "student")])
    model = load(tmp_path / "student")
    assert replace(model, meta={**model.meta, "init_from": claim}).learned_guidance == 1


def test_other_predictions_are_refused(tiny, tmp_path, capsys):
    options = RunOptions(device="cpu", sample_every=0)
    Session(with_training(tiny, steps=1), tmp_path / "v", options).run()
    with pytest.raises(SystemExit) as error:
        main(["distill", str(tmp_path / "v"), "--steps", "1", "--out", str(tmp_path / "s")])
    assert error.value.code == 2
    assert "predicts v" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()
