"""Options of runs that are no part of an experiment, for Python and the command line alike."""

from dataclasses import dataclass
from pathlib import Path

from pocketddpm.values import SEEDS, option


@dataclass(frozen=True)
class RunOptions:
    """Where and how a run is kept: no part of the experiment, and free to change on resuming."""

    device: str = "auto"
    """auto, cpu, cuda or mps."""
    out: Path | None = None
    """The run folder; runs/PRESET by default."""
    resume: str | None = None
    """auto (the run in --out, if there is one) or the path of a run or checkpoint."""
    begin_with: str | None = None
    """A model whose averaged weights a new run begins with (fine-tuning): as `sample` names it."""
    checkpoint_every: int = option(500, ">= 0")
    """Steps between checkpoints; 0: at the end only."""
    sample_every: int = option(500, ">= 0")
    """Steps between previews (DDIM, 50 steps); 0 for none."""
    sample_at_start: bool = False
    """Also a preview before training."""
    sample_each_epoch: bool = False
    """Also a preview after every epoch."""
    tensorboard: bool = False
    """Also write TensorBoard logs, into the run folder (extra tensorboard)."""
    trackio: bool = False
    """Also log to trackio, project pocketddpm (extra trackio)."""
    overwrite: bool = False
    """Replace the run in --out."""


DISTILLATION = {"lr": 2e-3, "seed": 0, "sample_every": 0}
"""Defaults of distillation that are not those of training."""


@dataclass(frozen=True)
class NeonOptions:
    """How a model is tuned on its own samples, and how far it steps away from that."""

    w: float = option(1.0, ">= 0")
    """How far, in steps of the tuning the other way."""
    n: int = option(6000, ">= 20")
    """How many samples the model is tuned on."""
    images: int | None = option(None, "> 0")
    """Images of training, by default 1.5 % of those that the model has seen."""
    lr: float = option(1e-3, "> 0")
    """Learning rate of the tuning."""
    seed: int = option(0, SEEDS)
    """Seed of the samples and of the tuning."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    out: Path | None = None
    """The folder; runs/PRESET-neon by default."""
    overwrite: bool = False
    """Replace what is in it."""


@dataclass(frozen=True)
class CompareOptions:
    """How models are sampled and timed."""

    n: int = option(20, ">= 1")
    """Samples of each."""
    steps: int = option(50, ">= 1")
    """Steps of DDIM, with which all of them are sampled and timed."""
    seed: int = option(0, SEEDS)
    """Seed of the samples."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    out: Path = Path("compare")
    """The folder for README.md, compare.json and the pictures."""
    overwrite: bool = False
    """Replace the folder's files."""


@dataclass(frozen=True)
class ReproduceOptions:
    """How much of a run is repeated, and where."""

    steps: int = option(100, ">= 1")
    """How many steps to repeat."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""


@dataclass(frozen=True)
class QuickstartOptions:
    """How long, and where."""

    out: Path = Path("quickstart")
    """The folder, which is refreshed."""
    minutes: float = option(2.0, "> 0")
    """Training time."""
    seed: int = option(0, SEEDS)
    """Seed of everything."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
