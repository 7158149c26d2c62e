"""Two minutes from nothing to digits: a short training, every class drawn, and a page about it."""

import platform
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from pocketddpm.data.load import load_images
from pocketddpm.errors import DataError
from pocketddpm.models.checkpoint import shipped
from pocketddpm.models.model import Model
from pocketddpm.models.verbs import sample
from pocketddpm.output import refuse_existing, write_text
from pocketddpm.pictures import names_of
from pocketddpm.presets import get_preset
from pocketddpm.progress import say
from pocketddpm.runs.options import QuickstartOptions
from pocketddpm.runs.previews import save_forward
from pocketddpm.runs.run import Session
from pocketddpm.runs.start import start

LONGER = """## What longer training gives

The model that comes with the package (`pocketddpm sample {name}`):

![samples of the shipped model](shipped.png)

"""


def quickstart(options: QuickstartOptions) -> Model:
    """Train on MNIST, or on the built-in digits where it is not found; draw, and write README.md.

    The folder of an earlier quickstart is refreshed.
    Raises OutputError for a folder that holds anything else, and what training raises.
    """
    out, seed, device = options.out, options.seed, options.device
    if out.exists() and not (out / "config.json").exists():
        refuse_existing(out, overwrite=False)
    preset = "mnist"
    try:
        load_images("mnist")
    except DataError as error:
        say(f"MNIST was not found ({error}); using the built-in 8x8 digits")
        preset = "digits"
    experiment = get_preset(preset)
    session = start(
        replace(experiment, sampling=replace(experiment.sampling, steps=20)),
        # Two minutes want many small steps, and more guidance than ten (docs/experiments.md).
        guidance=2.0,
        minutes=options.minutes,
        batch_size=64,
        seed=seed,
        device=device,
        out=out,
        sample_every=0,
        checkpoint_every=0,
        overwrite=True,
    )
    session.run()
    model = session.model()
    few = session.images.select(np.arange(8))
    names = names_of(few.labels, few.classes)
    save_forward(out / "forward.png", np.asarray(few.images), model.schedule, names, seed=seed)
    session.log.save_curve(out / "loss.png")
    name, drawn = session.meta["data"]["name"], {"labels": model.classes, "seed": seed}
    films = {"gif": out / "denoising.gif", "strip": out / "strip.png"}
    sample(model, 100, out=out / "samples.png", overwrite=True, **films, **drawn)
    if name in shipped():
        shown = {**drawn, "out": out / "shipped.png", "device": device, "overwrite": True}
        sample(name, 100, guidance=1.0, **shown)
    write_text(out / "README.md", _page(session, out, shipped=name in shipped()))
    return model


def _page(session: Session, out: Path, *, shipped: bool) -> str:
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
