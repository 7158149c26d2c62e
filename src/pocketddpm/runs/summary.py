"""What a run says before it trains: its images, network and budget, and what to expect of them."""

from math import ceil
from pathlib import Path
from typing import Any

import torch

from pocketddpm.config import Experiment
from pocketddpm.data.image_set import ImageSet
from pocketddpm.data.load import class_counts
from pocketddpm.distributed import count
from pocketddpm.models.checkpoint import init_record
from pocketddpm.models.cost import count_flops, count_parameters
from pocketddpm.models.for_diffusers import refusal
from pocketddpm.training.trainer import Trainer

# MNIST, 28x28, the network and recipe of `train mnist`: after 15,616 images of training nine of ten
# digits are read as asked (benchmarks/results/time_to_quality_2026-11.jsonl, one minute, float32).
# Below that size in proportion to the pixels; larger images, and photographs, need more.
SHAPES, SHAPES_AT = 15_600, 28 * 28
# So few images, each seen so often, are learned by heart: networks trained on up to about a
# thousand faces give these back, on 100,000 they do not (Kadkhodaie and others 2024,
# arXiv 2310.02557).
FEW, OFTEN = 2_000, 50


def describe_images(images: ImageSet) -> list[str]:
    """Return lines on what images there are, and what was left out or changed on the way."""
    c, h, w = images.shape
    # What became of files is in the notes.
    source = f" ({images.source})" if images.source and images.reading is None else ""
    first = f"{images.name}: {len(images):,} images {c}x{h}x{w}{source}, {_classes(images)}"
    return [first, *(f"  {note}" for note in images.notes)]


def _classes(images: ImageSet) -> str:
    counts = class_counts(images)
    if not counts:
        return "no labels"
    few, many = min(counts), max(counts)
    if few == many:
        return f"{len(counts)} classes of {few:,} images each"
    smallest, largest = (images.classes[counts.index(k)] for k in (few, many))
    return (
        f"{len(counts)} classes, the smallest {smallest} ({few:,} images), the largest {largest} "
        f"({many:,})"
    )


def describe_run(
    record: dict[str, Any], images: ImageSet, trainer: Trainer, total: int, out: Path
) -> list[str]:
    """Return the lines that a run begins with.

    record: what its checkpoints say of it. images: what it trains on. total: images until its end.
    """
    data, training = record["data"], trainer.experiment.training
    network = trainer.network
    c, h, w = record["shape"]
    x = torch.zeros(1, c, h, w, device=trainer.device)
    y = torch.zeros(1, dtype=torch.int64, device=x.device) if record["classes"] else None
    flops = count_flops(network, x, torch.ones(1, device=x.device), y)
    parameters, _ = count_parameters(network)
    lines = describe_images(images)
    if images.labels is not None and not record["classes"]:
        lines.append(
            f"  labels are not used: the network {trainer.experiment.network.name} takes none"
        )
    if not trainer.loader.whole:
        lines.append("  they stay on the disk, and batches are read")
    lines += _held_out(data)
    lines.append(
        f"{_network(trainer.experiment)}: {parameters / 1e6:.2f}M parameters, "
        f"{flops / 1e9:.2f} GFLOP per image; {trainer.device} x {count()}, {training.precision}"
    )
    if not_there := refusal(trainer.experiment, (c, h, w), trainer.scaling):
        lines.append(f"  export --to diffusers will refuse this model: {not_there}")
    lines.append(
        f"{total} images in {total // training.batch_size} steps of {training.batch_size} "
        f"({total / trainer.loader.epoch_images:.1f} epochs) -> {out}"
    )
    if training.epoch_images > (epoch := trainer.loader.epoch_images):
        lines.append(
            f"  an epoch is all {epoch:,} images: {training.batches_per_epoch} batches of "
            f"{training.batch_size} would be {training.epoch_images:,}"
        )
    minutes = training.minutes if total > trainer.images_seen else None
    before = (init_record(record) or {}).get("images_seen", 0)
    told = expectations(len(images), (h, w), total, minutes, before)
    return lines + [f"  {line}" for line in told]


def expectations(
    count: int,
    size: tuple[int, int],
    total: int,
    minutes: float | None = None,
    before: int = 0,
) -> list[str]:
    """Return sentences on what a budget is too little for, or too much.

    count: training images. size: (height, width). total: images of training that the budget buys.
    minutes: the budget, where it is one of time. before: images that the model to begin with saw.
    """
    lines = []
    needed = ceil(SHAPES * min(1.0, size[0] * size[1] / SHAPES_AT)) - before
    if total < needed:
        buys = f"--images {needed}"
        if minutes is not None:
            buys = f"--minutes {ceil(minutes * needed / total)}"
        lines.append(
            f"too little to expect clear shapes: digits of 28x28 need about {SHAPES:,} images of "
            f"training, photographs more; try {buys}"
        )
    if count < FEW and total > OFTEN * count:
        lines.append(
            f"{count:,} images, each seen {total / count:,.0f} times, will be learned by heart: "
            "samples will be copies of them; `evaluate` counts these"
        )
    return lines


def _held_out(data: dict[str, Any]) -> list[str]:
    """Return what is held out, in a line; none where the data have a test split of their own."""
    held_out, total = data["held_out"], data["images"] + data["held_out"]
    if held_out and data["reporting"]:
        return [
            f"  held out: {held_out:,} of the {total:,} images, as there is no test split: "
            f"{held_out - data['reporting']:,} may choose checkpoints (--evaluate-every), "
            f"{data['reporting']:,} are for `evaluate`; --hold-out 0 trains on them too"
        ]
    if held_out:
        return [f"  held out: {held_out:,} of the {total:,} images, which may choose checkpoints"]
    if not data["has_test"]:
        return [
            f"  held out: none of the {total:,} images, and there is no test split: `evaluate` can "
            "compare with images that were trained on only"
        ]
    return []


def _network(experiment: Experiment) -> str:
    """Return the network, with the sizes that were chosen and what it takes images for."""
    name, sizes, objective = experiment.network.name, experiment.network.sizes, experiment.objective
    texts = {k: "/".join(map(str, v)) if isinstance(v, tuple) else v for k, v in sizes.items()}
    shown = [f"{k}={text}" for k, text in texts.items()]
    shown += [f"sigma_data={objective.deviation:g}"] * objective.uses_deviation
    return f"{name} ({', '.join(shown)})" if shown else name
