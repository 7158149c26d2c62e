"""The three systems: their fast form here beside their plain form, in one run.

Plain is NCHW float32 eager with unfused Adam, as published; fast is what `train` does on this
machine: channels_last, bf16 autocast where the hardware has it, fused Adam. Both in turns, at each
system's own batch size. Prints JSON.

    python benchmarks/systems.py
"""

import argparse
import json
import platform
import statistics
import subprocess
import time

import torch
from torch import nn

from pocketddpm.build import build_network, pick_precision
from pocketddpm.presets import get_preset

SHAPES = {
    "small-unet-mnist": (1, 28, 28),
    "conditional-mnist": (1, 32, 32),
    "diffunet-mnist": (1, 32, 32),
}


def one_step(
    net: nn.Module, optimizer: torch.optim.Optimizer, batch: int, classes: int, bf16: bool
) -> None:
    """Take one training step on random images."""
    shape = net.shape
    x, t = torch.randn(batch, *shape), torch.randint(1, 1000, (batch,))
    y = torch.randint(0, classes, (batch,)) if classes else None
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = net(x, t, y).float().square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def main() -> None:
    """Measure every system in turns and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--systems", default=",".join(SHAPES))
    args = parser.parse_args()
    bf16 = pick_precision("auto", torch.device("cpu")) == "bf16"
    rows = []
    for name in args.systems.split(","):
        preset, shape = get_preset(name), SHAPES[name]
        batch = preset.training.batch_size
        classes = 10 if name == "conditional-mnist" else 0
        forms = {}
        for form in ("plain", "fast"):
            net = build_network(preset, shape, classes)
            net.shape = shape
            fast = form == "fast"
            if fast:
                net = net.to(memory_format=torch.channels_last)
            parameters = [p for p in net.parameters() if p.requires_grad]
            optimizer = torch.optim.Adam(parameters, lr=1e-4, fused=fast, foreach=False)
            forms[form] = (net, optimizer, batch, classes, fast and bf16)
        seconds: dict[str, list[float]] = {form: [] for form in forms}
        for repeat in range(args.repeats + 1):  # the first round warms up
            for form, arguments in forms.items():
                started = time.perf_counter()
                one_step(*arguments)
                if repeat:
                    seconds[form].append(time.perf_counter() - started)
        rates = {form: batch / statistics.median(s) for form, s in seconds.items()}
        rows.append(
            {
                "system": name,
                "batch": batch,
                "plain_images_per_second": round(rates["plain"], 2),
                "fast_images_per_second": round(rates["fast"], 2),
                "ratio": round(rates["fast"] / rates["plain"], 2),
                "fastest_plain": round(batch / min(seconds["plain"]), 2),
                "fastest_fast": round(batch / min(seconds["fast"]), 2),
                "n": args.repeats,
            }
        )
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    report = {
        "what": "training images per second of the three systems, plain and fast",
        "commit": commit.stdout.strip(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "fast_precision": "bf16" if bf16 else "float32",
        "rows": rows,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
