"""`pocketddpm distill MODEL`: turn a trained model into one that draws in one or two steps."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from pocketddpm.config import Experiment, SamplingConfig, from_dict
from pocketddpm.errors import ConfigError

if TYPE_CHECKING:
    from pocketddpm.models.checkpoint import Checkpoint

STEPS = 2
BUDGETS = ("steps", "epochs", "images", "minutes")


@dataclass(frozen=True)
class Distill:
    """Tune a trained model so that one or two evaluations give an image (consistency distillation).

    Example: pocketddpm distill runs/mnist --minutes 5 --out runs/mnist-fast
    """

    model: Positional[str]
    """A run folder, a checkpoint, or the name of a shipped model; trained with --prediction edm."""
    steps: int | None = None
    """Budget in optimiser steps."""
    epochs: float | None = None
    """Budget in epochs."""
    images: int | None = None
    """Budget in images."""
    minutes: float | None = None
    """Budget in minutes; 5 when no budget is given."""
    lr: float = 2e-3
    """Peak learning rate."""
    seed: int = 0
    """Seed of order, times and noise."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    out: Path | None = None
    """The run's folder; runs/PRESET-distilled by default."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    sample_every: int = 0
    """Steps between previews; 0 for none."""
    overwrite: bool = False
    """Replace the run in --out."""

    def run(self) -> None:
        """Train on; the result is an ordinary run, resumed with `train --resume`."""
        from pocketddpm.models.checkpoint import find_checkpoint, load_checkpoint
        from pocketddpm.runs.run import Session

        teacher = load_checkpoint(find_checkpoint(Path(self.model)))
        experiment = self.tuned(teacher)
        Session(
            experiment,
            out=self.out or Path("runs") / f"{experiment.preset}-distilled",
            device=self.device,
            begin_with=teacher,
            checkpoint_every=self.checkpoint_every,
            sample_every=self.sample_every,
            overwrite=self.overwrite,
        ).run()

    def tuned(self, teacher: "Checkpoint") -> Experiment:
        """Return the teacher's experiment with the objective, budget and sampler of tuning.

        Raises ConfigError for a model that cannot be tuned.
        """
        stored = from_dict(Experiment, teacher.meta["experiment"], "checkpoint: ")
        if stored.objective.prediction != "edm":
            raise ConfigError(
                f"this model predicts {stored.objective.prediction}, and only one that gives its "
                "input back at sigma = 0 can be tuned: train with --prediction edm"
            )
        if stored.objective.loss == "consistency":
            raise ConfigError(
                "this model is distilled already, and has no flow left to follow; distill the one "
                "that it came from, or go on with pocketddpm train --resume"
            )
        given: dict[str, Any] = {name: getattr(self, name) for name in BUDGETS}
        if all(value is None for value in given.values()):
            given["minutes"] = 5.0
        return replace(
            stored,
            objective=replace(
                stored.objective,
                loss="consistency",
                weighting="simple",
                times="log-normal",
                p_mean=0.3,
                p_std=1.8,
                label_dropout=0.0,
                guidance=1.0,
            ),
            optimiser=replace(stored.optimiser, lr=self.lr),
            training=replace(stored.training, seed=self.seed, **given),
            sampling=SamplingConfig("consistency", STEPS, spacing="jumps"),
        )
