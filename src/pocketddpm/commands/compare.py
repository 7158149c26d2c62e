"""`pocketddpm compare MODELS`: cost, speed and samples of several models side by side."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from pocketddpm.commands.options import Plugins
from pocketddpm.errors import ConfigError


@dataclass(frozen=True)
class Compare:
    """Measure models side by side: size, cost, speed, memory, loss and samples.

    Example: pocketddpm compare runs/mnist runs/small-unet-mnist --out compare
    """

    models: Positional[tuple[Path, ...]]
    """Run folders or checkpoints."""
    n: int = 20
    """Samples of each."""
    steps: int = 50
    """Steps of DDIM, with which all of them are sampled and timed."""
    seed: int = 0
    """Seed of the samples."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    out: Path = Path("compare")
    """The folder for README.md, compare.json and the pictures."""
    json: bool = False
    """Print JSON instead of the table."""
    overwrite: bool = False
    """Replace the folder's files."""
    plugin: Plugins = ()
    """Your own network, sampler, schedule or data set: FILE.py (docs/plugins.md)."""

    def run(self) -> None:
        """Measure, write the page and print the table."""
        import json
        import sys

        from pocketddpm.build import pick_device
        from pocketddpm.models.checkpoint import find_checkpoint, load_checkpoint
        from pocketddpm.output import refuse_existing, write_json, write_text
        from pocketddpm.pictures import save_grid
        from pocketddpm.runs.comparison import as_json, as_markdown, compare

        if not self.models:
            raise ConfigError("compare needs models: give one or more run folders or checkpoints")
        if self.n < 1:
            raise ConfigError(f"--n must be at least 1, got {self.n}")
        for path in self.models:
            load_checkpoint(find_checkpoint(path))
        refuse_existing(self.out, self.overwrite)
        rows, pictures = compare(
            self.models,
            n=self.n,
            steps=self.steps,
            seed=self.seed,
            device=str(pick_device(self.device)),
        )
        for k, images in enumerate(pictures):
            save_grid(self.out / f"samples-{k}.png", images, columns=min(10, self.n))
        told, page = as_json(rows, self.seed), as_markdown(rows)
        write_json(self.out / "compare.json", told)
        write_text(self.out / "README.md", page)
        print(json.dumps(told, indent=2) if self.json else page.split("\n\n")[1])
        wrote = f"wrote {self.out / 'README.md'}, {self.out / 'compare.json'} and the pictures"
        print(wrote, file=sys.stderr if self.json else sys.stdout)
