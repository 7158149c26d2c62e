"""Training images per second of the default U-Net beside diffusers' U-Net of its MNIST course.

Both networks train on the same random 28x28 images in one process, in turns, at batch 128:
forward, loss, backward, optimiser step. Prints JSON.

    python benchmarks/train_step.py
"""

import argparse
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pocketddpm.build import build_network
from pocketddpm.config import DataConfig, Experiment
from pocketddpm.flops import count_flops, count_parameters

BATCH = 128


def ours() -> tuple[nn.Module, Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]]:
    """Return the network of `train mnist`."""
    net = build_network(Experiment("benchmark", DataConfig("mnist")), (1, 28, 28), 10)
    return net, lambda net, x, t, y: net(x, t, y)


def course() -> tuple[nn.Module, Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]]:
    """Return diffusers' network as in its class-conditional MNIST notebook.

    The label enters as four extra input channels of an embedding.
    """
    from diffusers import UNet2DModel

    net = UNet2DModel(
        sample_size=28,
        in_channels=5,
        out_channels=1,
        layers_per_block=2,
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )
    net.label = nn.Embedding(10, 4)

    def call(net: nn.Module, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        label = net.label(y)[:, :, None, None].expand(-1, -1, *x.shape[2:])
        return net(torch.cat([x, label], 1), t).sample

    return net, call


def one_step(net, call, optimizer, device, bf16):
    """Take one training step on random images."""
    x = torch.randn(BATCH, 1, 28, 28, device=device)
    t = torch.randint(1, 1000, (BATCH,), device=device).float()
    y = torch.randint(0, 10, (BATCH,), device=device)
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        loss = call(net, x, t, y).float().square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Measure every variant in turns and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    device = torch.device(args.device)
    variants = {}
    for name, make in (("pocketddpm unet", ours), ("diffusers course U-Net", course)):
        for bf16 in (False, True):
            for channels_last in (False, True):
                net, call = make()
                net = net.to(device)
                if channels_last:
                    net = net.to(memory_format=torch.channels_last)
                optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)
                precision = "bf16" if bf16 else "float32"
                layout = "channels_last" if channels_last else "NCHW"
                variants[f"{name}, {precision}, {layout}"] = (net, call, optimizer, device, bf16)
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(args.repeats + 1):  # the first round warms up
        for name, variant in variants.items():
            started = time.perf_counter()
            one_step(*variant)
            if repeat:
                seconds[name].append(time.perf_counter() - started)
    rows = []
    for name, (net, call, *_) in variants.items():
        x, one = torch.zeros(1, 1, 28, 28, device=device), torch.ones(1, device=device)

        class Bare(nn.Module):
            def __init__(self, net, call):
                super().__init__()
                self.net, self.call = net, call

            def forward(self, x, t):
                return self.call(self.net, x, t, torch.zeros(1, dtype=torch.int64, device=x.device))

        rates = [BATCH / s for s in seconds[name]]
        rows.append(
            {
                "variant": name,
                "parameters": count_parameters(net)[0],
                "gflop_per_image": round(count_flops(Bare(net, call), x, one) / 1e9, 3),
                "images_per_second": {
                    "median": round(statistics.median(rates), 1),
                    "min": round(min(rates), 1),
                    "max": round(max(rates), 1),
                    "n": len(rates),
                },
            }
        )
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    report = {
        "what": "training images per second, 28x28, batch 128, AdamW",
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
