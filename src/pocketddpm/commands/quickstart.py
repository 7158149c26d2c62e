"""`pocketddpm quickstart`: two minutes from nothing to digits."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Quickstart:
    """Train for about two minutes, draw every class, and write a short report with pictures.

    Example: pocketddpm quickstart --minutes 1 --out quickstart
    """

    out: Path = Path("quickstart")
    """The folder, which is refreshed."""
    minutes: float = 2.0
    """Training time."""
    seed: int = 0
    """Seed of everything."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""

    def run(self) -> None:
        """Train, sample, report."""
        from pocketddpm.runs.quickstart import quickstart

        quickstart(self.out, minutes=self.minutes, seed=self.seed, device=self.device)
        print(f"done: open {self.out / 'README.md'}, or look at {self.out / 'samples.png'}")
