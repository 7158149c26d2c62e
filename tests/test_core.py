"""Schedules, forward process, predictions, noise, denoiser and objective against truth."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pocketddpm.build import build_schedule
from pocketddpm.catalog import SCHEDULES
from pocketddpm.config import ObjectiveConfig, ScheduleConfig
from pocketddpm.diffusion.build import build_objective
from pocketddpm.diffusion.denoiser import Denoiser
from pocketddpm.diffusion.guidance import Guidance
from pocketddpm.diffusion.prediction import PREDICTIONS, get_prediction
from pocketddpm.diffusion.process import add_noise, posterior, step_beta
from pocketddpm.diffusion.schedule import Schedule, shift_snr, zero_terminal_snr
from pocketddpm.errors import ConfigError
from pocketddpm.noise import Role, normal, philox, uniform

LINEAR = build_schedule(ScheduleConfig("linear"))


# Schedules ---------------------------------------------------------------------------------------

# alpha_bar of diffusers' float32 tables at its t = 0, 500, 999, which is t = 1, 501, 1000 here.
PUBLISHED = {
    "linear": (0.9999, 0.07779665, 4.03583e-5),
    "scaled-linear": (0.9999, 0.3312746, 7.33412e-4),
    "cosine": (0.9999587, 0.492285, 2.428735e-9),
    "sigmoid-beta": (0.9998508, 0.2988876, 3.968182e-5),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_schedule_equals_published_values(name):
    alpha_bar = build_schedule(ScheduleConfig(name)).alpha_bar
    expected = torch.tensor(PUBLISHED[name], dtype=torch.float64)
    # Six or seven published digits of a float32 cumulative product.
    assert_close(
        alpha_bar[[1, 501, 1000]], expected, rtol=1e-4 if name == "cosine" else 2e-5, atol=0
    )


def test_zero_terminal_rescaling_equals_published_values():
    schedule = build_schedule(ScheduleConfig("linear", zero_terminal=True))
    expected = torch.tensor([0.9999, 0.0752462, 0.0], dtype=torch.float64)
    assert_close(schedule.alpha_bar[[1, 501, 1000]], expected, rtol=1e-5, atol=0)
    assert schedule.zero_terminal


@pytest.mark.parametrize("T", [1, 2, 10, 1000])
@pytest.mark.parametrize("name", SCHEDULES.names())
def test_every_schedule_is_a_schedule(name, T):
    schedule = build_schedule(ScheduleConfig(name, T))  # its own checks: monotone, from 1, float64
    assert schedule.T == T
    if T >= 1000:
        assert schedule.alpha_bar[-1] < 1e-3
    assert_close((1 - schedule.beta).cumprod(0), schedule.alpha_bar[1:], rtol=1e-9, atol=0)
    assert_close(torch.sigmoid(schedule.log_snr), schedule.alpha_bar, rtol=1e-9, atol=0)
    assert_close(1 / (1 + schedule.sigma**2), schedule.alpha_bar, rtol=1e-9, atol=0)
    times = torch.arange(1, T + 1)
    assert_close(schedule.time_of(schedule.log_snr[1:]), times.double(), rtol=1e-9, atol=0)


def test_fewer_steps_end_in_the_same_noise():
    full, short = LINEAR.alpha_bar[-1], build_schedule(ScheduleConfig("linear", 100)).alpha_bar[-1]
    assert 0.2 < float(short / full) < 5
    options = {"rescale": False}
    plain = build_schedule(ScheduleConfig("linear", 100, options))
    assert_close(plain.beta[-1], torch.tensor(0.02, dtype=torch.float64))


def test_shift_divides_the_snr():
    shifted = Schedule(shift_snr(LINEAR.alpha_bar, 2.0))
    assert_close(shifted.snr[1:], LINEAR.snr[1:] / 4)
    assert_close(zero_terminal_snr(LINEAR.alpha_bar)[1], LINEAR.alpha_bar[1])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ScheduleConfig("lineal"), "'lineal'.* linear"),
        (ScheduleConfig("linear", 0), "T .*1.* 0"),
        (ScheduleConfig("linear", 10, {"beta_emd": 0.2}), "beta_emd.* beta_end"),
        (ScheduleConfig("linear", 10, {"beta_end": 2.0, "rescale": False}), "beta .* 2$"),
        (ScheduleConfig("linear", 10, {"beta_end": "x"}), "beta_end .*'x'"),
        (ScheduleConfig("linear", shift=0.0), "shift .* 0.0"),
    ],
)
def test_wrong_schedules_are_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        build_schedule(config)


# Forward process ---------------------------------------------------------------------------------


def test_posterior_equals_published_values():
    # diffusers' index 0, 1 and 999 are steps 1, 2 and 1000.
    ab = LINEAR.alpha_bar.tolist()
    assert posterior(ab[1], ab[0]).variance == 0
    assert math.log(posterior(ab[2], ab[1]).variance) == pytest.approx(-9.81672514, rel=1e-7)
    assert posterior(ab[2], ab[1]).x0_weight == pytest.approx(0.5452915, rel=1e-6)
    assert posterior(ab[2], ab[1]).x_t_weight == pytest.approx(0.4547085, rel=1e-6)
    assert posterior(ab[1000], ab[999]).x_t_weight == pytest.approx(0.98994868, rel=1e-6)


@pytest.mark.parametrize(("t", "s"), [(1000, 0), (700, 300), (2, 1)])
def test_posterior_is_bayes_rule(t, s):
    """q(x_s | x_t, x0) from the two Gaussians q(x_s | x0) and q(x_t | x_s), by hand."""
    ab_t, ab_s = float(LINEAR.alpha_bar[t]), float(LINEAR.alpha_bar[s])
    q = posterior(ab_t, ab_s)
    if s == 0:
        assert (q.x0_weight, q.x_t_weight, q.variance) == pytest.approx((1, 0, 0), abs=1e-12)
        return
    alpha, beta = ab_t / ab_s, step_beta(ab_t, ab_s)
    precision = alpha / beta + 1 / (1 - ab_s)
    assert q.variance == pytest.approx(1 / precision, rel=1e-9)
    assert q.x_t_weight == pytest.approx(alpha**0.5 / beta / precision, rel=1e-9)
    assert q.x0_weight == pytest.approx(ab_s**0.5 / (1 - ab_s) / precision, rel=1e-9)


def test_steps_chain():
    """Going t -> r -> s is going t -> s: means and variances compose."""
    ab = LINEAR.alpha_bar.tolist()
    t, r, s = ab[900], ab[500], ab[100]
    first, second, whole = posterior(t, r), posterior(r, s), posterior(t, s)
    # x_s = second(x0, x_r), x_r = first(x0, x_t)
    assert second.x_t_weight * first.x_t_weight == pytest.approx(whole.x_t_weight, rel=1e-9)
    composed = second.x0_weight + second.x_t_weight * first.x0_weight
    assert composed == pytest.approx(whole.x0_weight, rel=1e-9)
    variance = second.variance + second.x_t_weight**2 * first.variance
    assert variance == pytest.approx(whole.variance, rel=1e-9)


def test_add_noise_has_the_right_moments():
    eps = normal(0, Role.START, torch.arange(4000), (1, 4, 4))
    x = add_noise(torch.full_like(eps, 0.5), eps, LINEAR.at(torch.full((4000,), 300)))
    ab = float(LINEAR.alpha_bar[300])
    n = x.numel()
    assert float(x.mean()) == pytest.approx(0.5 * ab**0.5, abs=5 * ((1 - ab) / n) ** 0.5)
    assert float(x.var()) == pytest.approx(1 - ab, abs=5 * (1 - ab) * (2 / n) ** 0.5)


# Predictions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PREDICTIONS)
@pytest.mark.parametrize("t", [1, 500, 1000])
def test_predictions_invert_their_targets(name, t):
    prediction = get_prediction(name)
    generator = torch.Generator().manual_seed(1)
    x0, eps = torch.randn(2, 3, 1, 4, 4, generator=generator, dtype=torch.float64)
    ab = float(LINEAR.alpha_bar[t])
    a, b = ab**0.5, (1 - ab) ** 0.5
    x_t = a * x0 + b * eps
    target = prediction.target(x0, eps, a, b)
    # eps prediction divides by a = 0.006 at t = T, x0 prediction by b = 0.01 at t = 1.
    assert_close(prediction.x0(target, x_t, a, b), x0, rtol=1e-10, atol=1e-10)
    assert_close(prediction.eps(target, x_t, a, b), eps, rtol=1e-10, atol=1e-10)


# Noise -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "key", "expected"),
    [
        (0, (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (0xFFFFFFFF, (0xFFFFFFFF, 0xFFFFFFFF), "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ],
)
def test_philox_known_answers(word, key, expected):
    """The known answers published with Random123 for philox4x32-10."""
    c = torch.tensor([word])
    assert " ".join(f"{int(v):08x}" for v in philox((c, c, c, c), key)) == expected


def test_philox_known_answer_of_pi():
    c = [torch.tensor([v]) for v in (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)]
    out = philox((c[0], c[1], c[2], c[3]), (0xA4093822, 0x299F31D0))
    assert " ".join(f"{int(v):08x}" for v in out) == "d16cfe09 94fdcceb 5001e420 24126ea1"


def test_noise_depends_on_its_arguments_alone():
    one = normal(7, Role.STEP, torch.tensor([5]), (1, 3, 3), 2)
    many = normal(7, Role.STEP, torch.arange(9), (1, 3, 3), 2)
    assert_close(many[5:6], one, rtol=0, atol=0)
    others = [
        normal(8, Role.STEP, torch.tensor([5]), (1, 3, 3), 2),
        normal(7, Role.START, torch.tensor([5]), (1, 3, 3), 2),
        normal(7, Role.STEP, torch.tensor([6]), (1, 3, 3), 2),
        normal(7, Role.STEP, torch.tensor([5]), (1, 3, 3), 3),
        normal(7 + 2**40, Role.STEP, torch.tensor([5]), (1, 3, 3), 2),
        normal(7, Role.STEP, torch.tensor([5 + 2**33]), (1, 3, 3), 2),
    ]
    for other in others:
        assert float((other - one).abs().min()) > 0
    wide = normal(7, Role.STEP, torch.tensor([5]), (1, 3, 3), 2, dtype=torch.float64)
    assert_close(wide.float(), one, rtol=1e-4, atol=1e-5)


def test_no_seed_repeats_another():
    """Seeds of 64 bits differ; those beyond, which would repeat seed 0, are refused."""
    index = torch.arange(4)
    seeds = [0, 1, 2**31, 2**32, 2**32 + 1, 2**63, 2**64 - 1, -(2**63) + 1, -2]
    assert len({tuple(uniform(s, Role.START, index).tolist()) for s in seeds}) == len(seeds)
    for seed in (2**64, 2**64 + 1, 2**70, -(2**63) - 1):
        for draw in (
            lambda s: uniform(s, Role.START, index),
            lambda s: normal(s, Role.STEP, index, (2,)),
        ):
            with pytest.raises(ConfigError, match=str(seed)):
                draw(seed)


def test_noise_is_standard_normal_and_independent():
    z = normal(3, Role.START, torch.arange(20_000), (8,), dtype=torch.float64)
    n = z.numel()
    assert float(z.mean()) == pytest.approx(0, abs=5 / n**0.5)
    assert float(z.var()) == pytest.approx(1, abs=5 * (2 / n) ** 0.5)
    assert float((z**4).mean()) == pytest.approx(3, abs=5 * (96 / n) ** 0.5)
    covariance = z.T @ z / len(z)
    assert float((covariance - torch.eye(8)).abs().max()) < 5 * (2 / len(z)) ** 0.5
    neighbours = (z[1:] * z[:-1]).mean()
    assert float(neighbours) == pytest.approx(0, abs=5 / n**0.5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_types_that_do_not_hold_32_bits_are_refused(dtype):
    for draw in (
        lambda: normal(0, Role.START, torch.arange(2), (3,), dtype=dtype),
        lambda: uniform(0, Role.TRAIN_TIME, torch.arange(2), dtype=dtype),
    ):
        with pytest.raises(ConfigError, match=f"float32 or float64.* {dtype}"):
            draw()


def test_uniform_is_uniform():
    u = uniform(0, Role.TRAIN_TIME, torch.arange(50_000))
    assert 0 < float(u.min()) < float(u.max()) < 1
    counts = torch.histc(u, 10, 0, 1)
    assert float(((counts - 5000) ** 2 / 5000).sum()) < 34  # chi-square, 9 degrees, p = 1e-4


# Denoiser ----------------------------------------------------------------------------------------


class Linear(nn.Module):
    """A stand-in: depends on x, t and y, and counts its calls."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x, t, y=None):
        self.calls += 1
        shift = 0 if y is None else y.to(x)[:, None, None, None]
        return 0.3 * x + 0.01 * t[:, None, None, None].to(x) / 1000 + 0.1 * shift


@pytest.mark.parametrize("name", PREDICTIONS)
def test_guidance_is_linear_in_eps(name):
    """Guiding the output is guiding eps, whatever the network predicts; in one call."""
    net, prediction = Linear(), get_prediction(name)
    x = torch.linspace(-1, 1, 32, dtype=torch.float64).view(2, 1, 4, 4)
    labels = torch.tensor([3, 5])
    ab = float(LINEAR.alpha_bar[400])
    estimates = {
        w: Denoiser(net, prediction, labels, Guidance(w), null=10)(x, 400, ab).eps
        for w in (0.0, 1.0, 2.5)
    }
    assert net.calls == 3
    expected = estimates[0.0] + 2.5 * (estimates[1.0] - estimates[0.0])
    assert_close(estimates[2.5], expected)
    null = Denoiser(net, prediction, torch.tensor([10, 10]), null=10)(x, 400, ab).eps
    assert_close(estimates[0.0], null)


def test_estimates_are_consistent_and_clipped():
    x = torch.linspace(-2, 2, 16, dtype=torch.float64).view(1, 1, 4, 4)
    ab = float(LINEAR.alpha_bar[300])
    denoiser = Denoiser(Linear(), get_prediction("eps"), clip=lambda v: v.clamp(-0.5, 0.5))
    x0, eps = denoiser(x, 300, ab)[:2]
    assert float(x0.abs().max()) == 0.5
    assert_close(ab**0.5 * x0 + (1 - ab) ** 0.5 * eps, x)


def test_impossible_denoisers_are_refused():
    with pytest.raises(ConfigError, match=r"guidance 2 .*--guidance 1.*--guide"):
        Denoiser(Linear(), get_prediction("eps"), guidance=Guidance(2.0))
    with pytest.raises(ConfigError, match=r"^eps .*alpha_bar\[T\] > 0.*--prediction v or x0"):
        Denoiser(Linear(), get_prediction("eps"))(torch.zeros(1, 1, 2, 2), 1000, 0.0)


# Objective ---------------------------------------------------------------------------------------


class Perfect(nn.Module):
    """Knows the clean images and answers without error."""

    def __init__(self, x0, schedule, prediction):
        super().__init__()
        self.x0, self.schedule, self.prediction = x0, schedule, prediction

    def forward(self, x_t, t, y=None):
        ab = self.schedule.at(t)[:, None, None, None]
        a, b = ab.sqrt().to(x_t), (1 - ab).sqrt().to(x_t)
        eps = (x_t / self.prediction.input_scale(a, b) - a * self.x0) / b
        return self.prediction.target(self.x0, eps, a, b)


@pytest.mark.parametrize("loss", ["mse", "l1", "huber"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_perfect_network_has_no_loss(prediction, loss):
    config = ObjectiveConfig(prediction=prediction, loss=loss)
    objective = build_objective(config, LINEAR, null=None)
    x0 = torch.rand(6, 1, 4, 4) * 2 - 1
    stream_index = torch.arange(6)
    perfect = Perfect(x0, LINEAR, get_prediction(prediction))
    # The network re-derives eps from x_t by dividing by b, which is 0.01 at t = 1.
    assert_close(objective(perfect, x0, None, stream_index, 0), torch.zeros(6), rtol=0, atol=1e-3)
    zero = objective(lambda x, t, y: torch.zeros_like(x), x0, None, stream_index, 0)
    assert zero.shape == (6,)
    assert float(zero.min()) > 0.01


def test_losses_are_per_image_means():
    config = ObjectiveConfig(prediction="x0", loss="l1")
    objective = build_objective(config, LINEAR, null=None)
    x0 = torch.stack([torch.full((1, 2, 2), 0.25), torch.full((1, 2, 2), -0.5)])
    losses = objective(lambda x, t, y: torch.zeros_like(x), x0, None, torch.arange(2), 0)
    assert_close(losses, torch.tensor([0.25, 0.5]))


def test_times_are_uniform_over_all_steps():
    objective = build_objective(
        ObjectiveConfig(), build_schedule(ScheduleConfig("linear", 10)), None
    )
    t, weight = objective.times.draw(0, torch.arange(50_000), 0.0)
    assert_close(weight, torch.ones(50_000, dtype=torch.float64), rtol=0, atol=0)
    assert (int(t.min()), int(t.max())) == (1, 10)
    counts = torch.bincount(t, minlength=11)[1:].double()
    assert float(((counts - 5000) ** 2 / 5000).sum()) < 34


def test_labels_are_dropped_at_the_rate_asked_for():
    seen = []

    def network(x, t, y):
        seen.append(y)
        return torch.zeros_like(x)

    objective = build_objective(ObjectiveConfig(label_dropout=0.25), LINEAR, null=10)
    y = torch.full((8000,), 4)
    objective(network, torch.zeros(8000, 1, 1, 1), y, torch.arange(8000), 0)
    assert set(seen[0].tolist()) == {4, 10}
    assert float((seen[0] == 10).double().mean()) == pytest.approx(0.25, abs=5 * 0.0049)
    none = replace(objective, label_dropout=0.0)
    none(network, torch.zeros(8000, 1, 1, 1), y, torch.arange(8000), 0)
    assert set(seen[1].tolist()) == {4}
