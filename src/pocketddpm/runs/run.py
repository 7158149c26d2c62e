"""`Session`: one training run in its folder, with logs, checkpoints and pictures.

The trainer only trains; here its `StepResult` is turned into files, and Ctrl-C or SIGTERM into a
checkpoint. A run folder holds: config.json, log.csv, last/previous/best.safetensors, data.png,
loss.png and samples/; with evaluation during training evaluation.csv and evaluation.png.
"""

import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from math import isfinite
from pathlib import Path

import torch

from pocketddpm.build import build_network, build_schedule, pick_device, pick_precision, typed
from pocketddpm.config import Experiment
from pocketddpm.data.batches import Loader
from pocketddpm.diffusion.bound import Bins
from pocketddpm.diffusion.build import build_objective
from pocketddpm.distributed import agree_on_start, barrier, ending_together, gathered, rank
from pocketddpm.models.checkpoint import Checkpoint, init_record, save_checkpoint, save_last
from pocketddpm.models.model import Model, model_from
from pocketddpm.output import refuse_existing, write_json
from pocketddpm.plugins import ALL_KINDS, require
from pocketddpm.presets import Found
from pocketddpm.progress import EVERY, say
from pocketddpm.progress import bar as progress_bar
from pocketddpm.runs.data import RunData, load_run_data, measured, origin, run_record
from pocketddpm.runs.evaluation import Validation, check_evaluation
from pocketddpm.runs.fine_tuning import with_classes
from pocketddpm.runs.folder import RunFolder
from pocketddpm.runs.log import RunLog
from pocketddpm.runs.options import RunOptions
from pocketddpm.runs.previews import preview_cost, save_first_pictures, save_preview
from pocketddpm.runs.signals import Stop
from pocketddpm.runs.summary import describe_run
from pocketddpm.runs.tracking import wanted
from pocketddpm.training.ema import half_lives
from pocketddpm.training.health import refuse_poisoned
from pocketddpm.training.plan import Plan, check_budget
from pocketddpm.training.trainer import Trainer, TrainerState
from pocketddpm.values import from_dict

FLUSH_EVERY = 50  # steps between reads of the losses from the device


class Session:
    """A run: `run()` trains it to the end of its budget, or until it is told to stop."""

    def __init__(
        self,
        experiment: Experiment,
        out: Path,
        options: RunOptions,
        *,
        checkpoint: Checkpoint | None = None,
        moved_from: Path | None = None,
        init_from: Checkpoint | None = None,
        scaled_as: Checkpoint | None = None,
        rule: Callable[..., Experiment] | None = None,
    ) -> None:
        """Build and check everything before anything is written.

        options: how the run is kept; its `out`, `resume` and `begin_with` are not read: they have
        become the three other arguments.
        checkpoint: where to continue; None starts a new run, which needs an unused folder.
        moved_from: the folder of the checkpoint's run, where it is not `out`.
        init_from: the model whose weights a new run begins with.
        scaled_as: the model whose scaling a new run takes, in place of its own images' mean.
        rule: rule(found=Found) is the experiment with sizes for the images that were found.
        """
        self._started = time.monotonic()
        check_budget(experiment.training)
        check_evaluation(experiment)
        self.main = rank() == 0
        trackers = wanted(options) if self.main else []
        if self.main and (checkpoint is None or moved_from is not None):
            refuse_existing(out, options.overwrite, folder=True)
        self.out, self.options = out, options
        self.device = pick_device(options.device)
        precision = pick_precision(experiment.training.precision, self.device)
        data = load_run_data(experiment, self.device, checkpoint, scaled_as)
        if rule is not None:
            experiment = rule(found=Found(*data.images.shape[1:], len(data.images)))
        objective = measured(experiment.objective, data)
        training = replace(experiment.training, precision=precision)
        chosen = {"data": data.config, "objective": objective, "training": training}
        self.experiment = replace(experiment, **chosen)
        began = origin(init_from) if init_from else None
        if checkpoint is not None:
            began = init_record(checkpoint.meta)
        self.meta = run_record(self.experiment, data, self.device, init_from=began)
        self.images = data.images
        self.trainer = build_trainer(self.experiment, data, self.device)
        self.network = self.trainer.network
        self.validation: Validation | None = None
        self.stop = Stop(self._say)
        self._best: Checkpoint | None = None  # the best by loss, until the next save
        self._told = -EVERY  # when the last line about an epoch was printed
        self._begun = ""  # a line on the labels of the model to begin with
        if init_from is not None:
            theirs, own = init_from.meta.get("classes", ()), self.network.state_dict()
            weights = init_from.part("ema") or init_from.part("model")
            weights, self._begun = with_classes(weights, theirs, own, data.classes)
            self.trainer.init_from(weights)
        if checkpoint is not None:
            parts = ("model", *half_lives(self.experiment.optimiser), "optimizer", "objective")
            tensors = {part: checkpoint.part(part) for part in parts}
            self.trainer.restore(TrainerState(tensors, checkpoint.meta.get("run", {})))
            if experiment.training != stored_experiment(checkpoint).training:
                self.trainer.plan = None  # another budget was asked for
        agree_on_start(self.trainer.step, self.device, out)
        self.folder = RunFolder(out) if self.main else None
        try:
            if self.folder is not None:
                self._prepare(self.folder, checkpoint, moved_from)
                choosing = data.parts.choosing
                if choosing is not None and experiment.evaluation.every:
                    step = None if checkpoint is None else self.trainer.step
                    self.validation = Validation(
                        self.experiment, data.images, choosing, out, resumed_at=step
                    )
            seen = self.trainer.images_seen
            self.log = RunLog(
                out,
                until=self.trainer.step,
                writes=self.main,
                trackers=[track(out, self.meta, seen) for track in trackers],
            )
        except BaseException:
            self._release()
            raise

    def _prepare(
        self, folder: RunFolder, checkpoint: Checkpoint | None, moved_from: Path | None
    ) -> None:
        """Prepare the folder for a resumed run, or for a new one with pictures of its data."""
        if checkpoint is not None and moved_from is None:
            folder.set_aside_damaged()
            return
        # Checked again under the lock: another run may have used the folder in between.
        refuse_existing(self.out, self.options.overwrite)
        folder.clear()
        write_json(self.out / "config.json", self.meta)
        save_first_pictures(self.out, self.trainer, self.meta["classes"])
        if checkpoint is not None and moved_from is not None:
            folder.take_history(moved_from)
            save_last(self.out, checkpoint)

    def _release(self) -> None:
        if self.folder is not None:
            self.folder.release()

    def run(self) -> None:
        """Train to the end; on Ctrl-C or SIGTERM save, say how to resume, and exit."""
        try:
            self._run()
        finally:
            self._release()

    def _run(self) -> None:
        trainer, options = self.trainer, self.options
        plan = trainer.plan or self._plan()
        told = describe_run(self.meta, self.images, self.trainer, plan.total, self.out)
        told += [f"  {self._begun}"] if self._begun else []
        self._say("\n".join(told))
        if self.validation is not None:
            self._say(self.validation.describe())
        bar = progress_bar(
            total=plan.total,
            initial=trainer.images_seen,
            unit="img",
            unit_scale=True,
            disable=not self.main,
            mininterval=0.5,
        )
        saved = trainer.step
        hint = f"{self.out} keeps its last checkpoint; go on with {self._resume_command()}"
        with self.stop.listening(), bar, ending_together(hint):
            if not saved:
                self.save()  # from here on, every instant can be resumed from
                if options.sample_at_start:
                    self._sample(0)
            for result in trainer.steps():
                self.log.add(result)
                bar.update(self.experiment.training.batch_size)
                if result.event:
                    self._say(result.event)
                    bar.total = trainer.plan.total if trainer.plan else bar.total
                if result.epoch_loss is not None:
                    self._end_epoch(result.epoch_loss)
                if result.step % FLUSH_EVERY == 0:
                    bar.set_postfix(loss=f"{self.log.flush():.4f}", refresh=False)
                # Before the checkpoint: it then knows of every evaluation up to its step.
                stale = False
                if self._due(self.experiment.evaluation.every, result.step):
                    self._evaluate()
                    stale = self._is_stale()
                epoch_over = options.sample_each_epoch and result.epoch_loss is not None
                if epoch_over or self._due(options.sample_every, result.step):
                    self._sample(result.step)
                # Last: a run that resumes from this step has nothing of it left to do.
                if self._due(options.checkpoint_every, result.step):
                    self.save()
                    saved = result.step
                if self.stop.after(result.step, last=trainer.is_done or stale) or stale:
                    break
            if self.stop.signal is None:
                self._evaluate()
            if trainer.step != saved:
                self.save()
        if self.stop.signal is not None:
            self.log.close()
            self._say(
                f"stopped at step {trainer.step}; saved {self.out / 'last.safetensors'}; go on "
                f"with: {self._resume_command()}"
            )
            sys.exit(128 + self.stop.signal)  # as a shell says it
        self._finish()
        self.log.close()

    def _plan(self) -> Plan:
        """Return the length of the run; its start and previews are part of a budget in minutes."""
        training, every = self.experiment.training, self.options.sample_every
        cost = preview_cost(len(self.meta["classes"]), self.experiment.schedule.T)
        if every or self.options.sample_each_epoch:
            self.trainer.ending = cost
        if training.minutes is not None:
            self.trainer.seconds += time.monotonic() - self._started
        return self.trainer.make_plan(cost / (every * training.batch_size) if every else 0.0)

    def save(self) -> None:
        """Write the log and the best by loss, then last.safetensors, keeping the one before."""
        self.log.flush()
        if self.main:
            checkpoint = self._checkpoint()
            refuse_poisoned(checkpoint.tensors)
            if self._best is not None:
                save_checkpoint(self.out / "best.safetensors", self._best)
                self._best = None
            save_last(self.out, checkpoint)
        barrier()

    def close(self) -> None:
        """Finish the log and release the folder."""
        self.log.close()
        self._release()

    def model(self) -> Model:
        """Return the model as it is now, with averaged weights."""
        return model_from(self._checkpoint(resumable=False), self.device)

    def _checkpoint(self, *, resumable: bool = True) -> Checkpoint:
        rows = self.validation.rows if self.validation else []
        row = {name: value for name, value in (rows[-1] if rows else {}).items() if isfinite(value)}
        meta = {**self.meta, "evaluation": row} if rows else self.meta
        state = self.trainer.state(resumable=resumable)
        parts = {**state.tensors, "scaling": self.trainer.scaling.tensors()}
        tensors = {f"{part}.{k}": v for part, group in parts.items() for k, v in group.items()}
        return Checkpoint({**meta, "run": state.counters}, tensors)

    def _end_epoch(self, loss: float) -> None:
        best = self.trainer.best_loss
        if best is None or loss < best:
            self.trainer.best_loss = loss
            if self.main and self.experiment.evaluation.best_by == "loss":
                # Short epochs would write a file each: a copy waits for the next checkpoint.
                best = self._checkpoint(resumable=False)
                self._best = replace(best, tensors={k: v.clone() for k, v in best.tensors.items()})
        now = time.monotonic()
        if self.main and (now - self._told >= EVERY or self.trainer.is_done):
            self._told = now
            epoch = self.trainer.images_seen / self.trainer.loader.epoch_images
            say(f"epoch {epoch:.2f}: mean loss {loss:.5f}")

    def _evaluate(self) -> None:
        """Evaluate the current model, once a step, in one process; the others wait."""
        trainer, validation = self.trainer, self.validation
        if validation is not None and not validation.evaluated(trainer.step):
            row = validation(self.model(), trainer.step, trainer.images_seen)
            self._say(validation.summary())
            if self.experiment.evaluation.best_by == "evaluation" and validation.is_best():
                best = self._checkpoint(resumable=False)
                save_checkpoint(self.out / "best.safetensors", best)
            validation.record()
            keys = ("frechet", "ratio", "precision", "recall", "copies")
            self.log.chart({f"held-out {key}": row[key] for key in keys}, trainer.images_seen)
        barrier()

    def _is_stale(self) -> bool:
        """Whether the evaluations have not become better for long enough; all processes agree."""
        patience, validation = self.experiment.evaluation.patience, self.validation
        if not patience:
            return False
        stale = any(gathered(validation is not None and validation.is_stale(patience)))
        if stale:
            self._say(f"stopping: the last {patience} evaluations were no better than the best")
        return stale

    def _sample(self, step: int, progress: str = "") -> None:
        """Write a preview and the loss curve, in one process; the others wait."""
        if self.main:
            seed = self.experiment.training.seed
            save_preview(
                self.out / "samples" / f"step-{step:07d}.png", self.model(), seed, progress
            )
            self.log.save_curve(self.out / "loss.png")
        barrier()

    def _finish(self) -> None:
        trainer = self.trainer
        if self.options.sample_every or self.options.sample_each_epoch:
            self._sample(trainer.step, "preview")  # the run's own bar is closed
        rate = trainer.images_seen / max(trainer.seconds, 1e-9)
        self._say(
            f"done: {trainer.images_seen} images in {trainer.seconds / 60:.1f} minutes "
            f"({rate:.0f} images/s), loss {self.log.final_loss():.4f} -> {self.out}; "
            f"draw with: pocketddpm sample {shlex.quote(str(self.out))}"
        )

    def _due(self, every: int, step: int) -> bool:
        return every > 0 and step % every == 0

    def _say(self, text: str) -> None:
        if self.main:
            say(text)

    def _resume_command(self) -> str:
        preset, out = (shlex.quote(str(name)) for name in (self.experiment.preset, self.out))
        return f"pocketddpm train {preset} --resume {out}"


def build_trainer(experiment: Experiment, data: RunData, device: torch.device) -> Trainer:
    """Return the trainer of an experiment on its data, at the start of the run."""
    training = experiment.training
    loader = Loader(
        data.images,
        batch_size=training.batch_size,
        seed=training.seed,
        device=device,
        epoch_images=min(training.epoch_images or len(data.images), len(data.images)),
        flip=bool(data.config.flip),
        augment=data.config.augment,
    )
    objective = build_objective(
        experiment.objective,
        build_schedule(experiment.schedule),
        null=len(data.classes) if data.classes else None,
        batch_size=training.batch_size,
        bins=Bins(*data.scaling.model_bounds, data.scaling.bin_width),
    )
    network = build_network(experiment, data.images.shape, len(data.classes))
    return Trainer(experiment, network, objective, loader, data.scaling)


def stored_experiment(checkpoint: Checkpoint) -> Experiment:
    """Return the experiment of a checkpoint; its plug-ins must have been loaded."""
    require(checkpoint.meta, ALL_KINDS)
    return typed(from_dict(Experiment, checkpoint.meta["experiment"], "checkpoint: "))
