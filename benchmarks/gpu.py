"""What docs/performance.md leaves open, on a machine with a GPU, in under ten minutes; prints JSON.

Training and sampling images/s at several batch sizes, the first also compiled, with the peak memory
of the device; and the seconds of `train mnist` until its samples are within 1.5 times the Frechet
distance of training images: whole runs of growing budgets, each scored once, at its end.

    python benchmarks/gpu.py > gpu.json
    python benchmarks/gpu.py --device cuda:1 --skip quality
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from pocketddpm.build import pick_device, pick_precision
from pocketddpm.config import BUDGETS
from pocketddpm.models.model import Model, load
from pocketddpm.models.provenance import machine, versions
from pocketddpm.presets import get_preset
from pocketddpm.runs.data import load_run_data
from pocketddpm.runs.run import build_trainer
from pocketddpm.runs.start import start

WARM_UP, SECONDS = 10, 4.0  # steps before the clock starts; the time that is measured, about
RATIO = 1.5


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--preset", default="mnist")
    parser.add_argument("--model", default="mnist", help="drawn from")
    parser.add_argument("--training", type=int, nargs="+", default=[128, 512, 2048])
    parser.add_argument("--sampling", type=int, nargs="+", default=[100, 1000, 4000])
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.25, 0.5, 1.0, 2.0])
    parts = ["training", "sampling", "quality", "compiled"]
    parser.add_argument("--skip", nargs="+", default=[], choices=parts)
    args = parser.parse_args()
    device = pick_device(args.device)
    if args.device == "auto" and device.type == "cpu":
        print("there is no GPU here: nothing was measured", file=sys.stderr)
        sys.exit(1)
    report: dict[str, Any] = {"versions": versions(), "machine": machine(device)}
    report["precision"] = pick_precision("auto", device)
    if "training" not in args.skip:
        report["training"] = [
            training(args.preset, batch, way, device)
            for batch, way in jobs(args.training, "compiled" not in args.skip)
        ]
    if "sampling" not in args.skip:
        model = load(args.model, device)
        report["sampling"] = [
            sampling(model, n, way) for n, way in jobs(args.sampling, "compiled" not in args.skip)
        ]
    if "quality" not in args.skip:
        report["quality"] = list(quality(args.preset, args.budgets, device))
    print(json.dumps(report, indent=2))


def jobs(sizes: list[int], compiled: bool) -> list[tuple[int, str]]:
    """Return sizes and ways; compiling takes a minute, and is done for the first size only."""
    return [(size, "eager") for size in sizes] + [(sizes[0], "compiled")] * compiled


def training(preset: str, batch: int, way: str, device: torch.device) -> dict[str, Any]:
    """Return images/s of whole training steps at a batch size, and the memory they take."""
    experiment = get_preset(preset)
    precision = pick_precision("auto", device)
    budget = {**dict.fromkeys(BUDGETS), "steps": 10**9}
    config = replace(experiment.training, batch_size=batch, precision=precision, **budget)
    experiment = replace(experiment, training=config)
    trainer = build_trainer(experiment, load_run_data(experiment, device), device)
    if way == "compiled":
        trainer.wrapped = torch.compile(trainer.network)  # type: ignore[assignment]
    started = time.perf_counter()
    reset_memory(device)
    steps = trainer.steps()
    float(list(islice(steps, WARM_UP))[-1].loss)
    warm = time.perf_counter() - started

    def ten_steps() -> int:
        float(list(islice(steps, 10))[-1].loss)  # which waits for them
        return 10 * batch

    return {
        "batch_size": batch,
        "way": way,
        "images_per_second": rate(ten_steps),
        "first_steps_seconds": round(warm, 2),
        "peak_mb": peak_memory(device),
    }


def sampling(model: Model, n: int, way: str) -> dict[str, Any]:
    """Return images/s of `model.sample` in one batch, by the model's own plan."""
    if way == "compiled":
        model = replace(model, network=torch.compile(model.network))
    labels = "all" if model.classes else None

    def draw() -> int:
        return len(model.sample(n, labels=labels, batch_size=n, precision="auto").images)

    reset_memory(model.device)
    started = time.perf_counter()
    draw()
    warm = time.perf_counter() - started
    return {
        "n": n,
        "way": way,
        "images_per_second": rate(draw),
        "first_seconds": round(warm, 2),
        "peak_mb": peak_memory(model.device),
    }


def quality(preset: str, budgets: list[float], device: torch.device) -> Iterator[dict[str, Any]]:
    """Yield the score of a run of each budget in minutes, until one reaches the ratio."""
    for minutes in budgets:
        with tempfile.TemporaryDirectory() as folder:
            session = start(
                get_preset(preset),
                out=Path(folder) / "run",
                device=str(device),
                minutes=minutes,
                evaluate_every=10**9,  # once, at the end
                evaluate_n=2000,
                sample_every=0,
                checkpoint_every=0,
            )
            session.run()
            assert session.validation is not None
            row, trainer = session.validation.rows[-1], session.trainer
        yield {
            "minutes": minutes,
            "seconds": round(trainer.seconds, 1),
            "images_seen": trainer.images_seen,
            "ratio": round(row["ratio"], 3),
            "reached": row["ratio"] <= RATIO,
        }
        if row["ratio"] <= RATIO:
            return


def rate(work: Callable[[], int]) -> float:
    """Return images/s of work, which returns how many it made, over at least `SECONDS`."""
    started, images = time.perf_counter(), 0
    while (spent := time.perf_counter() - started) < SECONDS:
        images += work()
    return round(images / spent, 1)


def reset_memory(device: torch.device) -> None:
    """Begin to measure the device's peak memory."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> float | None:
    """Return the device's peak memory in MB; None where it is not counted."""
    return (
        round(torch.cuda.max_memory_allocated(device) / 1e6, 1) if device.type == "cuda" else None
    )


if __name__ == "__main__":
    main()
