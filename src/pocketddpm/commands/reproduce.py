"""`pocketddpm reproduce RUN`: start a run again, and say whether its first losses come back."""

from dataclasses import dataclass
from pathlib import Path

from pocketddpm.commands.options import Plugins, Positional, given, options_of
from pocketddpm.runs.options import ReproduceOptions


@dataclass(frozen=True, kw_only=True)
class Reproduce(options_of(ReproduceOptions)):
    """Start a run again from nothing, and compare its first losses with those in its log.

    Exits with 0 when they agree, and with 1 when they do not. The run is left as it is.

    Example: pocketddpm reproduce runs/mnist --steps 20
    """

    folder: Positional[Path]
    """The run's folder."""
    plugin: Plugins = ()
    """Your own network, sampler, schedule or data set: FILE.py (docs/plugins.md)."""

    def run(self) -> None:
        """Train the first steps in a temporary folder, and compare."""
        import sys

        from pocketddpm.runs.reproduce import reproduce
        from pocketddpm.values import from_dict

        options = from_dict(ReproduceOptions, given(self), "reproduce: ")
        verdict = reproduce(self.folder, options)
        print(verdict.text)
        sys.exit(0 if verdict.agrees else 1)
