"""Options of `compare` and `reproduce`, for Python and for the command line alike."""

from dataclasses import dataclass
from pathlib import Path

from pocketddpm.values import SEEDS, option


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
