"""`pocketddpm compare MODELS`: cost, speed and samples of several models side by side."""

from dataclasses import dataclass
from pathlib import Path

from pocketddpm.commands.options import Plugins, Positional, given, options_of
from pocketddpm.runs.options import CompareOptions


@dataclass(frozen=True, kw_only=True)
class Compare(options_of(CompareOptions)):
    """Measure models side by side: size, cost, speed, memory, loss and samples.

    Example: pocketddpm compare runs/mnist runs/small-unet-mnist --out compare
    """

    models: Positional[tuple[Path, ...]]
    """Run folders or checkpoints."""
    json: bool = False
    """Print JSON instead of the table."""
    plugin: Plugins = ()
    """Your own network, sampler, schedule or data set: FILE.py (docs/plugins.md)."""

    def run(self) -> None:
        """Measure, write the page and print the table."""
        import json
        import sys

        from pocketddpm.runs.comparison import compare
        from pocketddpm.values import from_dict

        comparison = compare(self.models, from_dict(CompareOptions, given(self), "compare: "))
        print(json.dumps(comparison.to_json(), indent=2) if self.json else comparison.table())
        wrote = f"wrote {self.out / 'README.md'}, {self.out / 'compare.json'} and the pictures"
        print(wrote, file=sys.stderr if self.json else sys.stdout)
