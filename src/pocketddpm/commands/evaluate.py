"""`pocketddpm evaluate`: score a model, an array or a folder, beside real images at the same n."""

from dataclasses import dataclass

from pocketddpm.commands.options import Plugins, Positional, given, options_of, print_report
from pocketddpm.metrics.options import EvaluateOptions


@dataclass(frozen=True, kw_only=True)
class Evaluate(options_of(EvaluateOptions)):
    """Score a model, an .npz array or a folder of images, beside real test images.

    Example: pocketddpm evaluate runs/mnist --steps 20 --out runs/mnist/score
    """

    subject: Positional[str]
    """A run folder, a checkpoint, samples.npz, or a folder of images."""
    json: bool = False
    """Print JSON instead of the table."""
    plugin: Plugins = ()
    """Your own network, sampler, schedule or data set: FILE.py (docs/plugins.md)."""

    def run(self) -> None:
        """Draw or read the samples, score them, print and write the report."""
        from pocketddpm.api import evaluate

        report = evaluate(self.subject, **given(self))
        print_report(report, self.json, self.out)
