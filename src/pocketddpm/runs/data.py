"""The images of one run: loaded, split, scaled and recorded, before anything is written."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from pocketddpm.build import plugin_records, takes_labels
from pocketddpm.catalog import DATASETS
from pocketddpm.config import DataConfig, Experiment, ObjectiveConfig
from pocketddpm.data.image_set import ImageSet, alike
from pocketddpm.data.load import class_counts, fingerprint, has_test
from pocketddpm.data.scaling import Scaling
from pocketddpm.data.split import FEWEST, Parts, divide, usual_hold_out
from pocketddpm.errors import ConfigError, DataError, DDPMError
from pocketddpm.models.checkpoint import Checkpoint, init_record
from pocketddpm.models.model import scaling_of
from pocketddpm.models.provenance import machine, versions
from pocketddpm.models.run_images import load_chosen, reporting_images


@dataclass(frozen=True)
class RunData:
    """What a run learns from.

    config: the experiment's data with every choice made (flip, held_out).
    parts: what is trained on, and what is held out.
    classes: names of the classes; none where there are no labels or the network takes none.
    fingerprint: of all images and labels, the held-out ones too.
    """

    config: DataConfig
    parts: Parts
    scaling: Scaling
    classes: tuple[str, ...]
    fingerprint: str

    @property
    def images(self) -> ImageSet:
        """What is trained on."""
        return self.parts.training


def load_run_data(
    experiment: Experiment,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    scaled_as: Checkpoint | None = None,
) -> RunData:
    """Load what the experiment names; its mean image, where one is removed, goes to device.

    checkpoint: of the run that goes on with these images. scaled_as: of the model whose scaling a
    new run takes over, in place of its own images' mean.
    Raises DataError for data that cannot be read, or that are not those of the checkpoint, and
    ConfigError for choices that do not fit.
    """
    if checkpoint is None:
        data = _loaded(experiment, device)
        return replace(data, scaling=scaling_of(scaled_as, device)) if scaled_as else data
    stored = checkpoint.meta["data"]
    try:
        data = _loaded(experiment, device, reporting_images(stored))
    except DDPMError as error:
        moved = "; if the images of this run were moved, say where they are with --data"
        raise type(error)(f"{error}{moved}") from error
    if data.fingerprint != stored["fingerprint"]:
        raise DataError(
            f"{data.images.name} has changed since this run began ({stored['images']} images, "
            f"fingerprint {stored['fingerprint']}; now {len(data.images)}, {data.fingerprint}); "
            "restore it, say with --data where the images were moved, or start a new run with "
            "another --out"
        )
    return replace(data, scaling=scaling_of(checkpoint, device))


def _loaded(experiment: Experiment, device: torch.device, reporting: int | None = None) -> RunData:
    """Load a run's images; reporting: how many are for reporting in a run that goes on."""
    data = experiment.data
    images = load_chosen(data, quiet=True)  # a run says it when all is ready (`summary`)
    print_of_all = fingerprint(images)
    is_own = not has_test(data.name)  # the run has no test split but what it holds out
    if data.held_out is None:
        usual = usual_hold_out(len(images))
        if experiment.evaluation.every and not usual:
            raise ConfigError(
                f"--evaluate-every holds out a tenth of the training images, at least {FEWEST}: "
                f"{len(images)} images are too few; leave it out"
            )
        data = replace(data, held_out=usual if is_own or experiment.evaluation.every else 0)
    held_out = data.held_out or 0
    if reporting is None:
        reporting = (held_out + 1) // 2 if is_own else 0
    parts = divide(images, held_out, reporting, data.selection)
    if experiment.evaluation.every and (found := held_out - reporting) < FEWEST // 2:
        raise ConfigError(
            f"--evaluate-every needs at least {FEWEST // 2} held-out images to choose by, and has "
            f"{found}: hold out more with --hold-out, or leave it out"
        )
    if experiment.evaluation.every and alike(parts.training.images):
        raise ConfigError(
            "--evaluate-every measures by how much training images differ, and those of "
            f"{images.name} are all the same one; leave it out"
        )
    if data.flip is None:
        name = data.name if data.name in DATASETS.names() else "folder"
        data = replace(data, flip=bool(DATASETS.load(name).FLIP))
    training = parts.training
    labelled = training.labels is not None and takes_labels(experiment.network)
    scaling = Scaling(data.low, data.high)
    if data.center:
        scaling = scaling.centered(training.images, device)
    return RunData(data, parts, scaling, training.classes if labelled else (), print_of_all)


def measured(objective: ObjectiveConfig, data: RunData) -> ObjectiveConfig:
    """Return the objective with the images' sigma_data where it is used and nobody gave it."""
    if objective.sigma_data is not None or not objective.uses_deviation:
        return objective
    return replace(objective, sigma_data=data.scaling.root_mean_square(data.images.images))


def run_record(
    experiment: Experiment, data: RunData, device: torch.device, *, init_from: Any = None
) -> dict[str, Any]:
    """Return what config.json and every checkpoint of a run say of it (docs/design.md).

    init_from: of the run whose weights it began with, if it did; see `origin`.
    """
    record: dict[str, Any] = {
        "experiment": experiment.to_dict(),
        "shape": list(data.images.shape),
        "classes": list(data.classes),
        "class_counts": class_counts(data.images) if data.classes else [],
        "scaling": data.scaling.to_config(),
        "data": {
            "name": data.images.name,
            "images": len(data.images),
            "held_out": data.config.held_out,
            "reporting": data.parts.for_reporting,
            "has_test": has_test(data.config.name),
            "source": data.images.source,
            "notes": list(data.images.notes),
            "span": data.images.reading and data.images.reading.span,
            "fingerprint": data.fingerprint,
        },
        "versions": versions(),
        "machine": machine(device),
    }
    if init_from:
        record["init_from"] = init_from
    if plugins := plugin_records(experiment):
        record["plugins"] = plugins
    return record


def origin(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what a run's record keeps of the one whose weights it began with, and of its own."""
    run = checkpoint.meta["run"]
    kept: dict[str, Any] = {key: run[key] for key in ("images_seen", "seconds")}
    kept["objective"] = checkpoint.meta["experiment"]["objective"]
    if earlier := init_record(checkpoint.meta):
        kept["init_from"] = earlier
    return kept
