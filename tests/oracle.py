"""Denoisers whose answer is known, and the list of everything in the sampler catalogue.

For Gaussian data, or a mixture of Gaussians, E[x0 | x_t] is a formula, so a sampler can be held to
the truth: to the exact probability flow, or to the exact mean and covariance. The mixture matters,
because the Gaussian's flow is linear and hides mistakes.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import product
from math import exp, log, log1p, pi, sqrt
from types import ModuleType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pocketddpm.catalog import SAMPLERS
from pocketddpm.diffusion.bound import MINUS_ONE_TO_ONE, Decoder, pixel_log_likelihood, term
from pocketddpm.diffusion.denoiser import Denoise, DenoiserOutput
from pocketddpm.diffusion.grid import Grid
from pocketddpm.diffusion.schedule import Schedule
from pocketddpm.errors import ConfigError
from pocketddpm.values import from_dict


@dataclass(frozen=True)
class Mixture:
    """Points [B,1,1,D] of density sum_k weight_k N(mean_k, cov_k). It is a `Denoise`.

    weight: [K]. mean: [K,D]. cov: [K,D,D]. All float64.
    """

    weight: Tensor
    mean: Tensor
    cov: Tensor

    def __call__(self, x_t: Tensor, t: float, alpha_bar: float) -> DenoiserOutput:
        a, b = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
        weight, mean, size, axes = (v.to(x_t.device, x_t.dtype) for v in self._parts)
        gap = x_t.flatten(1)[:, None] - a * mean  # [B,K,D]
        spread = alpha_bar * size + (1 - alpha_bar)  # [K,D], eigenvalues of the noisy covariance
        # Written without matmul, whose last bits depend on the batch size.
        along = (gap[..., None] * axes).sum(-2)
        log_density = -(along.square() / spread + spread.log()).sum(-1) / 2
        share = (weight.log() + log_density).softmax(-1)  # [B,K]
        each = mean + a * (axes * (along * size / spread)[:, :, None, :]).sum(-1)
        x0 = (share[..., None] * each).sum(1).view_as(x_t)
        # As if the variance had been learned, half-way between its bounds.
        return DenoiserOutput(x0, (x_t - a * x0) / b, torch.full_like(x0, 0.5))

    @cached_property
    def _parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.weight, self.mean, *torch.linalg.eigh(self.cov)

    def flow(self, x: Tensor, alpha_bar_t: float, alpha_bar_s: float) -> Tensor:
        """Return where the probability flow takes x, [B,1,1,D], from t to s (either way).

        One component: a closed form. More: DOP853 on d(x / b) / d lambda = exp(lambda) x0_hat.
        """
        if len(self.weight) == 1:
            _, _, (size,), (axes,) = self._parts
            std_t, std_s = ((ab * size + 1 - ab).sqrt() for ab in (alpha_bar_t, alpha_bar_s))
            along = (x.flatten(1) - alpha_bar_t**0.5 * self.mean[0]) @ axes
            moved = (along * std_s / std_t) @ axes.T + alpha_bar_s**0.5 * self.mean[0]
            return moved.view_as(x)
        from scipy.integrate import solve_ivp

        def slope(lam: float, y: Any) -> Any:
            ab = alpha_bar_at(lam)
            at = torch.from_numpy(y).view_as(x) * (1 - ab) ** 0.5
            return exp(lam) * self(at, 0.0, ab).x0.flatten().numpy()

        ends = [(log(ab) - log1p(-ab)) / 2 for ab in (alpha_bar_t, alpha_bar_s)]
        start = (x / (1 - alpha_bar_t) ** 0.5).flatten().numpy()
        solved = solve_ivp(slope, ends, start, method="DOP853", rtol=1e-12, atol=1e-12)
        return torch.from_numpy(solved.y[:, -1]).view_as(x) * (1 - alpha_bar_s) ** 0.5


def _tensor(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


MIXTURE = Mixture(
    weight=_tensor(0.5, 0.3, 0.2),
    mean=_tensor([1.2, 0.3], [-0.9, 0.8], [0.1, -1.1]),
    cov=_tensor(
        [[0.20, 0.06], [0.06, 0.10]], [[0.08, 0.00], [0.00, 0.24]], [[0.16, -0.04], [-0.04, 0.12]]
    ),
)
GAUSSIAN = Mixture(
    weight=_tensor(1.0),
    mean=_tensor([0.7, -0.4, 0.1]),
    cov=_tensor([[0.50, 0.20, 0.00], [0.20, 0.30, -0.10], [0.00, -0.10, 0.15]]),
)


def alpha_bar_at(half_log_snr: float) -> float:
    """Return alpha_bar where log(a / b) = half_log_snr."""
    return 1 / (1 + exp(-2 * half_log_snr))


def log_snr_grid(steps: int, start: float = -7.0, end: float = 2.0) -> Grid:
    """Return a grid that is even in the half log-SNR and ends short of the clean image.

    It starts as far up as real schedules do (cosine: -10, linear: -5). There x0_hat hardly moves,
    and the low order that every multistep method has in its first steps does no harm.
    """
    lams = [start + (end - start) * i / steps for i in range(steps + 1)]
    return Grid(tuple(float(steps - i) for i in range(steps + 1)), tuple(map(alpha_bar_at, lams)))


def points(count: int, dim: int, seed: int = 0) -> Tensor:
    """Return standard normal points, float64 [count,1,1,dim]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, 1, dim, generator=generator, dtype=torch.float64)


def no_noise(step: int) -> Tensor:
    """Stand in for the noise of a deterministic sampler, which must not ask for it."""
    raise AssertionError("a deterministic sampler drew noise")


def run(module: ModuleType, config: Any, denoise: Any, x: Tensor, grid: Grid, noise: Any) -> Tensor:
    """Return the last state's x."""
    *_, state = module.sample(denoise, x, grid, noise, config)
    return state.x


def configurations(module: ModuleType) -> Iterator[Any]:
    """Yield a config for every combination of a sampler's orders, choices and switches.

    Of order 1 one is enough, where there is no corrector: that is ddim or ddpm
    (tests/test_samplers.py), and no other option counts.
    """
    hints = get_type_hints(module.Config)
    values: dict[str, list[Any]] = {}
    for field in fields(module.Config):
        if field.name == "order":
            values["order"] = [p for p in range(1, 6) if _allows(module, p)]
        elif get_origin(hints[field.name]) is Literal:
            values[field.name] = list(get_args(hints[field.name]))
        elif hints[field.name] is bool:
            values[field.name] = [True, False]
    lowest = False
    for choice in product(*values.values()):
        config = module.Config(**dict(zip(values, choice, strict=True)))
        if getattr(config, "order", 0) == 1 and not getattr(config, "corrector", False):
            if lowest:
                continue
            lowest = True
        yield config


def _allows(module: ModuleType, order: int) -> bool:
    try:
        from_dict(module.Config, {"order": order})
    except ConfigError:
        return False
    return True


OTHER_NAMES = ("euler", "euler-ancestral")  # of ddim and ddpm: tests/test_samplers.py


def samplers(*, stochastic: bool | None = None) -> list[tuple[str, ModuleType]]:
    """Return (name, module) of the catalogue's algorithms that start from noise."""
    found = [(name, SAMPLERS.load(name)) for name in SAMPLERS.names() if name not in OTHER_NAMES]
    found = [(n, m) for n, m in found if not getattr(m, "INVERSE", False)]
    return [(n, m) for n, m in found if stochastic is None or stochastic == m.STOCHASTIC]


# The variational bound ---------------------------------------------------------------------------


def gaussian_log_density(x0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return log N(x0; mean, exp log_variance): the decoder of data that are real numbers."""
    return -0.5 * (log(2 * pi) + log_variance + (x0 - mean).square() * (-log_variance).exp())


def published_log_cdf(z: Tensor) -> Tensor:
    """Return log Phi(z), Phi(z) = (1 + tanh(sqrt(2/pi) (z + 0.044715 z^3))) / 2, as published."""
    return logsigmoid(2 * sqrt(2 / pi) * (z + 0.044715 * z**3))


def published_decoder(x0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the decoder of the published code: pixels in -1..1, an approximate Phi."""
    return pixel_log_likelihood(x0, mean, log_variance, MINUS_ONE_TO_ONE, published_log_cdf)


@torch.no_grad()
def bound_terms(
    denoise: Denoise,
    schedule: Schedule,
    x0: Tensor,
    noise: Callable[[int], Tensor],
    steps: Iterable[tuple[int, int]],
    *,
    variance: str = "beta-tilde",
    decoder: Decoder,
) -> Tensor:
    """Return the terms of the given steps (t, s) in bits/dim, [B, number of steps], one draw each.

    All steps of a chain T -> .. -> 0, with `prior`, add up to the bound; some of the steps, times
    how many they stand for, estimate it. denoise: a `Denoiser`, called as (x_t, t, alpha_bar_t).
    noise(t): standard normal [B,C,H,W]. The rest is as in `term`.
    """
    terms = []
    for t, s in steps:
        alpha_bar = float(schedule.alpha_bar[t])
        x_t = alpha_bar**0.5 * x0 + (1 - alpha_bar) ** 0.5 * noise(t)
        estimate = denoise(x_t, float(t), alpha_bar)
        terms.append(
            term(
                schedule,
                torch.full((len(x0),), t),
                torch.full((len(x0),), s),
                x0,
                estimate.x0,
                estimate.variance_fraction,
                variance=variance,
                decoder=decoder,
            )
        )
    return torch.stack(terms, dim=1)
