"""The forward process q and its posterior, for any pair of times s < t.

Every function takes alpha_bar as Python floats (samplers) or as float64 tensors (training, bound);
nothing else is needed, because alpha_bar[0] = 1 makes t = 0 an ordinary time.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from pocketddpm.errors import ConfigError
from pocketddpm.noise import send

Number = TypeVar("Number", float, Tensor)


def amplitudes(alpha_bar: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return a = sqrt(alpha_bar) and b = sqrt(1 - alpha_bar), [B,1,...], to multiply `like` by.

    alpha_bar: float64 [B]. The roots are taken in float64 (1 - alpha_bar loses 3 digits in float32
    at the first step) and then cast to the dtype and device of `like`, [B,...].
    """
    shape = (-1, *[1] * (like.ndim - 1))
    a, b = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    a, b = (send(v.view(shape), like.device, like.dtype) for v in (a, b))
    return a, b


def add_noise(x0: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """Return x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps  (arXiv 2006.11239, eq. 4).

    x0, eps: [B,...] of one dtype. alpha_bar: float64 [B].
    """
    a, b = amplitudes(alpha_bar, x0)
    return a * x0 + b * eps


def step_beta(alpha_bar_t: Number, alpha_bar_s: Number) -> Number:
    """Return beta of the single step s -> t, 1 - alpha_bar_t / alpha_bar_s, for s < t."""
    return 1 - alpha_bar_t / alpha_bar_s


class Posterior(NamedTuple):
    """q(x_s | x_t, x0) = N(x0_weight x0 + x_t_weight x_t, variance)."""

    x0_weight: float | Tensor
    x_t_weight: float | Tensor
    variance: float | Tensor


def posterior(alpha_bar_t: Number, alpha_bar_s: Number) -> Posterior:
    """Return q(x_s | x_t, x0) for s < t  (arXiv 2006.11239, eqs. 6-7, for strides too).

    The variance is beta_tilde; it is 0 at s = 0.
    """
    beta = step_beta(alpha_bar_t, alpha_bar_s)
    noise = 1 - alpha_bar_t
    return Posterior(
        x0_weight=alpha_bar_s**0.5 * beta / noise,
        x_t_weight=(alpha_bar_t / alpha_bar_s) ** 0.5 * (1 - alpha_bar_s) / noise,
        variance=beta * (1 - alpha_bar_s) / noise,
    )


def _learned(beta: Any, tilde: Any, fraction: Tensor | None) -> Tensor:
    if fraction is None:
        raise ConfigError(
            "variance 'learned' needs a network with 2C output channels, and this one has C; "
            "use variance beta or beta-tilde, or train with --variance learned --loss hybrid"
        )
    return tilde * (beta / tilde) ** fraction


VARIANCES: dict[str, Callable[[Any, Any, Tensor | None], Any]] = {
    "beta": lambda beta, tilde, fraction: beta,
    "beta-tilde": lambda beta, tilde, fraction: tilde,
    "learned": _learned,
}
"""The variance of p(x_s | x_t), from beta, beta_tilde > 0 and the network's fraction [B,C,H,W].

'beta' and 'beta-tilde' are the two fixed ones of arXiv 2006.11239, section 3.2; 'learned' lies
between them, geometrically: beta at fraction 1, beta_tilde at 0 (arXiv 2102.09672, eq. 15).
"""
