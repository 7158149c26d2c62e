"""`Session`: one training run in its folder, with logs, checkpoints and pictures.

The trainer only trains; here its `Progress` is turned into files, and Ctrl-C or SIGTERM into a
checkpoint. A run folder holds: config.json, log.csv, last/previous/best.safetensors, data.png,
loss.png and samples/; with evaluation during training evaluation.csv and evaluation.png.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from pocketddpm.bound import Bins
from pocketddpm.build import (
    build_network,
    build_schedule,
    pick_device,
    pick_precision,
    plugin_records,
    takes_labels,
)
from pocketddpm.catalog import DATASETS
from pocketddpm.checkpoint import Checkpoint, save_checkpoint, save_last
from pocketddpm.config import Experiment
from pocketddpm.data.load import class_counts, fingerprint, hold_out, load_images
from pocketddpm.data.loader import Loader
from pocketddpm.data.scaling import Scaling
from pocketddpm.errors import DataError
from pocketddpm.flops import count_flops, count_parameters
from pocketddpm.forward import forward_panels
from pocketddpm.model import Model, model_from
from pocketddpm.objective import build_objective
from pocketddpm.output import refuse_existing, write_json
from pocketddpm.pictures import save_grid
from pocketddpm.plugins import ALL_KINDS, require
from pocketddpm.processes import agree_on_start, ending_together, rank
from pocketddpm.progress import bar as progress_bar
from pocketddpm.progress import say
from pocketddpm.provenance import machine, versions
from pocketddpm.run_folder import RunFolder
from pocketddpm.run_log import RunLog
from pocketddpm.stopping import Stop
from pocketddpm.training.health import find_spikes, refuse_poisoned
from pocketddpm.training.plan import check_budget
from pocketddpm.training.trainer import Trainer
from pocketddpm.validation import Validation, check_evaluation, held_out_images

PREVIEW_ROWS, PREVIEW_STEPS = 6, 50
FLUSH_EVERY = 50  # steps between reads of the losses from the device


class Session:
    """A run: `run()` trains it to the end of its budget, or until it is told to stop."""

    def __init__(
        self,
        experiment: Experiment,
        *,
        out: Path,
        device: str = "auto",
        checkpoint: Checkpoint | None = None,
        begin_with: Checkpoint | None = None,
        checkpoint_every: int = 500,
        sample_every: int = 500,
        sample_at_start: bool = False,
        sample_each_epoch: bool = False,
        tensorboard: bool = False,
        overwrite: bool = False,
    ) -> None:
        """Build everything; nothing is written before all of it has been found to fit.

        checkpoint: where to continue; None starts anew, and then refuses a folder in use.
        begin_with: the model whose weights a new run begins with.
        checkpoint_every: in steps; 0 means only at the end. sample_every: steps between previews;
        0 means none at all, at the end neither, unless one of the other two is set.
        """
        check_budget(experiment.training)
        check_evaluation(experiment)
        if checkpoint is not None:
            require(checkpoint.meta, ALL_KINDS)
        self.main = rank() == 0
        if checkpoint is None and self.main:
            refuse_existing(out, overwrite)
        self.out = out
        self.checkpoint_every, self.sample_every = checkpoint_every, sample_every
        self.sample_at_start, self.sample_each_epoch = sample_at_start, sample_each_epoch
        where = pick_device(device)
        precision = pick_precision(experiment.training.precision, where)
        training = replace(experiment.training, precision=precision)
        data = experiment.data
        images = load_images(
            data.name,
            image_size=data.image_size,
            fit=data.fit,
            subset=data.subset,
            classes=data.classes,
        )
        print_of_all, held_out = fingerprint(images), None
        if experiment.evaluation.every and not data.held_out:
            data = replace(data, held_out=held_out_images(len(images)))
        if data.held_out:
            images, held_out = hold_out(images, data.held_out)
        if data.flip is None:
            name = data.name if data.name in DATASETS.names() else "folder"
            data = replace(data, flip=bool(DATASETS.load(name).FLIP))
        self.experiment = replace(experiment, data=data, training=training)
        labelled = images.labels is not None and takes_labels(experiment.network)
        classes = images.classes if labelled else ()
        scaling = Scaling(data.low, data.high)
        if data.center:
            scaling = scaling.centered(images.images, where)
        self.meta: dict[str, Any] = {
            "experiment": self.experiment.to_dict(),
            "shape": list(images.shape),
            "classes": list(classes),
            "class_counts": class_counts(images) if labelled else [],
            "scaling": scaling.to_config(),
            "data": {
                "name": images.name,
                "images": len(images),
                "held_out": data.held_out,
                "source": images.source,
                "fingerprint": print_of_all,
            },
            "versions": versions(),
            "machine": machine(where),
        }
        if begin_with is not None or (checkpoint and checkpoint.meta.get("begun_with")):
            self.meta["begun_with"] = "another model's weights"
        if plugins := plugin_records(self.experiment):
            self.meta["plugins"] = plugins
        if checkpoint is not None:
            found, stored = self.meta["data"], checkpoint.meta["data"]
            if found["fingerprint"] != stored["fingerprint"]:
                raise DataError(
                    f"{images.name} has changed since this run began ({stored['images']} images, "
                    f"fingerprint {stored['fingerprint']}; now {found['images']}, "
                    f"{found['fingerprint']}); restore it, or start a new run with another --out"
                )
        schedule = build_schedule(experiment.schedule)
        network = build_network(self.experiment, images.shape, len(classes))
        self.accelerator = Accelerator(mixed_precision="no", cpu=where.type == "cpu")
        batches = training.batches_per_epoch
        loader = Loader(
            images,
            batch_size=training.batch_size,
            seed=training.seed,
            device=self.accelerator.device,
            epoch_images=batches * training.batch_size if batches else None,
            flip=bool(data.flip),
        )
        objective = build_objective(
            experiment.objective,
            schedule,
            null=len(classes) if classes else None,
            batch_size=training.batch_size,
            bins=Bins(*scaling.model_bounds, scaling.bin_width),
        )
        self.network = network
        self.trainer = Trainer(
            self.experiment, network, objective, loader, scaling, self.accelerator
        )
        self.images = images
        self.validation: Validation | None = None
        self.stop = Stop(self.accelerator, self._say)
        if begin_with is not None:
            self.trainer.begin_with(begin_with)
        if checkpoint is not None:
            self.trainer.restore(checkpoint)
            if experiment.training != _training(checkpoint):
                self.trainer.plan = None  # another budget was asked for
        agree_on_start(self.accelerator, self.trainer.step, out)
        self.folder = RunFolder(out) if self.main else None
        try:
            if self.folder is not None:
                self._prepare(self.folder, checkpoint, overwrite)
                if held_out is not None and experiment.evaluation.every:
                    step = None if checkpoint is None else self.trainer.step
                    self.validation = Validation(
                        self.experiment, images, held_out, out, resumed_at=step
                    )
            self.log = RunLog(
                out, until=self.trainer.step, writes=self.main, tensorboard=tensorboard
            )
        except BaseException:
            self._release()
            raise

    def _prepare(self, folder: RunFolder, checkpoint: Checkpoint | None, overwrite: bool) -> None:
        """Make the folder ready: to go on in it, or to begin, with pictures of the data."""
        if checkpoint is not None:
            folder.set_aside_damaged()
            return
        # Asked again: another run may have come and gone since.
        refuse_existing(self.out, overwrite)
        folder.clear()
        write_json(self.out / "config.json", self.meta)
        trainer, training = self.trainer, self.experiment.training
        first = trainer.loader.batch(0, min(64, training.batch_size)).images
        save_grid(self.out / "data.png", first.cpu().numpy())
        few = first[:8].cpu().numpy()
        schedule = trainer.objective.schedule
        panels = forward_panels(few, schedule, scaling=trainer.scaling, seed=training.seed)
        save_grid(self.out / "forward.png", panels, columns=5)

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
        trainer = self.trainer
        plan = trainer.plan or trainer.make_plan()
        self._say(self._describe(plan.total))
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
                if self.sample_at_start:
                    self._sample(0)
            for progress in trainer.steps():
                self.log.add(progress)
                bar.update(self.experiment.training.batch_size)
                if progress.event:
                    self._say(progress.event)
                    bar.total = trainer.plan.total if trainer.plan else bar.total
                if progress.epoch_loss is not None:
                    self._end_epoch(progress.epoch_loss)
                if progress.step % FLUSH_EVERY == 0:
                    self._flush(bar)
                # Before the checkpoint: it then knows of every evaluation up to its step.
                if self._due(self.experiment.evaluation.every, progress.step):
                    self._evaluate()
                epoch_over = self.sample_each_epoch and progress.epoch_loss is not None
                if epoch_over or self._due(self.sample_every, progress.step):
                    self._sample(progress.step)
                # Last: a run that resumes from this step has nothing of it left to do.
                if self._due(self.checkpoint_every, progress.step):
                    self.save()
                    saved = progress.step
                if self.stop.after(progress.step):
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
            sys.exit(self.stop.status)
        self._finish()
        self.log.close()

    def save(self) -> None:
        """Write the log, then last.safetensors, keeping the one before."""
        self._flush()
        if self.main:
            checkpoint = self._checkpoint()
            refuse_poisoned(checkpoint.tensors)
            save_last(self.out, checkpoint)
        self.accelerator.wait_for_everyone()

    def close(self) -> None:
        """Finish the log and release the folder."""
        self.log.close()
        self._release()

    def model(self) -> Model:
        """Return the model as it is now, with averaged weights."""
        return model_from(self._checkpoint(with_state=False), self.accelerator.device)

    def _checkpoint(self, *, with_state: bool = True) -> Checkpoint:
        rows = self.validation.rows if self.validation else []
        meta = {**self.meta, "evaluation": rows[-1]} if rows else self.meta
        return self.trainer.checkpoint(meta, with_state=with_state)

    def _describe(self, total: int) -> str:
        data, training = self.meta["data"], self.experiment.training
        c, h, w = self.images.shape
        x = torch.zeros(1, c, h, w, device=self.accelerator.device)
        y = torch.zeros(1, dtype=torch.int64, device=x.device) if self.meta["classes"] else None
        flops = count_flops(self.network, x, torch.ones(1, device=x.device), y)
        parameters, _ = count_parameters(self.network)
        source = f" ({data['source']})" if data["source"] else ""
        classes = len(self.meta["classes"])
        return (
            f"{data['name']}: {data['images']} images {c}x{h}x{w}{source}, "
            f"{f'{classes} classes' if classes else 'no labels'}\n"
            f"{self.experiment.network.name}: {parameters / 1e6:.2f}M parameters, "
            f"{flops / 1e9:.2f} GFLOP per image; {self.accelerator.device} "
            f"x {self.accelerator.num_processes}, {training.precision}\n"
            f"{total} images in {total // training.batch_size} steps of {training.batch_size} "
            f"({total / self.trainer.loader.epoch_images:.1f} epochs) -> {self.out}"
        )

    def _end_epoch(self, loss: float) -> None:
        best = self.trainer.best_loss
        if best is None or loss < best:
            self.trainer.best_loss = loss
            if self.main and self.experiment.evaluation.best_by == "loss":
                self._save_best()
        if self.main:
            epoch = self.trainer.images_seen / self.trainer.loader.epoch_images
            say(f"epoch {epoch:.2f}: mean loss {loss:.5f}")

    def _evaluate(self) -> None:
        """Measure the model of now, unless that is done; the other processes wait."""
        trainer, validation = self.trainer, self.validation
        if validation is not None and not validation.evaluated(trainer.step):
            row = validation(self.model(), trainer.step, trainer.images_seen)
            self._say(validation.told())
            if self.experiment.evaluation.best_by == "evaluation" and validation.is_best():
                self._save_best()
            keys = ("frechet", "ratio", "precision", "recall")
            self.log.chart({f"held-out {key}": row[key] for key in keys}, trainer.images_seen)
        self.accelerator.wait_for_everyone()

    def _save_best(self) -> None:
        save_checkpoint(self.out / "best.safetensors", self._checkpoint(with_state=False))

    def _flush(self, bar: Any = None) -> None:
        """Write the log, and say where the loss jumped."""
        first = len(self.log.loss)
        mean = self.log.flush()
        for spike in find_spikes(self.log.loss, first):
            self._say(str(spike))
        if bar is not None:
            bar.set_postfix(loss=f"{mean:.4f}", refresh=False)

    def _sample(self, step: int) -> None:
        """Write a preview: every class in its column, by a quick sampler whatever the preset's."""
        if self.main:
            model = self.model()
            columns = min(len(model.classes), 10) or PREVIEW_ROWS
            labels = None
            if model.classes:
                names = ",".join(model.classes[:columns])
                labels = model.label_numbers(names, PREVIEW_ROWS * columns)
            images = model.sample(
                PREVIEW_ROWS * columns,
                labels=labels,
                sampler="ddim",
                steps=min(PREVIEW_STEPS, model.schedule.T),
                seed=self.experiment.training.seed,
            ).images
            save_grid(self.out / "samples" / f"step-{step:07d}.png", images, columns)
            self.log.save_curve(self.out / "loss.png")
        self.accelerator.wait_for_everyone()

    def _finish(self) -> None:
        trainer = self.trainer
        if self.sample_every or self.sample_each_epoch:
            self._sample(trainer.step)
        rate = trainer.images_seen / max(trainer.seconds, 1e-9)
        self._say(
            f"done: {trainer.images_seen} images in {trainer.seconds / 60:.1f} minutes "
            f"({rate:.0f} images/s), loss {self.log.final_loss():.4f} -> {self.out}; "
            f"draw with: pocketddpm sample {self.out}"
        )

    def _due(self, every: int, step: int) -> bool:
        return every > 0 and step % every == 0

    def _say(self, text: str) -> None:
        if self.main:
            say(text)

    def _resume_command(self) -> str:
        return f"pocketddpm train {self.experiment.preset} --resume {self.out}"


def _training(checkpoint: Checkpoint) -> Any:
    from pocketddpm.config import from_dict

    return from_dict(Experiment, checkpoint.meta["experiment"], "checkpoint: ").training
