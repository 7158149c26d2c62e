"""The variational bound against closed forms, published numbers and an exact likelihood."""

from itertools import pairwise
from math import log, pi

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.testing import assert_close

from oracle import (
    Mixture,
    bound_terms,
    gaussian_log_density,
    published_decoder,
    published_log_cdf,
)
from pocketddpm.build import build_schedule
from pocketddpm.config import ScheduleConfig
from pocketddpm.diffusion.bound import (
    MINUS_ONE_TO_ONE,
    Bins,
    first_variance,
    gaussian_kl,
    pixel_decoder,
    pixel_log_likelihood,
    prior,
    term,
)
from pocketddpm.diffusion.denoiser import DenoiserOutput
from pocketddpm.diffusion.process import VARIANCES, posterior, step_beta
from pocketddpm.errors import ConfigError

LINEAR = build_schedule(ScheduleConfig("linear"))
VALUES = torch.linspace(-1, 1, 256, dtype=torch.float64)  # the centres of the 256 bins


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


# Gaussians ---------------------------------------------------------------------------------------


def test_kl_equals_torch_distributions():
    mean_q, log_q, mean_p, log_p = numbers(4, 50)
    q, p = Normal(mean_q, (log_q / 2).exp()), Normal(mean_p, (log_p / 2).exp())
    assert_close(gaussian_kl(mean_q, log_q, mean_p, log_p), kl_divergence(q, p))
    assert_close(gaussian_kl(mean_q, log_q, mean_q, log_q), torch.zeros(50).double())
    assert_close(gaussian_log_density(mean_p, mean_q, log_q), q.log_prob(mean_p))


# The decoder -------------------------------------------------------------------------------------


@pytest.mark.parametrize("log_cdf", [torch.special.log_ndtr, published_log_cdf])
@pytest.mark.parametrize("deviation", [1e-3, 0.007, 0.3, 20.0])
@pytest.mark.parametrize("bins", [MINUS_ONE_TO_ONE, Bins(0.0, 1.0, 1 / 255)])
def test_decoder_is_a_distribution_over_the_256_values(log_cdf, deviation, bins):
    mean = torch.linspace(-1.3, 1.2, 23, dtype=torch.float64)[:, None]
    values = bins.low + (VALUES + 1) / 2 * (bins.high - bins.low)
    log_variance = torch.tensor(2 * log(deviation), dtype=torch.float64)
    total = pixel_log_likelihood(values, mean, log_variance, bins, log_cdf).exp().sum(1)
    assert_close(total, torch.ones(23, dtype=torch.float64), rtol=1e-9, atol=0)


def test_decoder_is_the_mass_of_the_bin():
    """By quadrature of the density over the bin, and of the tails beyond the outer ones."""
    p = Normal(torch.tensor(0.0131, dtype=torch.float64), 0.02)
    log_variance = torch.tensor(2 * log(0.02), dtype=torch.float64)
    for value in VALUES[[120, 128, 131]]:
        inside = value + torch.linspace(-1, 1, 20_001, dtype=torch.float64) / 255
        mass = torch.trapezoid(p.log_prob(inside).exp(), inside)
        found = pixel_log_likelihood(value, p.loc, log_variance, MINUS_ONE_TO_ONE)
        assert_close(found, mass.log(), rtol=1e-8, atol=0)
    low = pixel_log_likelihood(VALUES[0], p.loc - 1, log_variance, MINUS_ONE_TO_ONE)
    assert_close(low, p.cdf(VALUES[0] + 1 / 255 + 1).log())
    high = pixel_log_likelihood(VALUES[-1], p.loc + 1, log_variance, MINUS_ONE_TO_ONE)
    assert_close(high, (1 - p.cdf(VALUES[-1] - 1 / 255 - 1)).log())


def test_tanh_form_is_the_published_one():
    z = torch.linspace(-4, 4, 33, dtype=torch.float64)
    published = 0.5 * (1 + torch.tanh((2 / pi) ** 0.5 * (z + 0.044715 * z**3)))
    assert_close(published_log_cdf(z).exp(), published, rtol=1e-7, atol=1e-12)
    assert_close(torch.special.log_ndtr(z).exp(), published, rtol=0, atol=5e-4)


def test_decoder_far_from_the_mean():
    """The log-likelihood and its gradient are exact where the plain difference is 0 - 0."""
    log_variance = torch.tensor(2 * log(0.01), dtype=torch.float64)
    mean = torch.tensor([-1.0, 0.9, 3.0], dtype=torch.float64, requires_grad=True)
    found = pixel_log_likelihood(VALUES[128], mean, log_variance, MINUS_ONE_TO_ONE)
    near_edge = (mean - VALUES[128]).abs() - 1 / 255  # the mass is all there, 90 deviations out
    expected = torch.special.log_ndtr(-near_edge / 0.01)
    assert_close(found, expected, rtol=1e-12, atol=0)
    (slope,) = torch.autograd.grad(found.sum(), mean)
    (expected_slope,) = torch.autograd.grad(expected.sum(), mean)
    assert_close(slope, expected_slope, rtol=1e-9, atol=0)


# Published numbers -------------------------------------------------------------------------------

# The set-up of the reference numbers: a ramp, its mirror image as noise, and a network that says 0.
RAMP = (torch.arange(768, dtype=torch.float64) / 768).view(3, 8, 8, 4).permute(3, 0, 1, 2)
PICTURE = (RAMP * 255).round() / 127.5 - 1
RAMP_NOISE = 2 * (RAMP.amax() - RAMP) - 1


def says_zero(x_t, t, alpha_bar):
    """eps = 0 with x0 clipped, and the variance in the middle of its range."""
    return DenoiserOutput((x_t / alpha_bar**0.5).clamp(-1, 1), x_t, torch.full_like(x_t, 0.5))


@pytest.mark.parametrize(
    ("t", "variance", "bits"),
    [(1, "beta-tilde", 1.706363), (2, "beta-tilde", 0.288380), (1, "learned", 1.809895)],
)
def test_terms_equal_published_numbers(t, variance, bits):
    found = bound_terms(
        says_zero,
        LINEAR,
        PICTURE,
        lambda step: RAMP_NOISE,
        [(t, t - 1)],
        variance=variance,
        decoder=published_decoder,
    )
    assert float(found.mean()) == pytest.approx(bits, rel=1e-5)
    # The tanh is what makes them equal: the exact form differs by more.
    exact = bound_terms(
        says_zero,
        LINEAR,
        PICTURE,
        lambda step: RAMP_NOISE,
        [(t, t - 1)],
        variance=variance,
        decoder=pixel_decoder(),
    )
    assert (t == 1) == (abs(float(exact.mean()) / bits - 1) > 1e-5)
    # In float32, as in training, too.
    single = bound_terms(
        says_zero,
        LINEAR,
        PICTURE.float(),
        lambda step: RAMP_NOISE.float(),
        [(t, t - 1)],
        variance=variance,
        decoder=published_decoder,
    )
    assert float(single.mean()) == pytest.approx(bits, rel=1e-5)


def test_prior_equals_published_number():
    assert float(prior(LINEAR, PICTURE).mean()) == pytest.approx(9.70e-6, rel=1e-3)
    zero = build_schedule(ScheduleConfig("linear", zero_terminal=True))
    assert_close(prior(zero, PICTURE), torch.zeros(4, dtype=torch.float64))


def test_first_variance_is_the_next_steps():
    # Published: log beta_tilde_2 = -9.81672514 for the linear schedule.
    assert float(first_variance(LINEAR, torch.tensor([1])).log()) == pytest.approx(-9.81672514)
    ab = LINEAR.alpha_bar
    strided = first_variance(LINEAR, torch.tensor([100, 600]))
    assert float(strided[0]) == posterior(float(ab[200]), float(ab[100])).variance
    assert float(strided[1]) == float(1 - ab[600])  # there is no step 1200 -> 600


# Variances ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fraction", "fixed"), [(0.0, "beta-tilde"), (1.0, "beta")])
@pytest.mark.parametrize(("t", "s"), [(1, 0), (2, 1), (700, 699), (700, 300), (50, 0)])
def test_learned_range_ends_at_the_fixed_variances(fraction, fixed, t, s):
    x0, x0_hat = numbers(2, 5, 1, 4, 4).clamp(-1, 1)
    times = torch.full((5,), t), torch.full((5,), s)
    decoder = pixel_decoder()
    learned = term(
        LINEAR,
        *times,
        x0,
        x0_hat,
        torch.full_like(x0, fraction),
        variance="learned",
        decoder=decoder,
    )
    assert_close(learned, term(LINEAR, *times, x0, x0_hat, variance=fixed, decoder=decoder))
    other = "beta" if fixed == "beta-tilde" else "beta-tilde"
    different = term(LINEAR, *times, x0, x0_hat, variance=other, decoder=decoder)
    assert float((learned - different).abs().min()) > 0


def test_learned_range_is_even_in_the_logarithm():
    half = VARIANCES["learned"](0.02, 0.005, torch.tensor([0.5, 0.25], dtype=torch.float64))
    expected = [0.5 * log(0.02) + 0.5 * log(0.005), 0.25 * log(0.02) + 0.75 * log(0.005)]
    assert half.log().tolist() == pytest.approx(expected)


def test_impossible_variances_are_refused():
    x0, t = numbers(2, 1, 2, 2), torch.tensor([5, 9])
    with pytest.raises(ConfigError, match=r"'learned'.*2C.*beta or beta-tilde"):
        term(LINEAR, t, t - 1, x0, x0, variance="learned", decoder=pixel_decoder())
    with pytest.raises(ConfigError, match=r"'betas'.* beta"):
        term(LINEAR, t, t - 1, x0, x0, variance="betas", decoder=pixel_decoder())


# Terms -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("t", "s"), [(2, 1), (1000, 999), (700, 300)])
def test_terms_are_differences_of_snr(t, s):
    """With the posterior's own variance: (SNR_s - SNR_t) / 2 times the squared error of x0."""
    x0, x0_hat = numbers(2, 3, 1, 4, 4)
    found = term(
        LINEAR, torch.full((3,), t), torch.full((3,), s), x0, x0_hat, decoder=pixel_decoder()
    )
    error = (x0 - x0_hat).square().flatten(1).mean(1)
    expected = (LINEAR.snr[s] - LINEAR.snr[t]) / 2 * error / log(2)
    assert_close(found, expected, rtol=1e-9, atol=0)


def test_terms_with_the_large_variance():
    """With beta, by torch's own divergence, from the posterior's two weights."""
    t, s = 400, 399
    x0, x0_hat, x_t = numbers(3, 2, 1, 4, 4)
    ab_t, ab_s = float(LINEAR.alpha_bar[t]), float(LINEAR.alpha_bar[s])
    q, beta = posterior(ab_t, ab_s), step_beta(ab_t, ab_s)
    true = Normal(q.x0_weight * x0 + q.x_t_weight * x_t, q.variance**0.5)
    ours = Normal(q.x0_weight * x0_hat + q.x_t_weight * x_t, beta**0.5)
    expected = kl_divergence(true, ours).flatten(1).mean(1) / log(2)
    times = torch.full((2,), t), torch.full((2,), s)
    found = term(LINEAR, *times, x0, x0_hat, variance="beta", decoder=pixel_decoder())
    assert_close(found, expected)


def test_a_batch_may_mix_times_and_its_gradient_is_finite():
    """The decoder and the divergence share a batch; an untrained network spoils neither."""
    t = torch.tensor([1, 2, 500, 1000])
    x0 = VALUES[torch.randint(256, (4, 1, 4, 4), generator=torch.Generator().manual_seed(0))]
    size = torch.tensor([1e2, 1e7, 1e7, 1e7]).view(4, 1, 1, 1)  # eps prediction divides by a
    out = (size * numbers(4, 1, 4, 4)).float().requires_grad_()
    fraction = numbers(4, 1, 4, 4, seed=1).float().requires_grad_()
    decoder, x0 = pixel_decoder(), x0.float()
    both = term(LINEAR, t, t - 1, x0, out, fraction, variance="learned", decoder=decoder)
    for i in range(4):
        row = slice(i, i + 1)
        alone = term(
            LINEAR,
            t[row],
            t[row] - 1,
            x0[row],
            out[row],
            fraction[row],
            variance="learned",
            decoder=decoder,
        )
        assert_close(both[row], alone)
    for gradient in torch.autograd.grad(both.sum(), (out, fraction)):
        assert gradient.isfinite().all()
        assert (gradient.flatten(1).abs().amax(1) > 0).all()


# Against the exact likelihood --------------------------------------------------------------------

# In one dimension every expectation is a sum over Gauss-Hermite nodes, without sampling error.
LINE = Mixture(
    weight=torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
    mean=torch.tensor([[1.2], [-0.9], [0.1]], dtype=torch.float64),
    cov=torch.tensor([[[0.16]], [[0.04]], [[0.25]]], dtype=torch.float64),
)
_nodes, _weights = np.polynomial.hermite_e.hermegauss(40)
NODES, WEIGHTS = torch.from_numpy(_nodes), torch.from_numpy(_weights / _weights.sum())
# All pairs of a point of the mixture and a noise, [3 * 40 * 40], and their probabilities.
POINTS = (LINE.mean + LINE.cov[:, 0].sqrt() * NODES).view(-1, 1).expand(-1, 40).reshape(-1)
NOISE = NODES.repeat(3 * 40)
SHARE = (LINE.weight[:, None] * WEIGHTS).view(-1, 1).mul(WEIGHTS).reshape(-1)


def entropy() -> float:
    """Return the mixture's E[-log2 p(x0)]."""
    each = Normal(LINE.mean, LINE.cov[:, 0].sqrt()).log_prob(POINTS)  # [3, B]
    return -float((SHARE * (LINE.weight[:, None].log() + each).logsumexp(0)).sum()) / log(2)


def expected_bound(schedule, times: list[int], variance: str) -> float:
    """Return the expectation of the bound for the ideal denoiser on the chain through `times`."""
    x0, noise = (v.view(-1, 1, 1, 1) for v in (POINTS, NOISE))
    steps = list(pairwise(times))
    terms = bound_terms(
        LINE,
        schedule,
        x0,
        lambda t: noise,
        steps,
        variance=variance,
        decoder=gaussian_log_density,
    )
    assert terms.shape == (len(x0), len(steps))
    return float((SHARE * (prior(schedule, x0) + terms.sum(1))).sum())


@pytest.mark.parametrize("name", ["cosine", "linear"])
@pytest.mark.parametrize("variance", ["beta", "beta-tilde", "learned"])
def test_the_bound_is_never_below_the_likelihood_and_tightens(name, variance):
    gaps = []
    for T in (4, 16, 64):
        schedule = build_schedule(ScheduleConfig(name, T))
        bound = expected_bound(schedule, list(range(T, -1, -1)), variance)
        gaps.append(bound - entropy())
    assert min(gaps) > 0
    # beta is the right variance for the last step, so that the gap goes to 0 as 1 / T. The others
    # are too small there, which costs something however many steps there are.
    if variance == "beta":
        assert gaps[0] > 1.5 * gaps[1] > 1.5 * 3 * gaps[2]
        assert gaps[2] < 0.05


def test_a_coarser_chain_is_a_looser_bound():
    """Strides bound the likelihood too: each step that is left out costs something."""
    schedule = build_schedule(ScheduleConfig("cosine", 64))
    bounds = [expected_bound(schedule, list(range(64, -1, -s)), "beta") for s in (16, 4, 1)]
    assert bounds[0] > bounds[1] > bounds[2] > entropy()
