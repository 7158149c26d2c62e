"""Recipes at equal cost: train variants of a preset, draw, score; one line of JSON each.

    python benchmarks/recipe.py mnist --images 60000 --variant "lean --network lean" ...

A variant is a name and options of `pocketddpm train`. Scores are of `n` unguided samples, drawn as
`--sampler` says, against half B of the training set; the test set is not touched. One run is one
seed; what gains less than seeds differ by is no gain.
"""

import argparse
import json
import shlex
import tempfile
import time
from pathlib import Path

import numpy as np

from pocketddpm.commands.main import VERBS
from pocketddpm.commands.options import given
from pocketddpm.commands.parser import parse
from pocketddpm.metrics.frechet import Moments, frechet_distance
from pocketddpm.metrics.reference_data import load_reference_data
from pocketddpm.runs.start import start


def main() -> None:
    """Train and score every variant; append to --out as they come."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset")
    parser.add_argument("--variant", action="append", required=True)
    parser.add_argument("--images", type=int)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--sampler", default="dpmpp")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--spacing", default="karras")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--keep", type=Path, help="a folder for the runs")
    args = parser.parse_args()
    reference = load_reference_data(args.preset)
    for seed in args.seeds:
        for variant in args.variant:
            name, *options = shlex.split(variant)
            with tempfile.TemporaryDirectory() as temporary:
                folder = (args.keep or Path(temporary)) / f"{name}-{seed}"
                row = {"name": name, "seed": seed, "options": " ".join(options)}
                row |= score(args, reference, options, seed, folder)
            print(json.dumps(row), flush=True)
            if args.out:
                with open(args.out, "a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")


def score(args, reference, options: list[str], seed: int, folder: Path) -> dict[str, object]:
    """Train one variant and return its costs and scores."""
    train = parse("train", VERBS, [args.preset, *options, "--seed", str(seed)])
    fixed = {"sample_every": 0, "checkpoint_every": 0, "overwrite": True}
    budget = {"steps": None, "epochs": None, "images": args.images, "minutes": args.minutes}
    session = start(args.preset, **(given(train) | fixed | budget | {"out": folder}))
    session.run()
    model = session.model()
    labels = model.label_numbers("all", args.n, seed)
    started = time.monotonic()
    images = model.sample(
        args.n, labels=labels, sampler=args.sampler, steps=args.steps,
        spacing=args.spacing, seed=seed, batch_size=250,
    ).images  # fmt: skip
    seconds = time.monotonic() - started
    trainer = session.trainer
    result = {
        "images_seen": trainer.images_seen,
        "seconds": round(trainer.seconds, 1),
        "images_per_second": round(trainer.images_seen / trainer.seconds, 1),
        "loss": round(session.log.final_loss(), 5),
        "sampled_per_second": round(args.n / seconds, 1),
        "n": args.n,
        "sampler": f"{args.sampler} {args.steps} {args.spacing}",
    }
    for space in reference.spaces:
        moments = Moments.of(space.extractor(images).values)
        distance = frechet_distance(moments, space.half_b)
        result[f"frechet {space.extractor.name}"] = round(float(distance), 4)
    if reference.judge is not None and labels is not None:
        judged = reference.judge(images).logits.argmax(1).numpy()
        result["agreement"] = round(100 * float(np.mean(judged == labels)), 2)
    return result


if __name__ == "__main__":
    main()
