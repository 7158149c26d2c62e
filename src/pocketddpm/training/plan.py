"""How long a run is, and the learning rate: pure functions of the images seen.

A budget in minutes becomes a number of images once, from a measured warm-up; from then on nothing
depends on the clock, except that one recorded event may move the end when the machine proves slower
or faster than it was measured. Resuming keeps the plan.
"""

from dataclasses import dataclass
from math import ceil, cos, pi
from typing import Any

from pocketddpm.config import BUDGETS, OptimiserConfig, TrainingConfig
from pocketddpm.errors import ConfigError


@dataclass(frozen=True)
class Plan:
    """total: images until the end.

    event: (images seen, run_fraction then) at which the end was moved, if it was.
    """

    total: int
    event: tuple[int, float] | None = None

    def run_fraction(self, images_seen: int) -> float:
        """Return the share of the run that is done, 0..1."""
        start, done = self.event or (0, 0.0)
        if images_seen <= start:
            return done
        share = (images_seen - start) / max(self.total - start, 1)
        return min(done + (1 - done) * share, 1.0)

    def moved(self, images_seen: int, total: int) -> "Plan":
        """Return the plan that ends at `total` images instead, without a jump in run_fraction."""
        return Plan(max(total, images_seen), (images_seen, self.run_fraction(images_seen)))

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "Plan":
        """Return the plan from plain JSON values."""
        event = values["event"]
        return Plan(int(values["total"]), (int(event[0]), float(event[1])) if event else None)


def plan_for(config: TrainingConfig, epoch_images: int) -> Plan:
    """Return the plan for a budget in steps, epochs or images, rounded up to whole steps."""
    if config.steps is not None:
        return Plan(config.steps * config.batch_size)
    images = config.epochs * epoch_images if config.epochs is not None else config.images
    if images is None:
        raise ConfigError("a budget in minutes needs a measured speed")
    return Plan(max(1, ceil(images / config.batch_size - 1e-9)) * config.batch_size)


def check_budget(config: TrainingConfig) -> None:
    """Raise ConfigError unless exactly one of steps, epochs, images and minutes is given."""
    values = {name: getattr(config, name) for name in BUDGETS}
    given = [f"--{name} {value:g}" for name, value in values.items() if value is not None]
    if len(given) != 1:
        told = " ".join(given) or "none of them"
        raise ConfigError(f"give one of --steps, --epochs, --images and --minutes, got {told}")


def learning_rate(images_seen: int, plan: Plan, config: OptimiserConfig) -> float:
    """Return the rate for the step that starts after `images_seen` images.

    It rises linearly over `warmup` images (at most a tenth of the run) and then decays over the
    whole run: linearly or as half a cosine to 0, or not at all.
    """
    warmup = min(config.warmup, plan.total // 10)
    rise = min(1.0, (images_seen + 1) / warmup) if warmup else 1.0
    p = plan.run_fraction(images_seen)
    fall = {"none": 1.0, "linear": 1 - p, "cosine": 0.5 * (1 + cos(pi * p))}[config.decay]
    return config.lr * rise * fall
