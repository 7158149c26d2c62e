"""The variational bound on -log p(x0), term by term, in bits per dimension.

    -log2 p(x0) <= prior + sum over steps t -> s of E[ term(t, s) ]      (arXiv 2006.11239, eq. 5)

with prior = KL(q(x_T | x0) || N(0, I)), term(t, s) = KL(q(x_s | x_t, x0) || p(x_s | x_t)) for s > 0
and term(t, 0) = -log p(x0 | x_t), the decoder. Steps of any stride make a bound. Shapes: x0 is
[B,C,H,W]; t and s are int64 [B]; a term is one number per image, [B], the mean over its pixels.
"""

from collections.abc import Callable
from functools import partial
from math import log
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pocketddpm.diffusion.process import VARIANCES, posterior, step_beta
from pocketddpm.diffusion.schedule import Schedule
from pocketddpm.errors import unknown
from pocketddpm.noise import send

Decoder = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x0, mean, log variance) -> log-likelihood of every pixel, in nats, of the shape of x0."""


# Gaussians ---------------------------------------------------------------------------------------


def gaussian_kl(mean_q: Tensor, log_var_q: Tensor, mean_p: Tensor, log_var_p: Tensor) -> Tensor:
    """Return KL(N(mean_q, exp log_var_q) || N(mean_p, exp log_var_p)) in nats, element by element.

    All four broadcast against each other.
    """
    gap = log_var_q - log_var_p
    return 0.5 * (torch.expm1(gap) - gap + (mean_q - mean_p).square() * (-log_var_p).exp())


# The decoder of pictures -------------------------------------------------------------------------


class Bins(NamedTuple):
    """Where pixel values lie in model units: low and high are those of 0 and 255.

    A mean image makes low and high tensors [C,H,W]. width: from one value to the next.
    """

    low: float | Tensor
    high: float | Tensor
    width: float


MINUS_ONE_TO_ONE = Bins(-1.0, 1.0, 2 / 255)

Elementwise = Callable[[Tensor], Tensor]


def pixel_log_likelihood(
    x0: Tensor,
    mean: Tensor,
    log_variance: Tensor,
    bins: Bins,
    log_cdf: Elementwise = torch.special.log_ndtr,
) -> Tensor:
    """Return log P(x0) under a Gaussian cut into 256 bins (arXiv 2006.11239, eq. 13), in nats.

    The first and last bins reach to infinity. x0: values at the centres of bins; x0, mean and
    log_variance broadcast. log_cdf: log of the standard normal distribution function; the default
    is exact. Everything is done in logarithms of the nearer tail, hence finite and exact however
    far the mean lies.
    """
    scale, half = (-0.5 * log_variance).exp(), bins.width / 2
    upper, lower = (x0 - mean + half) * scale, (x0 - mean - half) * scale
    mirrored = upper + lower > 0
    far = log_cdf(torch.where(mirrored, -upper, lower))
    near = log_cdf(torch.where(mirrored, -lower, upper))
    inside = near + (-torch.expm1(far - near)).log()
    inside = torch.where(x0 <= bins.low + half, log_cdf(upper), inside)
    return torch.where(x0 >= bins.high - half, log_cdf(-lower), inside)


def pixel_decoder(bins: Bins = MINUS_ONE_TO_ONE) -> Decoder:
    """Return `pixel_log_likelihood` as a decoder."""
    return partial(pixel_log_likelihood, bins=bins)


# Terms -------------------------------------------------------------------------------------------


def first_variance(schedule: Schedule, t: Tensor) -> Tensor:
    """Return the variance in the place of beta_tilde, which is 0, in the step t -> 0; float64 [B].

    It is beta_tilde of the step before, 2t -> t: beta_tilde_2 for t = 1, as in the published code.
    A schedule without such a step gives beta.
    """
    alpha_bar = schedule.at(t)
    before: Any = posterior(schedule.at((2 * t).clamp(max=schedule.T)), alpha_bar)
    return torch.where(2 * t <= schedule.T, before.variance, 1 - alpha_bar)


def prior(schedule: Schedule, x0: Tensor) -> Tensor:
    """Return KL(q(x_T | x0) || N(0, I)) in bits/dim, [B]."""
    alpha_bar = float(schedule.alpha_bar[-1])
    log_var = send(torch.log1p(-schedule.alpha_bar[-1]), x0.device, x0.dtype)
    zero = torch.zeros_like(log_var)
    return _bits(gaussian_kl(alpha_bar**0.5 * x0, log_var, zero, zero))


def term(
    schedule: Schedule,
    t: Tensor,
    s: Tensor,
    x0: Tensor,
    x0_hat: Tensor,
    fraction: Tensor | None = None,
    *,
    variance: str = "beta-tilde",
    decoder: Decoder,
) -> Tensor:
    """Return the term of the step t -> s in bits/dim, [B].

    x0_hat, fraction: the network's estimates at x_t ~ q(x_t | x0). variance: that of p(x_s | x_t),
    one of `process.VARIANCES`. Raises ConfigError for a learned variance without a fraction.
    """
    if variance not in VARIANCES:
        raise unknown("variance", variance, VARIANCES)
    alpha_bar_t, alpha_bar_s = schedule.at(t), schedule.at(s)
    q: Any = posterior(alpha_bar_t, alpha_bar_s)  # of tensors, not of floats
    last = s.cpu() == 0
    tilde = torch.where(last, first_variance(schedule, t.cpu()), q.variance)
    shape = (-1, *[1] * (x0.ndim - 1))
    beta, tilde, weight, last = (
        send(v.view(shape), x0.device, v.dtype if v.dtype == torch.bool else x0.dtype)
        for v in (step_beta(alpha_bar_t, alpha_bar_s), tilde, q.x0_weight, last)
    )
    log_var = VARIANCES[variance](beta, tilde, fraction).log()
    # Both means hold the same share of x_t: only their estimates of x0 differ.
    kl = gaussian_kl(weight * x0, tilde.log(), weight * x0_hat, log_var)
    # torch.where passes the gradient of both branches: off the last step the decoder gets x0
    # itself, where its gradient is finite.
    nll = -decoder(x0, torch.where(last, x0_hat, x0), log_var)
    return _bits(torch.where(last, nll, kl))


def _bits(nats: Tensor) -> Tensor:
    """Return the mean over all dimensions but the first, [B], in bits."""
    return nats.flatten(1).mean(1) / log(2)
