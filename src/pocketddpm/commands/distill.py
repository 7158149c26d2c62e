"""`pocketddpm distill MODEL`: turn a trained model into one that draws in one or two steps."""

from dataclasses import dataclass

from pocketddpm.commands.options import Positional, given, training_options
from pocketddpm.config import BUDGETS
from pocketddpm.runs.options import DISTILLATION

OPTIONS = ("lr", "seed", "device", "out", "checkpoint_every", "sample_every", "overwrite")


@dataclass(frozen=True, kw_only=True)
class Distill(training_options(*BUDGETS, *OPTIONS, **DISTILLATION)):
    """Tune a trained model so that one or two evaluations give an image (consistency distillation).

    The budget is 5 minutes when none is given. The result is an ordinary run, runs/PRESET-distilled
    by default, and is resumed with `train --resume`.

    Example: pocketddpm distill runs/mnist --minutes 5 --out runs/mnist-fast
    """

    model: Positional[str]
    """A run folder, a checkpoint, or the name of a shipped model; trained with --prediction edm."""

    def run(self) -> None:
        """Train on."""
        from pocketddpm.runs.start import distillation

        distillation(self.model, **given(self)).run()
