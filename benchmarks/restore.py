"""Restoring: task x method on one trained model, beside DeepInverse's DPS and DiffPIR, JSON lines.

    python benchmarks/restore.py mnist --n 50 --out benchmarks/results/restore_mnist.jsonl

Test images are measured once for each task; every method gets the same measurements and draws one
sample of each. Rows: PSNR in dB of sample and truth, agreement (the share that the data set's
shipped classifier reads as its true label), |A x - y| over that of the noise alone, evaluations and
gradients of an image, seconds in all. Where deepinv is installed, its own DPS and DiffPIR restore
the same measurements with the same network, in as many steps. Its DPS is guided by `annealed`, for
which its documentation calls a weight of 1 natural: with 1, `norm`, its default, hardly heeds y.
"""

import argparse
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pocketddpm.data.load import load_images
from pocketddpm.diffusion.conditioning import METHODS
from pocketddpm.diffusion.operators import TASKS, Linear, build_operator
from pocketddpm.errors import ConfigError
from pocketddpm.metrics.extractor import load_shipped
from pocketddpm.metrics.extractors import shipped_for
from pocketddpm.models.editing import Settings, to_model
from pocketddpm.models.model import Model, load
from pocketddpm.models.restoration import measure, restore

NOISE = {"noise": 0.5}  # of a task, where it is not that of all others


def theirs(model: Model, operator: Linear, sigma: float, steps: int) -> dict[str, Callable]:
    """Return name -> (y -> x) of DeepInverse's methods; model units in and out."""
    import deepinv as dinv

    mean = model.scaling.mean
    mean = torch.zeros(1, *model.shape) if mean is None else mean[None]
    denoiser = model.denoiser(clip=False)
    calls = 0

    class Network(dinv.models.Denoiser):
        """The model as DeepInverse calls a denoiser: images in 0..1 and the noise's deviation."""

        def forward(self, x: Tensor, sigma: Any, *_: Any, **__: Any) -> Tensor:
            nonlocal calls
            calls += 1
            level = 2 * float(torch.as_tensor(sigma).flatten()[0])
            alpha_bar = 1 / (1 + level**2)
            t = float(model.schedule.time_of(torch.logit(torch.tensor(alpha_bar).double())))
            seen = alpha_bar**0.5 * (2 * x - 1 - mean).float()
            return (denoiser(seen, t, alpha_bar).x0 + mean + 1) / 2

    physics = dinv.physics.LinearPhysics(
        A=lambda x, **_: operator(x),
        A_adjoint=lambda y, **_: operator.adjoint(y),
        noise_model=dinv.physics.GaussianNoise(sigma / 2),
    )
    fidelity = dinv.optim.data_fidelity.L2()
    both = {
        "deepinv DPS": dinv.sampling.DPS(Network(), num_steps=steps, guidance="annealed"),
        "deepinv DiffPIR": dinv.sampling.DiffPIR(
            Network(), fidelity, sigma=sigma / 2, max_iter=steps
        ),
    }

    def run(name: str, y: Tensor) -> tuple[Tensor, int]:
        nonlocal calls
        calls = 0
        shape = (len(y), *model.shape)
        given = (y + operator((mean + 1).expand(shape))) / 2
        more = {"x_init": shape} if name.endswith("DPS") else {"x_init": operator.adjoint(given)}
        x = both[name](given, physics, seed=1, **more)
        return 2 * x.float() - 1 - mean, calls

    return {name: (lambda y, name=name: run(name, y)) for name in both}


def rows(model: Model, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a row for each task's measurements, and for each method on them."""
    data = model.experiment.data.name
    images = load_images(data, "test", image_size=model.shape[1:])
    truth, labels = images.images[: args.n], images.labels
    names = shipped_for(data, "judge")
    judge = load_shipped(names[0], data) if names else None

    def scores(pictures: np.ndarray) -> dict[str, float]:
        error = np.square(pictures.astype(float) - truth).mean((1, 2, 3))
        found = {"psnr": round(float((10 * np.log10(255**2 / error.clip(1e-9))).mean()), 2)}
        if judge is not None and labels is not None:
            logits = judge(pictures).logits
            assert logits is not None
            read = logits.argmax(1).numpy() == labels[: args.n]
            found["agreement"] = round(float(read.mean()), 4)
        return found

    for task in args.tasks:
        sigma = NOISE.get(task, args.noise)
        try:
            operator = build_operator(task, model.shape)
        except ConfigError as error:
            print(f"left out: {task}: {error}", flush=True)
            continue
        y = measure(model, truth, operator, sigma)
        alone = sigma * y[0].numel() ** 0.5

        def distance(pictures: np.ndarray, y=y, operator=operator, alone=alone) -> float:
            gap = operator(to_model(model, pictures)) - y
            return round(float(gap.flatten(1).norm(dim=1).mean()) / alone, 3)

        shown = None
        for method in args.methods:
            started = time.perf_counter()
            settings = Settings(steps=args.steps)
            found = restore(
                model, y, operator, sigma=sigma, method=method, samples=1, settings=settings
            )
            seconds = time.perf_counter() - started
            if shown is None:
                shown = found.measured
                assert shown is not None
                yield {"task": task, "noise": sigma, "method": "the measurement", **scores(shown)}
            yield {
                "task": task,
                "method": method,
                **scores(found.images),
                "distance": distance(found.images),
                "evaluations": found.nfe,
                "gradients": found.gradients,
                "seconds": round(seconds, 1),
            }
        others = {} if find_spec("deepinv") is None else theirs(model, operator, sigma, args.steps)
        for name, run in others.items():
            started = time.perf_counter()
            x, calls = run(y)
            pictures = model.scaling.to_uint8(x).numpy()
            yield {
                "task": task,
                "method": name,
                **scores(pictures),
                "distance": distance(pictures),
                "evaluations": calls,
                "seconds": round(time.perf_counter() - started, 1),
            }


def main() -> None:
    """Measure, restore, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--n", type=int, default=50)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--noise", type=float, default=0.05)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    about = {
        "model": args.model,
        "n": args.n,
        "steps": args.steps,
        "noise": args.noise,
        "seed": 0,
        "commit": commit.stdout.strip(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    lines = [json.dumps(about)]
    print(lines[0], flush=True)
    for row in rows(load(args.model), args):
        lines.append(json.dumps(row))
        print(lines[-1], flush=True)
    if args.out is not None:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
