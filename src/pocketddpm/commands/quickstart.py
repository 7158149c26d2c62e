"""`pocketddpm quickstart`: two minutes from nothing to digits."""

from dataclasses import dataclass

from pocketddpm.commands.options import given, options_of
from pocketddpm.runs.options import QuickstartOptions


@dataclass(frozen=True, kw_only=True)
class Quickstart(options_of(QuickstartOptions)):
    """Train for about two minutes, draw every class, and write a short report with pictures.

    Example: pocketddpm quickstart --minutes 1 --out quickstart
    """

    def run(self) -> None:
        """Train, sample, report."""
        from pocketddpm.runs.quickstart import quickstart
        from pocketddpm.values import from_dict

        options = from_dict(QuickstartOptions, given(self), "quickstart: ")
        quickstart(options)
        print(f"done: open {options.out / 'README.md'}, or look at {options.out / 'samples.png'}")
