"""`pocketddpm reproduce RUN`: start a run again, and say whether its first losses come back."""

import sys
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from pocketddpm.commands.options import Plugins


@dataclass(frozen=True)
class Reproduce:
    """Start a run again from nothing, and compare its first losses with those in its log.

    Exits with 0 when they agree, and with 1 when they do not. The run is left as it is.

    Example: pocketddpm reproduce runs/mnist --steps 20
    """

    folder: Positional[Path]
    """The run's folder."""
    steps: int = 100
    """How many steps to repeat."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    plugin: Plugins = ()
    """Your own network, sampler, schedule or data set: FILE.py (docs/plugins.md)."""

    def run(self) -> None:
        """Train the first steps in a temporary folder, and compare."""
        from pocketddpm.runs.reproduce import reproduce

        verdict = reproduce(self.folder, steps=self.steps, device=self.device)
        print(verdict.text)
        sys.exit(0 if verdict.agrees else 1)
