"""`pocketddpm sample MODEL`: draw images from a trained model."""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pocketddpm.commands.options import Plugins, Positional, parse_numbers
from pocketddpm.errors import ConfigError
from pocketddpm.values import parse_options

if TYPE_CHECKING:
    from pocketddpm.diffusion.guidance import Guidance
    from pocketddpm.models.model import Model


@dataclass(frozen=True)
class Sample:
    """Draw images from a trained model, as a grid, single files or an array.

    Example: pocketddpm sample runs/mnist --labels 0,1,2,3,4,5,6,7,8,9 --n 100 --out digits.png
    """

    EVERYDAY: ClassVar = (
        *("n", "labels", "seed", "sampler", "steps", "guidance"),
        *("out", "gif", "strip", "overwrite", "device"),
    )

    model: Positional[str]
    """A run folder, a checkpoint, or the name of a shipped model (mnist, mnist-fast,
    fashion-mnist)."""
    n: int = 100
    """How many images, in all."""
    labels: str = "all"
    """Classes such as 3,7 (cycled), or all: in the training set's proportions."""
    sampler: str | None = None
    """The algorithm; `pocketddpm list samplers` names them."""
    steps: int | None = None
    """Steps of the sampler."""
    spacing: str | None = None
    """Where the steps lie: trailing, leading, linspace, quadratic, karras, log-snr or jumps."""
    guidance: float | None = None
    """Classifier-free guidance; 1 is none."""
    guidance_interval: str | None = None
    """LOW,HIGH: guide at these times t only."""
    guidance_rescale: float = 0.0
    """Share by which guidance's gain in contrast is taken back, 0 to 1."""
    cfg_plus_plus: bool = False
    """Guide as CFG++ does, with --guidance in 0 to 1; needs --sampler ddim."""
    negative_label: str | None = None
    """A class to lead away from, in place of no label."""
    guide: str | None = None
    """A weaker model to lead away from (autoguidance): a run folder or a checkpoint."""
    clip: Literal["yes", "no"] | None = None
    """Keep every estimate of the clean image in the images' range; by default as the
    model's own plan has it."""
    threshold: float | None = None
    """Dynamic thresholding in place of clipping: a share of the values, such as 0.995."""
    eta: float | None = None
    """Noise of DDIM: 0 none, 1 as much as DDPM."""
    sampler_options: str | None = None
    """Options of the sampler, such as variance=beta."""
    weights: str = "ema"
    """ema (the average), model (the last step's), or a further average such as ema-3000."""
    seed: int = 0
    """Image k depends on the seed and k alone."""
    batch_size: int = 100
    """Images at a time; bounds the memory."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    precision: Literal["float32", "bf16", "auto"] = "float32"
    """Of the network; bf16 is up to twice as fast, and no picture is quite the same."""
    out: Path | None = None
    """A .png grid, a .npz array, or a folder for single PNGs; a grid in the run by default."""
    gif: Path | None = None
    """Also an animation of the denoising, its last frame held; a folder gets one per class."""
    stretch: bool = False
    """In pictures, stretch each image to its own darkest and brightest pixel."""
    names: Literal["yes", "no"] = "yes"
    """Write names of classes and times on pictures."""
    strip: Path | None = None
    """Also a strip: the first images at a few times, from noise to image."""
    panels: int = 10
    """Panels of the strip."""
    overwrite: bool = False
    """Replace files that exist."""
    json: bool = False
    """Print what was done and written as one line of JSON."""
    plugin: Plugins = ()
    """Your own network, sampler, schedule or data set: FILE.py (docs/plugins.md)."""

    def run(self) -> None:
        """Draw, write, and say what was written where."""
        import json

        from pocketddpm.distributed import rank
        from pocketddpm.models.model import load
        from pocketddpm.models.verbs import sample
        from pocketddpm.output import refuse_existing

        # The default place is the command's own: only a name that was given is protected.
        for path in filter(None, (self.out, self.gif, self.strip)):
            refuse_existing(path, self.overwrite)
        out = self.out or _default_out(self.model, self.seed)
        model = load(self.model, self.device, self.weights)
        settings: dict[str, Any] = {
            "sampler": self.sampler,
            "steps": self.steps,
            "spacing": self.spacing,
            "options": parse_options(self.sampler_options or "")
            | ({} if self.eta is None else {"eta": self.eta}),
            "guidance": self._guidance(model),
            "clip": None if self.clip is None else self.clip == "yes",
        }
        plan = model.plan(**settings)
        self._refuse_what_cannot_fit(prod(model.shape))
        names = ("labels", "gif", "strip", "panels", "stretch", "guide", "device", "weights")
        asked = {name: getattr(self, name) for name in (*names, "seed", "batch_size", "precision")}
        asked["names"] = self.names == "yes"
        samples = sample(model, self.n, out=out, overwrite=True, **asked, **settings)
        if rank() > 0:
            return
        written = [str(path) for path in (out, self.gif, self.strip) if path is not None]
        facts = {
            "sampler": plan.sampler.name,
            "steps": plan.grid.steps,
            "nfe": samples.nfe,
            "seed": self.seed,
            "guidance": plan.guidance.scale,
            "images": self.n,
            "labels": samples.label_counts(),
            "seconds": round(samples.seconds, 3),
            "wrote": written,
        }
        if self.json:
            print(json.dumps(facts))
            return
        print(
            f"{self.n} images with {plan.sampler.name}, {plan.grid.steps} steps, "
            f"{samples.nfe} evaluations each, guidance {plan.guidance.scale:g}, seed {self.seed}, "
            f"in {samples.seconds:.1f} s ({self.n / samples.seconds:.1f} images/s)"
        )
        print(f"wrote {', '.join(written)}")

    def _refuse_what_cannot_fit(self, pixels: int) -> None:
        """Refuse more images than the memory holds: drawing them takes hours."""
        from pocketddpm.output import memory_bytes

        copies = (
            2 if self.out is not None and self.out.suffix == ".npz" else 3
        )  # a grid is one more
        need, have = self.n * (copies * pixels + 8), memory_bytes()
        if have is not None and need > have:
            most = max(1, int(0.5 * have / (need / self.n)))
            raise ConfigError(
                f"--n {self.n} images need {need / 1e9:.3g} GB of memory, and this machine has "
                f"{have / 1e9:.3g} GB: draw at most {most} at a time, each time with another --seed"
            )

    def _guidance(self, model: "Model") -> "Guidance":
        from pocketddpm.diffusion.guidance import Guidance
        from pocketddpm.models.labels import class_number

        interval, negative = None, None
        if self.guidance_interval is not None:
            low, high = parse_numbers(self.guidance_interval, "LOW,HIGH", float)
            interval = (low, high)
        if self.negative_label is not None:
            negative = class_number(self.negative_label, model.classes)
        plan = model.experiment.sampling
        guidance = Guidance(
            scale=plan.guidance if self.guidance is None else self.guidance,
            interval=interval,
            rescale=self.guidance_rescale,
            cfg_plus_plus=self.cfg_plus_plus,
            negative_label=negative,
            threshold=self.threshold,
        )
        for option in ("guidance_interval", "guidance_rescale", "negative_label", "guide"):
            if guidance.is_none and getattr(self, option):
                name = option.replace("_", "-")
                raise ConfigError(f"--{name} does nothing without guidance; give --guidance 2, say")
        return guidance


def _default_out(model: str, seed: int) -> Path:
    """Return the place in the run; for a shipped model or the hub's one in the working folder."""
    from pocketddpm.models.checkpoint import find_checkpoint
    from pocketddpm.output import expanded

    path = expanded(model)
    checkpoint = find_checkpoint(path)
    if checkpoint == path or checkpoint.parent == path:
        return checkpoint.parent / "samples" / f"seed-{seed}.png"
    return Path("samples") / f"{path.name}-seed-{seed}.png"
