"""`pocketddpm sample MODEL`: draw images from a trained model."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from pocketddpm.commands.options import Plugins, parse_numbers
from pocketddpm.config import parse_options
from pocketddpm.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from pocketddpm.diffusion.guidance import Guidance
    from pocketddpm.models.model import Model

SUFFIXES = (".png", ".npz")


@dataclass(frozen=True)
class Sample:
    """Draw images from a trained model, as a grid, single files or an array.

    Example: pocketddpm sample runs/mnist --labels 0,1,2,3,4,5,6,7,8,9 --n 100 --out digits.png
    """

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
    """Keep every estimate of the clean image in the images' range; None is the model's own plan."""
    threshold: float | None = None
    """Dynamic thresholding in place of clipping: a share of the values, such as 0.995."""
    eta: float | None = None
    """Noise of DDIM: 0 none, 1 as much as DDPM."""
    sampler_options: str | None = None
    """Options of the sampler, such as variance=beta."""
    weights: str = "ema"
    """ema (the average) or model (the last step's)."""
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
        import time

        import numpy as np

        from pocketddpm.build import pick_device
        from pocketddpm.diffusion.build import build_sampler
        from pocketddpm.distributed import count, rank
        from pocketddpm.models.model import load_model, sample_together
        from pocketddpm.output import refuse_existing
        from pocketddpm.progress import bar as progress_bar

        if self.n < 1 or self.batch_size < 1:
            raise ConfigError(f"--n and --batch-size must be at least 1, got {self.n}")
        if self.weights not in ("ema", "model"):
            raise ConfigError(f"--weights is ema or model, got '{self.weights}'")
        if self.panels < 2:
            raise ConfigError(f"--panels must be at least 2, got {self.panels}")
        if count() > 1 and (self.gif or self.strip or self.stretch):
            raise ConfigError(
                "--gif, --strip and --stretch are drawn by one process: leave torchrun out"
            )
        device = pick_device(self.device)
        model = load_model(self.model, device, self.weights)
        guide = None if self.guide is None else load_model(self.guide, device, self.weights)
        out = self.out or _default_out(self.model, self.seed)
        # The default place is the command's own: only a name that was given is protected.
        for path in (self.out, self.gif, self.strip):
            if path is not None:
                refuse_existing(path, self.overwrite)
        if out.suffix not in (*SUFFIXES, ""):
            raise ConfigError(f"--out must end in .png or .npz, or be a folder; got {out}")
        plan = model.experiment.sampling
        name = self.sampler or plan.sampler
        options = self._options(name, plan.options if name == plan.sampler else {})
        steps = plan.steps if self.steps is None else self.steps
        labels = model.label_numbers(self.labels, self.n, self.seed)
        guidance = self._guidance(model)
        calls = build_sampler(name, options).calls(steps) * -(-self.n // self.batch_size)
        recorder = Recorder(self.n, steps, wanted=bool(self.gif or self.strip))
        pixels = stretched if self.stretch else model.scaling.to_uint8
        shown = np.empty((self.n, *model.shape), np.uint8)
        bar = progress_bar(total=calls, unit="call", disable=rank() > 0)

        def watch(which: slice, state: Any) -> None:
            before = (which.start // self.batch_size) * (calls // -(-self.n // self.batch_size))
            bar.update(before + state.nfe - bar.n)
            recorder(which, state, pixels)
            if state.i == steps:
                shown[which] = pixels(state.x).cpu().numpy()

        started = time.monotonic()
        with bar:
            samples = sample_together(
                model,
                self.n,
                labels=labels,
                sampler=name,
                steps=steps,
                spacing=self.spacing,
                options=options,
                guidance=guidance,
                guide=guide,
                seed=self.seed,
                batch_size=self.batch_size,
                clip=None if self.clip is None else self.clip == "yes",
                precision=self.precision,
                watch=watch,
            )
        seconds = time.monotonic() - started
        if rank() > 0:
            return
        columns = _columns(self.labels, self.n)
        if self.stretch and out.suffix != ".npz":
            samples = replace(samples, images=shown)
        samples.save(out, columns)
        written = [out]
        if self.gif is not None:
            write_gifs(self.gif, recorder.frames(100), samples.labels, model.classes, columns)
            written.append(self.gif)
        if self.strip is not None:
            from pocketddpm.pictures import save_grid

            save_grid(self.strip, recorder.strip(self.panels), self.panels)
            written.append(self.strip)
        if self.json:
            facts = {"sampler": name, "steps": steps, "nfe": samples.nfe, "seed": self.seed}
            facts |= {"guidance": guidance.scale, "images": self.n, "seconds": round(seconds, 3)}
            print(json.dumps({**facts, "wrote": [str(p) for p in written]}))
            return
        print(
            f"{self.n} images with {name}, {steps} steps, {samples.nfe} evaluations each, "
            f"guidance {guidance.scale:g}, seed {self.seed}, in {seconds:.1f} s "
            f"({self.n / seconds:.1f} images/s)"
        )
        print("wrote " + ", ".join(str(p) for p in written))

    def _options(self, sampler: str, defaults: dict[str, Any]) -> dict[str, Any]:
        options = {**defaults, **parse_options(self.sampler_options or "")}
        if self.eta is not None:
            options["eta"] = self.eta
        return options

    def _guidance(self, model: "Model") -> "Guidance":
        from pocketddpm.diffusion.guidance import Guidance
        from pocketddpm.models.labels import class_number

        interval = None
        if self.guidance_interval is not None:
            low, high = parse_numbers(self.guidance_interval, "LOW,HIGH", float)
            interval = (low, high)
        plan, negative = model.experiment.sampling, self.negative_label
        if negative is not None and not model.classes:
            raise ConfigError("this model was trained without labels; leave out --negative-label")
        guidance = Guidance(
            scale=plan.guidance if self.guidance is None else self.guidance,
            interval=interval,
            rescale=self.guidance_rescale,
            cfg_plus_plus=self.cfg_plus_plus,
            negative_label=None if negative is None else class_number(negative, model.classes),
            threshold=self.threshold,
        )
        for option in ("guidance_interval", "guidance_rescale", "negative_label", "guide"):
            if guidance.is_none and getattr(self, option):
                name = option.replace("_", "-")
                raise ConfigError(f"--{name} does nothing without guidance; give --guidance 2, say")
        return guidance


class Recorder:
    """Keeps the first images of every kept step, for GIFs and strips."""

    def __init__(self, n: int, steps: int, *, wanted: bool, most: int = 100) -> None:
        self.count = min(n, most) if wanted else 0
        # Enough frames for a GIF; a run of 1000 steps need not be kept whole.
        self.every = max(1, steps // 100)
        self.steps = steps
        self.kept: dict[int, NDArray[np.uint8]] = {}

    def __call__(self, which: slice, state: Any, to_uint8: Any) -> None:
        """Record one state of the images `which`."""
        if which.start >= self.count or (state.i % self.every and state.i != self.steps):
            return
        import numpy as np

        pixels = to_uint8(state.x).cpu().numpy()[: self.count - which.start]
        if which.start == 0 and state.i not in self.kept:
            self.kept[state.i] = np.zeros((self.count, *pixels.shape[1:]), np.uint8)
        self.kept[state.i][which.start : which.start + len(pixels)] = pixels

    def frames(self, most: int) -> "list[NDArray[np.uint8]]":
        """Return at most so many frames [N,C,H,W], evenly spaced, with the first and the last."""
        steps = sorted(self.kept)
        chosen = {steps[round(k * (len(steps) - 1) / (most - 1))] for k in range(most)}
        return [self.kept[i] for i in sorted(chosen)]

    def strip(self, panels: int, rows: int = 8) -> "NDArray[np.uint8]":
        """Return panels of the first images, image by image, from noise to the end."""
        import numpy as np

        frames = self.frames(panels)
        # A run of fewer steps than panels has fewer pictures to show: the last one is repeated.
        frames += [frames[-1]] * (panels - len(frames))
        stacked = np.stack(frames, axis=1)[: min(rows, self.count)]  # [rows,panels,C,H,W]
        return stacked.reshape(-1, *stacked.shape[2:])


def write_gifs(
    out: Path,
    frames: "list[NDArray[np.uint8]]",
    labels: "NDArray[np.int64] | None",
    classes: tuple[str, ...],
    columns: int | None,
) -> None:
    """Write one GIF of all images (.gif), or one for each class into a folder (no suffix)."""
    from pocketddpm.output import file_name
    from pocketddpm.pictures import save_gif

    if out.suffix == ".gif":
        save_gif(out, frames, columns)
        return
    shown = None if labels is None else labels[: len(frames[0])]
    if shown is None:
        save_gif(out / "all.gif", frames, columns)
        return
    for label in sorted(set(shown.tolist())):
        name = file_name(classes[label]) if label < len(classes) else "no-label"
        save_gif(out / f"{name}.gif", [f[shown == label] for f in frames])


def stretched(x: "Tensor") -> "Tensor":
    """Return images [B,C,H,W] as uint8, each from its own minimum to its own maximum."""
    low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
    return ((x - low) / (high - low).clamp(min=1e-8) * 255).round().byte()


def _columns(labels: str, n: int) -> int | None:
    """A list of labels that is cycled reads best with one column per label."""
    count = len(labels.split(","))
    return count if labels != "all" and 1 < count <= 20 and n >= count else None


def _default_out(model: str, seed: int) -> Path:
    """Return the place in the run; for a shipped model or the hub's one in the working folder."""
    path = Path(model)
    if not path.exists():
        return Path("samples") / f"{path.name}-seed-{seed}.png"
    return (path if path.is_dir() else path.parent) / "samples" / f"seed-{seed}.png"
