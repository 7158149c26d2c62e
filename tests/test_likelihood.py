"""Both likelihoods against closed forms, and how bits are counted."""

from math import log, pi

import pytest
import torch
from torch.testing import assert_close

from oracle import GAUSSIAN, MIXTURE
from pocketddpm.bound import Bins, bound_terms, gaussian_log_density, pixel_decoder, prior, term
from pocketddpm.build import build_schedule
from pocketddpm.config import ScheduleConfig
from pocketddpm.denoiser import Denoiser, Estimate
from pocketddpm.errors import ConfigError
from pocketddpm.likelihood import cut, draw_bound, flow, flow_log_density, flow_nfe, per_image
from pocketddpm.noise import Role, normal
from pocketddpm.prediction import get_prediction

DOUBLE = torch.float64


def schedule_of(name="cosine", T=1000, **values):
    return build_schedule(ScheduleConfig(name, T, **values))


def of_oracle(oracle):
    """`Believe` from an oracle, which knows one alpha_bar at a time."""

    def believe(x_t, t, alpha_bar):
        each = [oracle(x[None], 0.0, float(ab)) for x, ab in zip(x_t, alpha_bar, strict=True)]
        x0, eps, fraction = (torch.cat([getattr(e, k) for e in each]) for k in Estimate._fields)
        return Estimate(x0, eps, fraction)

    return believe


def at_once(oracle):
    """The same for a batch that shares its time, as in the flow."""
    return lambda x_t, t, alpha_bar: oracle(x_t, 0.0, float(alpha_bar[0]))


def points(oracle, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    which = torch.multinomial(oracle.weight, n, replacement=True, generator=generator)
    noise = torch.randn(n, oracle.mean.shape[1], 1, generator=generator, dtype=DOUBLE)
    root = torch.linalg.cholesky(oracle.cov)[which]
    return (oracle.mean[which] + (root @ noise)[..., 0])[:, None, None]


# The flow ----------------------------------------------------------------------------------------


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
    # Any probe gives the trace of a symmetric Jacobian only on average: use all eight.
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=DOUBLE)] * 3)
    errors = []
    for steps in (64, 128, 256):
        each = [
            flow_log_density(
                at_once(GAUSSIAN), schedule, x0, c.expand(7, 1, 1, 3).contiguous(), steps=steps
            )
            for c in corners
        ]
        errors.append(float((torch.stack(each).mean(0) - exact).abs().max()))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.05)
    assert errors[2] < 0.01


def test_flow_density_of_the_gaussian_is_the_datas():
    """Not only the flow's own: what is left are the noise at t = 1 and the prior's mismatch."""
    schedule = schedule_of("log-linear", options={"sigma_min": 1e-4, "sigma_max": 1e4})
    x0 = points(GAUSSIAN, 5)
    law = torch.distributions.MultivariateNormal(GAUSSIAN.mean[0], GAUSSIAN.cov[0])
    found = exact_flow_density(GAUSSIAN, schedule, x0)
    assert_close(found, law.log_prob(x0.flatten(1)), rtol=0, atol=1e-3)


def test_flow_density_of_a_mixture_equals_an_adaptive_solve():
    """Where the flow is not linear: against the mixture's own density."""
    schedule = schedule_of("log-linear", options={"sigma_min": 1e-3, "sigma_max": 1e3})
    x0 = points(MIXTURE, 6)
    each = torch.distributions.MultivariateNormal(MIXTURE.mean, MIXTURE.cov)
    exact = (MIXTURE.weight.log() + each.log_prob(x0.flatten(1)[:, None])).logsumexp(1)
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=DOUBLE)] * 2)
    found = {}
    for steps in (200, 400):
        each_probe = [
            flow_log_density(
                at_once(MIXTURE), schedule, x0, c.expand(6, 1, 1, 2).contiguous(), steps=steps
            )
            for c in corners
        ]
        found[steps] = torch.stack(each_probe).mean(0)
    assert_close(found[400] + (found[400] - found[200]) / 3, exact, rtol=0, atol=1e-3)
