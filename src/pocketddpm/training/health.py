"""Numerical health: which steps are skipped, when a run gives up, and where its loss jumped.

A step whose loss or gradient is not finite is skipped: weights, average and moments stay as they
are, and the run goes on with the next images. All of it is state of the run, so that resuming stays
exact.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pocketddpm.errors import DDPMError

COST, LIMIT = 10, 200  # a skipped step costs 10, a good one earns 1 back: 20 in a row are the limit
FIRST_SCALE, LAST_SCALE = 2.0**16, 2.0**24  # of the loss in fp16 (arXiv 1710.03740, section 3.2)
GROW_AFTER = 2000  # good steps until the scale is doubled
SPIKE_WINDOW, SPIKE_AFTER = 100, 50  # steps that a loss is compared with; the fewest of them


@dataclass
class Health:
    """The state of a run's health.

    skipped: steps so far. strain: rises with skipped steps, falls with good ones. scale: what the
    loss is multiplied by before its gradient is taken, a power of two, 1 except in fp16. calm: good
    steps since the scale was changed.
    """

    skipped: int = 0
    strain: int = 0
    scale: float = 1.0
    calm: int = 0

    @staticmethod
    def start(precision: str) -> "Health":
        """Return the state of a new run."""
        return Health(scale=FIRST_SCALE if precision == "fp16" else 1.0)

    @staticmethod
    def from_dict(values: Mapping[str, Any] | None, precision: str) -> "Health":
        """Return the state in a checkpoint; that of a new run where it has none (before 0.2)."""
        return Health(**values) if values else Health.start(precision)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    def passes(self, loss: Tensor, grad_norm: Tensor) -> bool:
        """Whether a step may be taken: its loss and gradient are finite. Waits for the device."""
        good = bool(torch.isfinite(loss.detach()) & torch.isfinite(grad_norm))
        if good:
            self.strain = max(0, self.strain - 1)
            self.calm += 1
            if self.scale > 1 and self.calm >= GROW_AFTER:
                self.scale, self.calm = min(self.scale * 2, LAST_SCALE), 0
        else:
            self.skipped += 1
            self.strain += COST
            self.scale, self.calm = max(self.scale / 2, 1.0), 0
        return good

    def event(self, step: int) -> str | None:
        """Return a line on a step that was skipped; none for most, where they are many."""
        if self.skipped > 3 and self.skipped % 100:
            return None
        cause = "the loss or its gradient is not finite"
        now = f"; the loss is scaled by {self.scale:g} from here on" if self.scale > 1 else ""
        return f"step {step}: {cause}; skipped ({self.skipped} so far){now}"

    def check(self, step: int) -> None:
        """Raise DDPMError when too many steps were skipped."""
        if self.strain < LIMIT:
            return
        raise DDPMError(
            f"stopped at step {step}: {self.skipped} steps had a loss or a gradient that is not "
            f"finite ({LIMIT // COST} in a row, or a tenth of many, is the limit); the weights and "
            "the last checkpoint are as they were before; try a smaller --lr, --grad-clip 1 or "
            "--precision float32, in a new run"
        )


def refuse_poisoned(tensors: Mapping[str, Tensor]) -> None:
    """Raise DDPMError, naming the tensor, when weights or averages are not finite.

    Asked before a checkpoint is replaced, so that a good one is never replaced by a useless one.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise DDPMError(
                f"{name} is not finite any more; the last checkpoint is kept; try a smaller --lr, "
                "in a new run"
            )


class Spike(NamedTuple):
    """step: 1, 2, .. loss: at that step. usual: the median of the steps before."""

    step: int
    loss: float
    usual: float

    def __str__(self) -> str:
        return (
            f"step {self.step}: the loss jumped to {self.loss:.4g}, {self.loss / self.usual:.1f} "
            f"times the median of the steps before it ({self.usual:.4g})"
        )


def find_spikes(losses: Sequence[float], first: int = 0) -> list[Spike]:
    """Return the jumps among losses[first:]: above twice the median of the last 100 steps, and
    further from it than ten deviations (1.48 times the median distance from the median).
    """
    found = []
    for i in range(max(first, SPIKE_AFTER), len(losses)):
        before = [x for x in losses[max(0, i - SPIKE_WINDOW) : i] if isfinite(x)]
        if len(before) < SPIKE_AFTER or not isfinite(losses[i]):
            continue
        usual = median(before)
        deviation = 1.4826 * median(abs(x - usual) for x in before)
        if usual > 0 and losses[i] > max(2 * usual, usual + 10 * deviation):
            found.append(Spike(i + 1, losses[i], usual))
    return found
