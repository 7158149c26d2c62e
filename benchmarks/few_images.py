"""Few images: does augmentation that does not leak lower copies and distance?

    python benchmarks/few_images.py FOLDER --n 200,3400 --augment 0,0.12 --images 400000

For every number of training images (drawn from every class in proportion), seed and probability one
run of `train folder`, all on as many images. At every fifth of it samples are drawn and compared
with all the images of the folder that the run never sees. Prints a JSON row each time: the Frechet
distance in principal directions of the unseen images' pixels, beside that of the training images
(with the same reference); precision and recall; and the share of copies, which are nearer to a
training image, in pixels, than 99 % of the unseen images are.
"""

import argparse
import json
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pocketddpm.build import pick_device
from pocketddpm.data.image_set import ImageSet
from pocketddpm.data.load import load_images
from pocketddpm.data.split import drawn
from pocketddpm.metrics.frechet import Moments, frechet_distance
from pocketddpm.metrics.memorisation import nearest, suspects
from pocketddpm.metrics.pca import fit_pixels_pca
from pocketddpm.metrics.precision_recall import neighbourhoods
from pocketddpm.models.model import Model
from pocketddpm.models.provenance import machine, versions
from pocketddpm.presets import get_preset
from pocketddpm.runs.start import start

PARTS = 5  # of a run, after each of which it is scored


def pixels(images: ImageSet) -> Tensor:
    """Return images as rows of pixels, uint8 [N,C*H*W]."""
    return torch.from_numpy(np.array(images.images).reshape(len(images), -1))


class Scores:
    """What samples are compared with: the training images, and those that are never seen."""

    def __init__(self, training: ImageSet, unseen: ImageSet, samples: int) -> None:
        self.training, self.samples = pixels(training), samples
        self.distances = nearest(pixels(unseen), self.training).distance
        self.extractor = fit_pixels_pca(unseen.images, unseen.name)
        self.reference = self.extractor(unseen.images).values
        self.moments = Moments.of(self.reference)
        own = self.extractor(training.images).values
        self.of_training = frechet_distance(Moments.of(own), self.moments)

    def __call__(self, model: Model) -> dict[str, float]:
        """Return the scores of samples of the model."""
        images = model.sample(self.samples, seed=1).images
        features = self.extractor(images).values
        near = neighbourhoods(self.reference[: self.samples], features)
        found = nearest(torch.from_numpy(images.reshape(len(images), -1)), self.training)
        return {
            "frechet": frechet_distance(Moments.of(features), self.moments),
            "frechet_of_training_images": self.of_training,
            "precision": near.precision.double().mean().item(),
            "recall": near.recall.double().mean().item(),
            "copies": suspects(found.distance, self.distances).double().mean().item(),
        }


def main() -> None:
    """Train all arms, and print a row for every part of each."""
    parser = argparse.ArgumentParser(description="Few images.")
    parser.add_argument("folder")
    parser.add_argument("--n", default="200", help="training images, such as 200,3400")
    parser.add_argument("--augment", default="0,0.12")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--images", type=int, default=400_000, help="of each run")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--flip", default="no")
    parser.add_argument("--net", default="", help="sizes of the network, as for train")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    size = (args.image_size, args.image_size)
    whole = load_images(args.folder, image_size=size)
    order = drawn(whole)
    about = {"date": date.today().isoformat(), "versions": versions()}
    print(json.dumps({"benchmark": "few_images", **about, **vars(args)}))
    print(json.dumps({"machine": machine(pick_device(args.device))}))
    options: dict[str, Any] = {"net": args.net} if args.net else {}
    for n in map(int, args.n.split(",")):
        if not 1 <= n < len(whole):
            sys.exit(f"--n must be below the {len(whole)} images of {args.folder}, got {n}")
        unseen = whole.select(np.sort(order[n:]))
        scores = Scores(whole.select(np.sort(order[:n])), unseen, args.samples)
        for seed in map(int, args.seeds.split(",")):
            for augment in map(float, args.augment.split(",")):
                with tempfile.TemporaryDirectory() as out:
                    session = start(
                        get_preset("folder"),
                        data=args.folder,
                        network="lean",
                        image_size=size,
                        subset=n,
                        hold_out=0,
                        augment=augment,
                        flip=args.flip,
                        seed=seed,
                        images=args.images,
                        device=args.device,
                        out=Path(out) / "run",
                        **options,
                    )
                    plan = session.trainer.make_plan()
                    part = 1
                    for result in session.trainer.steps():
                        if result.images_seen * PARTS < part * plan.total:
                            continue
                        part += 1
                        row = {"n": n, "seed": seed, "augment": augment}
                        row |= {"images_seen": result.images_seen}
                        row |= {"seconds": round(result.seconds, 1)}
                        print(json.dumps(row | scores(session.model())), flush=True)
                    session.close()


if __name__ == "__main__":
    main()
