"""The times that a sampler visits: a decreasing list of pairs (t, alpha_bar).

alpha_bar is what the mathematics uses; t is what the network is called with (a float: linspace,
karras, log-snr and jumps give points between the table's entries). Named spacings end at the clean
image (0, 1); an explicit list may end anywhere.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import log

import numpy as np
import torch

from pocketddpm.diffusion.schedule import Schedule
from pocketddpm.errors import ConfigError, unknown
from pocketddpm.values import whole

SPACINGS = ("trailing", "leading", "linspace", "quadratic", "karras", "log-snr", "jumps")
EVEN_IN_NOISE = ("karras", "log-snr", "jumps")  # spacings that need alpha_bar > 0
LAST_JUMP = 1.0  # sigma of the last estimate of `jumps`: docs/experiments.md


@dataclass(frozen=True)
class Grid:
    """t: decreasing floats, from the noisiest to the last. alpha_bar: rising floats, as many.

    schedule: the one that the pairs came from, or None; `time_of` reads it. ConfigError unless both
    have the same length, at least 2, and are strictly ordered, with alpha_bar in 0..1.
    """

    t: tuple[float, ...]
    alpha_bar: tuple[float, ...]
    schedule: Schedule | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.t) != len(self.alpha_bar) or len(self.t) < 2:
            raise ConfigError(
                f"a grid needs at least two pairs (t, alpha_bar), got {len(self.t)} times "
                f"and {len(self.alpha_bar)} values of alpha_bar"
            )
        if any(s >= t for t, s in zip(self.t, self.t[1:], strict=False)):
            raise ConfigError(f"the times of a grid must decrease strictly, got {list(self.t)}")
        rising = all(a < b for a, b in zip(self.alpha_bar, self.alpha_bar[1:], strict=False))
        if not rising or self.alpha_bar[0] < 0 or self.alpha_bar[-1] > 1:
            raise ConfigError(
                "alpha_bar must rise strictly along a grid, from a value >= 0 to one <= 1, "
                f"got {list(self.alpha_bar)}"
            )

    @property
    def steps(self) -> int:
        """Number of steps, one less than the number of times."""
        return len(self.t) - 1

    def __iter__(self) -> Iterator[tuple[int, float, float, float, float]]:
        """Yield (i, t, alpha_bar_t, s, alpha_bar_s) for each step i = 0..steps-1 from t to s."""
        for i in range(self.steps):
            yield i, self.t[i], self.alpha_bar[i], self.t[i + 1], self.alpha_bar[i + 1]

    def time_of(self, alpha_bar: float) -> float:
        """Return the time of an alpha_bar between the grid's own, a float.

        It is the schedule's, where that is known; else linear in log-SNR between the grid's pairs.
        Outside of either it is that of the nearest end.
        """
        if self.schedule is not None:
            log_snr = torch.logit(torch.tensor(alpha_bar, dtype=torch.float64))
            return float(self.schedule.time_of(log_snr))
        inner = [i for i, known in enumerate(self.alpha_bar) if 0 < known < 1]
        log_snr = [log(self.alpha_bar[i] / (1 - self.alpha_bar[i])) for i in inner]
        times = [self.t[i] for i in inner]
        return float(np.interp(log(alpha_bar / (1 - alpha_bar)), log_snr, times))


def make_grid(
    schedule: Schedule,
    steps: int,
    spacing: str = "trailing",
    *,
    t_start: int | None = None,
    rho: float = 7.0,
) -> Grid:
    """Return a grid of `steps` steps from t_start (default T) down to 0.

    spacing, with N steps over T times:
      trailing   round(T - i T/N): starts at T; the default.
      leading    1 + i floor(T/N), as diffusers and DDIM's code do: starts below T.
      linspace   N even points from T to 1, between table entries.
      quadratic  T (i/N)^2, dense at low noise (arXiv 2010.02502).
      karras     even in sigma^(1/rho) (arXiv 2206.00364, eq. 5).
      log-snr    even in log-SNR (arXiv 2206.00927).
      jumps      even in log-SNR down to sigma = 1, then one step to the image: for models that
                 `pocketddpm distill` has tuned (chosen by experiment: docs/experiments.md).
    t_start: the noisiest time allowed, 1..T. rho: of karras; 7 in the paper, 1 is even in sigma.
    Raises ConfigError for an unknown spacing, t_start outside 1..T, steps outside 1..t_start, and
    karras, log-snr or jumps where the SNR at t_start is zero.
    """
    T = schedule.T
    top, steps = T if t_start is None else whole(t_start, "t_start"), whole(steps, "steps")
    if not 1 <= top <= T:
        raise ConfigError(f"t_start must lie in 1..{T}, got {top}")
    if not 1 <= steps <= top:
        raise ConfigError(
            f"steps must lie in 1..{top} for a schedule that starts at t = {top}, got {steps}"
        )
    if spacing not in SPACINGS:
        raise unknown("spacing", spacing, SPACINGS)
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    if spacing in EVEN_IN_NOISE:
        log_snr = schedule.log_snr[[top, 1]]
        if not torch.isfinite(log_snr).all():
            raise ConfigError(
                f"spacing '{spacing}' needs alpha_bar > 0 at t = {top}, got 0 (zero terminal SNR); "
                "use trailing"
            )
        if spacing == "karras":
            low, high = schedule.sigma[1] ** (1 / rho), schedule.sigma[top] ** (1 / rho)
            points = -2 * (high + ramp * (low - high)).pow(rho).log()
        else:
            end = log_snr[1]
            if spacing == "jumps":  # half of where they start, when that is less
                sigma = (schedule.sigma[top] / 2).clamp(max=LAST_JUMP)
                end = -2 * torch.maximum(sigma, schedule.sigma[1]).log()
            points = log_snr[0] + ramp * (end - log_snr[0])
        times = schedule.time_of(points).tolist()
        return Grid((*times, 0.0), (*torch.sigmoid(points).tolist(), 1.0), schedule)
    if spacing == "linspace":
        return explicit_grid(schedule, [*(top + ramp * (1 - top)).tolist(), 0.0])
    if spacing == "trailing":
        times = [float(round(top - i * top / steps)) for i in range(steps)]
    elif spacing == "leading":
        times = [float(i * (top // steps) + 1) for i in reversed(range(steps))]
    else:
        times = [float(max(i, round(top * (i / steps) ** 2))) for i in range(steps, 0, -1)]
    return explicit_grid(schedule, [*times, 0.0])


def explicit_grid(schedule: Schedule, times: Sequence[float]) -> Grid:
    """Return the grid through the given times, floats in 0..T in decreasing order.

    alpha_bar is interpolated linearly in log-SNR between table entries (linearly in alpha_bar below
    t = 1, where the log-SNR has no lower neighbour). ConfigError for times outside 0..T or in
    another order.
    """
    T = schedule.T
    if any(not 0 <= t <= T for t in times):
        raise ConfigError(f"times must lie in 0..{T}, got {[t for t in times if not 0 <= t <= T]}")
    alpha_bar = tuple(_alpha_bar(schedule, t) for t in times)
    return Grid(tuple(float(t) for t in times), alpha_bar, schedule)


def _alpha_bar(schedule: Schedule, t: float) -> float:
    low = int(t)
    share = t - low
    if share == 0:
        return float(schedule.alpha_bar[low])
    pair = schedule.alpha_bar[low : low + 2]
    if low == 0 or pair[1] == 0:
        return float(pair[0] + share * (pair[1] - pair[0]))
    log_snr = schedule.log_snr[low : low + 2]
    return float(torch.sigmoid(log_snr[0] + share * (log_snr[1] - log_snr[0])))
