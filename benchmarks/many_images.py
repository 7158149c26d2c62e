"""Many images: memory, speed and exact resumption of a run whose set does not fit the memory.

    python benchmarks/many_images.py --out many.json    # a million 64x64 images: 12.3 GB of disk
    python benchmarks/many_images.py --n 20000 --steps 100

Noise is written into a memory map in --scratch, and removed at the end, also after Ctrl-C or
SIGTERM. Every run is a process of its own, and takes the same steps of `train folder`, whose rule
chooses the network: on the map; on as many of its images as --memory gives, read into memory, in
turns with the first; and on the map from its middle checkpoint. Prints JSON: the most anonymous
memory (RssAnon, sampled each 5 ms) of every run, its images per second from the tenth step to the
last one, the milliseconds of a batch without a step, the seconds until it can train (the
fingerprint reads all images), and whether the resumed run ends with the same bytes. Linux only.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pocketddpm.build import pick_device
from pocketddpm.models.checkpoint import load_checkpoint
from pocketddpm.models.provenance import machine, versions
from pocketddpm.plugins import load_plugin
from pocketddpm.runs.log import logged
from pocketddpm.runs.start import start

BLOCK = 1024
FIRST = 10  # steps that are not timed
BATCHES = 100  # that are read without a step
DATA = '''"""Noise in a memory map, or a part of it in memory."""
import os
import numpy as np
from pocketddpm.data.image_set import ImageSet

FLIP, FIT = True, "resize"

def has_test(path):
    return False

def load(split, *, path=None, image_size=None):
    images = np.load(os.environ["MANY_IMAGES"], mmap_mode="r")
    if kept := int(os.environ["MANY_IN_MEMORY"]):
        images = np.array(images[:kept])
    return ImageSet(images, np.arange(len(images)) % 10, tuple("abcdefghij"), "many")
'''


def write_map(path: Path, n: int, size: int) -> None:
    """Write n colour images of noise: one block of them, moved on by one value in every block."""
    shape = (n, 3, size, size)
    needed = 3 * size * size * n
    if (free := shutil.disk_usage(path.parent).free) < 1.05 * needed:
        sys.exit(f"{path.parent} has {free / 1e9:.1f} GB free; {needed / 1e9:.1f} are needed: --n")
    print(f"writing {needed / 1e9:.1f} GB to {path.parent}", file=sys.stderr)
    block = np.random.default_rng(0).integers(0, 256, (BLOCK, *shape[1:]), np.uint8)
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for k in range(0, n, BLOCK):
            file.write((block[: n - k] + np.uint8(k // BLOCK % 256)).tobytes())


def anonymous() -> int:
    """Return the bytes of anonymous memory that this process has now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def train(options: dict[str, Any]) -> None:
    """Train in this process, and print what it took as JSON."""
    peak, done = 0, False

    def watch() -> None:
        nonlocal peak
        while not done:
            peak = max(peak, anonymous())
            time.sleep(0.005)

    watching = threading.Thread(target=watch)
    watching.start()
    began = time.monotonic()
    try:
        load_plugin(Path("many.py"))
        session = start("folder", **options)
        ready = time.monotonic() - began
        session.run()
    finally:
        done = True
        watching.join()
    rows = logged(session.out)
    first = rows[FIRST - 1] if len(rows) > FIRST else rows[0]
    images = rows[-1]["images_seen"] - first["images_seen"]
    loader, seen = session.trainer.loader, rows[-1]["images_seen"]  # on from there: no image twice
    began = time.monotonic()
    for start_at in range(seen, seen + BATCHES * loader.batch_size, loader.batch_size):
        loader.batch(start_at, then=start_at + loader.batch_size)
    waited = time.monotonic() - began
    print(
        json.dumps(
            {
                "peak_anonymous_gb": round(peak / 1e9, 3),
                "seconds_until_ready": round(ready, 1),
                "images_per_second": round(images / (rows[-1]["seconds"] - first["seconds"]), 1),
                "milliseconds_of_a_batch": round(1000 * waited / BATCHES, 3),
                "whole_on_device": session.trainer.loader.whole,
            }
        )
    )


def child(folder: Path, in_memory: int, **options: Any) -> dict[str, Any]:
    """Return what a run in a process of its own printed."""
    environment = {"MANY_IMAGES": "images.npy", "MANY_IN_MEMORY": str(in_memory)}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), "--train", json.dumps(options)],
        cwd=folder,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def same(a: Path, b: Path) -> bool:
    """Return whether two checkpoints hold the same bytes."""
    ours, theirs = (load_checkpoint(path).tensors for path in (a, b))
    return ours.keys() == theirs.keys() and all(
        torch.equal(value, theirs[name]) for name, value in ours.items()
    )


def main() -> None:
    """Write the map, run, and print JSON."""
    parser = argparse.ArgumentParser(description="Many images.")
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--memory", type=int, default=20_000, help="images of the set in memory")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--net", default="", help="sizes of the network instead of the rule's")
    parser.add_argument("--scratch", type=Path, help="where the map is written")
    parser.add_argument("--out", type=Path, help="a file for the JSON, too")
    parser.add_argument("--train", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train is not None:
        train(args.train)
        return
    options: dict[str, Any] = {
        "data": "many",
        "steps": args.steps,
        "batch_size": args.batch_size,
        "device": args.device,
        "sample_every": 0,
        "checkpoint_every": 0,
    }
    options |= {"net": args.net} if args.net else {}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    with tempfile.TemporaryDirectory(dir=args.scratch, prefix="many-images-") as name:
        folder = Path(name)
        (folder / "many.py").write_text(DATA)
        write_map(folder / "images.npy", args.n, args.size)
        rows: dict[str, list[dict[str, Any]]] = {"map": [], "memory": []}
        for k in range(args.repeats):
            every = {"checkpoint_every": (args.steps + 1) // 2} if k == 0 else {}
            rows["map"].append(child(folder, 0, **options | {"out": f"map-{k}"} | every))
            kept = min(args.memory, args.n)
            rows["memory"].append(child(folder, kept, **options, out=f"memory-{k}"))
        halfway = {"resume": "map-0/previous.safetensors", "out": "resumed"}
        child(folder, 0, **halfway, device=args.device, sample_every=0, checkpoint_every=0)
        exact = same(folder / "map-0/last.safetensors", folder / "resumed/last.safetensors")
    speed = {k: statistics.median(r["images_per_second"] for r in v) for k, v in rows.items()}
    found = {
        "benchmark": "many_images",
        "date": date.today().isoformat(),
        "versions": versions(),
        "machine": machine(pick_device(args.device)),
        "images": args.n,
        "machine_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "map_gb": round(3 * args.size**2 * args.n / 1e9, 3),
        "in_memory": min(args.memory, args.n),
        "steps": args.steps,
        "batch_size": args.batch_size,
        "runs": rows,
        "peak_anonymous_gb": max(row["peak_anonymous_gb"] for row in rows["map"]),
        "speed_of_memory": round(speed["map"] / speed["memory"], 3),
        "resumed_exactly": exact,
    }
    text = json.dumps(found, indent=2)
    print(text)
    if args.out is not None:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
