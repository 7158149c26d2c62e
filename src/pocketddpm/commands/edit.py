"""`pocketddpm edit WHAT MODEL`: interpolate between images, vary, paint anew, or restore them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pocketddpm.catalog import TABLES
from pocketddpm.commands.options import Plugins, Positional, parse_numbers
from pocketddpm.errors import ConfigError
from pocketddpm.values import parse_options

if TYPE_CHECKING:
    Method = str
else:
    Method = Literal[tuple(TABLES["restore-methods"].names())]


@dataclass(frozen=True)
class Edit:
    """Edit images with a trained model: morph, vary, paint a part anew, or restore what was lost.

    Example: pocketddpm edit inpaint runs/mnist --images mnist --index 0,1,2 --box 14,0,28,28
    """

    what: Positional[Literal["interpolate", "img2img", "inpaint", "restore"]]
    """interpolate: a row of pictures from each image to the next. img2img: noise the images, and
    draw them from there. inpaint: paint a part anew. restore: measure the images, and draw what
    they may have been."""
    model: Positional[str]
    """A run folder or a checkpoint."""
    images: tuple[str, ...]
    """Image files, or a data set (a name or a folder)."""
    index: str = "0,1,2,3"
    """Which images of a data set."""
    split: Literal["train", "test"] = "train"
    """Which part of a data set."""
    labels: str = "own"
    """Classes to draw, such as 3,7 (cycled), or no-label; by default the images' own, where the
    data set has the model's classes, and none for restore."""
    strength: float | None = None
    """How far up into noise, 0 to 1: 0.5 for img2img. With interpolate: blend the images there,
    in place of encoding them."""
    mask: Path | None = None
    """The part to paint, or that is missing: an image file, white there."""
    box: str | None = None
    """The part to paint, or that is missing: TOP,LEFT,BOTTOM,RIGHT in pixels."""
    jump_length: int | None = None
    """Inpainting repeats the run in stretches of this many steps; 10, or less in few steps."""
    jump_count: int = 10
    """How many times each stretch is walked; 1 is no repetition."""
    frames: int = 8
    """Pictures in a row of an interpolation."""
    task: str | None = None
    """What restore undoes: noise, super-resolution, blur, grey, mask or compressed-sensing."""
    factor: float | None = None
    """How much is lost: pixels a side that become one, or of which one is given; a blur's deviation
    in pixels."""
    noise: float | None = None
    """Deviation of the measurement's noise; black and white are 2 apart; 0.05 by default."""
    method: Method | None = None
    """How restore draws from the posterior; mmps by default."""
    method_options: str | None = None
    """Options of the method, such as iterations=5."""
    samples: int | None = None
    """Draws for each image; 4 by default."""
    measured: bool = False
    """The images are measurements already: restore them as they are."""
    sampler: str | None = None
    """The algorithm: ddpm for inpaint and restore (consistency with diffpir), ddim for interpolate,
    else the model's own."""
    steps: int | None = None
    """Steps of the sampler, from T; fewer are taken from below. 50 for restore by default."""
    guidance: float | None = None
    """Classifier-free guidance; 1 is none."""
    seed: int = 0
    """Seed of the noise."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    out: Path | None = None
    """The PNG: before, mask and after, a row each, or truth, measurement, samples, mean and
    spread; edit-WHAT.png by default."""
    gif: Path | None = None
    """Also an animation: of the morphing, or of the denoising."""
    overwrite: bool = False
    """Replace files that exist."""
    plugin: Plugins = ()
    """Your own network, sampler, schedule or data set: FILE.py (docs/plugins.md)."""

    def run(self) -> None:
        """Edit, write, and say what was written where."""
        from pocketddpm.models.restoration import Restored
        from pocketddpm.models.verbs import edit
        from pocketddpm.output import refuse_existing

        if self.mask is not None and self.box is not None:
            raise ConfigError("the part to paint is one of --mask and --box, got both")
        # The default place is the command's own: only a name that was given is protected.
        for path in filter(None, (self.out, self.gif)):
            refuse_existing(path, self.overwrite)
        asked: dict[str, Any] = dict(vars(self))  # its fields are the function's arguments
        box, _ = asked.pop("box"), asked.pop("plugin")
        asked["out"] = self.out or Path(f"edit-{self.what}.png")
        asked["index"] = parse_numbers(self.index, "N" + ",N" * self.index.count(","), int)
        if self.method_options is not None:
            asked["method_options"] = parse_options(self.method_options)
        if box is not None:
            asked["mask"] = parse_numbers(box, "TOP,LEFT,BOTTOM,RIGHT", int)
        asked["overwrite"] = True
        samples = edit(**asked)
        written = ", ".join(str(path) for path in (asked["out"], self.gif) if path is not None)
        cost = f"{samples.nfe} evaluations each, seed {self.seed}"
        print(f"{self.what}: {samples.text() if isinstance(samples, Restored) else cost}")
        print(f"wrote {written}")
