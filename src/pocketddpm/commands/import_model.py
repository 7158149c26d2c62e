"""`pocketddpm import PATH --from FORMAT`: another tool's model as a checkpoint."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pocketddpm.commands.options import Flag, Positional
from pocketddpm.errors import unknown

FORMATS = ("diffusers",)


@dataclass(frozen=True)
class Import:
    """Read another tool's model and write it as a checkpoint, for sample, evaluate and edit.

    Example: pocketddpm import ddpm-cifar10-32 --from diffusers --data cifar10
    """

    path: Positional[Path]
    """A folder that diffusers' save_pretrained wrote."""
    format: Annotated[str, Flag("from")]
    """diffusers."""
    data: str | None = None
    """The data set that it was trained on, for `evaluate`."""
    out: Path | None = None
    """The run folder to write; runs/NAME by default."""
    overwrite: bool = False
    """Replace an --out that exists."""

    def run(self) -> None:
        """Read, check, write, and say what was written."""
        from pocketddpm.convert.diffusers_read import read_diffusers
        from pocketddpm.models.checkpoint import save_checkpoint
        from pocketddpm.output import refuse_existing, remove_files
        from pocketddpm.runs.folder import FILES

        if self.format not in FORMATS:
            raise unknown("format", self.format, FORMATS)
        out = self.out or Path("runs") / self.path.stem
        refuse_existing(out, self.overwrite, folder=True)
        checkpoint = read_diffusers(self.path, self.data)
        if out.resolve() != self.path.resolve():
            remove_files(out, *FILES, "config.json")  # of a run that --overwrite gives up
        save_checkpoint(out / "last.safetensors", checkpoint)
        plan = checkpoint.meta["experiment"]["sampling"]
        count = sum(t.numel() for t in checkpoint.tensors.values())
        print(
            f"{len(checkpoint.tensors)} tensors, {count} parameters, "
            f"{'x'.join(map(str, checkpoint.meta['shape']))}, "
            f"{len(checkpoint.meta['classes'])} classes, sampled by {plan['sampler']} in "
            f"{plan['steps']} steps -> {out}; draw with: pocketddpm sample {shlex.quote(str(out))}"
        )
