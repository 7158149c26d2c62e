"""`pocketddpm neon MODEL`: a model that covers more, by a step away from its own samples."""

from dataclasses import dataclass

from pocketddpm.commands.options import Plugins, Positional, given, options_of
from pocketddpm.runs.options import NeonOptions


@dataclass(frozen=True, kw_only=True)
class Neon(options_of(NeonOptions)):
    """Step away from what tuning on its own samples makes of a model, so that it covers more.

    Neon, arXiv 2510.03597. The same command with another --w only steps again. It is resumed by
    the same command.

    Example: pocketddpm neon runs/mnist --w 1.5 --out runs/mnist-neon
    """

    model: Positional[str]
    """A run folder, a checkpoint, or the name of a shipped model."""
    plugin: Plugins = ()
    """Your own network, sampler, schedule or data set: FILE.py (docs/plugins.md)."""

    def run(self) -> None:
        """Draw, tune and step away."""
        from pocketddpm.runs.neon import neon
        from pocketddpm.values import from_dict

        neon(self.model, from_dict(NeonOptions, given(self), "neon: "))
