"""Images per second of the shipped mnist, in ten evaluations each, beside the networks of peers.

Ours is `model.sample` with all that it does, at its own plan; of the peers one evaluation of the
network alone is timed and counted ten times. In turns in one process, batch 250. Prints JSON, with
the seconds and peak memory of `pocketddpm sample mnist` from a cold start.

    python benchmarks/sampling.py
    python benchmarks/sampling.py --models mnist mnist-fast
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import torch

from peers import installed
from pocketddpm.models.model import load
from pocketddpm.models.provenance import versions

BATCH, NFE = 250, 10


def cold() -> dict[str, float]:
    """Return what one picture of 20 digits costs from the command line."""
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "digits.png")
        words = ["sample", "mnist", "--n", "20", "--out", out]
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "pocketddpm", *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        assert status == 0
        return {"seconds": time.monotonic() - started, "peak_gb": usage.ru_maxrss / 1e6}


def main() -> None:
    """Measure every contestant in turns and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--models", nargs="+", default=["mnist"], help="drawn from by their plans")
    args = parser.parse_args()
    starts = [cold() for _ in range(3)]
    jobs: dict[str, tuple[Callable[[], object], int]] = {}
    for name, precision in product(args.models, ("bf16", "float32")):
        model = load(name)
        draw = partial(model.sample, BATCH, batch_size=BATCH, precision=precision)
        nfe = model.sample(1, batch_size=1).nfe
        jobs[f"pocketddpm sample {name}, nfe {nfe}, {precision}"] = (draw, 1)
    for name, (net, call, side) in installed().items():
        x, t = torch.randn(BATCH, 1, side, side), torch.full((BATCH,), 500.0)
        y = torch.arange(BATCH) % 10
        jobs[f"{name}, float32"] = (partial(call, net.eval(), x, t, y), NFE)
    rates: dict[str, list[float]] = {name: [] for name in jobs}
    with torch.inference_mode():
        for repeat in range(args.repeats + 1):  # the first round warms up
            for name, (job, times) in jobs.items():
                started = time.perf_counter()
                job()
                if repeat:
                    rates[name].append(BATCH / times / (time.perf_counter() - started))
    result = {
        "images_per_second": {
            name: {
                "median": round(statistics.median(each), 1),
                "min": round(min(each), 1),
                "max": round(max(each), 1),
            }
            for name, each in rates.items()
        },
        "cold start": [{k: round(v, 2) for k, v in start.items()} for start in starts],
        "nfe of peers": NFE,
        "batch": BATCH,
        **versions(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
