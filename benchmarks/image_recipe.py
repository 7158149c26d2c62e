"""Recipes for folders of images, at equal CPU time: train, draw, score on held-out images.

    python benchmarks/image_recipe.py photos32 --seconds 240 --work WORK --out rows.jsonl base flip

Sets and variants are the tables below. A variant may see as many images as its seconds of CPU time
buy: the cost of an image is measured once for each network and batch, as the median of ten steps'
process time, and kept in WORK/costs.json; the rate then decays over exactly these images, so that a
busy machine changes nothing. `--images` gives the number instead.

n images are drawn by the recipe's sampler from the averaged weights and compared with images that
no network has seen: a folder's test split, else a random tenth of every class. Distances are
Frechet distances in the features of a small classifier, trained on half A of the training images,
and in the pixels' principal directions; the floor is what as many of half B have. One run is one
seed; what gains less than seeds differ by is no gain.
"""

import argparse
import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from pocketddpm.data.image_set import ImageSet
from pocketddpm.data.load import load_images
from pocketddpm.data.split import hold_out
from pocketddpm.metrics.classifier_scores import agreement
from pocketddpm.metrics.extractor import Extractor, load_extractor, save_extractor
from pocketddpm.metrics.frechet import Moments, frechet_distance
from pocketddpm.metrics.pca import fit_pixels_pca
from pocketddpm.metrics.precision_recall import neighbourhoods
from pocketddpm.metrics.split import random_indices
from pocketddpm.metrics.train_extractor import METRIC, train_extractor
from pocketddpm.models.model import Model
from pocketddpm.pictures import save_grid
from pocketddpm.presets import mnist
from pocketddpm.runs.start import start

ROOT = os.environ.get("POCKETDDPM_DATA", "data")
TIMED = 10  # steps


@dataclass(frozen=True)
class Data:
    """A folder below POCKETDDPM_DATA, at a size, with options that every variant of it has."""

    folder: str
    size: int
    base: dict[str, object]
    epochs: int  # of the classifier

    @property
    def path(self) -> str:
        """Where it lies."""
        return str(Path(ROOT) / self.folder)


PATCH_4 = {"widths": (64, 128), "blocks": (2, 3), "patch": 4}
SETS = {
    "photos32": Data("cifar10-jpg", 32, {}, 24),
    "emoji64": Data("emoji", 64, {"net": PATCH_4}, 8),
    "emoji32": Data("emoji", 32, {}, 16),
}


def _net(widths: tuple[int, ...], blocks: tuple[int, ...], **more: object) -> dict[str, object]:
    return {"net": {"widths": widths, "blocks": blocks, **more}}


VARIANTS: dict[str, dict[str, object]] = {
    "base": {},
    "small": _net((48, 96), (2, 3)),
    # Density of ln sigma.
    "mean -1.2": {"p_mean": -1.2, "p_std": 1.2},
    "mean -0.8": {"p_mean": -0.8, "p_std": 1.2},
    "mean -0.4": {"p_mean": -0.4, "p_std": 1.4},
    "mean 0.4": {"p_mean": 0.4, "p_std": 1.4},
    "mean 0.8": {"p_mean": 0.8, "p_std": 1.4},
    "mean 0.4 narrow": {"p_mean": 0.4, "p_std": 1.0},
    "mean 0.0 narrow": {"p_mean": 0.0, "p_std": 1.0},
    "sigma_data 0.58": {"sigma_data": 0.58},
    # Rate and batch.
    "rate 2.5e-3": {"lr": 2.5e-3},
    "rate 1e-2": {"lr": 1e-2},
    "rate 2e-2": {"lr": 2e-2},
    "batch 64": {"batch_size": 64},
    "batch 32": {"batch_size": 32},
    "batch 16": {"batch_size": 16},
    "batch 256": {"batch_size": 256},
    # Networks.
    "96/192": _net((96, 192), (2, 3)),
    "64/128 thin": _net((64, 128), (1, 3)),
    "64/128/128": _net((64, 128, 128), (2, 2, 2)),
    "64/128/192": _net((64, 128, 192), (1, 2, 2)),
    "no attention": {"net": {"attention": False}},
    "p2 64/128": _net((64, 128), (2, 3), patch=2),
    "p2 32/64/128": _net((32, 64, 128), (1, 2, 3), patch=2),
    "p4 48/96": _net((48, 96), (2, 3), patch=4),
    "p8 64/128": _net((64, 128), (2, 3), patch=8),
    "p4 64/128/128": _net((64, 128, 128), (2, 2, 2), patch=4),
    "p4 96/192": _net((96, 192), (2, 3), patch=4),
    "linear": {"net": {**PATCH_4, "linear": True}},
    "p2 linear": _net((64, 128), (2, 3), linear=True),
    # Images and labels.
    "flip": {"flip": True},
    "no center": {"center": False},
    "no labels": {"label_dropout": 0.999999},
    "guidance 1.5": {"guidance": 1.5},
    "guidance 2": {"guidance": 2.0},
    "no dropout": {"label_dropout": 0.0},
}


def main() -> None:
    """Train and score the variants; append to --out as they come."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", choices=SETS)
    parser.add_argument("variants", nargs="+", help="names of the table, joined by + for several")
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--images", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--with", dest="more", default="", help="variants that all others build on")
    parser.add_argument("--parts", type=int, default=1, help="score also at k parts of the run")
    parser.add_argument("--work", type=Path, default=Path("image_recipe"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    data = SETS[args.data]
    yardstick = Yardstick.of(args.data, data, args.work)
    if args.variants == ["floor"]:
        report(args, {"data": args.data, "name": "floor", **yardstick.floor(args.n)})
        return
    for name in args.variants:
        options = dict(data.base)
        for part in [*filter(None, args.more.split("+")), *name.split("+")]:
            options |= VARIANTS[part]
        for row in run(args, data, yardstick, options):
            row = {"data": args.data, "name": "+".join(filter(None, [args.more, name]))} | row
            report(args, row)


def report(args, row: dict[str, object]) -> None:
    """Print a row and append it to --out."""
    print(json.dumps(row), flush=True)
    if args.out:
        with open(args.out, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def splits(data: Data) -> tuple[ImageSet, ImageSet, int]:
    """Return training images, held-out images, and how many a run must hold out itself."""
    size = (data.size, data.size)
    train = load_images(data.path, image_size=size)
    if (Path(data.path) / "test").is_dir():
        return train, load_images(data.path, "test", image_size=size), 0
    tenth = len(train) // 10
    return *hold_out(train, tenth, "random"), tenth


@dataclass(frozen=True)
class Yardstick:
    """Held-out images in two feature spaces."""

    train: ImageSet
    test: ImageSet
    held_out: int
    classifier: Extractor
    pixels: Extractor
    facts: dict[str, object]

    @classmethod
    def of(cls, name: str, data: Data, work: Path) -> "Yardstick":
        """Return it, with the classifier of WORK/NAME.safetensors, which is trained if missing."""
        train, test, held_out = splits(data)
        path = work / f"{name}.safetensors"
        if not path.exists():
            made = train_extractor(name, train, replace(METRIC, epochs=data.epochs), "A")
            save_extractor(path, made, torch.float16)
        classifier = load_extractor(name, path)
        half = np.sort(random_indices(len(train), len(train))[: len(train) // 2])
        pixels = fit_pixels_pca(train.images[half], name)
        reached = agreement(classifier(test.images), test).value
        return cls(train, test, held_out, classifier, pixels, {"accuracy": round(reached, 3)})

    def floor(self, n: int) -> dict[str, object]:
        """Return the scores of n real images of half B."""
        half = random_indices(len(self.train), len(self.train))[len(self.train) // 2 :]
        images = self.train.images[np.sort(half[:n])]
        return {"n": len(images), **self.facts, **self.scores(images)}

    def scores(self, images: np.ndarray, labels: np.ndarray | None = None) -> dict[str, object]:
        """Return the distances, precision and recall of images, and whether labels are obeyed."""
        found: dict[str, object] = {}
        for extractor in (self.classifier, self.pixels):
            real, fake = (extractor(i) for i in (self.test.images, images))
            name = "frechet" if extractor is self.classifier else "pixels"
            distance = frechet_distance(Moments.of(fake.values), Moments.of(real.values))
            found[name] = round(distance, 2 if name == "frechet" else 3)
            if extractor is self.classifier:
                some = min(len(images), len(self.test))
                near = neighbourhoods(real.values[:some], fake.values[:some])
                found["precision"] = round(float(near.precision.double().mean()), 3)
                found["recall"] = round(float(near.recall.double().mean()), 3)
                if labels is not None and fake.logits is not None:
                    read = fake.logits.argmax(1).numpy()
                    found["agreement"] = round(float((read == labels).mean()), 3)
        return found


def run(args, data: Data, yardstick: Yardstick, options: dict[str, object]):
    """Train one variant; yield its rows."""
    own = mnist()
    images = replace(own.data, name=data.path, center=True, held_out=yardstick.held_out)
    base = replace(own, data=images, objective=replace(own.objective, guidance=1.0))
    stem = "_".join([args.data, *(str(v) for v in options.values()), str(args.seed)])
    out = args.work / "runs" / "".join(c if c.isalnum() or c in ".-" else "_" for c in stem)
    given = {
        "image_size": f"{data.size}",
        "sample_every": 0,
        "checkpoint_every": 0,
        "overwrite": True,
        "seed": args.seed,
        "out": out,
        **options,
    }
    cost = seconds_of_an_image(args.work, base, given)
    budget = args.images or int(args.seconds / cost)
    session = start(base, **given, images=budget)
    total = session.trainer.make_plan().total
    marks = [total * k // args.parts for k in range(1, args.parts + 1)]
    began = time.process_time()
    for result in session.trainer.steps():
        session.log.add(result)
        if result.images_seen >= marks[0]:
            del marks[0]
            trained = time.process_time() - began
            session.log.flush()
            row = {"options": options, "seed": args.seed}
            row |= {"images": result.images_seen, "of": total}
            row |= {"cpu_seconds": round(trained, 1), "ms_per_image": round(1000 * cost, 2)}
            row |= {"loss": round(session.log.final_loss(), 4), "n": args.n}
            row["network"] = sum(p.numel() for p in session.network.parameters())
            row |= drawn(args, session.model(), yardstick, out, result.images_seen)
            yield row
            began = time.process_time() - trained
    session.save()
    session.close()


def seconds_of_an_image(work: Path, base, given: dict[str, object]) -> float:
    """Return the process time of an image in training, from the median of ten steps."""
    what = ("image_size", "net", "batch_size", "guidance")
    key = json.dumps({k: given[k] for k in what if k in given}, sort_keys=True)
    path = work / "costs.json"
    costs = json.loads(path.read_text()) if path.exists() else {}
    if key not in costs:
        session = start(base, **(given | {"out": work / "timing"}), steps=TIMED + 1)
        mark, times = time.process_time(), []
        for _ in session.trainer.steps():
            times.append(time.process_time() - mark)
            mark = time.process_time()
        session.close()
        costs[key] = float(np.median(times[1:])) / session.experiment.training.batch_size
        path.write_text(json.dumps(costs, indent=1))
    return costs[key]


def drawn(args, model: Model, yardstick: Yardstick, out: Path, seen: int) -> dict[str, object]:
    """Return the scores of n samples; write a picture, a column for each class."""
    labelled = model.experiment.objective.label_dropout < 0.5
    labels = model.label_numbers("all", args.n, 1) if labelled else None
    began = time.process_time()
    images = model.sample(args.n, labels=labels, seed=1, batch_size=100).images
    seconds = time.process_time() - began
    shown = list(range(len(model.classes))) if labelled else None
    columns = len(model.classes)
    pictures = model.sample(8 * columns, labels=shown, seed=2, batch_size=100).images
    save_grid(out / f"grid-{seen}.png", pictures, columns=columns, scale=2)
    return {
        "sampled_per_cpu_second": round(args.n / seconds, 1),
        **yardstick.scores(images, labels),
    }


if __name__ == "__main__":
    main()
