"""`pocketddpm train PRESET`: train a model into a run folder."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from tyro.conf import Positional

from pocketddpm.commands.options import Plugins, parse_names, parse_size
from pocketddpm.config import Experiment, from_dict, parse_options
from pocketddpm.errors import ConfigError
from pocketddpm.presets import get_preset

BUDGETS = ("steps", "epochs", "images", "minutes")


@dataclass(frozen=True)
class Train:
    """Train a model. `pocketddpm list presets` names the presets; options change them.

    Example: pocketddpm train mnist --minutes 10 --out runs/mnist
    """

    preset: Positional[str]
    """The experiment to start from."""
    data: str | None = None
    """A data set's name or a folder of images, instead of the preset's."""
    image_size: str | None = None
    """Image size, 32 or 28x36 (height x width)."""
    fit: Literal["pad", "resize"] | None = None
    """How another image size is reached."""
    subset: int | None = None
    """Train on the first N images."""
    classes: str | None = None
    """Train on these classes only, such as 0,1,7."""
    flip: Literal["yes", "no"] | None = None
    """Mirror images at random."""
    center: Literal["yes", "no"] | None = None
    """Subtract the mean training image."""
    network: str | None = None
    """Another network."""
    net: str | None = None
    """Sizes of the network, such as widths=32/64/128,blocks=2."""
    schedule: str | None = None
    """Another noise schedule."""
    schedule_options: str | None = None
    """Options of the schedule, such as beta_end=0.2."""
    timesteps: int | None = None
    """T, the number of noise levels."""
    zero_terminal: Literal["yes", "no"] | None = None
    """Rescale the schedule so that x_T is pure noise."""
    shift: float | None = None
    """Divide the SNR by this number squared, for larger images."""
    prediction: Literal["eps", "x0", "v", "edm"] | None = None
    """What the network predicts."""
    sigma_data: float | None = None
    """Deviation of the images' pixels, for edm and soft-min-snr."""
    loss: Literal["mse", "l1", "huber", "vlb", "hybrid", "consistency"] | None = None
    """Distance between prediction and target, or the variational bound."""
    weighting: Literal["simple", "ddpm", "min-snr", "soft-min-snr", "p2", "edm"] | None = None
    """How much each noise level counts in the loss."""
    times: Literal["uniform", "stratified", "log-normal", "importance"] | None = None
    """How noise levels are drawn."""
    p_mean: float | None = None
    """Mean of ln sigma, for log-normal times."""
    p_std: float | None = None
    """Deviation of ln sigma, for log-normal times."""
    progressive: Literal["yes", "no"] | None = None
    """Begin with 10 noise levels, and double them up to half of the run."""
    variance: Literal["beta", "beta-tilde", "learned"] | None = None
    """Variance of the reverse steps, for the bound; learned needs hybrid or vlb."""
    label_dropout: float | None = None
    """Share of labels hidden, for guidance."""
    guidance: float | None = None
    """Guidance learned into the network, which then samples guided at no extra cost; 1: none."""
    steps: int | None = None
    """Budget in optimiser steps."""
    epochs: float | None = None
    """Budget in epochs."""
    images: int | None = None
    """Budget in images."""
    minutes: float | None = None
    """Budget in minutes, everything included."""
    batch_size: int | None = None
    """Images per optimiser step, over all processes."""
    accumulate: int | None = None
    """Parts in which a batch is computed, to save memory."""
    batches_per_epoch: int | None = None
    """A shorter epoch, freshly shuffled each time."""
    optimiser: Literal["adam", "adamw", "muon"] | None = None
    """Another optimiser."""
    lr: float | None = None
    """Peak learning rate."""
    decay: Literal["none", "linear", "cosine"] | None = None
    """Course of the learning rate to the end."""
    grad_clip: float | None = None
    """Largest gradient norm; 0 for none."""
    ema_half_life: int | None = None
    """Half-life of the weight average, in images; 0 for none."""
    seed: int | None = None
    """Seed of weights, order, times and noise."""
    precision: Literal["auto", "float32", "bf16", "fp16"] | None = None
    """Arithmetic of the network; auto is bf16 where the hardware has it."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    out: Path | None = None
    """The run folder; runs/PRESET by default."""
    resume: str | None = None
    """auto (the run in --out, if there is one) or the path of a run or checkpoint."""
    begin_with: str | None = None
    """A model whose averaged weights a new run begins with (fine-tuning): as `sample` names it."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    sample_every: int = 500
    """Steps between previews (DDIM, 50 steps); 0 for none."""
    sample_at_start: bool = False
    """Also a preview before training."""
    sample_each_epoch: bool = False
    """Also a preview after every epoch."""
    evaluate_every: int | None = None
    """Steps between evaluations on held-out training images (the last 5000, at most a tenth)."""
    evaluate_n: int | None = None
    """Samples of each evaluation; 1000 by default."""
    best_by: Literal["loss", "evaluation"] | None = None
    """What best.safetensors is the best by: mean loss of an epoch, or Frechet distance."""
    tensorboard: bool = False
    """Also write TensorBoard logs."""
    json: bool = False
    """At the end, print what was done and written as one line of JSON."""
    overwrite: bool = False
    """Replace the run in --out."""
    plugin: Plugins = ()
    """Your own network, sampler, schedule or data set: FILE.py (docs/plugins.md)."""

    def run(self) -> None:
        """Train, and say where everything is."""
        from pocketddpm.models.checkpoint import find_checkpoint, load_checkpoint, newest_checkpoint
        from pocketddpm.output import refuse_existing
        from pocketddpm.runs.folder import only_begun
        from pocketddpm.runs.run import Session

        out = self.out or Path("runs") / self.preset
        checkpoint, begin_with, overwrite = None, None, self.overwrite
        if self.begin_with is not None:
            if self.resume not in (None, "auto"):
                raise ConfigError(
                    f"--begin-with starts a new run and --resume {self.resume} goes on with one; "
                    "leave one of them out"
                )
            begin_with = load_checkpoint(find_checkpoint(Path(self.begin_with)))
        if self.resume == "auto":
            checkpoint = newest_checkpoint(out)
            overwrite |= checkpoint is None and only_begun(out)
        elif self.resume is not None:
            path = find_checkpoint(Path(self.resume))
            checkpoint = load_checkpoint(path)
            out = self.out or path.parent
            if out.absolute() != path.parent.absolute():
                refuse_existing(out, overwrite)  # the run that is there is another one
        if checkpoint is None:
            experiment = self.applied_to(get_preset(self.preset))
        else:
            experiment = self.resumed(checkpoint.meta)
        session = Session(
            experiment,
            out=out,
            device=self.device,
            checkpoint=checkpoint,
            begin_with=begin_with if checkpoint is None else None,
            checkpoint_every=self.checkpoint_every,
            sample_every=self.sample_every,
            sample_at_start=self.sample_at_start,
            sample_each_epoch=self.sample_each_epoch,
            tensorboard=self.tensorboard,
            overwrite=overwrite,
        )
        session.run()
        if self.json and session.main:
            trainer = session.trainer
            told = {"images": trainer.images_seen, "steps": trainer.step}
            told |= {"seconds": round(trainer.seconds, 3), "loss": session.log.final_loss()}
            print(json.dumps({**told, "wrote": [str(out)]}))

    def applied_to(self, experiment: Experiment) -> Experiment:
        """Return the experiment with this command's options in place of its own."""
        data = _set(
            experiment.data,
            name=self.data,
            image_size=parse_size(self.image_size) if self.image_size else None,
            fit=self.fit,
            subset=self.subset,
            classes=parse_names(self.classes) if self.classes else None,
            flip=_truth(self.flip),
            center=_truth(self.center),
        )
        if not data.name:
            raise ConfigError("this preset needs images: give --data FOLDER")
        network = experiment.network
        if self.network is not None and self.network != network.name:
            network = replace(network, name=self.network, sizes={})
        if self.net is not None:
            network = replace(network, sizes={**network.sizes, **parse_options(self.net)})
        schedule = experiment.schedule
        if self.schedule is not None and self.schedule != schedule.name:
            schedule = replace(schedule, name=self.schedule, options={})
        if self.schedule_options is not None:
            options = {**schedule.options, **parse_options(self.schedule_options)}
            schedule = replace(schedule, options=options)
        training = experiment.training
        if any(getattr(self, name) is not None for name in BUDGETS):
            training = replace(training, **dict.fromkeys(BUDGETS))
        return replace(
            experiment,
            data=data,
            network=network,
            schedule=_set(
                schedule,
                T=self.timesteps,
                zero_terminal=_truth(self.zero_terminal),
                shift=self.shift,
            ),
            objective=_set(
                experiment.objective,
                prediction=self.prediction,
                sigma_data=self.sigma_data,
                loss=self.loss,
                weighting=self.weighting,
                times=self.times,
                p_mean=self.p_mean,
                p_std=self.p_std,
                progressive=_truth(self.progressive),
                variance=self.variance,
                label_dropout=self.label_dropout,
                guidance=self.guidance,
            ),
            optimiser=_set(
                experiment.optimiser,
                name=self.optimiser,
                lr=self.lr,
                decay=self.decay,
                grad_clip=self.grad_clip,
                ema_half_life=self.ema_half_life,
            ),
            training=_set(
                training,
                steps=self.steps,
                epochs=self.epochs,
                images=self.images,
                minutes=self.minutes,
                batch_size=self.batch_size,
                accumulate=self.accumulate,
                batches_per_epoch=self.batches_per_epoch,
                seed=self.seed,
                precision=self.precision,
            ),
            evaluation=_set(
                experiment.evaluation,
                every=self.evaluate_every,
                n=self.evaluate_n,
                best_by=self.best_by,
            ),
        )

    def resumed(self, meta: dict[str, Any]) -> Experiment:
        """Return the stored experiment; only its budget may be changed by options.

        Raises ConfigError when other options, or the preset, differ from the stored ones.
        """
        stored = from_dict(Experiment, meta["experiment"], "checkpoint: ")
        if self.preset != stored.preset:
            raise ConfigError(
                f"this run was started as '{stored.preset}', not '{self.preset}'; "
                f"resume it with: pocketddpm train {stored.preset} --resume ..."
            )
        wanted = self.applied_to(stored)
        budget_kept = replace(
            wanted,
            training=replace(
                wanted.training, **{name: getattr(stored.training, name) for name in BUDGETS}
            ),
        )
        if budget_kept != stored:
            raise ConfigError(
                "a resumed run keeps its options, except for --steps, --epochs, --images and "
                "--minutes; leave the others out, or start a new run with another --out"
            )
        return wanted


def _truth(answer: Literal["yes", "no"] | None) -> bool | None:
    return None if answer is None else answer == "yes"


T = TypeVar("T")


def _set(config: T, **values: Any) -> T:
    """Return the dataclass with the values that are not None."""
    given = {name: value for name, value in values.items() if value is not None}
    return replace(config, **given)  # type: ignore[type-var]
