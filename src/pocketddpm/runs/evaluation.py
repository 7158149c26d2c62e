"""Evaluation during training: samples against training images that the run never trains on.

Some images of the training set are held out (`data.split`) and are the reference; the test set is
not touched. The floor is the distance of as many training images. These numbers choose
within a run: n is small, the sampler is short, the reference is not that of `evaluate`.
"""

import time
from math import nan
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pocketddpm.config import Experiment
from pocketddpm.data.batches import mix
from pocketddpm.data.decode import Fit
from pocketddpm.data.image_set import ImageArray, ImageSet
from pocketddpm.errors import ConfigError
from pocketddpm.metrics.frechet import Moments, frechet_distance
from pocketddpm.metrics.memorisation import nearest, suspects
from pocketddpm.metrics.pca import fit_pixels_pca
from pocketddpm.metrics.precision_recall import neighbourhoods
from pocketddpm.metrics.reference_data import own_extractor, usual_fit
from pocketddpm.metrics.samples import to_data_size
from pocketddpm.metrics.split import random_indices
from pocketddpm.models.model import Model
from pocketddpm.pictures import save_distance_curve
from pocketddpm.runs.log import Row, append_log, read_log, write_log

COLUMNS = ["step", "images_seen", "frechet", "ratio", "precision", "recall", "copies", "seconds"]
MOST = 10_000  # training images among which copies are looked for
STEPS = 10  # of the model's own sampler: enough to compare checkpoints


def check_evaluation(experiment: Experiment) -> None:
    """Raise ConfigError when something is decided by an evaluation that never happens."""
    config = experiment.evaluation
    if config.patience and config.best_by != "evaluation":
        raise ConfigError("--patience needs --best-by evaluation and --evaluate-every STEPS")
    if config.best_by == "evaluation" and not config.every:
        raise ConfigError("--best-by evaluation needs --evaluate-every STEPS")


class Validation:
    """Evaluates one run, and keeps its log: evaluation.csv and evaluation.png in the run folder."""

    def __init__(
        self,
        experiment: Experiment,
        training: ImageSet,
        held_out: ImageSet,
        out: Path,
        *,
        resumed_at: int | None = None,
    ) -> None:
        """Look at the real images; write the log's head, or go on with the log of a resumed run.

        training, held_out: at the model's size. resumed_at: the step of the checkpoint.
        """
        data = experiment.data
        self.out, self.held_out = out, len(held_out)
        self.n = min(experiment.evaluation.n, len(training))
        self.steps = min(STEPS, experiment.sampling.steps, experiment.schedule.T)
        # Noise that no `sample` or `evaluate` of this model draws.
        self.seed = mix(experiment.training.seed, "evaluation during training")
        extractor = own_extractor(data.name)
        self.extractor = extractor or fit_pixels_pca(training.images, training.name)
        self.fit: Fit = data.fit or usual_fit(data.name)
        self.reference = self._features(held_out.images)
        self.moments = Moments.of(self.reference)
        real = self._features(training.images[np.sort(random_indices(len(training), self.n))])
        self.floor = frechet_distance(Moments.of(real), self.moments)
        compared = np.sort(random_indices(len(training), MOST))
        self.training = self._features(training.images[compared])
        self.distances = nearest(self.reference, self.training).distance
        path = self.out / "evaluation.csv"
        # A log of before copies were counted has no such column.
        rows = [] if resumed_at is None else read_log(path, COLUMNS, resumed_at, {"copies": nan})
        self.rows = rows
        write_log(path, COLUMNS, self.rows)

    def describe(self) -> str:
        """Return what is measured against what, in one line."""
        return (
            f"held out: {self.held_out} training images; evaluated against them: "
            f"{self.n} samples of {self.steps} steps, in {self.extractor.name} (as many training "
            f"images score {self.floor:.4g}); copies are nearer to one of {len(self.training)} "
            "training images than 99 % of the held-out ones are; the test set is not touched"
        )

    def __call__(self, model: Model, step: int, images_seen: int) -> Row:
        """Draw samples, score them, draw the curve; return the row, which `record` writes."""
        started = time.monotonic()
        settings = {"steps": self.steps, "seed": self.seed, "progress": "evaluating"}
        fake = self._features(model.sample(self.n, **settings).images)
        distance = frechet_distance(Moments.of(fake), self.moments)
        near = neighbourhoods(self.reference[: self.n], fake)
        row: Row = {
            "step": step,
            "images_seen": images_seen,
            "frechet": distance,
            "ratio": distance / self.floor if self.floor else nan,
            "precision": near.precision.double().mean().item(),
            "recall": near.recall.double().mean().item(),
            "copies": suspects(nearest(fake, self.training).distance, self.distances)
            .double()
            .mean()
            .item(),
            "seconds": round(time.monotonic() - started, 3),
        }
        self.rows.append(row)
        save_distance_curve(
            self.out / "evaluation.png",
            [int(r["images_seen"]) for r in self.rows],
            [r["frechet"] for r in self.rows],
            self.floor,
        )
        return row

    def record(self) -> None:
        """Write the last row to the log, as the last act of an evaluation.

        A run that is killed before makes the whole evaluation again when it is resumed.
        """
        append_log(self.out / "evaluation.csv", COLUMNS, self.rows[-1:])

    def is_best(self) -> bool:
        """Whether the last row has the smallest distance so far (the first of equals)."""
        distances = [row["frechet"] for row in self.rows]
        return distances.index(min(distances)) == len(distances) - 1

    def is_stale(self, patience: int) -> bool:
        """Whether the last `patience` rows have all been worse than the best, or no better."""
        distances = [row["frechet"] for row in self.rows]
        return len(distances) - 1 - distances.index(min(distances)) >= patience

    def summary(self) -> str:
        """Return the last row in one line."""
        row = self.rows[-1]
        compared = (
            f"{row['ratio']:.2f} times the Frechet distance of training images"
            if self.floor
            else f"Frechet distance {row['frechet']:.4g} (training images: 0)"
        )
        return (
            f"step {row['step']}: {compared}, precision {row['precision']:.3f}, "
            f"recall {row['recall']:.3f}, copies {row['copies']:.1%} ({row['seconds']:.0f} s)"
        )

    def evaluated(self, step: int) -> bool:
        """Whether the log has a row for this step."""
        return bool(self.rows) and self.rows[-1]["step"] == step

    def _features(self, images: ImageArray) -> Tensor:
        with torch.no_grad():
            brought = to_data_size(images, self.extractor.shape, self.fit, "the data")
            return self.extractor(brought).values
