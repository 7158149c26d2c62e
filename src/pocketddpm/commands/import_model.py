"""`pocketddpm import PATH --from FORMAT`: another tool's model as a checkpoint of ours."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import Positional

from pocketddpm.errors import ConfigError, unknown

if TYPE_CHECKING:
    from pocketddpm.convert.imported import Foreign

FORMATS = ("diffusers", "improved-diffusion")


@dataclass(frozen=True)
class Import:
    """Read another tool's model and write it as a checkpoint, for sample, evaluate and edit.

    Example: pocketddpm import ddpm-cifar10-32 --from diffusers --data cifar10
    """

    path: Positional[Path]
    """A folder that diffusers wrote, or improved-diffusion's .pt file."""
    format: Annotated[str, tyro.conf.arg(name="from")]
    """diffusers or improved-diffusion."""
    flags: str | None = None
    """For improved-diffusion: its training's flags, image_size=32,noise_schedule=cosine, ..."""
    data: str | None = None
    """The data set that it was trained on, for `evaluate`."""
    out: Path | None = None
    """The run folder to write; runs/NAME by default."""
    overwrite: bool = False
    """Replace an --out that exists."""

    def run(self) -> None:
        """Read, check, write, and say what came of it."""
        from pocketddpm.convert.imported import as_checkpoint
        from pocketddpm.models.checkpoint import save_checkpoint
        from pocketddpm.output import refuse_existing

        if self.format not in FORMATS:
            raise unknown("format", self.format, FORMATS)
        out = self.out or Path("runs") / self.path.stem
        refuse_existing(out, self.overwrite)
        foreign = self._read()
        if self.data is not None:
            foreign = replace(foreign, data=replace(foreign.data, name=self.data))
        checkpoint = as_checkpoint(foreign)
        save_checkpoint(out / "last.safetensors", checkpoint)
        count = sum(t.numel() for t in checkpoint.tensors.values())
        print(
            f"{len(checkpoint.tensors)} tensors, {count} parameters, "
            f"{'x'.join(map(str, foreign.shape))}, {len(foreign.classes)} classes -> {out}; "
            f"draw with: pocketddpm sample {out}"
        )

    def _read(self) -> "Foreign":
        from pocketddpm.config import from_dict, parse_options

        if self.format == "diffusers":
            from pocketddpm.convert.diffusers_read import read_diffusers

            if self.flags is not None:
                raise ConfigError("--flags are for improved-diffusion; diffusers' folders say all")
            return read_diffusers(self.path)
        from pocketddpm.convert.from_improved import Flags, read_improved

        flags = from_dict(Flags, parse_options(self.flags or ""), "flag ")
        return read_improved(self.path, flags)
