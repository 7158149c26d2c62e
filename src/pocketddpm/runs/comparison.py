"""What models cost and how they look, measured side by side on this machine."""

import multiprocessing
import platform
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pocketddpm import __version__
from pocketddpm.build import build_network, build_schedule
from pocketddpm.diffusion.build import build_objective
from pocketddpm.models.cost import count_flops, count_parameters
from pocketddpm.models.model import Model, load_model

TRAIN_BATCH, SAMPLE_BATCH, ROUNDS = 32, 32, 3


@dataclass(frozen=True)
class Measured:
    """One model's row.

    gflop: of one forward pass of one image. train_rate: images/s of forward, loss, backward and
    optimiser step at batch 32. sample_rate: images/s with what `sampling` names.
    memory: peak resident memory of a process that did all this, in MB (of the GPU where there is
    one). loss: the lowest epoch loss in the checkpoint (comparable only at equal objectives).
    """

    name: str
    network: str
    parameters: int
    gflop: float
    train_rate: float
    sample_rate: float
    sampling: str
    memory: float
    images_seen: int
    minutes: float
    loss: float | None


def compare(
    models: Sequence[Path], *, n: int, steps: int, seed: int, device: str
) -> tuple[list[Measured], list[NDArray[np.uint8]]]:
    """Measure each model in a process of its own; return rows and images uint8 [n,C,H,W].

    All models are sampled by DDIM with the same number of steps and the same seed, and timed so.
    """
    # A fresh process for each: peak memory never falls within one.
    context = multiprocessing.get_context("spawn")
    rows, pictures = [], []
    for path in models:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            row, images = pool.submit(_measure, path, n, steps, seed, device).result()
        rows.append(row)
        pictures.append(images)
    return rows, pictures


def _measure(
    path: Path, n: int, steps: int, seed: int, device: str
) -> tuple[Measured, NDArray[np.uint8]]:
    model = load_model(path, device)
    x = torch.zeros(1, *model.shape, device=model.device)
    labels = model.label_numbers(",".join(model.classes), n) if model.classes else None
    y = torch.zeros(1, dtype=torch.int64, device=x.device) if model.classes else None
    gflop = count_flops(model.network, x, torch.ones(1, device=x.device), y) / 1e9
    steps = min(steps, model.schedule.T)
    started = time.perf_counter()
    samples = model.sample(
        n, labels=labels, sampler="ddim", steps=steps, seed=seed, batch_size=SAMPLE_BATCH
    )
    sample_rate = n / (time.perf_counter() - started)
    train_rate = _train_rate(model)
    if model.device.type == "cuda":
        memory = torch.cuda.max_memory_allocated() / 1e6
    else:
        memory = _peak_memory()
    run = model.meta["run"]
    row = Measured(
        name=path.name if path.suffix else path.resolve().name,
        network=model.experiment.network.name,
        parameters=count_parameters(model.network)[0],
        gflop=gflop,
        train_rate=train_rate,
        sample_rate=sample_rate,
        sampling=f"ddim, {steps} steps",
        memory=memory,
        images_seen=run["images_seen"],
        minutes=run["seconds"] / 60,
        loss=run["best_loss"],
    )
    return row, samples.images


def _peak_memory() -> float:
    """Return the peak resident memory of this process in MB."""
    if sys.platform == "win32":
        import psutil  # accelerate brings it

        return psutil.Process().memory_info().peak_wset / 1e6
    import resource

    # Linux counts in kilobytes, macOS in bytes.
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _train_rate(model: Model) -> float:
    """Return training images/s on random images, with the model's own objective and precision."""
    experiment = model.experiment
    classes = len(model.classes)
    net: nn.Module = build_network(experiment, model.shape, classes).to(model.device)
    net = net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    schedule = build_schedule(experiment.schedule)
    objective = build_objective(experiment.objective, schedule, classes or None)
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], fused=True)
    generator = torch.Generator().manual_seed(0)
    x0 = torch.rand(TRAIN_BATCH, *model.shape, generator=generator).to(model.device) * 2 - 1
    y = torch.zeros(TRAIN_BATCH, dtype=torch.int64, device=model.device) if classes else None
    stream_index = torch.arange(TRAIN_BATCH, device=model.device)

    def step() -> Tensor:
        bf16 = experiment.training.precision == "bf16"
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            loss = objective(net, x0, y, stream_index, 0).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    float(step())
    started = time.perf_counter()
    for _ in range(ROUNDS):
        float(step())  # reading the loss waits for the device
    return TRAIN_BATCH * ROUNDS / (time.perf_counter() - started)


def as_json(rows: Sequence[Measured], seed: int) -> dict[str, Any]:
    """Return the comparison as plain JSON values."""
    return {
        "pocketddpm": __version__,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "seed": seed,
        "models": [asdict(row) for row in rows],
    }


def as_markdown(rows: Sequence[Measured]) -> str:
    """Return the page: a table, and a column of samples for each model."""
    columns = {
        "model": lambda r: r.name,
        "network": lambda r: r.network,
        "parameters": lambda r: f"{r.parameters / 1e6:.2f}M",
        "GFLOP / image": lambda r: f"{r.gflop:.3f}",
        "training images/s": lambda r: f"{r.train_rate:.1f}",
        "sampling images/s": lambda r: f"{r.sample_rate:.2f}",
        "peak memory": lambda r: f"{r.memory:.0f} MB",
        "trained on": lambda r: f"{r.images_seen} images, {r.minutes:.1f} min",
        "loss": lambda r: "-" if r.loss is None else f"{r.loss:.4f}",
    }
    lines = ["# Comparison", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(make(r) for make in columns.values()) + " |" for r in rows]
    lines += [
        "",
        f"Torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}; "
        f"training at batch {TRAIN_BATCH}, sampling with {rows[0].sampling} at batch "
        f"{SAMPLE_BATCH}. Losses compare only between equal objectives.",
        "",
        "| " + " | ".join(r.name for r in rows) + " |",
        "|" + "---|" * len(rows),
        "| " + " | ".join(f"![{r.name}](samples-{k}.png)" for k, r in enumerate(rows)) + " |",
        "",
    ]
    return "\n".join(lines)
