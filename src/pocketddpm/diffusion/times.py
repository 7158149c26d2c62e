"""How t is drawn in training: probabilities over 1..T, turned into draws.

A draw is the inverse of the cumulated probabilities at one uniform number, which is a function of
(seed, index in the stream of training images), so t is one too, for any number of processes and
accumulated parts. Where t is drawn more often than the loss means it to count, the loss is
divided by as much.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import ceil, log2
from typing import Any, ClassVar

import torch
from torch import Tensor

from pocketddpm.config import ObjectiveConfig
from pocketddpm.diffusion.schedule import Schedule
from pocketddpm.noise import Role, uniform

Gather = Callable[[Any], Any]  # a tensor of every process -> all of them, joined
FIRST_TIMES = 10  # of progressive training


@dataclass
class Times:
    """A distribution of t.

    target: float64 [T], q, how much t = 1..T counts in the expected loss; adds up to 1.
    strata: images among which the unit interval is divided, one part for each (1: not divided).
    progressive: begin with few times (see `progressive_times`).
    """

    learns: ClassVar[bool] = False  # whether `observe` has an effect

    target: Tensor
    strata: int = 1
    progressive: bool = False

    def draw(self, seed: int, stream_index: Tensor, run_fraction: float) -> tuple[Tensor, Tensor]:
        """Return t, int64 [B] in 1..T, and the weights of their losses, float64 [B], on the CPU.

        t is the smallest with p_1 + .. + p_t > u, p being `proposal()` and u uniform in 0..1; its
        weight is q_t / p_t, so that the expected loss is that of t drawn from q. With K strata,
        image k has its u in part k mod K of the unit interval (arXiv 2107.00630).
        stream_index: int64 [B] on the CPU, the images' numbers in the stream of training images.
        run_fraction: how much of the run is done, 0..1.
        """
        chosen = self._chosen(run_fraction)
        target, proposal = (_share(p * chosen) for p in (self.target, self.proposal()))
        stratum = stream_index % self.strata
        u = (stratum + uniform(seed, Role.TRAIN_TIME, stream_index)) / self.strata
        total = proposal.cumsum(0)
        row = torch.searchsorted(total / total[-1], u, right=True)
        return row + 1, target[row] / proposal[row]

    def proposal(self) -> Tensor:
        """Return p, what is drawn from, float64 [T]; here q, so that all weights are 1."""
        return self.target

    def observe(
        self, seed: int, stream_index: Tensor, run_fraction: float, losses: Tensor, gather: Gather
    ) -> None:
        """Learn from the losses of one step's images, those of `draw`; here nothing.

        losses: [B], with the weights of `draw`. gather: joins the tensors of all processes, on the
        CPU.
        """

    def state(self) -> dict[str, Tensor]:
        """Return what resuming needs; here nothing."""
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from `state()`; KeyError when something is missing."""

    def _chosen(self, run_fraction: float) -> Tensor:
        """Return which times are in use, float64 [T] of zeros and ones."""
        T = len(self.target)
        if not self.progressive:
            return torch.ones(T, dtype=torch.float64)
        chosen = torch.zeros(T, dtype=torch.float64)
        chosen[progressive_times(T, run_fraction) - 1] = 1
        return chosen


@dataclass
class LossSecondMoment(Times):
    """t drawn in proportion to the root mean square of its last losses (arXiv 2102.09672, eq. 18).

        p_t = (1 - FLOOR) rms_t / sum of rms + FLOOR / T,  rms_t over the last KEPT losses at t

    Uniform until every t has been seen `KEPT` times. The history is the same in all processes and
    is part of the run's state.
    """

    learns = True
    KEPT = 10
    FLOOR = 0.001

    history: Tensor = field(init=False)  # float64 [T, KEPT], of each t a ring of losses
    seen: Tensor = field(init=False)  # int64 [T]

    def __post_init__(self) -> None:
        T = len(self.target)
        self.history = torch.zeros(T, self.KEPT, dtype=torch.float64)
        self.seen = torch.zeros(T, dtype=torch.int64)

    def proposal(self) -> Tensor:
        """Return p, what is drawn from, float64 [T]."""
        if int(self.seen.min()) < self.KEPT:
            return self.target
        size = self.history.square().mean(1).sqrt()
        return (1 - self.FLOOR) * _share(size) + self.FLOOR * self.target

    def observe(
        self, seed: int, stream_index: Tensor, run_fraction: float, losses: Tensor, gather: Gather
    ) -> None:
        """Keep the losses, without their weights, of all processes' images.

        Each t has a ring of KEPT losses; where a batch has more of the same t, the last are kept.
        stream_index: int64 [B]. losses: [B], any float dtype and device.
        """
        # In the stream's order, whichever process computed an image.
        stream_index, order = gather(stream_index).sort()
        losses = gather(losses.detach()).double()[order]
        t, weight = self.draw(seed, stream_index, run_fraction)
        row, order = (t - 1).sort(stable=True)
        losses = (losses / weight)[order]
        count = row.bincount(minlength=len(self.seen))
        nth = torch.arange(len(row)) - torch.searchsorted(row, row)  # 0, 1, .. of the same t
        kept = nth >= count[row] - self.KEPT  # no place of a ring is written twice
        self.history[row[kept], (self.seen[row] + nth)[kept] % self.KEPT] = losses[kept]
        self.seen += count

    def state(self) -> dict[str, Tensor]:
        """Return the history."""
        return {"history": self.history, "seen": self.seen}

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from `state()`; KeyError when something is missing."""
        self.history.copy_(state["history"])
        self.seen.copy_(state["seen"])


def _share(values: Tensor) -> Tensor:
    return values / values.sum()


def progressive_times(T: int, run_fraction: float) -> Tensor:
    """Return the K evenly spaced times in use, int64 [K]; the last is T.

    K doubles from 10 to T over the first half of training, at equal intervals.
    run_fraction: how much of the run is done, 0..1.
    """
    doublings = max(0, ceil(log2(T / FIRST_TIMES)))
    K = min(T, FIRST_TIMES * 2 ** int(2 * run_fraction * doublings))
    return torch.arange(1, K + 1) * T // K


def _even(schedule: Schedule) -> Tensor:
    return torch.full((schedule.T,), 1 / schedule.T, dtype=torch.float64)


def _log_normal(schedule: Schedule, config: ObjectiveConfig) -> Tensor:
    """Return the share of ln sigma ~ N(p_mean, p_std^2) that is nearest to each t, float64 [T]."""
    table = schedule.sigma[1:].log()
    z = ((table[1:] + table[:-1]) / 2 - config.p_mean) / config.p_std
    ends = torch.tensor([0, 1], dtype=torch.float64)
    return torch.cat([ends[:1], torch.special.ndtr(z), ends[1:]]).diff()


TIMES: dict[str, Callable[[Schedule, ObjectiveConfig, int], Times]] = {
    # Every t alike.
    "uniform": lambda schedule, config, batch: Times(_even(schedule)),
    # The same, spread evenly over each batch: less variance for nothing (arXiv 2107.00630).
    "stratified": lambda schedule, config, batch: Times(_even(schedule), batch),
    # ln sigma is normal, and counts as often as it is drawn (arXiv 2206.00364); spread evenly.
    "log-normal": lambda schedule, config, batch: Times(_log_normal(schedule, config), batch),
    # In proportion to the recent losses, which are weighted to count alike; spread evenly.
    "importance": lambda schedule, config, batch: LossSecondMoment(_even(schedule), batch),
}
"""From schedule, configuration and the images of one optimiser step to the distribution."""


def build_times(config: ObjectiveConfig, schedule: Schedule, batch_size: int) -> Times:
    """Return the distribution of t that the configuration names.

    batch_size: images of one optimiser step, over all processes.
    """
    times = TIMES[config.times](schedule, config, batch_size)
    return replace(times, progressive=config.progressive)
