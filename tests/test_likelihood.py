"""Both likelihoods against closed forms, and how bits are counted."""

import json
from dataclasses import replace
from itertools import pairwise
from math import log, log2, pi

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence
from torch.testing import assert_close

from models import Labelled, model_around
from oracle import GAUSSIAN, MIXTURE, bound_terms, gaussian_log_density
from pocketddpm.build import build_schedule
from pocketddpm.catalog import SCHEDULES
from pocketddpm.config import DataConfig, ScheduleConfig
from pocketddpm.data.load import load_images
from pocketddpm.data.scaling import Scaling
from pocketddpm.data.split import hold_out
from pocketddpm.diffusion.bound import Bins, pixel_decoder, prior
from pocketddpm.diffusion.denoiser import Denoiser, DenoiserOutput
from pocketddpm.diffusion.grid import explicit_grid
from pocketddpm.diffusion.guidance import Guidance
from pocketddpm.diffusion.likelihood import (
    cut,
    draw_bound,
    flow,
    flow_log_density,
    flow_nfe,
    per_image,
)
from pocketddpm.diffusion.prediction import PREDICTIONS, get_prediction
from pocketddpm.errors import ConfigError
from pocketddpm.metrics import likelihood
from pocketddpm.metrics.likelihood import LikelihoodImages
from pocketddpm.metrics.options import LikelihoodOptions
from pocketddpm.noise import Role, normal
from test_cli import TINY_NET, refused, run


def measure(model, images, flow_steps=None, **options):
    """Return the report of the bound, and of the flow where it is given steps."""
    which = "bound" if flow_steps is None else "both"
    options = LikelihoodOptions(which, flow_steps=flow_steps or 64, **options)
    return likelihood.measure(model, images, options)


def likelihood_images(model, n, **options):
    return likelihood.likelihood_images(model, LikelihoodOptions(n=n, **options))


DOUBLE = torch.float64


def schedule_of(name="cosine", T=1000, **values):
    return build_schedule(ScheduleConfig(name, T, **values))


def at_once(oracle):
    """Return `DenoiseEach` from an oracle, for a batch that shares its time, as in the flow."""
    return lambda x_t, t, alpha_bar: oracle(x_t, 0.0, float(alpha_bar[0]))


def one_by_one(oracle):
    """Return `DenoiseEach` of images with times of their own; the oracle must be a Gaussian."""
    size, axes = torch.linalg.eigh(oracle.cov[0])

    def denoise(x_t, t, alpha_bar):
        ab = alpha_bar[:, None]
        along = (x_t.flatten(1) - ab.sqrt() * oracle.mean[0]) @ axes
        x0 = oracle.mean[0] + (ab.sqrt() * size / (ab * size + 1 - ab) * along) @ axes.T
        return DenoiserOutput(x0.view_as(x_t), x0.view_as(x_t), torch.full_like(x_t, 0.5))

    return denoise


def points(oracle, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    which = torch.multinomial(oracle.weight, n, replacement=True, generator=generator)
    noise = torch.randn(n, oracle.mean.shape[1], 1, generator=generator, dtype=DOUBLE)
    root = torch.linalg.cholesky(oracle.cov)[which]
    return (oracle.mean[which] + (root @ noise)[..., 0])[:, None, None]


# The bound ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("T", "draws"), [(1, 1), (2, 2), (7, 3), (50, 50), (1000, 20), (999, 998)])
def test_strata_hold_every_step_once_and_are_narrow_at_small_t(T, draws):
    strata = cut(T, draws)
    assert len(strata) == draws
    assert strata[0] == (1, 1)
    assert [t for first, last in strata for t in range(first, last + 1)] == list(range(1, T + 1))
    if draws < 50:
        sizes = [last - first for first, last in strata]
        assert sizes == sorted(sizes)


@pytest.mark.parametrize(("T", "draws"), [(1000, 1), (1000, 1001), (1, 2), (5, 0)])
def test_strata_that_cannot_be(T, draws):
    with pytest.raises(ConfigError, match=rf"draws .*{min(2, T)}\.\.{T} .* {draws}$"):
        cut(T, draws)


@pytest.mark.parametrize("zero_terminal", [False, True])
def test_every_step_of_a_short_chain_by_hand(zero_terminal):
    """Bayes' rule, torch's divergences and torch's distribution function, asymmetric data."""
    schedule = schedule_of("linear", 3, options={"rescale": False}, zero_terminal=zero_terminal)
    ab = schedule.alpha_bar.tolist()
    values = torch.tensor([[0, 255, 200, 7], [0, 0, 3, 128]])
    x0 = (values.double() / 255)[:, None, None]  # to 0..1, as system A has it
    index = torch.tensor([5, 11])

    def denoise(x_t, t, alpha_bar):
        return DenoiserOutput(0.99 * x_t + 0.002 * t.view(-1, 1, 1, 1), x_t)

    decoder = pixel_decoder(Bins(0.0, 1.0, 1 / 255))
    found = draw_bound(denoise, schedule, x0, index, cut(3, 3), decoder=decoder)
    assert found.t.tolist() == [[1, 2, 3]] * 2
    end = Normal(ab[3] ** 0.5 * x0, (1 - ab[3]) ** 0.5)
    total = kl_divergence(end, Normal(torch.zeros_like(x0), 1.0))
    for t in (1, 2, 3):
        eps = normal(0, Role.BOUND, index, (1, 1, 4), 2 * (t - 1) + 1, dtype=DOUBLE)
        x_t = ab[t] ** 0.5 * x0 + (1 - ab[t]) ** 0.5 * eps
        x0_hat = 0.99 * x_t + 0.002 * t
        keep = ab[t] / ab[t - 1]

        def reverse(clean, t=t, x_t=x_t, keep=keep):
            # q(x_s | x_t, x0) ~ N(x_t; sqrt(keep) x_s, 1 - keep) N(x_s; sqrt(ab_s) x0, 1 - ab_s)
            precision = keep / (1 - keep) + 1 / (1 - ab[t - 1])
            mean = keep**0.5 * x_t / (1 - keep) + ab[t - 1] ** 0.5 * clean / (1 - ab[t - 1])
            return Normal(mean / precision, precision**-0.5)

        if t > 1:
            total = total + kl_divergence(reverse(x0), reverse(x0_hat))
            continue
        # The variance of 1 -> 0 is that of 2 -> 1.
        variance = 1 / (ab[2] / ab[1] / (1 - ab[2] / ab[1]) + 1 / (1 - ab[1]))
        p, half = Normal(x0_hat, variance**0.5), 0.5 / 255
        upper = torch.where(values[:, None, None] == 255, 1.0, p.cdf(x0 + half))
        lower = torch.where(values[:, None, None] == 0, 0.0, p.cdf(x0 - half))
        total = total - (upper - lower).log()
    assert_close(found.total, total.flatten(1).mean(1) / log(2))
    assert found.prior.min() >= 0
    assert (found.prior == 0).all() == zero_terminal


def test_bound_of_a_gaussian_closes_on_the_likelihood_from_above_as_1_over_T():
    n = 20_000
    x0 = points(GAUSSIAN, n)
    exact = -MultivariateNormal(GAUSSIAN.mean[0], GAUSSIAN.cov[0]).log_prob(x0.flatten(1))
    gaps = []
    for T in (4, 8, 16, 32):
        found = draw_bound(
            one_by_one(GAUSSIAN),
            schedule_of("cosine", T),
            x0,
            torch.arange(n),
            cut(T, T),
            variance="beta",
            decoder=gaussian_log_density,
        )
        gap = found.total - exact / (3 * log(2))
        gaps.append(float(gap.mean()))
        assert gaps[-1] > 4 * float(gap.std()) / n**0.5
    assert gaps[1] < gaps[0] / 1.5
    assert gaps[3] < gaps[1] / 2.5
    assert gaps[3] < 0.07


def test_drawn_steps_are_unbiased():
    """One image many times over: the mean over draws is the sum over all steps, per stratum too."""
    n, T = 6000, 40
    schedule, index = schedule_of("cosine", T), torch.arange(n)
    x0 = points(GAUSSIAN, 1).expand(n, 1, 1, 3).contiguous()

    def total(strata):
        return draw_bound(
            one_by_one(GAUSSIAN), schedule, x0, index, strata, decoder=gaussian_log_density
        )

    every, few = total(cut(T, T)), total(cut(T, 4))
    for k, (first, last) in enumerate(few.strata):
        assert sorted(set(few.t[:, k].tolist())) == list(range(first, last + 1))
        exact = every.bits[:, first - 1 : last].sum(1)
        error = ((few.bits[:, k].var() + exact.var()) / n) ** 0.5
        gap = few.bits[:, k].mean() - exact.mean()
        assert abs(float(gap)) < 4 * float(error)
        assert float(error) < 0.05 * abs(float(exact.mean()))  # so that a bias would be seen
    assert_close(few.total, few.prior + few.bits.sum(1))


def test_one_step_and_no_signal():
    """T = 1 with zero terminal SNR: x_1 knows nothing, and the decoder alone pays."""
    schedule = schedule_of("linear", 1, options={"beta_end": 0.5, "rescale": False})
    x0 = points(GAUSSIAN, 3)
    found = draw_bound(
        one_by_one(GAUSSIAN), schedule, x0, torch.arange(3), cut(1, 1), decoder=gaussian_log_density
    )
    assert found.bits.shape == (3, 1)
    assert found.total.isfinite().all()


# The flow ----------------------------------------------------------------------------------------


def averaged_over_probes(oracle, schedule, x0, steps):
    """Return the density with the exact trace: the mean over all 2^D probes, in one batch."""
    dims = x0.shape[-1]
    probes = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=DOUBLE)] * dims)
    each = flow_log_density(
        at_once(oracle),
        schedule,
        x0.repeat_interleave(len(probes), 0),
        probes[:, None, None].repeat(len(x0), 1, 1, 1),
        steps=steps,
    )
    return each.view(len(x0), -1).mean(1)


def exact_flow_density(oracle, schedule, x0):
    """The pushforward of N(0, I) along a Gaussian's flow, which is affine: an exact formula."""
    last = int((schedule.alpha_bar > 0).sum()) - 1
    first_ab, last_ab = (float(schedule.alpha_bar[k]) for k in (1, last))
    x_T = oracle.flow(first_ab**0.5 * x0, first_ab, last_ab)
    size = torch.linalg.eigvalsh(oracle.cov[0])
    stretch = (last_ab * size + 1 - last_ab).log() - (first_ab * size + 1 - first_ab).log()
    dims = x0[0].numel()
    end = -(x_T.square().flatten(1).sum(1) + dims * log(2 * pi)) / 2
    return end + stretch.sum() / 2 + dims / 2 * log(first_ab)


@pytest.mark.parametrize(
    "schedule",
    [schedule_of(), schedule_of("linear"), schedule_of("log-linear"), schedule_of("flow", 100)],
    ids=["cosine", "linear", "log-linear", "zero-terminal"],
)
def test_flow_density_of_a_gaussian_converges_at_order_2(schedule):
    x0 = points(GAUSSIAN, 7)
    exact = exact_flow_density(GAUSSIAN, schedule, x0)
    errors = []
    for steps in (64, 128, 256):
        found = averaged_over_probes(GAUSSIAN, schedule, x0, steps)
        errors.append(float((found - exact).abs().max()))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.05)
    assert errors[2] < 0.01


def test_flow_density_of_the_gaussian_is_the_datas():
    """Not only the flow's own: what is left are the noise at t = 1 and the prior's mismatch."""
    schedule = schedule_of("log-linear", options={"sigma_min": 1e-4, "sigma_max": 1e4})
    x0 = points(GAUSSIAN, 5)
    law = MultivariateNormal(GAUSSIAN.mean[0], GAUSSIAN.cov[0])
    found = exact_flow_density(GAUSSIAN, schedule, x0)
    assert_close(found, law.log_prob(x0.flatten(1)), rtol=0, atol=1e-3)


def test_flow_density_of_a_mixture_is_the_datas():
    """Where the flow is not linear: against the mixture's own density."""
    schedule = schedule_of("log-linear", options={"sigma_min": 1e-3, "sigma_max": 1e3})
    x0 = points(MIXTURE, 6)
    each = MultivariateNormal(MIXTURE.mean, MIXTURE.cov)
    exact = (MIXTURE.weight.log() + each.log_prob(x0.flatten(1)[:, None])).logsumexp(1)
    found = {n: averaged_over_probes(MIXTURE, schedule, x0, n) for n in (200, 400)}
    assert_close(found[400] + (found[400] - found[200]) / 3, exact, rtol=0, atol=1e-3)


def test_flow_of_a_unit_gaussian_is_the_mass_of_its_bins():
    """Data N(0, 1) stand still under the flow, and bits are those of a Gaussian cut into bins."""
    schedule, width = schedule_of("log-linear"), 0.02
    x0 = 0.02 * torch.arange(-100, 100, dtype=DOUBLE).view(200, 1, 1, 1).expand(200, 1, 1, 4)

    def denoise(x_t, t, alpha_bar):
        return DenoiserOutput(alpha_bar.sqrt().view(-1, 1, 1, 1) * x_t, x_t)

    found = flow(denoise, schedule, x0.contiguous(), torch.arange(200), bin_width=width, steps=4)
    law = Normal(0.0, 1.0)
    exact = -(law.cdf(x0 + width / 2) - law.cdf(x0 - width / 2)).log2().mean((1, 2, 3))
    noise = x0.abs().mean((1, 2, 3)) * width  # of the dequantisation: x u w, at most
    assert ((found.total - exact).abs() < noise + 1e-4).all()
    # The prior at the noisy end is N(0, I) exactly, so that nothing is left to extrapolate.
    assert_close(found.coarse, found.fine)


def test_flow_spends_what_it_says_and_extrapolates():
    calls, gradients, images = [], [], []

    def denoise(x_t, t, alpha_bar):
        calls.append(1)
        gradients.append(x_t.requires_grad)
        return GAUSSIAN(x_t, 0.0, float(alpha_bar[0]))

    x0 = points(GAUSSIAN, 2)
    found = flow(
        denoise,
        schedule_of(),
        x0,
        torch.arange(2),
        bin_width=0.01,
        steps=6,
        done=images.append,
    )
    assert (len(calls), sum(gradients)) == flow_nfe(6) == (20, 11)
    assert sum(images) == 2 * (6 + 3)
    assert_close(found.total, (4 * found.fine - found.coarse) / 3)
    for steps in (0, 1, 7):
        with pytest.raises(ConfigError, match=rf"even.* {steps}$"):
            flow(denoise, schedule_of(), x0, torch.arange(2), bin_width=0.01, steps=steps)
    short = schedule_of("flow", 2)
    with pytest.raises(ConfigError, match="SNR above 0"):
        flow(denoise, short, x0, torch.arange(2), bin_width=0.01, steps=2)


def test_one_probe_is_right_on_average():
    """A Jacobian with entries off the diagonal: many probes give its trace, one does not."""
    schedule, n = schedule_of("log-linear"), 4000
    x0 = points(GAUSSIAN, 1).expand(n, 1, 1, 3).contiguous()
    sign = torch.where(normal(0, Role.FLOW, torch.arange(n), (1, 1, 3), 1) < 0, -1.0, 1.0).double()
    found = flow_log_density(at_once(GAUSSIAN), schedule, x0, sign, steps=64)
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=DOUBLE)] * 3)[:, None, None]
    exact = flow_log_density(at_once(GAUSSIAN), schedule, x0[:8], corners, steps=64).mean()
    error = found.std() / n**0.5
    assert 0.001 < float(error) < 0.05
    assert abs(float(found.mean() - exact)) < 4 * float(error)


# Networks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", [schedule_of(T=20), schedule_of("flow", 20)], ids=["vp", "0"])
def test_images_may_have_times_of_their_own(prediction, schedule):
    """`per_image` says what the denoiser says, image by image; clipping included."""
    labels, scaling = torch.tensor([0, 3, 9]), Scaling()
    for clip in (None, scaling.clip):
        denoiser = Denoiser(
            Labelled(), get_prediction(prediction), labels=labels, null=10, clip=clip
        )
        x = normal(0, Role.START, torch.arange(3), (1, 4, 4), dtype=DOUBLE)
        t = torch.tensor([1, 7, 19])
        both = per_image(denoiser)(x, t, schedule.at(t))
        for k in range(3):
            one = replace(denoiser, labels=labels[k : k + 1])
            alone = one(x[k : k + 1], float(t[k]), float(schedule.at(t)[k]))
            assert_close(both.x0[k : k + 1], alone.x0)
            assert_close(both.eps[k : k + 1], alone.eps)


def test_guidance_is_refused():
    labels = torch.tensor([1])
    guidance = Guidance(2.0)
    denoiser = Denoiser(Labelled(), get_prediction("v"), labels, guidance, null=10)
    with pytest.raises(ConfigError, match=r"guidance 1$"):
        per_image(denoiser)


class TwoOutputs(nn.Module):
    """A network with a learned variance, or without."""

    def __init__(self, channels=2):
        super().__init__()
        self.channels = channels

    def forward(self, x_t, t, y=None):
        both = (0.7 * x_t + t.to(x_t).view(-1, 1, 1, 1) / 50).sin()
        return both.repeat(1, self.channels, 1, 1)


class Exact(nn.Module):
    """A network that knows a Gaussian, whatever it is asked for."""

    def __init__(self, prediction, schedule):
        super().__init__()
        self.prediction, self.schedule = prediction, schedule

    def forward(self, x, t, y=None):
        alpha_bar = explicit_grid(self.schedule, [float(t[0]), 0.0]).alpha_bar[0]
        a, b = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
        x_t = x / self.prediction.input_scale(a, b)
        x0, eps, _ = GAUSSIAN(x_t, 0.0, alpha_bar)
        return self.prediction.target(x0, eps, a, b)


@pytest.mark.parametrize("schedule", SCHEDULES.names())
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_flow_of_every_prediction_is_the_same(schedule, prediction):
    """Through fractional times, on every schedule; at zero terminal SNR it starts a step lower."""
    table, x0 = schedule_of(schedule, 30), points(GAUSSIAN, 3)
    map_, settings = get_prediction(prediction), {"bin_width": 0.01, "steps": 8}
    denoise = per_image(Denoiser(Exact(map_, table), map_))
    found = flow(denoise, table, x0, torch.arange(3), **settings)
    expected = flow(at_once(GAUSSIAN), table, x0, torch.arange(3), **settings)
    assert_close(found.fine, expected.fine, rtol=1e-4, atol=1e-4)  # the network's t is float32


def images_of(n=5, labels=None, shape=(1, 4, 6), seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, *shape), dtype=np.uint8)
    facts = {"split": "test", "size": "4x6", "images": n}
    return LikelihoodImages(images, labels, np.arange(n) * 7 % n, int(np.prod(shape)), False, facts)


@pytest.mark.parametrize("schedule", SCHEDULES.names())
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("variance", ["beta-tilde", "learned"])
def test_every_schedule_prediction_and_variance(schedule, prediction, variance):
    if schedule == "flow" and prediction == "eps":
        pytest.skip("is refused when training: eps says nothing at zero terminal SNR")
    network = TwoOutputs(2 if variance == "learned" else 1)
    model = model_around(network, (1, 4, 6), (), prediction=prediction)
    objective = replace(model.experiment.objective, variance=variance)
    experiment = replace(model.experiment, objective=objective)
    model = replace(model, experiment=experiment, schedule=schedule_of(schedule, 12))
    images = images_of()
    found = measure(model, images, draws=12)
    assert found.facts["variance"] == variance
    # The bound, through the function that training's tests are about.
    x0 = model.scaling.to_model(torch.from_numpy(images.images))
    index = torch.from_numpy(images.index)
    terms = bound_terms(
        model.denoiser(),
        model.schedule,
        x0,
        lambda t: normal(0, Role.BOUND, index, (1, 4, 6), 2 * (t - 1) + 1),
        list(pairwise(range(12, -1, -1))),
        variance=variance,
        decoder=pixel_decoder(),
    )
    expected = (prior(model.schedule, x0) + terms.sum(1)).double().mean()
    assert found.bits["bound"][1].value == pytest.approx(float(expected), rel=1e-4)


def test_batches_change_nothing():
    labels = np.array([3, 1, 4, 1, 5, 9, 2])
    model, images = model_around(Labelled(), (1, 4, 6), prediction="v"), images_of(7, labels)
    one, three, all_seven = (
        measure(model, images, draws=9, flow_steps=4, batch_size=b).to_json() for b in (1, 3, 50)
    )
    for other in (three, all_seven):
        for key, value in one["bits_per_dim"].items():
            for end in ("value", "low", "high"):
                found = other["bits_per_dim"][key][end]
                assert found == pytest.approx(value[end], rel=1e-5, abs=1e-6)
        assert [r["bits"] for r in other["curve"]] == pytest.approx(
            [r["bits"] for r in one["curve"]], rel=1e-5
        )
    again = measure(model, images, draws=9, seed=1).to_json()
    assert again["bits_per_dim"]["bound"]["value"] != one["bits_per_dim"]["bound"]["value"]


def test_curve_adds_up_to_the_bound():
    found = measure(model_around(Labelled(), (1, 4, 6), ()), images_of(), draws=9)
    bits = {key: estimate.value for key, (_, estimate) in found.bits.items()}
    assert sum(row["bits"] for row in found.curve) + bits["prior"] == pytest.approx(bits["bound"])
    assert bits["rate"] + bits["distortion"] == pytest.approx(bits["bound"])
    assert found.curve[0]["rate"] == pytest.approx(bits["rate"])
    assert found.curve[-1]["rate"] == pytest.approx(bits["prior"])
    for row in found.curve:
        assert row["bits_per_step"] * (row["last"] - row["first"] + 1) == pytest.approx(row["bits"])


def test_a_mean_image_moves_the_decoders_edges():
    """Pixels at 0 and 255 meet the tails of the decoder wherever a mean has put them."""
    mean = torch.linspace(-0.5, 0.5, 24, dtype=DOUBLE).view(1, 4, 6).float()
    images = images_of()
    images.images[:, :, ::2] = 0
    images.images[:, :, 1, ::2] = 255

    class Knows(nn.Module):
        def forward(self, x_t, t, y=None):
            return torch.full_like(x_t, 3.0)  # far above: 255 is almost free, where it is known

    plain = model_around(Knows(), (1, 4, 6), (), clip=False)
    moved = replace(plain, scaling=Scaling(-1.0, 1.0, mean))
    x0 = plain.scaling.to_model(torch.from_numpy(images.images)).double()
    # Clipping brings the answer to each model's own image of 255: the same picture.
    a, b = (measure(m, images, draws=2).bits["distortion"][1].value for m in (plain, moved))
    assert a == pytest.approx(b, rel=1e-3)
    assert x0.max() == 1


# What is divided by what -------------------------------------------------------------------------


def digits_model(shape, fit, size=None, dropout=0.1, classes=tuple("0123456789")):
    model = model_around(Labelled(null=len(classes)), shape, classes, prediction="v")
    data = DataConfig("digits", image_size=size, fit=fit)
    objective = replace(model.experiment.objective, label_dropout=dropout)
    return replace(
        model,
        experiment=replace(model.experiment, data=data, objective=objective),
        class_counts=tuple(range(1, len(classes) + 1)),
    )


def test_padded_images_pay_for_all_and_divide_by_their_own():
    model = digits_model((1, 12, 14), "pad", (12, 14))
    images = likelihood_images(model, 6)
    assert (images.dims, images.images.shape, images.resized) == (64, (6, 1, 12, 14), False)
    assert images.factor == 12 * 14 / 64
    padded = measure(model, images, draws=9, flow_steps=2)
    whole = measure(model, replace(images, dims=12 * 14), draws=9, flow_steps=2)
    for key in ("bound", "rate", "flow"):
        assert padded.bits[key][1].value == pytest.approx(
            whole.bits[key][1].value * 168 / 64, rel=1e-9
        )
    assert any("168 dimensions" in note and "64" in note for note in padded.notes)
    assert "not comparable" not in padded.bits["bound"][0]


def test_resized_images_are_marked():
    model = digits_model((1, 16, 16), "resize", (16, 16))
    images = likelihood_images(model, 6)
    assert (images.dims, images.resized) == (256, True)
    found = measure(model, images, draws=9, flow_steps=2)
    assert "not comparable" in found.bits["bound"][0]
    assert "not comparable" in found.bits["flow"][0]
    assert any("8x8 cropped and resized to 16x16" in note for note in found.notes)
    own = likelihood_images(digits_model((1, 8, 8), None), 6)
    assert (own.dims, own.resized, own.factor) == (64, False, 1)


def test_a_decoder_that_knows_nothing_pays_8_bits(monkeypatch):
    """All steps free (x0_hat = x0), 256 equal values: 8 bits/dim, 8 x 168 / 64 where padded."""
    import pocketddpm.metrics.likelihood as module

    def uniform_bits(denoise, schedule, x0, index, strata, **settings):
        settings["decoder"] = lambda x, mean, log_variance: torch.full_like(x, -log(256))
        knows = lambda x_t, t, alpha_bar: DenoiserOutput(x0, x0)  # noqa: E731
        return draw_bound(knows, schedule, x0, index, strata, **settings)

    monkeypatch.setattr(module, "draw_bound", uniform_bits)
    own = digits_model((1, 8, 8), None)
    bits = measure(own, likelihood_images(own, 6), draws=9).bits
    assert bits["bound"][1].value == pytest.approx(8, abs=1e-5)
    assert bits["bound"][1].high - bits["bound"][1].low < 1e-5
    padded = digits_model((1, 12, 14), "pad", (12, 14))
    bits = measure(padded, likelihood_images(padded, 6), draws=9).bits
    assert bits["bound"][1].value == pytest.approx(8 * 168 / 64, abs=1e-5)


def test_labels_cost_their_own_bits():
    model = digits_model((1, 8, 8), None)
    images = likelihood_images(model, 50)
    given = measure(model, images, draws=5)
    assert "given the label" in given.bits["bound"][0]
    counts = np.arange(1, 11)
    own = np.mean([-log2(counts[y] / 55) for y in images.labels]) / 64
    added = given.bits["bound_with_label"][1].value - given.bits["bound"][1].value
    assert added == pytest.approx(own)
    # p(x) itself: other labels, other numbers, nothing to add.
    none = likelihood_images(model, 50, labels="none")
    assert none.labels is None
    assert (none.images == images.images).all()
    free = measure(model, none, draws=5)
    assert "bound_with_label" not in free.bits
    assert free.bits["bound"][1].value != given.bits["bound"][1].value
    with pytest.raises(ConfigError, match=r"label_dropout 0.*--labels data"):
        likelihood_images(digits_model((1, 8, 8), None, dropout=0.0), 5, labels="none")


def test_labels_are_numbered_as_the_model_does():
    names = tuple("9876543210")
    model = digits_model((1, 8, 8), None, classes=names)
    images, straight = (
        likelihood_images(model, 40),
        likelihood_images(digits_model((1, 8, 8), None), 40),
    )
    assert [names[k] for k in images.labels] == [str(k) for k in straight.labels]
    with pytest.raises(ConfigError, match=r"digits.*cat, dog.*--labels none"):
        likelihood_images(digits_model((1, 8, 8), None, classes=("cat", "dog")), 40)


def test_images_are_the_same_whatever_n_and_train_is_said():
    model = digits_model((1, 8, 8), None)
    few, many = likelihood_images(model, 10), likelihood_images(model, 30)
    assert set(few.index) <= set(many.index)
    assert len(likelihood_images(model, 10**6).images) == 297
    train = measure(model, likelihood_images(model, 10, split="train"), draws=5)
    assert any("not a test likelihood" in note for note in train.notes)
    with pytest.raises(ConfigError, match=r"digits.*1x8x8.*3x8x8"):
        likelihood_images(digits_model((3, 8, 8), None), 5)


def test_held_out_images_are_neither_trained_on_nor_test_images():
    plain = digits_model((1, 8, 8), None)
    with pytest.raises(ConfigError, match="--split test"):
        likelihood_images(plain, 5, split="held-out")
    data = replace(plain.experiment.data, subset=100, held_out=30)
    model = replace(plain, experiment=replace(plain.experiment, data=data))
    held, train = (likelihood_images(model, 10**6, split=s) for s in ("held-out", "train"))
    training, held_out = hold_out(load_images("digits", subset=100), 30, "random")
    for chosen, wanted in ((train, training), (held, held_out)):
        np.testing.assert_array_equal(chosen.images, wanted.images)
        np.testing.assert_array_equal(chosen.labels, wanted.labels)
    assert len(likelihood_images(model, 10**6).images) == 297


def test_intervals_hold_the_spread():
    """Over seeds, the bound of few images moves no more than its interval says, and not less."""
    model, images = (
        digits_model((1, 8, 8), None),
        likelihood_images(digits_model((1, 8, 8), None), 2),
    )
    many = replace(
        images,
        images=np.repeat(images.images[:1], 200, 0),
        labels=np.repeat(images.labels[:1], 200),
        index=np.arange(200),
    )
    means, widths = [], []
    for seed in range(20):
        estimate = measure(model, many, draws=5, seed=seed, batch_size=200).bits["bound"][1]
        means.append(estimate.value)
        widths.append((estimate.high - estimate.low) / 2 / 1.96)
    assert np.std(means, ddof=1) == pytest.approx(np.mean(widths), rel=0.5)


# The command -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("likelihood") / "run"
    run("train", "digits", "--net", TINY_NET, "--steps", "6", "--batch-size", "16", "--out", out,
        "--device", "cpu", "--sample-every", "0", "--precision", "float32")  # fmt: skip
    return out


def test_the_command_writes_a_report(trained, tmp_path, capsys):
    out = tmp_path / "bits"
    words = ["likelihood", trained, "--n", "6", "--draws", "5", "--device", "cpu", "--out", out]
    run(*words, "--which", "both", "--flow-steps", "4")
    printed = capsys.readouterr()
    assert "bound, given the label" in printed.out
    assert "flow, given the label" in printed.out
    assert f"wrote {out}" in printed.err
    report = json.loads((out / "report.json").read_text())
    assert len(report["curve"]) == 5
    assert report["facts"]["seed"] == 0
    assert len(report["facts"]["checkpoint"]) == 64
    assert "curve.png" in (out / "report.md").read_text()
    assert (out / "curve.png").stat().st_size > 1000
    assert "--overwrite" in refused(capsys, *words)
    run(*words[:-2], "--json", "--labels", "none", "--split", "train")
    assert json.loads(capsys.readouterr().out)["facts"]["of what"] == "p(x)"


@pytest.mark.parametrize(
    ("args", "values"),
    [
        (["--n", "1"], ["n ", ">= 2", "1"]),
        (["--batch-size", "0"], ["--batch-size", ">= 1", "0"]),
        (["--draws", "1"], ["2..1000", "1"]),
        (["--which", "flow", "--flow-steps", "5"], ["even", "5"]),
        (["--data", "mnits"], ["mnits", "mnist"]),
        (["--variance", "learned"], ["learned", "2C"]),
    ],
)
def test_bad_input_is_one_line(trained, args, values, capsys, tmp_path):
    out = tmp_path / "bits"
    line = refused(capsys, "likelihood", trained, *args, "--out", out)
    assert all(value in line for value in values), line
    assert not out.exists()
