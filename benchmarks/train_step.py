"""Training steps per second: `train mnist` beside the networks of peers, in turns in one process.

Ours takes the steps that `train mnist` takes (its optimisers, channels_last, bf16 or float32); the
peers theirs (float32, NCHW, Adam). Random images, batch 128. Prints JSON.

    python benchmarks/train_step.py
"""

import argparse
import json
import platform
import statistics
import subprocess
import time
from typing import Any

import torch
from torch import nn

from peers import installed
from pocketddpm.build import build_network
from pocketddpm.models.cost import count_flops, count_parameters
from pocketddpm.presets import get_preset
from pocketddpm.training.optimiser import build_optimisers

BATCH = 128


def contestants(device: torch.device) -> dict[str, tuple[Any, ...]]:
    """Return name -> (network, call, side, optimisers, bf16)."""
    found: dict[str, tuple[Any, ...]] = {}
    experiment = get_preset("mnist")
    for precision in ("bf16", "float32"):
        net = build_network(experiment, (1, 28, 28), 10).to(device)
        net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimisers = build_optimisers(experiment.optimiser, net)
        found[f"pocketddpm train mnist, {precision}"] = (
            net,
            lambda net, x, t, y: net(x, t, y),
            28,
            optimisers,
            precision == "bf16",
        )
    for name, (net, call, side) in installed().items():
        net = net.to(device)
        optimisers = (torch.optim.Adam(net.parameters(), lr=1e-3),)
        found[f"{name}, float32"] = (net, call, side, optimisers, False)
    return found


def one_step(net, call, side, optimisers, bf16, *, batch: int, device: torch.device) -> None:
    """Take one training step on random images."""
    x = torch.randn(batch, 1, side, side, device=device)
    t = torch.randint(1, 1000, (batch,), device=device).float()
    y = torch.randint(0, 10, (batch,), device=device)
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        loss = call(net, x, t, y).float().square().mean()
    loss.backward()
    for optimiser in optimisers:
        optimiser.step()
        optimiser.zero_grad()
    if device.type == "cuda":
        torch.cuda.synchronize()


class Bare(nn.Module):
    """A network with its call and a label, as `count_flops` wants it."""

    def __init__(self, net, call) -> None:
        super().__init__()
        self.net, self.call = net, call

    def forward(self, x, t):
        """Return the prediction for label 0."""
        return self.call(self.net, x, t, torch.zeros(1, dtype=torch.int64, device=x.device))


def main() -> None:
    """Measure every contestant in turns and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=BATCH)
    args = parser.parse_args()
    device = torch.device(args.device)
    found = contestants(device)
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for repeat in range(args.repeats + 1):  # the first round warms up
        for name, variant in found.items():
            started = time.perf_counter()
            one_step(*variant, batch=args.batch_size, device=device)
            if repeat:
                seconds[name].append(time.perf_counter() - started)
    rows = []
    for name, (net, call, side, _, _) in found.items():
        x = torch.zeros(1, 1, side, side, device=device)
        gflop = count_flops(Bare(net, call), x, torch.ones(1, device=device)) / 1e9
        rates = [args.batch_size / s for s in seconds[name]]
        rows.append(
            {
                "name": name,
                "parameters": count_parameters(net)[0],
                "gflop_per_image": round(gflop, 3),
                "images_per_second": {
                    "median": round(statistics.median(rates), 1),
                    "min": round(min(rates), 1),
                    "max": round(max(rates), 1),
                    "n": len(rates),
                },
                "gflop_per_second": round(3 * gflop * statistics.median(rates)),
            }
        )
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    report = {
        "what": f"training images per second, batch {args.batch_size}",
        "commit": commit.stdout.strip(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "device": str(device),
        "rows": rows,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
