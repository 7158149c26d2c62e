"""`Schedule`: alpha_bar_t, the share of the image's variance in x_t, at each time t.

Time runs 0..T. alpha_bar[0] = 1 is the clean image, alpha_bar[T] the noisiest, and

    x_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) eps          (arXiv 2006.11239, eq. 4)

With t = 0 in the table, a step from t to any s < t needs two table entries and nothing else: no
"previous" arrays, no clipped logarithms, no class that skips steps. Tables are float64 on the CPU
and cast where they are used. The curves themselves are the files of `schedules/`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pocketddpm.errors import ConfigError


@dataclass(frozen=True)
class Schedule:
    """alpha_bar: float64 [T+1], alpha_bar[0] = 1, strictly decreasing, alpha_bar[T] >= 0."""

    alpha_bar: Tensor

    def __post_init__(self) -> None:
        ab = self.alpha_bar
        if ab.dtype != torch.float64 or ab.ndim != 1 or len(ab) < 2:
            raise ConfigError(
                "a schedule needs a float64 table [T+1] of alpha_bar with T >= 1, "
                f"got {ab.dtype} {list(ab.shape)}"
            )
        if ab[0] != 1 or ab[-1] < 0 or not bool((ab[1:] < ab[:-1]).all()):
            raise ConfigError(
                "alpha_bar must start at 1 and fall strictly to a value >= 0, "
                f"got {ab[0]:.6g} .. {ab[-1]:.6g}; choose smaller betas or another schedule"
            )

    @property
    def T(self) -> int:
        """Number of steps."""
        return len(self.alpha_bar) - 1

    @property
    def beta(self) -> Tensor:
        """beta_t = 1 - alpha_bar_t / alpha_bar_{t-1}, float64 [T] for t = 1..T."""
        return 1 - self.alpha_bar[1:] / self.alpha_bar[:-1]

    @property
    def snr(self) -> Tensor:
        """alpha_bar / (1 - alpha_bar), float64 [T+1]; infinite at t = 0."""
        return self.alpha_bar / (1 - self.alpha_bar)

    @property
    def log_snr(self) -> Tensor:
        """log(alpha_bar / (1 - alpha_bar)), float64 [T+1]; infinite at t = 0."""
        return self.alpha_bar.log() - (-self.alpha_bar).log1p()

    @property
    def sigma(self) -> Tensor:
        """sqrt((1 - alpha_bar) / alpha_bar), the noise level of arXiv 2206.00364, [T+1]."""
        return ((1 - self.alpha_bar) / self.alpha_bar).sqrt()

    @property
    def zero_terminal(self) -> bool:
        """Whether x_T is pure noise, alpha_bar[T] = 0 (arXiv 2305.08891)."""
        return bool(self.alpha_bar[-1] == 0)

    def at(self, t: Tensor) -> Tensor:
        """Return alpha_bar, float64 on the CPU, at integer times t in 0..T (any shape)."""
        return self.alpha_bar[t.to("cpu", torch.int64)]

    def time_of(self, log_snr: Tensor) -> Tensor:
        """Return the time, a float in 1..T, at which the schedule has this log-SNR.

        Linear between table entries in log-SNR; exact at them. Values outside are clamped, and -inf
        is T.
        """
        table = self.log_snr[1:].flip(0)  # rising
        times = torch.arange(self.T, 0, -1, dtype=torch.float64)
        finite = torch.isfinite(table)
        table, times = table[finite], times[finite]
        if len(table) < 2:  # a single step, or two of which the second has no SNR
            return torch.where(log_snr.isneginf(), float(self.T), 1.0).double()
        right = torch.searchsorted(table, log_snr.double()).clamp(1, len(table) - 1)
        left = right - 1
        share = (log_snr.double() - table[left]) / (table[right] - table[left])
        inside = times[left] + share.clamp(0, 1) * (times[right] - times[left])
        return torch.where(log_snr.isneginf(), float(self.T), inside)


def from_beta(beta: Tensor) -> Tensor:
    """Return alpha_bar, float64 [T+1], for beta_1..beta_T in (0, 1)."""
    if not bool(((beta > 0) & (beta < 1)).all()):
        raise ConfigError(
            f"every beta must lie between 0 and 1, got {beta.min():.6g} .. {beta.max():.6g}"
        )
    return torch.cat([torch.ones(1, dtype=torch.float64), (1 - beta.double()).cumprod(0)])


def zero_terminal_snr(alpha_bar: Tensor) -> Tensor:
    """Shift and scale sqrt(alpha_bar) so that alpha_bar[T] = 0 (arXiv 2305.08891, algorithm 1).

    alpha_bar[1] stays as it was.
    """
    root = alpha_bar.sqrt()
    first, last = root[1], root[-1]
    rescaled = (root - last) * first / (first - last)
    rescaled[0], rescaled[-1] = 1.0, 0.0
    return rescaled.square()


def shift_snr(alpha_bar: Tensor, shift: float) -> Tensor:
    """Divide the SNR by shift^2: more noise for larger images (arXiv 2301.11093, eq. 4)."""
    if shift <= 0:
        raise ConfigError(f"the schedule's shift must be positive, got {shift}; 1 leaves it alone")
    return alpha_bar / (alpha_bar + shift**2 * (1 - alpha_bar))
