"""`pocketddpm export MODEL --to FORMAT`: a model for other tools."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from pocketddpm.commands.options import Plugins
from pocketddpm.errors import ConfigError, unknown

FORMATS = ("diffusers",)


@dataclass(frozen=True)
class Export:
    """Write a model for other tools.

    Example: pocketddpm export runs/mnist --to diffusers --out mnist-diffusers
    """

    model: Positional[str]
    """A run folder or a checkpoint."""
    to: str
    """diffusers (a folder)."""
    out: Path | None = None
    """Where to write it; MODEL-FORMAT beside the model by default."""
    weights: str = "ema"
    """ema (the average) or model (the last step's)."""
    overwrite: bool = False
    """Replace files that exist."""
    plugin: Plugins = ()
    """Your own network, sampler, schedule or data set: FILE.py (docs/plugins.md)."""

    def run(self) -> None:
        """Convert, write, and say what was written where."""
        from pocketddpm.convert.to_diffusers import write_diffusers
        from pocketddpm.model import load_model
        from pocketddpm.output import refuse_existing

        if self.to not in FORMATS:
            raise unknown("format", self.to, FORMATS)
        if self.weights not in ("ema", "model"):
            raise ConfigError(f"--weights is ema or model, got '{self.weights}'")
        path = Path(self.model)
        out = self.out or path.with_name(f"{path.stem}-{self.to}")
        refuse_existing(out, self.overwrite)
        model = load_model(self.model, weights=self.weights)
        write_diffusers(model, out)
        print(f"wrote {out}; its README.md has the lines that draw from it")
