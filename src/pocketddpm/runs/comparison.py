"""What models cost and how they look, measured side by side on this machine."""

import multiprocessing
import platform
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pocketddpm.build import pick_device, pick_precision
from pocketddpm.config import BUDGETS
from pocketddpm.data.image_set import ImageSet
from pocketddpm.data.split import Parts
from pocketddpm.errors import ConfigError
from pocketddpm.metrics.report import markdown_table
from pocketddpm.models.checkpoint import find_checkpoint, load_checkpoint
from pocketddpm.models.cost import count_flops, count_parameters
from pocketddpm.models.model import Model, load
from pocketddpm.models.provenance import versions
from pocketddpm.models.samples import Samples
from pocketddpm.output import refuse_existing, remove_files, write_json, write_text
from pocketddpm.plugins import load_plugin, loaded
from pocketddpm.runs.data import RunData
from pocketddpm.runs.options import CompareOptions
from pocketddpm.runs.run import build_trainer

TRAIN_BATCH, SAMPLE_BATCH, ROUNDS = 32, 32, 3


@dataclass(frozen=True)
class Measured:
    """One model's row.

    gflop: of one forward pass of one image. train_rate: images/s of training steps at batch 32,
    with the run's own objective, optimiser and precision. sample_rate: images/s with what
    `sampling` names. memory: peak resident memory, in MB, of a process that did all this (of the
    GPU where there is one); None on Windows. loss: the lowest epoch loss in the checkpoint
    (comparable only at equal objectives).
    """

    name: str
    network: str
    parameters: int
    gflop: float
    train_rate: float
    sample_rate: float
    sampling: str
    memory: float | None
    images_seen: int
    minutes: float
    loss: float | None


COLUMNS = {
    "model": lambda r: r.name,
    "network": lambda r: r.network,
    "parameters": lambda r: f"{r.parameters / 1e6:.2f}M",
    "GFLOP / image": lambda r: f"{r.gflop:.3f}",
    "training images/s": lambda r: f"{r.train_rate:.1f}",
    "sampling images/s": lambda r: f"{r.sample_rate:.2f}",
    "peak memory": lambda r: "-" if r.memory is None else f"{r.memory:.0f} MB",
    "trained on": lambda r: f"{r.images_seen} images, {r.minutes:.1f} min",
    "loss": lambda r: "-" if r.loss is None else f"{r.loss:.4f}",
}


@dataclass(frozen=True)
class Comparison:
    """The rows, and samples of each model."""

    rows: list[Measured]
    samples: list[Samples]
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            **versions(),
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
            "seed": self.seed,
            "models": [asdict(row) for row in self.rows],
        }

    def table(self) -> str:
        """Return the rows as a Markdown table."""
        cells = [[shown(row) for shown in COLUMNS.values()] for row in self.rows]
        return "\n".join(markdown_table(tuple(COLUMNS), cells))

    def markdown(self) -> str:
        """Return the page: the table, and a column of samples for each model."""
        pictures = [f"![{row.name}](samples-{k}.png)" for k, row in enumerate(self.rows)]
        lines = [
            "# Comparison",
            "",
            self.table(),
            "",
            f"Torch {torch.__version__}, {torch.get_num_threads()} threads, "
            f"{platform.machine()}; training at batch {TRAIN_BATCH}, sampling with "
            f"{self.rows[0].sampling} at batch {SAMPLE_BATCH}. Losses compare only between equal "
            "objectives.",
            "",
            *markdown_table([row.name for row in self.rows], [pictures]),
            "",
        ]
        return "\n".join(lines)

    def save(self, folder: Path) -> None:
        """Write README.md, compare.json and the pictures; OutputError when that fails."""
        remove_files(folder, "samples-[0-9].png", "samples-[0-9][0-9].png")
        for k, drawn in enumerate(self.samples):
            drawn.save(folder / f"samples-{k}.png", drawn.columns or min(10, len(drawn.images)))
        write_json(folder / "compare.json", self.to_json())
        write_text(folder / "README.md", self.markdown())


def compare(models: Sequence[Path], options: CompareOptions) -> Comparison:
    """Measure each model in a process of its own, and write the comparison to `options.out`.

    models: run folders or checkpoints. All are sampled by DDIM with the same number of steps and
    the same seed, and timed so. Plug-ins that were loaded here are loaded there.
    Raises ConfigError without models, CheckpointError for one that is damaged or missing.
    """
    if not models:
        raise ConfigError("compare needs models: give one or more run folders or checkpoints")
    for path in models:
        load_checkpoint(find_checkpoint(path))
    refuse_existing(options.out, options.overwrite, folder=True)
    device = str(pick_device(options.device))
    # A fresh process for each: peak memory never falls within one.
    context = multiprocessing.get_context("spawn")
    rows, samples = [], []
    for path in models:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            row, drawn = pool.submit(_measure, path, options, device, loaded()).result()
        rows.append(row)
        samples.append(drawn)
    comparison = Comparison(rows, samples, options.seed)
    comparison.save(options.out)
    return comparison


def _measure(
    path: Path, options: CompareOptions, device: str, plugins: Sequence[Path]
) -> tuple[Measured, Samples]:
    for plugin in plugins:
        load_plugin(plugin)
    model = load(path, device)
    x = torch.zeros(1, *model.shape, device=model.device)
    y = torch.zeros(1, dtype=torch.int64, device=x.device) if model.classes else None
    gflop = count_flops(model.network, x, torch.ones(1, device=x.device), y) / 1e9  # a warm-up, too
    steps = min(options.steps, model.schedule.T)
    started = time.perf_counter()
    samples = model.sample(
        options.n,
        labels=list(model.classes) or None,
        sampler="ddim",
        steps=steps,
        seed=options.seed,
        batch_size=SAMPLE_BATCH,
    )
    sample_rate = options.n / (time.perf_counter() - started)
    run = model.meta["run"]
    row = Measured(
        name=path.name if path.suffix else path.resolve().name,
        network=model.experiment.network.name,
        parameters=count_parameters(model.network)[0],
        gflop=gflop,
        train_rate=_train_rate(model),
        sample_rate=sample_rate,
        sampling=f"ddim, {steps} steps",
        memory=_peak_memory(model.device),
        images_seen=run["images_seen"],
        minutes=run["seconds"] / 60,
        loss=run["best_loss"],
    )
    return row, samples


def _train_rate(model: Model) -> float:
    """Return training images/s: the run's own steps, on random images."""
    precision = pick_precision(model.experiment.training.precision, model.device)
    budget = {**dict.fromkeys(BUDGETS), "steps": ROUNDS + 1}
    training = replace(
        model.experiment.training,
        batch_size=TRAIN_BATCH,
        accumulate=1,
        batches_per_epoch=None,
        precision=precision,
        **budget,
    )
    experiment = replace(model.experiment, training=training)
    pixels = np.random.default_rng(0).integers(0, 256, (TRAIN_BATCH, *model.shape), np.uint8)
    labels = np.arange(TRAIN_BATCH) % len(model.classes) if model.classes else None
    images = ImageSet(pixels, labels, model.classes, "random images")
    data = RunData(experiment.data, Parts(images), model.scaling, model.classes, "")
    trainer = build_trainer(experiment, data, model.device)
    trainer.init_from(model.network.state_dict())  # also the teacher, where there is one
    steps = trainer.steps()
    float(next(steps).loss)  # reading the loss waits for the device
    started = time.perf_counter()
    for result in steps:
        float(result.loss)
    return TRAIN_BATCH * ROUNDS / (time.perf_counter() - started)


def _peak_memory(device: torch.device) -> float | None:
    """Return the peak memory in MB: of the GPU, else of this process; None where it is unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return None
    # Linux counts in kilobytes, macOS in bytes.
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
