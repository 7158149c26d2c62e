"""Numerical health: which steps are skipped, and when a run gives up.

A step whose loss or gradient is not finite is skipped: weights, average and moments stay as they
are, and the run goes on with the next images. It is skipped on the device (`is_finite`, and
`LossScale` in fp16), and counted here when the losses are read. All of it is state of the run, so
that resuming stays exact.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pocketddpm.errors import DDPMError

COST, LIMIT = 10, 200  # a skipped step costs 10, a good one earns 1 back: 20 in a row are the limit
FIRST_SCALE, LAST_SCALE = 2.0**16, 2.0**24  # of the loss in fp16 (arXiv 1710.03740, section 3.2)
GROW_AFTER = 2000  # good steps until the scale is doubled
RENAMED = {"strain": "skip_budget", "calm": "good_steps"}  # in checkpoints of 0.1


@dataclass
class Health:
    """The state of a run's health.

    skipped: steps so far. skip_budget: what skipped steps have used of LIMIT; good steps give it
    back. scale: what the loss is multiplied by before its gradient is taken, a power of two, 1
    except in fp16. good_steps: since the scale was changed.
    """

    skipped: int = 0
    skip_budget: int = 0
    scale: float = 1.0
    good_steps: int = 0

    @staticmethod
    def start(precision: str) -> "Health":
        """Return the state of a new run."""
        return Health(scale=FIRST_SCALE if precision == "fp16" else 1.0)

    @staticmethod
    def from_dict(values: Mapping[str, Any] | None, precision: str) -> "Health":
        """Return the state in a checkpoint; that of a new run where it has none (before 0.2)."""
        if not values:
            return Health.start(precision)
        return Health(**{RENAMED.get(key, key): value for key, value in values.items()})

    def count(self, taken: bool) -> None:
        """Count a step, which was taken or skipped."""
        if taken:
            self.skip_budget = max(0, self.skip_budget - 1)
            self.good_steps += 1
            if self.scale > 1 and self.good_steps >= GROW_AFTER:
                self.scale, self.good_steps = min(self.scale * 2, LAST_SCALE), 0
        else:
            self.skipped += 1
            self.skip_budget += COST
            self.scale, self.good_steps = max(self.scale / 2, 1.0), 0

    def events(self, step: int) -> list[str]:
        """Return a line on a step that was skipped; none for most, where they are many."""
        if self.skipped > 3 and self.skipped % 100:
            return []
        cause = "the loss or its gradient is not finite"
        now = f"; the loss is scaled by {self.scale:g} from here on" if self.scale > 1 else ""
        return [f"step {step}: {cause}; skipped ({self.skipped} so far){now}"]

    def check(self, step: int) -> None:
        """Raise DDPMError when too many steps were skipped."""
        if self.skip_budget < LIMIT:
            return
        raise DDPMError(
            f"stopped at step {step}: {self.skipped} steps had a loss or a gradient that is not "
            f"finite ({LIMIT // COST} in a row, or a tenth of many, is the limit); the weights and "
            "the last checkpoint are as they were before; try a smaller --lr, --grad-clip 1 or "
            "--precision float32, in a new run"
        )


class LossScale:
    """The scale of the loss in fp16, on the device: what `Health.count` makes of the same steps."""

    def __init__(self, health: Health, device: torch.device) -> None:
        self.scale = torch.tensor(health.scale, device=device)
        self.good_steps = torch.tensor(health.good_steps, device=device)

    def count(self, taken: Tensor) -> None:
        """Count a step. taken: bool, on the device."""
        good_steps = self.good_steps + 1
        grows = taken & (self.scale > 1) & (good_steps >= GROW_AFTER)
        grown = torch.where(grows, (self.scale * 2).clamp(max=LAST_SCALE), self.scale)
        self.scale = torch.where(taken, grown, (self.scale / 2).clamp(min=1))
        self.good_steps = torch.where(taken & ~grows, good_steps, 0)


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
