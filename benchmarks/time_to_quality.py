"""Peers' own recipes and ours under the same minutes and the same yardstick, on MNIST.

    python benchmarks/time_to_quality.py --minutes 10 --out benchmarks/results/time_to_quality.jsonl

Each system is trained for --minutes by its own recipe, sampled by its own sampler, and scored:
Frechet distance (digits-cnn) of n samples to half B of the training set, and label agreement where
it takes labels. The test set is not touched. One JSON line each.

real images: n of half A, the floor of both numbers.
diffusers course: UNet2DModel of its class-conditional MNIST notebook, eps, squared-cosine schedule,
Adam at 1e-3, batch 128; drawn by its DDIMScheduler in 50 steps, not in the 1000 of the notebook.
smalldiffusion: its Fashion-MNIST U-Net, log-linear schedule, AdamW at 7e-4, average of 0.99, drawn
by its accelerated sampler in 20 steps; batch 128, not 1024, which would be 26 steps; no flips.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pocketddpm.config import Experiment
from pocketddpm.data.load import load_images
from pocketddpm.metrics.frechet import Moments, frechet_distance
from pocketddpm.metrics.reference_data import load_reference_data
from pocketddpm.metrics.split import split_halves
from pocketddpm.models.provenance import versions
from pocketddpm.presets import get_preset
from pocketddpm.runs.options import RunOptions
from pocketddpm.runs.run import Session

BATCH = 128
Drawn = tuple[Tensor, int, int]
"""Images in [-1, 1] or uint8 [N,1,28,28]; training images seen; evaluations of one sample."""


def batches(minutes: float):
    """Yield shuffled (images in [-1, 1], labels) until the time is over."""
    data = load_images("mnist")
    assert data.labels is not None
    images, labels = torch.tensor(data.images), torch.tensor(data.labels)
    started = time.monotonic()
    while True:
        for rows in torch.randperm(len(images)).split(BATCH):
            if time.monotonic() - started > 60 * minutes:
                return
            yield images[rows].float() / 127.5 - 1, labels[rows]


def diffusers_course(minutes: float, labels: Tensor) -> Drawn:
    """Train and draw as diffusers' notebook does."""
    from diffusers import DDIMScheduler, DDPMScheduler

    from peers import diffusers_course as make

    net, call, _ = make()
    noise_schedule = DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2")
    optimiser = torch.optim.Adam(net.parameters(), 1e-3)
    seen = 0
    for x0, y in batches(minutes):
        eps, t = torch.randn_like(x0), torch.randint(0, 999, (len(x0),))
        x_t = noise_schedule.add_noise(x0, eps, t)  # pyright: ignore[reportArgumentType]
        loss = F.mse_loss(call(net, x_t, t, y), eps)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seen += len(x0)
    sampler = DDIMScheduler(1000, beta_schedule="squaredcos_cap_v2")
    sampler.set_timesteps(50)
    parts = []
    net.eval()
    with torch.no_grad():
        for y in labels.split(250):
            x = torch.randn(len(y), 1, 28, 28)
            for t in sampler.timesteps:
                x = sampler.step(call(net, x, t.expand(len(y)), y), t, x).prev_sample
            parts.append(x)
    return torch.cat(parts), seen, 50


def smalldiffusion_unet(minutes: float, labels: Tensor) -> Drawn:
    """Train and draw as smalldiffusion's example does; it takes no labels."""
    from smalldiffusion import Scaled, ScheduleLogLinear, Unet, samples
    from smalldiffusion.diffusion import generate_train_sample

    net = Scaled(Unet)(28, 1, 1, ch=64, ch_mult=(1, 1, 2), attn_resolutions=(14,))
    schedule = ScheduleLogLinear(sigma_min=0.01, sigma_max=20, N=800)
    optimiser = torch.optim.AdamW(net.parameters(), 7e-4)
    average = {k: v.clone() for k, v in net.state_dict().items()}
    seen = 0
    for x0, _ in batches(minutes):
        x0, sigma, eps, _ = generate_train_sample(x0, schedule)
        loss = net.get_loss(x0, sigma, eps)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        for k, v in net.state_dict().items():
            average[k].lerp_(v, 0.01) if v.is_floating_point() else average[k].copy_(v)
        seen += len(x0)
    net.load_state_dict(average)
    parts = []
    for y in labels.split(250):
        *_, x0 = samples(net, schedule.sample_sigmas(20), gam=1.6, batchsize=len(y))
        parts.append(x0.cpu())
    return torch.cat(parts), seen, 20


def pocketddpm(precision: str) -> Callable[[float, Tensor], Drawn]:
    """Return our own: `pocketddpm train mnist --minutes M`, and its own sampler."""

    def train(minutes: float, labels: Tensor) -> Drawn:
        preset: Experiment = get_preset("mnist")
        seed = torch.initial_seed()
        budget = replace(preset.training, minutes=minutes, precision=precision, seed=seed)
        with tempfile.TemporaryDirectory() as folder:
            experiment = replace(preset, training=budget)
            session = Session(experiment, Path(folder) / "run", RunOptions(sample_every=0))
            session.run()
        drawn = session.model().sample(len(labels), labels=labels.numpy(), batch_size=250)
        return torch.from_numpy(drawn.images), session.trainer.images_seen, drawn.nfe

    return train


def real_images(minutes: float, labels: Tensor) -> Drawn:
    """Draw training images of half A, which the metric network learned from, and no other."""
    data = load_images("mnist")
    assert data.labels is not None
    half_a, _ = split_halves(len(data))
    rows = np.empty(len(labels), np.int64)
    for digit in range(10):
        wanted = (labels == digit).numpy()
        rows[wanted] = half_a[data.labels[half_a] == digit][: wanted.sum()]
    return torch.from_numpy(data.images[rows]), 0, 0


SYSTEMS: dict[str, Callable[[float, Tensor], Drawn]] = {
    "real images": real_images,
    "pocketddpm": pocketddpm("auto"),
    "pocketddpm float32": pocketddpm("float32"),
    "diffusers course": diffusers_course,
    "smalldiffusion": smalldiffusion_unet,
}
UNLABELLED = ("smalldiffusion",)


def main() -> None:
    """Train, draw and score each system; append to --out as they come."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS))
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    reference = load_reference_data("mnist")
    space = reference.spaces[0]
    labels = torch.arange(args.n) % 10
    for name in args.systems:
        torch.manual_seed(args.seed)
        started = time.monotonic()
        images, seen, nfe = SYSTEMS[name](args.minutes, labels)
        seconds = time.monotonic() - started
        if images.dtype != torch.uint8:
            images = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        moments = Moments.of(space.extractor(images.numpy()).values)
        row: dict[str, object] = {
            "system": name,
            "minutes": args.minutes,
            "images_seen": seen,
            "nfe": nfe,
            "n": args.n,
            "seconds_with_sampling": round(seconds, 1),
            "frechet": round(float(frechet_distance(moments, space.half_b)), 3),
        }
        if reference.judge is not None and name not in UNLABELLED:
            judged = reference.judge(images.numpy()).logits.argmax(1).numpy()
            row["agreement"] = round(100 * float(np.mean(judged == labels.numpy())), 2)
        row |= {"seed": args.seed, **versions(), "machine": platform.machine()}
        print(json.dumps(row), flush=True)
        if args.out:
            with open(args.out, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
