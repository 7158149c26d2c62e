"""Losses, weights and times of training: against the papers, and every combination of them."""

from dataclasses import replace
from functools import cache
from itertools import pairwise, product
from typing import get_args, get_type_hints

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from conftest import with_training
from oracle import bound_terms, points
from pocketddpm.build import build_network, build_schedule
from pocketddpm.catalog import TABLES
from pocketddpm.config import ObjectiveConfig, ScheduleConfig
from pocketddpm.diffusion.bound import Bins, pixel_decoder, term
from pocketddpm.diffusion.build import build_objective
from pocketddpm.diffusion.denoiser import Denoiser
from pocketddpm.diffusion.grid import make_grid
from pocketddpm.diffusion.guidance import Guidance
from pocketddpm.diffusion.losses import LOSSES
from pocketddpm.diffusion.prediction import PREDICTIONS, call_network, get_prediction
from pocketddpm.diffusion.schedule import shift_snr
from pocketddpm.diffusion.times import TIMES, LossSecondMoment, build_times, progressive_times
from pocketddpm.diffusion.weighting import WEIGHTINGS, weight_table
from pocketddpm.errors import CheckpointError, ConfigError
from pocketddpm.models.checkpoint import load_checkpoint, newest_checkpoint
from pocketddpm.models.model import load
from pocketddpm.noise import Role, normal, uniform
from pocketddpm.runs.options import RunOptions
from pocketddpm.runs.run import Session
from pocketddpm.samplers import ddim, ddpm
from pocketddpm.values import from_dict

LINEAR = build_schedule(ScheduleConfig("linear"))
COSINE = build_schedule(ScheduleConfig("cosine", T=20))
FLOW = build_schedule(ScheduleConfig("flow", T=20))


VARIED = get_args(get_type_hints(ObjectiveConfig)["variance"])


def test_the_configuration_names_what_there_is():
    tables = {"predictions": PREDICTIONS, "losses": LOSSES, "weightings": WEIGHTINGS}
    for kind, table in {**tables, "times": TIMES}.items():
        assert TABLES[kind].names() == list(table)
    # A checkpoint of before these options means what it meant.
    old = {"prediction": "v", "loss": "mse", "label_dropout": 0.1}
    assert from_dict(ObjectiveConfig, old) == ObjectiveConfig()


# Weights -----------------------------------------------------------------------------------------

SIGMA_DATA = 0.6
# What the papers print, each on the prediction that it is printed for; s is sigma.
PAPERS = {
    ("simple", "eps"): lambda ab, beta: 1,
    ("simple", "v"): lambda ab, beta: 1,
    ("simple", "edm"): lambda ab, beta: 1,
    ("ddpm", "eps"): lambda ab, beta: beta**2 / (2 * beta * (1 - beta) * (1 - ab)),
    ("min-snr", "eps"): lambda ab, beta: min(snr(ab), 5) / snr(ab),
    ("min-snr", "x0"): lambda ab, beta: min(snr(ab), 5),
    ("min-snr", "v"): lambda ab, beta: min(snr(ab), 5) / (snr(ab) + 1),
    ("soft-min-snr", "x0"): lambda ab, beta: 1 / (1 / snr(ab) + SIGMA_DATA**2),
    ("p2", "eps"): lambda ab, beta: 1 / (1 + snr(ab)),
    ("edm", "x0"): lambda ab, beta: (1 / snr(ab) + SIGMA_DATA**2) / (SIGMA_DATA**2 / snr(ab)),
    # EDM's weight is 1 / c_out^2, so that F is weighed evenly.
    ("edm", "edm"): lambda ab, beta: 1,
}


def snr(ab: float) -> float:
    return ab / (1 - ab)


@pytest.mark.parametrize(("weighting", "prediction"), PAPERS)
@pytest.mark.parametrize("schedule", [LINEAR, COSINE], ids=["linear", "cosine"])
def test_weights_equal_the_papers(weighting, prediction, schedule):
    how = get_prediction(prediction, SIGMA_DATA)
    table = weight_table(weighting, schedule, how, SIGMA_DATA)
    expected = [
        PAPERS[weighting, prediction](float(ab), float(beta))
        for ab, beta in zip(schedule.alpha_bar[1:], schedule.beta, strict=True)
    ]
    assert_close(table, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=0)
    if weighting == "min-snr":
        assert 0 < int((schedule.snr[1:] > 5).sum()) < schedule.T  # both sides of the bend


class Student(nn.Module):
    """Believes x0 = (scale + t / 1000) x_t + shift, and says so in any parametrisation."""

    def __init__(self, schedule, prediction):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([0.7, -0.1], dtype=torch.float64))
        self.schedule, self.prediction = schedule, prediction

    def forward(self, x, t, y=None):
        a, b = (v[:, None, None, None] for v in amplitudes_at(self.schedule, t))
        x_t = x / self.prediction.input_scale(a, b)
        x0 = (self.weights[0] + t[:, None, None, None] / 1000) * x_t + self.weights[1]
        return self.prediction.target(x0, (x_t - a * x0) / b, a, b)


def amplitudes_at(schedule, t):
    alpha_bar = schedule.at(t)
    return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()


def images(count: int, size: int = 4) -> torch.Tensor:
    """Return pictures whose values lie in the middle of bins, float64 [count,1,size,size]."""
    generator = torch.Generator().manual_seed(5)
    return torch.randint(256, (count, 1, size, size), generator=generator).double() / 127.5 - 1


def loss_and_gradient(config, schedule=LINEAR, count=64):
    """Return t, the losses of `Student`, and the gradient of their mean."""
    objective = build_objective(config, schedule, null=None, batch_size=count)
    student = Student(schedule, objective.prediction)
    losses = objective(student, images(count), None, torch.arange(count), 3)
    (gradient,) = torch.autograd.grad(losses.mean(), student.weights)
    return objective.times.draw(3, torch.arange(count), 0.0)[0], losses.detach(), gradient


@pytest.mark.parametrize("weighting", [w for w in WEIGHTINGS if w != "simple"])
def test_a_weighting_means_the_same_for_every_prediction(weighting):
    """One belief about x0 has one loss and one gradient, however the network words it."""
    found = [
        loss_and_gradient(ObjectiveConfig(prediction=p, weighting=weighting, sigma_data=0.6))
        for p in PREDICTIONS
    ]
    for _, losses, gradient in found[1:]:
        assert_close(losses, found[0][1], rtol=1e-6, atol=0)
        assert_close(gradient, found[0][2], rtol=1e-6, atol=0)


def test_plain_losses_differ_by_the_snr():
    """Times x0-mse: SNR for eps, SNR + 1 for v, SNR + 1 / sigma_data^2 for EDM."""
    t, x0_losses, _ = loss_and_gradient(ObjectiveConfig(prediction="x0"))
    snr = LINEAR.snr[t]
    for prediction, factor in (("eps", snr), ("v", snr + 1), ("edm", snr + 1 / 0.5**2)):
        _, losses, _ = loss_and_gradient(ObjectiveConfig(prediction=prediction))
        assert_close(losses, factor * x0_losses, rtol=1e-6, atol=0)


def test_the_ddpm_weight_is_the_bound():
    """The weighted eps loss is the bound's term with variance beta, but for a constant per t."""
    config = ObjectiveConfig(prediction="eps", weighting="ddpm")
    t, weighted, _ = loss_and_gradient(config)
    config = ObjectiveConfig(prediction="eps", loss="vlb", variance="beta")
    _, bound, _ = loss_and_gradient(config)
    log_two = torch.log(torch.tensor(2.0, dtype=torch.float64))
    middle = t > 1
    x0 = images(64)
    constant = term(LINEAR, t, t - 1, x0, x0, variance="beta", decoder=pixel_decoder())
    expected = weighted / log_two + constant
    assert_close((bound / LINEAR.T)[middle], expected[middle], rtol=1e-6, atol=0)


# Losses ------------------------------------------------------------------------------------------


class Tiny(nn.Module):
    """The least network that sees the image and the time."""

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, out_channels, 3, padding=1)

    def forward(self, x, t, y=None):
        time = (t / 1000)[:, None, None, None].expand_as(x)
        return self.conv(torch.cat([x, time], dim=1))


@cache
def least_network(out_channels: int) -> Tiny:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Tiny(out_channels)


@pytest.mark.parametrize(
    "schedule",
    [ScheduleConfig("cosine", 20), ScheduleConfig("linear"), ScheduleConfig("flow", 20)],
    ids=["cosine", "linear", "flow"],
)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_combination_trains_or_is_refused(prediction, loss, schedule):
    """A step downhill lowers the loss of the same images; a refusal says what to do instead."""
    x0, stream_index = images(8).float(), torch.arange(8)
    table = build_schedule(schedule)
    trained = 0
    for weighting, times, variance in product(WEIGHTINGS, TIMES, VARIED):
        config = ObjectiveConfig(prediction, loss, weighting, times, variance=variance)
        try:
            objective = build_objective(config, table, None, batch_size=8)
        except ConfigError as error:
            assert any(way in str(error) for way in ("use --", "leave --"))
            continue
        network = least_network(2 if variance == "learned" else 1)
        before = objective(network, x0, None, stream_index, 0).mean()
        gradient = torch.autograd.grad(before, list(network.parameters()))
        size = sum(float(g.square().sum()) for g in gradient)
        assert before.isfinite() and 0 < size < float("inf")
        step = 1e-3 * float(before.detach()) / size
        moved = {
            name: p - step * g
            for (name, p), g in zip(network.named_parameters(), gradient, strict=True)
        }
        after = objective(
            lambda x, t, y, n=network, m=moved: torch.func.functional_call(n, m, (x, t, y)),
            x0,
            None,
            stream_index,
            0,
        ).mean()
        assert 0.99 < float((after / before).detach()) < 1
        trained += 1
    # All weightings, times and two variances; the bound takes one weighting and no log-normal.
    # Consistency takes one weighting, all times and two variances, of edm alone.
    tuned = 8 if prediction == "edm" else 0
    usual = {"mse": 48, "l1": 48, "huber": 48, "vlb": 9, "hybrid": 18, "consistency": tuned}[loss]
    bounded = {"mse": 18, "l1": 18, "huber": 18, "vlb": 9, "hybrid": 9, "consistency": 0}[loss]
    at_zero = 0 if prediction == "eps" else bounded
    assert trained == (at_zero if schedule.name == "flow" else usual)


@pytest.mark.parametrize("loss", ["mse", "l1", "huber"])
def test_losses_by_hand(loss):
    """Distance, mean over pixels, weight of t, and 1 / (T p) where t was drawn with p."""
    x0, stream_index = images(40), torch.arange(40)
    config = ObjectiveConfig("x0", loss, "min-snr", "importance")
    objective = build_objective(config, COSINE, None, batch_size=40)
    assert isinstance(objective.times, LossSecondMoment)
    history = torch.arange(1, 21).double()[:, None].expand(20, 10)
    objective.times.load({"history": history, "seen": torch.full((20,), 10)})
    found = objective(lambda x, t, y: torch.full_like(x, 0.5), x0, None, stream_index, 0)
    t, _ = objective.times.draw(0, stream_index, 0.0)
    gap = (x0 - 0.5).abs()
    distance = {
        "mse": gap**2,
        "l1": gap,
        "huber": torch.where(gap < 1, gap**2 / 2, gap - 0.5),
    }[loss]
    p = 0.999 * t.double() / 210 + 0.001 / 20
    expected = distance.mean(dim=(1, 2, 3)) * COSINE.snr[t].clamp(max=5) / (20 * p)
    assert_close(found, expected)


@pytest.mark.parametrize(
    ("values", "schedule", "message"),
    [
        ({"prediction": "eps"}, FLOW, "--prediction v or x0"),
        ({"times": "log-normal"}, FLOW, "log-normal .*--times stratified"),
        ({"weighting": "min-snr"}, FLOW, "min-snr.* t = 20, .*SNR is 0, .* 0; "),
        ({"variance": "learned"}, COSINE, "'mse'.*--loss hybrid or vlb"),
        ({"loss": "hybrid"}, COSINE, "--variance learned"),
        ({"loss": "vlb", "weighting": "p2"}, COSINE, "'vlb'.*--weighting p2"),
        ({"loss": "consistency"}, COSINE, "--prediction edm"),
        ({"guidance": 0.5}, COSINE, "guidance .*>= 1.* 0.5"),
        ({"guidance": float("nan")}, COSINE, "guidance .*>= 1.* nan"),
        ({"label_dropout": 1.0}, COSINE, "label_dropout .*< 1.* 1.0"),
        ({"loss": "l2"}, COSINE, "loss 'l2'"),
        ({"guidance": 2.0, "label_dropout": 0.0}, COSINE, "2.0 .*--label-dropout 0.1"),
        ({"guidance": 2.0, "loss": "vlb"}, COSINE, "'vlb'.* 2.0; use --loss mse"),
        ({"loss": "vlb", "times": "log-normal"}, COSINE, "'vlb'.*--times stratified"),
        ({"sigma_data": 0.0}, COSINE, "sigma_data .*> 0.* 0.0"),
        ({"p_std": -1.0}, COSINE, "p_std .*> 0.* -1.0"),
        ({"weighting": "snr"}, COSINE, "weighting 'snr'"),
        ({"times": "strat"}, COSINE, "times 'strat'.*stratified"),
        ({"variance": "large"}, COSINE, "variance 'large'"),
    ],
)
def test_impossible_objectives_are_refused(values, schedule, message):
    with pytest.raises(ConfigError, match=message):
        build_objective(ObjectiveConfig(**values), schedule, None)


def test_the_bound_as_a_loss_is_the_sum_of_its_terms():
    """Over one image for each t the mean loss is the whole bound but for the prior."""
    config = ObjectiveConfig("v", "vlb", times="stratified", variance="beta")
    objective = build_objective(config, COSINE, None, batch_size=COSINE.T)
    seen = []

    def network(x, t, y):
        seen.append((x, t))
        return 0.3 * x

    stream_index = torch.arange(COSINE.T)
    x0 = images(1).expand(COSINE.T, -1, -1, -1)
    losses = objective(network, x0, None, stream_index, 1)
    ((x_t, t),) = seen
    assert t.tolist() == list(range(1, COSINE.T + 1))
    a, b = (v[:, None, None, None] for v in amplitudes_at(COSINE, t))
    x0_hat = a * x_t - b * 0.3 * x_t
    terms = term(
        COSINE, t.long(), t.long() - 1, x0, x0_hat, variance="beta", decoder=pixel_decoder()
    )
    assert_close(losses.mean(), terms.sum())


@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_learned_guidance_is_that_of_the_unguided_network(loss):
    """A network of one number a label, on images that are one number a label: the optimum is known.

    Unguided it would be the label's own mean, and without a label the mean of all; guidance moves
    the first away from the second, and leaves the second alone.
    """
    means = torch.tensor([0.8, -0.4, 0.2])
    guidance = 1.6
    config = ObjectiveConfig("x0", loss, label_dropout=0.5, guidance=guidance)
    objective = build_objective(config, LINEAR, null=3)
    answers = nn.Parameter(torch.zeros(4))

    class Table(nn.Module):
        def forward(self, x, t, y):
            return answers[y].view(-1, 1, 1, 1).expand_as(x)

    y = torch.arange(3).repeat(400)
    x0 = means[y].view(-1, 1, 1, 1)
    for step in range(60):
        # The same positions each time: the same labels are hidden, and all that moves is learned.
        (gradient,) = torch.autograd.grad(
            objective(Table(), x0, y, torch.arange(len(y)), 0).sum(), answers
        )
        hidden = uniform(0, Role.LABEL_DROPOUT, torch.arange(len(y))) < 0.5
        seen = torch.bincount(torch.where(hidden, 3, y), minlength=4)
        answers.data -= gradient / seen * (0.5 if loss == "mse" else 1.0)
        assert step or not torch.equal(answers, torch.zeros(4))
    no_label = x0.flatten()[hidden].mean()
    assert_close(answers[3].data, no_label, atol=1e-4, rtol=0)
    assert_close(answers[:3].data, no_label + guidance * (means - no_label), atol=1e-4, rtol=0)


def test_guidance_is_learned_below_its_noise_level_only():
    """The network has other numbers above sigma = 1, and there they are the labels' own means."""
    means = torch.tensor([0.8, -0.4, 0.2])
    config = ObjectiveConfig("x0", label_dropout=0.5, guidance=1.6, guidance_below=1.0)
    objective = build_objective(config, LINEAR, null=3)
    alpha_bar = LINEAR.alpha_bar[1:]
    noisy = (1 - alpha_bar) / alpha_bar >= 1  # at t = 1..T
    answers = nn.Parameter(torch.zeros(2, 4))

    class Table(nn.Module):
        def forward(self, x, t, y):
            return answers[noisy[t.long() - 1].long(), y].view(-1, 1, 1, 1).expand_as(x)

    index = torch.arange(1200)
    y = index % 3
    x0 = means[y].view(-1, 1, 1, 1)
    hidden = uniform(0, Role.LABEL_DROPOUT, index) < 0.5
    t, _ = objective.times.draw(0, index, 0.0)
    above = noisy[t - 1]
    cells = 4 * above.long() + torch.where(hidden, 3, y)
    seen = torch.bincount(cells, minlength=8).view(2, 4)
    assert seen.min() > 10
    for _ in range(60):
        loss = objective(Table(), x0, y, index, 0).sum()
        (gradient,) = torch.autograd.grad(loss, answers)
        answers.data -= gradient / seen * 0.5
    low, high = answers.data
    below = x0.flatten()[hidden & ~above].mean()
    assert_close(low[:3], below + 1.6 * (means - below), atol=1e-4, rtol=0)
    assert_close(high[:3], means, atol=1e-4, rtol=0)
    assert_close(low[3], below, atol=1e-4, rtol=0)


def test_learned_guidance_asks_for_nothing_more_where_there_are_no_labels():
    asked = []

    def network(x, t, y):
        asked.append(y)
        return torch.zeros_like(x)

    x0, stream_index = torch.zeros(4, 1, 2, 2), torch.arange(4)
    for null, y in ((None, None), (2, None), (2, torch.tensor([0, 1, 0, 1]))):
        build_objective(ObjectiveConfig(guidance=1.5), LINEAR, null)(
            network, x0, y, stream_index, 0
        )
    assert len(asked) == 1 + 1 + 2 and set(asked[-1].tolist()) == {2}


def test_the_hybrid_loss_leaves_the_mean_to_the_simple_one():
    """The bound's gradient reaches the variance alone, and there it is 0.001 of the bound's."""
    config = ObjectiveConfig("eps", "hybrid", "min-snr", variance="learned")
    x0, stream_index = images(32), torch.arange(32)

    def gradient(config):
        out = torch.zeros(32, 2, 4, 4, dtype=torch.float64, requires_grad=True)
        said = out if config.variance == "learned" else out[:, :1]
        objective = build_objective(config, LINEAR, None)
        losses = objective(lambda x, t, y: said, x0, None, stream_index, 0)
        return losses.detach(), torch.autograd.grad(losses.sum(), out)[0]

    hybrid, hybrid_gradient = gradient(config)
    simple, simple_gradient = gradient(replace(config, loss="mse", variance="beta"))
    bound, bound_gradient = gradient(replace(config, loss="vlb", weighting="simple"))
    assert_close(hybrid, simple + 0.001 * bound)
    assert_close(hybrid_gradient[:, :1], simple_gradient[:, :1])
    assert_close(hybrid_gradient[:, 1:], 0.001 * bound_gradient[:, 1:])
    assert float(bound_gradient[:, 1:].abs().amin(dim=(1, 2, 3)).min()) > 0


# Times -------------------------------------------------------------------------------------------


def drawn(name: str, schedule, count: int, *, batch_size: int = 1, run_fraction=0.0, **values):
    times = build_times(ObjectiveConfig(times=name, **values), schedule, batch_size)
    return times.draw(0, torch.arange(count), run_fraction)


def test_stratified_times_cover_each_stratum_once():
    t, weight = drawn("stratified", LINEAR, 400, batch_size=40)
    for batch in t.view(10, 40):
        assert ((batch - 1) // 25).tolist() == list(range(40))
    assert len(set(map(tuple, t.view(10, 40).tolist()))) == 10
    assert_close(weight, torch.ones_like(weight), rtol=0, atol=0)
    # Any part of the batch, anywhere, in any order: the same image has the same t.
    times = build_times(ObjectiveConfig(times="stratified"), LINEAR, 40)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    assert times.draw(0, order, 0.5)[0].tolist() == t[order].tolist()
    # Within its stratum t is uniform.
    many = drawn("stratified", build_schedule(ScheduleConfig("linear", 80)), 80_000, batch_size=8)
    counts = torch.bincount(many[0], minlength=81)[1:].double()
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 133  # chi-square, p = 1e-4


def test_log_normal_times_are_the_nearest():
    """By quantiles of the normal law, each taken to the nearest ln sigma of the table."""
    config = ObjectiveConfig(times="log-normal", p_mean=-0.6, p_std=1.4)
    times = build_times(config, COSINE, 1)
    quantiles = torch.special.ndtri((torch.arange(100_000).double() + 0.5) / 100_000)
    gap = (-0.6 + 1.4 * quantiles)[:, None] - COSINE.sigma[1:].log()
    share = torch.bincount(gap.abs().argmin(1), minlength=COSINE.T) / 100_000
    assert_close(times.target, share.double(), rtol=0, atol=2e-5)
    t, weight = times.draw(0, torch.arange(20_000), 0.0)
    counts = torch.bincount(t, minlength=21)[1:].double()
    expected = 20_000 * times.target
    likely = expected > 5
    assert float(((counts - expected) ** 2 / expected)[likely].sum()) < 48  # p = 1e-4, 19 degrees
    assert_close(weight, torch.ones_like(weight), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("T", "stages"),
    [
        (1000, [10, 20, 40, 80, 160, 320, 640, 1000]),
        (80, [10, 20, 40, 80]),
        (11, [10, 11]),
        (10, [10]),
        (3, [3]),
        (1, [1]),
    ],
)
def test_progressive_times_double_over_the_first_half(T, stages):
    found = []
    for step in range(2001):
        times = progressive_times(T, step / 2000)
        if not found or len(times) != len(found[-1][1]):
            found.append((step / 2000, times))
        # Evenly spaced, and the last is T, where sampling begins.
        gaps = {int(b - a) for a, b in pairwise([0, *times.tolist()])}
        assert max(gaps) - min(gaps) <= 1 and min(gaps) >= 1
        assert times[-1] == T
    assert [len(times) for _, times in found] == stages
    # Equal intervals, all of them in the first half.
    expected = [0.5 * i / (len(stages) - 1) for i in range(len(stages))] if len(stages) > 1 else [0]
    assert [start for start, _ in found] == pytest.approx(expected, abs=1 / 2000)


@pytest.mark.parametrize("name", TIMES)
def test_progressive_training_draws_from_its_times_alone(name):
    t, _ = drawn(name, LINEAR, 3000, progressive=True)
    assert set(t.tolist()) <= set(range(100, 1001, 100))
    t, _ = drawn(name, LINEAR, 3000, run_fraction=0.1, progressive=True)
    assert set(t.tolist()) <= set(range(50, 1001, 50)) and 50 in t
    late, plain = (
        drawn(name, LINEAR, 3000, run_fraction=0.5, progressive=progressive)[0]
        for progressive in (True, False)
    )
    assert late.tolist() == plain.tolist()


def test_the_trainer_tells_the_objective_how_far_it_is(tiny, tmp_path):
    """10 of 20 times at first, and all of them from the middle of the run on."""
    run = train(tiny, tmp_path, ScheduleConfig("linear", 20), times="stratified", progressive=True)
    seen = []
    network = run.trainer.network
    network.register_forward_pre_hook(lambda module, args: seen.append(args[1].long().tolist()))
    for _ in run.trainer.steps():
        pass
    even = set(range(2, 21, 2))
    assert len(seen) == 10
    assert all(set(t) <= even for t in seen[:5])
    assert all(not set(t) <= even for t in seen[5:])
    assert all(t == sorted(t) for t in seen)  # one image for each of the batch's 16 strata


def test_the_session_tells_the_bound_where_pixels_lie(tiny, tmp_path):
    dark = replace(tiny, data=replace(tiny.data, low=0.0, high=1.0))
    run = train(dark, tmp_path, ScheduleConfig("cosine", 4), loss="vlb")
    x0, t = torch.tensor([[[[0.0]]], [[[17 / 255]]], [[[1.0]]]]), torch.ones(3, dtype=torch.int64)
    expected = term(
        run.trainer.objective.schedule,
        t,
        t - 1,
        x0,
        x0,
        decoder=pixel_decoder(Bins(0.0, 1.0, 1 / 255)),
    )
    objective = run.trainer.objective
    found = term(objective.schedule, t, t - 1, x0, x0, decoder=objective.decoder)
    assert_close(found, expected)


# Importance sampling -----------------------------------------------------------------------------


def fake_loss(t: torch.Tensor, stream_index: torch.Tensor) -> torch.Tensor:
    """Return a noisy loss whose size depends on t, float64 [B]."""
    size = 0.1 + (t.double() / 7).sin().square() + 3 * (t == 2)
    return size * (0.5 + uniform(9, Role.EVALUATE, stream_index))


def observed(steps: int, batch: int = 64, **values) -> LossSecondMoment:
    """Return importance sampling on COSINE after so many steps of fake losses."""
    times = build_times(ObjectiveConfig(times="importance", **values), COSINE, batch)
    assert isinstance(times, LossSecondMoment)
    for step in range(steps):
        stream_index = torch.arange(step * batch, (step + 1) * batch)
        t, weight = times.draw(4, stream_index, 1.0)
        times.observe(4, stream_index, 1.0, fake_loss(t, stream_index) * weight, lambda v: v)
    return times


def test_importance_sampling_is_unbiased():
    """The expected weighted loss is the uniform mean, exactly and in the draws."""
    times, T = observed(20), COSINE.T
    proposal, t = times.proposal(), torch.arange(1, T + 1)
    assert float(proposal.max() / proposal.min()) > 5  # not uniform
    assert float(proposal.sum()) == pytest.approx(1)
    stream_index = torch.arange(64 * 2000)
    drawn, weight = times.draw(8, stream_index, 1.0)
    assert_close(weight, 1 / (T * proposal[drawn - 1]))
    loss = t.double().square()
    assert float((proposal * loss / (T * proposal)).sum()) == pytest.approx(float(loss.mean()))
    found = (loss[drawn - 1] * weight).view(2000, 64).mean(1)
    assert float(found.mean()) == pytest.approx(
        float(loss.mean()), abs=4 * float(found.std()) / 2000**0.5
    )
    counts = torch.bincount(drawn, minlength=T + 1)[1:] / len(stream_index)
    assert_close(counts.double(), proposal, rtol=0.05, atol=0.001)


def test_importance_follows_the_last_ten_losses():
    """sqrt of the mean square of each t's last ten losses, after ten of each; uniform before."""
    times = build_times(ObjectiveConfig(times="importance"), COSINE, 50)
    history: dict[int, list[float]] = {t: [] for t in range(1, 21)}
    switched = None
    for step in range(40):
        stream_index = torch.arange(step * 50, (step + 1) * 50)
        t, weight = times.draw(4, stream_index, 0.0)
        losses = fake_loss(t, stream_index)
        times.observe(4, stream_index, 0.0, losses * weight, lambda v: v)
        for time, loss in zip(t.tolist(), losses.tolist(), strict=True):
            history[time].append(loss)
        enough = min(map(len, history.values())) >= 10
        if enough and switched is None:
            switched = step
        kept = [torch.tensor(history[t][-10:], dtype=torch.float64) for t in range(1, 21)]
        size = torch.stack([k.square().mean().sqrt() for k in kept]) if enough else torch.ones(20)
        expected = 0.999 * size / size.sum() + 0.001 / 20
        assert_close(times.proposal(), expected.double())
    assert switched is not None and 0 < switched < 30
    assert max(map(len, history.values())) > 50


def test_importance_is_the_same_in_all_processes():
    """Two processes that gather each other's losses, out of order, remember what one does."""
    one = observed(12)
    two = build_times(ObjectiveConfig(times="importance"), COSINE, 64)
    for step in range(12):
        parts = [torch.arange(step * 64 + 16 * i, step * 64 + 16 * (i + 1)) for i in range(4)]
        # As the trainer has it: two accumulated parts of each of two ranks.
        ranks = torch.cat([parts[0], parts[2]]), torch.cat([parts[1], parts[3]])
        everything = torch.cat(ranks)
        t, weight = two.draw(4, everything, 1.0)
        losses = fake_loss(t, everything) * weight
        gathered = {32: everything, 33: losses}
        calls = iter(gathered.values())
        two.observe(4, ranks[0], 1.0, losses[:32], lambda v, calls=calls: next(calls))
    for name, tensor in one.state().items():
        assert_close(two.state()[name], tensor, rtol=0, atol=0)


def train(tiny, out, schedule, checkpoint=None, **objective) -> Session:
    experiment = replace(tiny, schedule=schedule, objective=ObjectiveConfig(**objective))
    options = RunOptions(device="cpu", sample_every=0, checkpoint_every=0)
    return Session(experiment, out, options, checkpoint=checkpoint)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_importance_sampling_resumes_exactly(tiny, tmp_path, accumulate):
    """10 steps equal 7, save, load, 3, with a history that decides the times by then."""
    tiny = with_training(tiny, accumulate=accumulate)
    how = {"times": "importance", "loss": "hybrid", "variance": "learned", "progressive": True}
    schedule = ScheduleConfig("cosine", 6)
    train(tiny, tmp_path / "whole", schedule, **how).run()

    half = train(tiny, tmp_path / "halves", schedule, **how)
    for progress in half.trainer.steps():
        half.log.add(progress)
        if progress.step == 7:
            break
    half.save()
    half.close()
    checkpoint = newest_checkpoint(tmp_path / "halves")
    assert checkpoint is not None
    rest = train(tiny, tmp_path / "halves", schedule, checkpoint, **how)
    proposal = rest.trainer.objective.times.proposal()
    assert float(proposal.max() / proposal.min()) > 1.1
    rest.run()

    whole, halves = (
        load_checkpoint(tmp_path / d / "last.safetensors").tensors for d in ("whole", "halves")
    )
    assert whole.keys() == halves.keys() >= {"objective.history", "objective.seen"}
    assert int(whole["objective.seen"].sum()) == 160
    for name, tensor in whole.items():
        assert_close(halves[name], tensor, rtol=0, atol=0, msg=name)

    forgetful = {k: v for k, v in checkpoint.tensors.items() if not k.startswith("objective.")}
    with pytest.raises(CheckpointError, match="does not fit"):
        train(tiny, tmp_path / "halves", schedule, replace(checkpoint, tensors=forgetful), **how)


def test_accumulation_does_not_change_the_times(tiny, tmp_path):
    """The history is that of whole steps, whatever the parts in which they are computed."""
    how = {"times": "importance", "weighting": "min-snr"}
    runs = [
        train(
            with_training(tiny, accumulate=n), tmp_path / str(n), ScheduleConfig("cosine", 4), **how
        )
        for n in (1, 4)
    ]
    losses = [[float(p.loss) for p in run.trainer.steps()] for run in runs]
    assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-6)
    states = [run.trainer.objective.state() for run in runs]
    assert_close(states[1]["seen"], states[0]["seen"], rtol=0, atol=0)
    assert_close(states[1]["history"], states[0]["history"], rtol=1e-3, atol=1e-5)


# EDM's preconditioning ---------------------------------------------------------------------------


@pytest.mark.parametrize("t", [1, 300, 1000])
def test_edm_equals_its_paper(t):
    """c_skip, c_out and c_in of arXiv 2206.00364, table 1, in x_t / a and sigma = b / a."""
    data, sigma = 0.37, float(LINEAR.sigma[t])
    ab = float(LINEAR.alpha_bar[t])
    a, b = ab**0.5, (1 - ab) ** 0.5
    edm = get_prediction("edm", data)
    x_t, out = points(2, 5)
    c_skip = data**2 / (sigma**2 + data**2)
    c_out = sigma * data / (sigma**2 + data**2) ** 0.5
    c_in = 1 / (sigma**2 + data**2) ** 0.5
    assert_close(edm.x0(out, x_t, a, b), c_skip * x_t / a + c_out * out)
    assert_close(edm.input_scale(a, b) * x_t, c_in * x_t / a)

    class F(nn.Module):
        def forward(self, x, t, y=None):
            assert_close(x, c_in * x_t / a)
            return x.sin()

    images = x_t[None]
    x_t = images
    estimate = Denoiser(F(), edm)(images, t, ab)
    assert_close(estimate.x0, c_skip * images / a + c_out * (c_in * images / a).sin())


def test_a_model_samples_with_the_sigma_data_that_it_learned_with(tiny, tmp_path):
    objective = replace(tiny.objective, prediction="edm", sigma_data=0.3)
    tiny = with_training(replace(tiny, objective=objective), steps=1)
    Session(tiny, tmp_path, RunOptions(device="cpu", sample_every=0)).run()
    model, labels = load(tmp_path), torch.tensor([3, 7])
    x_t = points(2, 64).float().view(2, 1, 8, 8)
    ab = float(model.schedule.alpha_bar[500])
    found = model.denoiser(labels, clip=False)(x_t, 500, ab)
    wanted = Denoiser(model.network, get_prediction("edm", 0.3), labels=labels, null=10)
    assert_close(found.x0, wanted(x_t, 500, ab).x0)
    other = replace(wanted, prediction=get_prediction("edm"))
    assert (found.x0 - other(x_t, 500, ab).x0).abs().max() > 0.1


def test_edm_with_unit_data_is_v():
    edm, v = get_prediction("edm", 1.0), get_prediction("v")
    x0, eps, out = points(3, 5)
    for t in (1, 400, 1000):
        a, b = amplitudes_at(LINEAR, torch.tensor(t))
        x_t = a * x0 + b * eps
        assert_close(edm.target(x0, eps, a, b), -v.target(x0, eps, a, b))
        assert_close(edm.x0(-out, x_t, a, b), v.x0(out, x_t, a, b))
        assert_close(edm.eps(-out, x_t, a, b), v.eps(out, x_t, a, b))
        assert float(edm.input_scale(a, b)) == pytest.approx(1)


def test_edm_sees_and_answers_in_unit_variance():
    """For data of deviation sigma_data, input and target have variance 1 at every time."""
    edm = get_prediction("edm", 0.3)
    x0, eps = 0.3 * points(1, 50_000, seed=1), points(1, 50_000, seed=2)
    for schedule, t in ((LINEAR, 1), (LINEAR, 500), (FLOW, 10), (FLOW, 20)):
        a, b = amplitudes_at(schedule, torch.tensor(t))
        assert float((edm.input_scale(a, b) * (a * x0 + b * eps)).var()) == pytest.approx(
            1, abs=0.03
        )
        assert float(edm.target(x0, eps, a, b).var()) == pytest.approx(1, abs=0.03)


# Schedules ---------------------------------------------------------------------------------------


def test_log_linear_is_even_in_log_sigma():
    log_sigma = build_schedule(ScheduleConfig("log-linear", 50)).sigma[1:].log()
    assert log_sigma[[0, -1]].exp().tolist() == pytest.approx([0.002, 80])
    assert_close(log_sigma.diff(), log_sigma.diff()[:1].expand(49))
    assert float(build_schedule(ScheduleConfig("log-linear", 1)).sigma[1]) == pytest.approx(80)
    with pytest.raises(ConfigError, match=r"sigma_min < sigma_max.* 2 and 1"):
        build_schedule(ScheduleConfig("log-linear", 9, {"sigma_min": 2.0, "sigma_max": 1.0}))


def test_flow_is_the_straight_path():
    """x_t is (1 - u) x0 + u eps but for its length; v says the velocity; DDIM is its Euler step."""
    x0, eps, out = points(3, 5)
    for t, s in ((20, 15), (10, 9), (1, 0)):
        u, w = t / 20, s / 20
        a, b = amplitudes_at(FLOW, torch.tensor(t))
        r = ((1 - u) ** 2 + u**2) ** 0.5
        straight = (1 - u) * x0 + u * eps
        assert_close(a * x0 + b * eps, straight / r)
        v = a * eps - b * x0
        assert_close((b - a) * straight / r + (a + b) * v, eps - x0)
        assert float((a + b) ** 2) == pytest.approx(1 / r**2)
        # Any belief, not only the truth.
        x_t = (straight / r)[None]
        answer = get_prediction("v")
        denoise = Denoiser(lambda x, t, y: out[None], answer)
        estimate = denoise(x_t, float(t), float(FLOW.alpha_bar[t]))
        euler = r * x_t + (w - u) * (estimate.eps - estimate.x0)
        grid = replace(
            make_grid(FLOW, 20), t=(t, s), alpha_bar=tuple(FLOW.alpha_bar[[t, s]].tolist())
        )
        (state,) = ddim.sample(denoise, x_t, grid, None, ddim.Config())
        assert_close(state.x * ((1 - w) ** 2 + w**2) ** 0.5, euler)


def test_flow_needs_no_special_case():
    assert FLOW.zero_terminal
    times = FLOW.time_of(FLOW.log_snr[1:])
    assert_close(times, torch.arange(1, 21).double())
    # The shift of the SNR is the usual shift of u.
    u = torch.arange(21).double() / 20
    moved = 3 * u / (1 + 2 * u)
    expected = (1 - moved) ** 2 / ((1 - moved) ** 2 + moved**2)
    assert_close(shift_snr(FLOW.alpha_bar, 3.0), expected)


# Learned variance --------------------------------------------------------------------------------


class Two(nn.Module):
    """Says v = 0.2 x in C channels, and the same fraction everywhere in C more."""

    def __init__(self, fraction: float) -> None:
        super().__init__()
        self.said = 2 * fraction - 1

    def forward(self, x, t, y=None):
        shift = 0 if y is None else y.to(x)[:, None, None, None]
        return torch.cat([0.2 * x + shift, torch.full_like(x, self.said) + shift], dim=1)


@pytest.mark.parametrize(("fraction", "fixed"), [(0.0, "beta-tilde"), (1.0, "beta")])
def test_sampling_with_a_learned_variance_ends_at_the_fixed_ones(fraction, fixed):
    x, grid = points(3, 4), make_grid(COSINE, 7)
    denoise = Denoiser(Two(fraction), get_prediction("v"))
    states = {
        variance: [s.x for s in ddpm.sample(denoise, x, grid, lambda i: x, ddpm.Config(variance))]
        for variance in ("learned", "beta", "beta-tilde")
    }
    assert_close(states["learned"], states[fixed])
    other = "beta" if fixed == "beta-tilde" else "beta-tilde"
    assert float((states["learned"][-1] - states[other][-1]).abs().min()) > 1e-3


def test_a_learned_variance_is_not_guided():
    x, labels = points(2, 4), torch.tensor([1, 2])
    denoise = Denoiser(Two(0.25), get_prediction("v"), labels, Guidance(3.0), null=0)
    guided = denoise(x, 5, float(COSINE.alpha_bar[5]))
    plain = Denoiser(Two(0.25), get_prediction("v"), labels)(x, 5, float(COSINE.alpha_bar[5]))
    assert guided.variance_fraction is not None
    assert_close(guided.variance_fraction, plain.variance_fraction)
    assert float((guided.x0 - plain.x0).abs().min()) > 0.1


def test_a_head_of_c_channels_has_no_variance(tiny):
    network = tiny_network(tiny, "beta")
    denoise = Denoiser(network, get_prediction("v"))
    grid, x = make_grid(COSINE, 3), points(2, 16).float().view(2, 1, 4, 4)
    with pytest.raises(ConfigError, match=r"'learned'.*2C.*--variance learned"):
        list(ddpm.sample(denoise, x, grid, lambda i: x, ddpm.Config("learned")))
    config = ObjectiveConfig(loss="hybrid", variance="learned")
    with pytest.raises(ConfigError, match=r"'learned'.*2C"):
        build_objective(config, COSINE, None)(network, x, None, torch.arange(2), 0)
    a, b = amplitudes_at(COSINE, torch.tensor(3))
    two = call_network(
        tiny_network(tiny, "learned"), get_prediction("v"), x, torch.ones(2), None, a, b
    )
    assert two.output.shape == x.shape
    # The last layer begins at 0: half-way between the variances.
    assert_close(two.fraction, torch.full_like(x, 0.5))


def tiny_network(tiny, variance: str) -> nn.Module:
    loss = "hybrid" if variance == "learned" else "mse"
    experiment = replace(tiny, objective=ObjectiveConfig(loss=loss, variance=variance))
    return build_network(experiment, (1, 4, 4), 0)


def test_a_model_with_a_learned_variance_is_sampled(tiny, tmp_path):
    run = train(tiny, tmp_path, ScheduleConfig("cosine", 8), loss="hybrid", variance="learned")
    run.run()
    model = run.model()
    drawn = {
        name: model.sample(2, sampler="ddpm", steps=8, options={"variance": name}).images
        for name in ("learned", "beta")
    }
    assert drawn["learned"].shape == (2, *model.shape)
    assert (drawn["learned"] != drawn["beta"]).any()
    model.sample(2, sampler="ddim", steps=4)

    # And its bound on real images is evaluated: all terms, or some of them.
    decoder = pixel_decoder(Bins(*model.scaling.bounds, model.scaling.bin_width))
    x0 = model.scaling.to_model(torch.from_numpy(run.images.images[:3].copy()))
    steps = [(t, t - 1) for t in range(8, 0, -1)]
    every, some = (
        bound_terms(
            model.denoiser(),
            model.schedule,
            x0,
            lambda t: normal(0, Role.EVALUATE, torch.arange(3), model.shape, t),
            which,
            variance="learned",
            decoder=decoder,
        )
        for which in (steps, steps[::3])
    )
    assert every.shape == (3, 8) and bool((every > 0).all())
    assert_close(some, every[:, ::3])
    # Worse than 8 bits: 10 steps of training; but not out of this world.
    assert 1 < float(every.sum(1).mean()) < 1000
