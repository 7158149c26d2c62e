"""Sample quality against network evaluations, sampler by sampler, on one trained MNIST model.

Every sampler draws the same n digits (same seed, same labels, unguided) at the same numbers of
network evaluations. Agreement is the share of images that a 3-nearest-neighbour classifier on the
pixels of the 60,000 training images takes for the label that was asked for; the same classifier on
real test images is the yardstick. Writes a JSON and a picture.

    python benchmarks/samplers.py runs/mnist --out benchmarks/results/samplers
"""

import argparse
import json
import subprocess
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier

from pocketddpm.data.load import load_images
from pocketddpm.diffusion.build import build_sampler
from pocketddpm.models.model import load
from pocketddpm.output import write_json
from pocketddpm.pictures import save_grid

SAMPLERS = (
    "ddpm",
    "euler-ancestral",
    "sde-dpmpp",
    "ddim",
    "heun",
    "dpmpp",
    "deis",
    "ipndm",
    "unipc",
)
NFE = (5, 10, 20)
SHOWN = 10  # digits of each sampler in the picture


def steps_for(sampler: str, nfe: int) -> int:
    """Return the steps that cost exactly nfe evaluations."""
    choice = build_sampler(sampler, {})
    return next(steps for steps in range(1, nfe + 1) if choice.calls(steps) >= nfe)


def main() -> None:
    """Draw, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("samplers"))
    args = parser.parse_args()
    model = load(args.model)
    labels = model.label_numbers(",".join(model.classes), args.n)
    train, test = load_images("mnist"), load_images("mnist", "test")
    judge = KNeighborsClassifier(3).fit(train.images.reshape(len(train), -1) / 255.0, train.labels)

    def agreement(images: np.ndarray, labels: np.ndarray) -> float:
        return float(judge.score(images.reshape(len(images), -1) / 255.0, labels))

    chosen = np.random.default_rng(args.seed).choice(len(test), 2000, replace=False)
    real = agreement(test.images[chosen], test.labels[chosen])
    rows, shown = [], []
    for sampler in SAMPLERS:
        for nfe in NFE:
            started = time.perf_counter()
            samples = model.sample(
                args.n,
                labels=labels,
                sampler=sampler,
                steps=steps_for(sampler, nfe),
                seed=args.seed,
            )
            rows.append(
                {
                    "sampler": sampler,
                    "nfe": samples.nfe,
                    "agreement": round(agreement(samples.images, labels), 4),
                    "images_per_second": round(args.n / (time.perf_counter() - started), 1),
                }
            )
            print(rows[-1], flush=True)
            if nfe == 10:
                shown.append(samples.images[:SHOWN])
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    report = {
        "what": "label agreement of unguided samples against network evaluations",
        "model": {k: model.meta["run"][k] for k in ("images_seen", "seconds", "step")},
        "n": args.n,
        "seed": args.seed,
        "judge": "3 nearest neighbours in pixels, 60,000 training images",
        "real_test_images": {"n": len(chosen), "agreement": round(real, 4)},
        "commit": commit.stdout.strip(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "rows": rows,
    }
    write_json(args.out.with_suffix(".json"), report)
    save_grid(args.out.with_suffix(".png"), np.concatenate(shown), columns=SHOWN)
    print(json.dumps(report["real_test_images"]))
    print(f"wrote {args.out.with_suffix('.json')} and {args.out.with_suffix('.png')}")


if __name__ == "__main__":
    main()
