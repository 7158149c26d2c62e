"""Cost of `pocketddpm evaluate`: 10,000 MNIST samples, scored from an .npz file.

    python benchmarks/evaluate.py [repeats]

The samples are training images with 1 % of the pixels random: what is in them does not change the
work. Every repeat is a fresh process, the interpreter's start and all imports included. Target:
60 s and 1.5 GB on two cores. Prints JSON.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from pocketddpm.data.load import load_images
from pocketddpm.metrics.split import random_indices
from pocketddpm.models.provenance import versions
from sensitivity import with_noise

N = 10_000


def make(path: Path) -> None:
    """Write the samples."""
    train = load_images("mnist")
    chosen = train.select(random_indices(len(train), N, seed=7))
    samples = with_noise(0.01)(chosen, train)
    assert samples.labels is not None
    np.savez(path, images=samples.images[:, 0], labels=samples.labels)


def main() -> None:
    """Score the same file several times."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    seconds: list[float] = []
    peaks: list[float] = []
    headline = ""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "samples.npz"
        # In a process of its own: a child's peak counts what its parent held when it was forked.
        making = get_context("spawn").Process(target=make, args=(path,))
        making.start()
        making.join()
        words = ["evaluate", str(path), "--data", "mnist", "--device", "cpu", "--json"]
        for _ in range(repeats):
            started = time.monotonic()
            scoring = subprocess.Popen(
                [sys.executable, "-m", "pocketddpm", *words],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            assert scoring.stdout is not None
            headline = json.loads(scoring.stdout.read())["headline"]
            _, _, usage = os.wait4(scoring.pid, 0)
            seconds.append(time.monotonic() - started)
            peaks.append(usage.ru_maxrss / 1e6)
    result = {
        **versions(),
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg(),
        "n": N,
        "repeats": repeats,
        "seconds": {
            "mean": statistics.mean(seconds),
            "std": statistics.stdev(seconds) if repeats > 1 else None,
            "min": min(seconds),
        },
        "peak GB": max(peaks),
        "headline": headline,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
