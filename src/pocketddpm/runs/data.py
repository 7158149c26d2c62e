"""The images of one run: loaded, split, scaled and recorded, before anything is written."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from pocketddpm.build import plugin_records, takes_labels
from pocketddpm.catalog import DATASETS
from pocketddpm.config import DataConfig, Experiment
from pocketddpm.data.image_set import ImageSet
from pocketddpm.data.load import class_counts, fingerprint, load_images
from pocketddpm.data.scaling import Scaling
from pocketddpm.data.split import hold_out
from pocketddpm.errors import DataError, DDPMError
from pocketddpm.models.checkpoint import Checkpoint, init_record
from pocketddpm.models.provenance import machine, versions
from pocketddpm.runs.evaluation import held_out_images


@dataclass(frozen=True)
class RunData:
    """What a run learns from.

    config: the experiment's data with every choice made (flip, held_out).
    images: what is trained on. held_out: what evaluations during training compare with, or None.
    classes: names of the classes; none where there are no labels or the network takes none.
    fingerprint: of all images and labels, the held-out ones too.
    """

    config: DataConfig
    images: ImageSet
    held_out: ImageSet | None
    scaling: Scaling
    classes: tuple[str, ...]
    fingerprint: str


def load_run_data(
    experiment: Experiment, device: torch.device, checkpoint: Checkpoint | None = None
) -> RunData:
    """Load what the experiment names; its mean image, where one is removed, goes to device.

    checkpoint: of the run that goes on with these images.
    Raises DataError for data that cannot be read, or that are not those of the checkpoint, and
    ConfigError for choices that do not fit.
    """
    if checkpoint is None:
        return _loaded(experiment, device)
    try:
        data = _loaded(experiment, device)
    except DDPMError as error:
        moved = "; if the images of this run were moved, say where they are with --data"
        raise type(error)(f"{error}{moved}") from error
    stored = checkpoint.meta["data"]
    if data.fingerprint != stored["fingerprint"]:
        raise DataError(
            f"{data.images.name} has changed since this run began ({stored['images']} images, "
            f"fingerprint {stored['fingerprint']}; now {len(data.images)}, {data.fingerprint}); "
            "restore it, say with --data where the images were moved, or start a new run with "
            "another --out"
        )
    return data


def _loaded(experiment: Experiment, device: torch.device) -> RunData:
    data = experiment.data
    images = load_images(
        data.name,
        image_size=data.image_size,
        fit=data.fit,
        subset=data.subset,
        selection=data.selection,
        classes=data.classes,
    )
    print_of_all, held_out = fingerprint(images), None
    if experiment.evaluation.every and not data.held_out:
        data = replace(data, held_out=held_out_images(len(images)))
    if data.held_out:
        images, held_out = hold_out(images, data.held_out, data.selection)
    if data.flip is None:
        name = data.name if data.name in DATASETS.names() else "folder"
        data = replace(data, flip=bool(DATASETS.load(name).FLIP))
    labelled = images.labels is not None and takes_labels(experiment.network)
    scaling = Scaling(data.low, data.high)
    if data.center:
        scaling = scaling.centered(images.images, device)
    classes = images.classes if labelled else ()
    return RunData(data, images, held_out, scaling, classes, print_of_all)


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
            "source": data.images.source,
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
