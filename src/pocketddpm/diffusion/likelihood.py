"""How likely an image is under a model, in bits per dimension, estimated in two ways.

Bound: the chain T -> T-1 -> .. -> 0 of `bound.py`, estimated without bias from some of its steps.
Flow: the density of the probability flow (arXiv 2011.13456, section 4.3), which is short in the
angle phi = atan2(b, a) of a = sqrt(alpha_bar), b = sqrt(1 - alpha_bar):

    dx / dphi = v_hat = (a x - x0_hat) / b
    log p_1(x_1) = log N(x_T; 0, I) + integral of div v_hat dphi, from t = 1 to the noisiest t

Shapes: x0 is [B,C,H,W] in model units; index, int64 [B], numbers the images; results are float64 on
the CPU. Image k's numbers depend on (seed, index[k]) alone, whatever the batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import atan2, log, pi

import torch
from torch import Tensor

from pocketddpm.diffusion.bound import Decoder, prior, term
from pocketddpm.diffusion.denoiser import Denoiser, DenoiserOutput, denoiser_output
from pocketddpm.diffusion.prediction import call_network
from pocketddpm.diffusion.process import add_noise, amplitudes
from pocketddpm.diffusion.schedule import Schedule
from pocketddpm.errors import ConfigError
from pocketddpm.noise import Role, normal, uniform

DenoiseEach = Callable[[Tensor, Tensor, Tensor], DenoiserOutput]
"""(x_t [B,C,H,W], t [B], alpha_bar float64 [B]) -> estimate: every image at a time of its own."""
Done = Callable[[int], object]


def per_image(denoiser: Denoiser) -> DenoiseEach:
    """Return a denoiser as `DenoiseEach`. ConfigError for guidance: it is no density's denoiser."""
    if not denoiser.guidance.is_none:
        raise ConfigError("a guided model has no likelihood; use guidance 1")

    def denoise(x_t: Tensor, t: Tensor, alpha_bar: Tensor) -> DenoiserOutput:
        a, b = amplitudes(alpha_bar, x_t)
        times = t.to(x_t.device, torch.float32)
        output = call_network(
            denoiser.network, denoiser.prediction, x_t, times, denoiser.labels, a, b
        )
        return denoiser_output(denoiser.prediction, output, x_t, a, b, denoiser.clip)

    return denoise


# The bound ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bound:
    """Of K strata of steps t -> t - 1, one step of each, for every image; float64 on the CPU.

    strata: (first, last) t of each. t: int64 [B,K], the steps drawn. prior: [B], bits/dim. bits:
    [B,K], what a stratum adds to the bound in bits/dim: the term drawn, times the stratum's steps.
    error: [B,K], the mean squared error of x0_hat over pixels, in model units.
    """

    strata: list[tuple[int, int]]
    t: Tensor
    prior: Tensor
    bits: Tensor
    error: Tensor

    @property
    def total(self) -> Tensor:
        """Return the bound of each image, [B], in bits/dim."""
        return self.prior + self.bits.sum(1)


def cut(T: int, draws: int) -> list[tuple[int, int]]:
    """Return `draws` strata of the steps 1..T as (first, last), narrow where t is small.

    Their ends are even in log t as far as whole numbers allow, because terms fall like 1 / t. The
    first is (1, 1), the decoder; draws = T makes every step its own. ConfigError unless draws lies
    in 2..T (T = 1 has one).
    """
    if not min(2, T) <= draws <= T:
        raise ConfigError(
            f"the draws of t must lie in {min(2, T)}..{T} ({T}: every step), got {draws}"
        )
    ends = [max(k + 1, round(T ** (k / max(draws - 1, 1)))) for k in range(draws)]
    return [(before + 1, last) for before, last in pairwise([0, *ends])]


@torch.no_grad()
def draw_bound(
    denoise: DenoiseEach,
    schedule: Schedule,
    x0: Tensor,
    index: Tensor,
    strata: list[tuple[int, int]],
    *,
    seed: int = 0,
    variance: str = "beta-tilde",
    decoder: Decoder,
    done: Done = lambda images: None,
) -> Bound:
    """Return the bound with one step t -> t - 1 drawn from every stratum, evenly, for every image.

    variance, decoder: as in `bound.term`. done: called with B after each stratum.
    """
    shape = tuple(x0.shape[1:])
    times, bits, error = [], [], []
    for k, (first, last) in enumerate(strata):
        size = last - first + 1
        t = first + (uniform(seed, Role.BOUND, index.cpu(), 2 * k) * size).long()
        alpha_bar = schedule.at(t)
        eps = normal(seed, Role.BOUND, index, shape, 2 * k + 1, dtype=x0.dtype)
        estimate = denoise(add_noise(x0, eps, alpha_bar), t, alpha_bar)
        x0_hat, fraction = estimate.x0, estimate.variance_fraction
        found = term(schedule, t, t - 1, x0, x0_hat, fraction, variance=variance, decoder=decoder)
        times.append(t)
        bits.append(size * found.cpu().double())
        error.append((x0_hat - x0).square().flatten(1).mean(1).cpu().double())
        done(len(x0))
    t, terms, errors = (torch.stack(v, dim=1) for v in (times, bits, error))
    return Bound(strata, t, prior(schedule, x0).cpu().double(), terms, errors)


# The flow ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flow:
    """-log2 P of each image in bits/dim, float64 [B], by solves with n / 2 and with n steps."""

    coarse: Tensor
    fine: Tensor

    @property
    def total(self) -> Tensor:
        """Return Richardson's extrapolation of the two, [B]: the solver is of order 2."""
        return self.fine + (self.fine - self.coarse) / 3


def flow_nfe(steps: int) -> tuple[int, int]:
    """Return how often `flow` evaluates the network per image, and how often with a gradient."""
    solves = (steps // 2, steps)
    return sum(2 * n + 1 for n in solves), sum(n + 1 for n in solves)


def flow(
    denoise: DenoiseEach,
    schedule: Schedule,
    x0: Tensor,
    index: Tensor,
    *,
    bin_width: float,
    steps: int,
    seed: int = 0,
    done: Done = lambda images: None,
) -> Flow:
    """Return -log2 P(x0) under the probability flow, an upper bound in expectation over the noise.

    P, the mass of a bin, is at least bin_width^D exp(E log p) with x uniform in the bin (Jensen):
    uniform dequantisation, one draw. bin_width: of x0, in model units. steps: even.
    done: called with B after each step of both solves, 3 / 2 steps times.
    """
    if steps < 2 or steps % 2:
        raise ConfigError(f"the flow's steps must be even, at least 2, got {steps}")
    shape = tuple(x0.shape[1:])
    # A normal number's own distribution function makes it uniform.
    u = torch.special.ndtr(normal(seed, Role.FLOW, index, shape, 0, dtype=x0.dtype))
    x = x0 + bin_width * (u - 0.5)
    probe = normal(seed, Role.FLOW, index, shape, 1, dtype=x0.dtype)
    probe = torch.where(probe < 0, -1.0, 1.0).to(x0)
    nats = (
        flow_log_density(denoise, schedule, x, probe, steps=n, done=done)
        for n in (steps // 2, steps)
    )
    return Flow(*(-(each / x0[0].numel() + log(bin_width)) / log(2) for each in nats))


def flow_log_density(
    denoise: DenoiseEach,
    schedule: Schedule,
    x0: Tensor,
    probe: Tensor,
    *,
    steps: int,
    done: Done = lambda images: None,
) -> Tensor:
    """Return log p(x0) in nats, [B]: of the flow's density at t = 1, in the coordinate x_1 / a_1.

    Heun's method for x in phi, and the trapezoid rule for the divergence in lambda = log(a / b), on
    a grid that is even in lambda: order 2. Where x0_hat or eps_hat is constant, x moves on a line
    in phi and the divergence is constant in lambda. probe: +-1, [B,C,H,W]; the divergence is
    Hutchinson's, probe . J probe, with one probe along the whole path (arXiv 1810.01367).
    Denoiser calls: 2 steps + 1. The flow starts at the noisiest t of SNR above 0. ConfigError for
    a schedule with no two such times.
    """
    last = int((schedule.alpha_bar > 0).sum()) - 1
    if last < 2:
        raise ConfigError("the flow needs a schedule with two times of SNR above 0; use the bound")
    high, low = schedule.log_snr[[1, last]].tolist()
    log_snr = torch.linspace(high, low, steps + 1, dtype=torch.float64)
    alpha_bar, times = torch.sigmoid(log_snr), schedule.time_of(log_snr)
    a, b = alpha_bar.sqrt().tolist(), torch.sigmoid(-log_snr).sqrt().tolist()
    phi = [atan2(*pair) for pair in zip(b, a, strict=True)]
    width = (high - low) / 2 / steps  # of a step, in lambda
    ones = torch.ones(len(x0), dtype=torch.float64)

    def velocity(x: Tensor, i: int) -> Tensor:
        return (a[i] * x - denoise(x, times[i] * ones, alpha_bar[i] * ones).x0) / b[i]

    def with_divergence(x: Tensor, i: int) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            v = velocity(x, i)
            (product,) = torch.autograd.grad((v * probe).sum(), x)
        return v.detach(), (product * probe).flatten(1).sum(1).cpu().double()

    x = a[0] * x0
    v, divergence = with_divergence(x, 0)
    integral = a[0] * b[0] * divergence / 2
    for i in range(steps):
        step = phi[i + 1] - phi[i]
        with torch.no_grad():
            ahead = velocity(x + step * v, i + 1)
        x = x + step * (v + ahead) / 2
        v, divergence = with_divergence(x, i + 1)
        # dphi = -a b dlambda
        integral += a[i + 1] * b[i + 1] * divergence / (2 if i + 1 == steps else 1)
        done(len(x0))
    dims = x0[0].numel()
    end = -(x.square().flatten(1).sum(1).cpu().double() + dims * log(2 * pi)) / 2
    return end + width * integral + dims * log(a[0])
