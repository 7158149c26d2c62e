"""`pocketddpm quickstart`: two minutes from nothing to digits."""

import platform
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pocketddpm.config import Experiment
from pocketddpm.errors import DataError
from pocketddpm.presets import get_preset

if TYPE_CHECKING:
    from pocketddpm.runs.run import Session

LONGER = """## What longer training gives

The model that comes with the package (`pocketddpm sample {name}`):

![samples of the shipped model](shipped.png)

"""


@dataclass(frozen=True)
class Quickstart:
    """Train for about two minutes, draw every class, and write a short report with pictures.

    Example: pocketddpm quickstart --minutes 1 --out quickstart
    """

    out: Path = Path("quickstart")
    """The folder, which is refreshed."""
    minutes: float = 2.0
    """Training time."""
    seed: int = 0
    """Seed of everything."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""

    def run(self) -> None:
        """Train, sample, report."""
        quickstart(self.out, minutes=self.minutes, seed=self.seed, device=self.device)


def quickstart(out: Path, *, minutes: float, seed: int, device: str) -> None:
    """Train on MNIST, or on the built-in digits where MNIST cannot be had; draw and report.

    The folder is this command's own and is refreshed; one that holds anything else is refused.
    """
    from pocketddpm.commands.sample import Sample
    from pocketddpm.models.checkpoint import shipped
    from pocketddpm.output import refuse_existing, write_text
    from pocketddpm.pictures import save_grid
    from pocketddpm.runs.forward import forward_panels
    from pocketddpm.runs.run import Session

    if out.exists() and not (out / "config.json").exists():
        refuse_existing(out, overwrite=False)
    experiment = _experiment(minutes, seed)
    session = Session(
        experiment, out=out, device=device, sample_every=0, checkpoint_every=0, overwrite=True
    )
    session.run()
    model = session.model()
    save_grid(
        out / "forward.png",
        forward_panels(session.images.images[:8], model.schedule, seed=seed),
        columns=5,
    )
    session.log.save_curve(session.out / "loss.png")
    sample = Sample(
        model=str(out),
        n=100,
        labels=",".join(model.classes),
        seed=seed,
        device=device,
        out=out / "samples.png",
        gif=out / "denoising.gif",
        strip=out / "strip.png",
        overwrite=True,
    )
    sample.run()
    name = session.meta["data"]["name"]
    if name in shipped():
        shown = replace(sample, model=name, out=out / "shipped.png", gif=None, strip=None)
        replace(shown, guidance=1.0).run()
    write_text(out / "README.md", _page(session, out, shipped=name in shipped()))
    print(f"done: open {out / 'README.md'}, or look at {out / 'samples.png'}")


def _experiment(minutes: float, seed: int) -> Experiment:
    from pocketddpm.data.load import load_images

    preset = "mnist"
    try:
        load_images("mnist")
    except DataError as error:
        print(f"MNIST cannot be had here ({error}); using the built-in 8x8 digits", file=sys.stderr)
        preset = "digits"
    experiment = get_preset(preset)
    # Two minutes want many small steps, and more guidance than ten (docs/experiments.md).
    objective = replace(experiment.objective, guidance=2.0)
    training = replace(experiment.training, minutes=minutes, batch_size=64, seed=seed)
    sampling = replace(experiment.sampling, steps=20)
    return replace(experiment, objective=objective, training=training, sampling=sampling)


def _page(session: "Session", out: Path, *, shipped: bool) -> str:
    import torch

    trainer, meta = session.trainer, session.meta
    training = session.experiment.training
    sampling = session.experiment.sampling
    folder = shlex.quote(str(out))
    labels = ",".join(meta["classes"])
    version = torch.__version__
    longer = LONGER.format(name=meta["data"]["name"]) if shipped else ""
    return f"""# {meta["data"]["name"]} in {trainer.seconds / 60:.1f} minutes

- {trainer.images_seen} training images, {trainer.images_seen / trainer.seconds:.0f} per second,
  {trainer.images_seen / trainer.loader.epoch_images:.2f} epochs of {meta["data"]["images"]}
- final loss {session.log.final_loss():.4f}, seed {training.seed}, {training.precision}
- {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {version}

## Samples

Ten of each class, {sampling.sampler} with {sampling.steps} steps; guidance
{session.experiment.objective.guidance:g} is learned into the network:

![samples](samples.png)

{longer}## How they came about

![denoising](denoising.gif)

![strip](strip.png)

## The forward process, which training reverses

Images at 0, 25, 50, 75 and 100 % of T:

![forward](forward.png)

## Training

![loss](loss.png)

## Go on

    pocketddpm sample {folder} --labels {labels} --seed 1
    pocketddpm train {session.experiment.preset} --minutes 10 --out runs/mine
"""
