"""`pocketddpm evaluate`: score a model, an array or a folder, beside real images at the same n."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from pocketddpm.commands.options import Plugins
from pocketddpm.commands.progress import progress_bar
from pocketddpm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pocketddpm.metrics.protocol import Real
    from pocketddpm.metrics.reference_data import Setting
    from pocketddpm.metrics.report import Report
    from pocketddpm.metrics.samples import Fit, Subject
    from pocketddpm.models.model import Model

N = 10_000
FEWEST = 20
CLOSEST = """
## Closest pairs

![samples above their nearest training images](closest.png)

Rows: the 20 samples nearest to a training image by pixels, those training images, then the same by
features.
"""
FOR_MODELS = ("sampler", "steps", "spacing", "sampler_options", "guidance")


@dataclass(frozen=True)
class Evaluate:
    """Score a model, an .npz array or a folder of images, beside real test images.

    Example: pocketddpm evaluate runs/mnist --steps 20 --out runs/mnist/score
    """

    subject: Positional[str]
    """A run folder, a checkpoint, samples.npz, or a folder of images."""
    data: str | None = None
    """The real images: a data set or a folder with train/ and test/; a model names its own."""
    n: int = N
    """How many samples to score; at most as many as there are real test images."""
    sampler: str | None = None
    """For a model: the algorithm; None is the model's own plan, here and below."""
    steps: int | None = None
    """Steps of the sampler."""
    spacing: str | None = None
    """Where the steps lie."""
    sampler_options: str | None = None
    """Options of the sampler, such as eta=1."""
    guidance: float | None = None
    """Classifier-free guidance; 1 is none, and the number to quote."""
    labels: str = "all"
    """Classes such as 3,7 (cycled), or all: in the training set's proportions."""
    weights: str = "ema"
    """ema (the average) or model (the last step's)."""
    seed: int = 0
    """Seed of the samples. What is drawn of the real images never changes."""
    batch_size: int = 250
    """Samples drawn at a time; bounds the memory."""
    fit: Literal["pad", "resize"] | None = None
    """How samples came to another size than the data's; a model knows."""
    extractor: str | None = None
    """A feature extractor, by name or as a .safetensors file, instead of the data set's own."""
    tstr: bool = False
    """Also train a classifier on the samples and test it on real images (minutes)."""
    device: str = "auto"
    """Where samples are drawn: auto, cpu, cuda or mps. Scoring is always done on the CPU."""
    out: Path | None = None
    """A folder for report.md, report.json, closest.png and, from a model, samples.npz."""
    json: bool = False
    """Print JSON instead of the table."""
    overwrite: bool = False
    """Replace an --out that exists."""
    plugin: Plugins = ()
    """Your own network, sampler, schedule or data set: FILE.py (docs/plugins.md)."""

    def run(self) -> None:
        """Draw or read the samples, score them, print and write the report."""
        import json

        from pocketddpm.distributed import rank

        report = self.measure()
        if rank() > 0:
            return
        print(json.dumps(report.to_json(), indent=2) if self.json else report.text())
        if self.out is not None:
            write_report(self.out, report)

    def measure(self, model: "Model | None" = None) -> "Report":
        """Return the report; on a model in memory, if one is given in place of `subject`'s."""
        from pocketddpm.build import pick_device
        from pocketddpm.distributed import rank
        from pocketddpm.metrics.classifier_training import Recipe
        from pocketddpm.metrics.extractor import features_together
        from pocketddpm.metrics.likelihood import add_bits
        from pocketddpm.metrics.protocol import evaluate, in_one_process
        from pocketddpm.models.model import load_model
        from pocketddpm.output import refuse_existing
        from pocketddpm.runs.provenance import versions

        if self.n < FEWEST or self.batch_size < 1:
            raise ConfigError(f"--n must be at least {FEWEST}, got {self.n}")
        if self.weights not in ("ema", "model"):
            raise ConfigError(f"--weights is ema or model, got '{self.weights}'")
        path = Path(self.subject)
        files = model is None and _is_files(path)
        for option in FOR_MODELS if files else ():
            if getattr(self, option) is not None:
                name = option.replace("_", "-")
                raise ConfigError(f"--{name} is for models; {path} holds samples already")
        if self.out is not None:
            refuse_existing(self.out, self.overwrite)
        given = model is not None
        if model is None and not files:
            model = load_model(self.subject, pick_device(self.device), self.weights)
        subject, setting, real = (
            self._from_files(path) if model is None else self._draw(model, given)
        )
        if len(subject.images) < FEWEST:
            raise DataError(f"{path}: {len(subject.images)} images; give at least {FEWEST}")
        if self.out is not None and not files and rank() == 0:
            write_samples(self.out / "samples.npz", subject)  # hours of work, perhaps
        recipe = Recipe(epochs=12) if self.tstr else None
        report = evaluate(
            subject,
            real,
            setting.spaces,
            setting.judge,
            tstr=recipe,
            watch=progress_bar,
            # A model in memory is one process's own.
            extract=in_one_process if given else features_together,
        )
        if model is not None:
            add_bits(report, model, self.n, self.data, self.seed, progress_bar)
        report.facts |= {**subject.facts, **setting.facts(), **versions()}
        report.notes += caveats(subject.facts)
        return report

    def _from_files(self, path: Path) -> "tuple[Subject, Setting, Real]":
        """Return samples read from the disk, and the setting and real images to hold them to."""
        from pocketddpm.metrics.reference_data import load_setting
        from pocketddpm.metrics.samples import brought_to, read_samples

        if self.data is None:
            raise ConfigError(f"{path} does not say what it should look like: give --data")
        setting = load_setting(self.data, self.extractor, watch=progress_bar)
        found = read_samples(path, setting.classes)
        drawn = found.drawn(min(self.n, setting.most))
        fit = self.fit or setting.fit
        size = (found.images.shape[2], found.images.shape[3])
        facts = {**found.facts, **_journey(size, setting, fit)}
        images = brought_to(drawn.images, setting.shape, fit, str(path))
        return replace(drawn, images=images, facts=facts), setting, setting.real(size, fit)

    def _draw(self, model: "Model", given: bool) -> "tuple[Subject, Setting, Real]":
        """Return samples of a model, and the setting and real images to hold them to."""
        from functools import partial

        import numpy as np

        from pocketddpm.config import parse_options
        from pocketddpm.metrics.reference_data import load_setting
        from pocketddpm.metrics.samples import Subject, brought_to
        from pocketddpm.models.checkpoint import file_sha256
        from pocketddpm.models.model import sample_together
        from pocketddpm.plugins import ALL_KINDS, require

        require(model.meta, ALL_KINDS)
        trained_on = model.experiment.data
        size = (model.shape[1], model.shape[2])
        setting = load_setting(
            self.data or trained_on.name, self.extractor, size=size, watch=progress_bar
        )
        fit = self.fit or trained_on.fit or setting.fit
        n = min(self.n, setting.most)
        labels = model.label_numbers(self.labels, n, self.seed)
        plan = model.experiment.sampling
        name = self.sampler or plan.sampler
        options = {**(plan.options if name == plan.sampler else {})}
        options |= parse_options(self.sampler_options or "")
        steps = plan.steps if self.steps is None else self.steps
        guidance = plan.guidance if self.guidance is None else self.guidance
        done = progress_bar("drawing samples", n)

        def watch(which: slice, state: Any) -> None:
            if state.i == steps:
                done(which.stop - which.start)

        draw = model.sample if given else partial(sample_together, model)
        samples = draw(
            n,
            labels=labels,
            sampler=name,
            steps=steps,
            spacing=self.spacing,
            options=options,
            guidance=guidance,
            seed=self.seed,
            batch_size=self.batch_size,
            watch=watch,
        )
        numbers = None
        if samples.labels is not None and set(model.classes) <= set(setting.classes):
            order = np.array([setting.classes.index(c) for c in model.classes], np.int64)
            numbers = order[samples.labels]
        facts = {
            "model": self.subject,
            "checkpoint": None if given else file_sha256(Path(self.subject)),
            "images seen": model.meta["run"]["images_seen"],
            "trained on": {"data": trained_on.name, "classes": trained_on.classes},
            "weights": "as in memory" if given else self.weights,
            "sampler": name,
            "options": options,
            "steps": steps,
            "spacing": self.spacing or plan.spacing,
            "nfe": samples.nfe,
            "guidance": guidance,
            "learned guidance": model.learned_guidance,
            "labels": self.labels,
            "seed": self.seed,
            "device": str(model.device),
            **_journey(size, setting, fit),
        }
        images = brought_to(samples.images, setting.shape, fit, self.subject)
        return Subject(images, numbers, facts), setting, setting.real(size, fit)


def _is_files(path: Path) -> bool:
    """Whether the path is samples rather than a model."""
    if path.is_dir():
        return not any(path.glob("*.safetensors"))
    return path.suffix == ".npz"


def caveats(facts: dict[str, Any]) -> list[str]:
    """Return what the settings of a model's samples make of the numbers."""
    told = []
    if facts.get("guidance", 1) != 1:
        told.append("guided samples trade variety for agreement: quote guidance 1")
    if facts.get("labels", "all") != "all":
        told.append("chosen labels are not the data's proportions, which every number notices")
    if classes := facts.get("trained on", {}).get("classes"):
        told.append(f"the model was trained on some classes only: {', '.join(classes)}")
    return told


def _journey(size: tuple[int, int], setting: "Setting", fit: "Fit") -> dict[str, Any]:
    """Say how samples of another size came to the data set's; nothing for the same size."""
    _, height, width = setting.shape
    if size == (height, width):
        return {}
    how = "the middle of" if fit == "pad" else "resized with antialiasing from"
    return {"size": f"{height}x{width}, {how} {size[0]}x{size[1]}"}


def write_samples(path: Path, subject: "Subject") -> None:
    """Write samples as an array file that `evaluate` reads."""
    import numpy as np

    from pocketddpm.output import replacing

    arrays = {"images": subject.images.transpose(0, 2, 3, 1)}
    if subject.labels is not None:
        arrays["labels"] = subject.labels
    with replacing(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def write_report(out: Path, report: "Report") -> None:
    """Write report.md, report.json and closest.png."""
    import sys

    from pocketddpm.metrics.protocol import PAIRS
    from pocketddpm.output import write_json, write_text
    from pocketddpm.pictures import save_grid

    page = report.markdown()
    if report.closest is not None:
        page += CLOSEST
        save_grid(out / "closest.png", report.closest, PAIRS)
    write_text(out / "report.md", page)
    write_json(out / "report.json", report.to_json())
    print(f"wrote {out}", file=sys.stderr)
