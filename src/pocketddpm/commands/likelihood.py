"""`pocketddpm likelihood`: bits per dimension of real images, by the bound and by the flow."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from pocketddpm.commands.options import Plugins
from pocketddpm.commands.progress import progress_bar
from pocketddpm.errors import ConfigError


@dataclass(frozen=True)
class Likelihood:
    """Measure bits per dimension of real images: the variational bound, the flow, or both.

    Example: pocketddpm likelihood runs/mnist --n 500 --out runs/mnist/bits
    """

    model: Positional[Path]
    """A run folder or a checkpoint."""
    which: Literal["bound", "flow", "both"] = "bound"
    """bound: the variational bound. flow: the probability-flow ODE, some 20 times slower."""
    n: int = 500
    """How many images, drawn at random; all of them if there are fewer."""
    draws: int = 20
    """Steps of the bound that are drawn for each image; T takes every step."""
    flow_steps: int = 64
    """Steps of the flow's finer solve; an even number."""
    split: Literal["test", "train", "held-out"] = "test"
    """Which images; held-out ones are those of a run with --evaluate-every."""
    data: str | None = None
    """Another data set or folder than the model's own."""
    labels: Literal["data", "none"] = "data"
    """data: p(x given y) with the true labels, where the model has labels. none: p(x)."""
    variance: Literal["beta", "beta-tilde", "learned"] | None = None
    """Variance of the bound's steps; None is the model's own."""
    weights: Literal["ema", "model"] = "ema"
    """ema (the average) or model (the last step's)."""
    seed: int = 0
    """Seed of times, noise and probes. Which images are drawn never changes."""
    batch_size: int = 100
    """Images at a time; bounds the memory and changes no number."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    out: Path | None = None
    """A folder for report.md, report.json and curve.png."""
    json: bool = False
    """Print JSON instead of the table."""
    overwrite: bool = False
    """Replace an --out that exists."""
    plugin: Plugins = ()
    """Your own network, sampler, schedule or data set: FILE.py (docs/plugins.md)."""

    def run(self) -> None:
        """Measure, print, and write the report."""
        import json
        import sys

        from pocketddpm.build import pick_device
        from pocketddpm.metrics.likelihood import measure
        from pocketddpm.metrics.likelihood_images import choose_images
        from pocketddpm.models.checkpoint import file_sha256
        from pocketddpm.models.model import load_model
        from pocketddpm.output import refuse_existing, write_json, write_text
        from pocketddpm.pictures import save_bound_curve
        from pocketddpm.plugins import ALL_KINDS, require
        from pocketddpm.runs.provenance import versions

        if self.n < 2 or self.batch_size < 1:
            raise ConfigError(f"--n must be at least 2, and --batch-size 1; got {self.n}")
        if self.out is not None:
            refuse_existing(self.out, self.overwrite)
        model = load_model(self.model, pick_device(self.device), self.weights)
        require(model.meta, ALL_KINDS)
        images = choose_images(model, self.n, data=self.data, split=self.split, labels=self.labels)
        result = measure(
            model,
            images,
            draws=None if self.which == "flow" else self.draws,
            flow_steps=None if self.which == "bound" else self.flow_steps,
            variance=self.variance,
            seed=self.seed,
            batch_size=self.batch_size,
            watch=progress_bar,
        )
        result.facts.update(
            model=str(self.model),
            checkpoint=file_sha256(self.model),
            weights=self.weights,
            device=str(model.device),
            **versions(),
        )
        print(json.dumps(result.to_json(), indent=2) if self.json else result.text())
        if self.out is None:
            return
        write_text(self.out / "report.md", result.markdown())
        write_json(self.out / "report.json", result.to_json())
        if result.curve:
            save_bound_curve(self.out / "curve.png", result.curve)
        print(f"wrote {self.out}", file=sys.stderr)
