"""`pocketddpm likelihood`: bits per dimension of real images, by the bound and by the flow."""

from dataclasses import dataclass

from pocketddpm.commands.options import Plugins, Positional, given, options_of, print_report
from pocketddpm.metrics.options import LikelihoodOptions


@dataclass(frozen=True, kw_only=True)
class Likelihood(options_of(LikelihoodOptions)):
    """Measure bits per dimension of real images: the variational bound, the flow, or both.

    Example: pocketddpm likelihood runs/mnist --n 500 --out runs/mnist/bits
    """

    model: Positional[str]
    """A run folder or a checkpoint."""
    json: bool = False
    """Print JSON instead of the table."""
    plugin: Plugins = ()
    """Your own network, sampler, schedule or data set: FILE.py (docs/plugins.md)."""

    def run(self) -> None:
        """Measure, print, and write the report."""
        from pocketddpm.api import likelihood

        report = likelihood(self.model, **given(self))
        print_report(report, self.json, self.out)
