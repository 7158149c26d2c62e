"""The protocol: every number of the samples beside the same number of real test images, at equal n.

Reference: half B of the training set (moments of all of it; n of its images, drawn at random, where
pairs are compared). Floor: n test images, drawn at random. docs/evaluation.md argues each choice.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pocketddpm.data.image_set import ImageSet
from pocketddpm.metrics.classifier_scores import agreement, class_score
from pocketddpm.metrics.classifier_training import Recipe, run_length, train_classifier
from pocketddpm.metrics.extractor import Extractor, Features
from pocketddpm.metrics.frechet import Moments, frechet_distance, predicted_bias
from pocketddpm.metrics.intervals import Estimate, bootstrap, of_mean
from pocketddpm.metrics.kid import kernel_distance
from pocketddpm.metrics.memorisation import distinct_share, nearest, suspects
from pocketddpm.metrics.precision_recall import neighbourhoods
from pocketddpm.metrics.reference import Reference
from pocketddpm.metrics.report import Report, Row
from pocketddpm.metrics.samples import Subject
from pocketddpm.metrics.split import draw, halves

Progress = Callable[[int], object]
Watch = Callable[[str, int], Progress]
Extract = Callable[[Extractor, np.ndarray, Progress], Features]
PAIRS = 20
WIDE = 512  # features
NAN = float("nan")


@dataclass(frozen=True)
class Real:
    """The real images, as far as they are there; n of the test set are the floor.

    name: the data set's. train: all of the training set. test: all of the test set, after the
    samples' round trip of sizes. missing: why they are None, if they are.
    """

    name: str
    train: ImageSet | None
    test: ImageSet | None
    missing: str = ""

    def floor(self, n: int) -> ImageSet:
        """Return n test images drawn at random (in MNIST the first 5000 are the easier half)."""
        assert self.test is not None
        which = np.sort(draw(len(self.test), n))
        labels = None if self.test.labels is None else self.test.labels[which]
        return replace(self.test, images=self.test.images[which], labels=labels)


@dataclass(frozen=True)
class Space:
    """A feature space to measure in: the extractor and what real images look like to it.

    of_train: features of all training images, where they are known already.
    """

    extractor: Extractor
    reference: Reference
    of_train: Features | None = None


@dataclass(frozen=True)
class Seen:
    """Features, in the headline's space, of the samples, of the floor, of all training images."""

    samples: Features
    floor: Features
    train: Features


def in_one_process(extractor: Extractor, images: np.ndarray, progress: Progress) -> Features:
    """Return the features of images."""
    return extractor(images, progress=progress)


def evaluate(
    subject: Subject,
    real: Real,
    spaces: list[Space],
    judge: Extractor | None,
    *,
    tstr: Recipe | None = None,
    watch: Watch = lambda what, total: lambda k: None,
    extract: Extract = in_one_process,
) -> Report:
    """Return the report on samples.

    subject: at most as many images as there are test images. spaces: the first is the headline's.
    judge: reads labels; None skips that. tstr: the recipe for training on the samples; None skips.
    watch(what, total): called when a part of the work starts; returns what is called with progress.
    extract: computes features.
    """
    n = len(subject.images)
    report = Report(n, real.name)
    floor = None if real.test is None else real.floor(n)
    main = spaces[0]

    def features(space: Extractor, images: np.ndarray, whose: str) -> Features:
        return extract(space, images, watch(f"{space.name} of {whose}", len(images)))

    of_subject = [features(s.extractor, subject.images, "samples") for s in spaces]
    of_floor = (
        [None] * len(spaces)
        if floor is None
        else [features(s.extractor, floor.images, "test images") for s in spaces]
    )
    for space, mine, theirs in zip(spaces, of_subject, of_floor, strict=True):
        report.rows.append(_frechet(space, mine, theirs))
    if real.train is None or floor is None or of_floor[0] is None:
        for name in ("kernel distance", "precision, recall, density, coverage", "memorisation"):
            report.skipped[name] = f"needs the images of {real.name}: {real.missing}"
    else:
        of_train = main.of_train or features(main.extractor, real.train.images, "training images")
        seen = Seen(of_subject[0], of_floor[0], of_train)
        report.rows += _pairs(seen)
        _memorisation(report, seen, subject, floor, real.train, watch)
    report.rows += _score(main, of_subject[0], of_floor[0])
    _agreement(report, subject, floor, judge, features)
    value = Estimate(distinct_share(subject.images), NAN, NAN)
    same = None if floor is None else Estimate(distinct_share(floor.images), NAN, NAN)
    report.rows.append(Row("distinct", "distinct images", value, same, "difference", percent=True))
    if tstr is not None:
        _train_on_synthetic(report, subject, real, tstr, watch)
    # Likelihood (bits/dim) needs the model, not its samples: its rows are added by the caller.
    return report


def frechet(features: Features, reference: Moments) -> Estimate:
    """Return the Frechet distance to the reference, with a bootstrap interval.

    Of more than 512 features there is no interval: a hundred roots of their covariances take hours.
    """
    values = features.values.double()
    if values.shape[1] > WIDE:
        return Estimate(frechet_distance(Moments.of(values), reference), NAN, NAN)

    def statistic(counts: Tensor) -> float:
        return frechet_distance(Moments.of(values, counts), reference)

    value = frechet_distance(Moments.of(values), reference)
    return bootstrap(len(values), value, statistic)


def _frechet(space: Space, mine: Features, theirs: Features | None) -> Row:
    name = space.extractor.name
    half_b, n = space.reference.half_b, len(mine.values)
    floor = (
        Estimate(space.reference.floor(n), NAN, NAN) if theirs is None else frechet(theirs, half_b)
    )
    return Row(
        f"frechet {name}",
        f"Frechet distance ({name})",
        frechet(mine, half_b),
        floor,
        "ratio",
        bias=predicted_bias(half_b, n),
    )


def _pairs(seen: Seen) -> list[Row]:
    """Kernel distance, precision, recall, density, coverage: against n images of half B."""
    mine, theirs = seen.samples.values, seen.floor.values
    _, half_b = halves(len(seen.train.values))
    which = torch.from_numpy(half_b[draw(len(half_b), len(mine))])
    reference = seen.train.values[which]
    rows = [
        Row(
            "kernel distance",
            "kernel distance",
            kernel_distance(mine, reference),
            kernel_distance(theirs, reference),
            "difference",
            bias=0.0,
        )
    ]
    a, b = (neighbourhoods(reference, values) for values in (mine, theirs))
    for name, samples, floor in (
        ("precision", a.precision, b.precision),
        ("recall", a.recall, b.recall),
        ("density", a.density, b.density),
        ("coverage", a.coverage, b.coverage),
    ):
        rows.append(Row(name, name, of_mean(samples), of_mean(floor), "difference"))
    return rows


def _memorisation(
    report: Report, seen: Seen, subject: Subject, floor: ImageSet, train: ImageSet, watch: Watch
) -> None:
    """Nearest training images of the samples, beside those of test images; the closest pairs."""
    pixels = [
        torch.from_numpy(images.reshape(len(images), -1).copy())
        for images in (train.images, subject.images, floor.images)
    ]
    picture = []
    for what, (known, samples, held_out) in {
        "pixels": pixels,
        "features": [seen.train.values, seen.samples.values, seen.floor.values],
    }.items():
        near = nearest(samples, known, watch(f"nearest {what} of samples", len(known)))
        real = nearest(held_out, known, watch(f"nearest {what} of test images", len(known)))
        report.rows.append(
            Row(
                f"copies {what}",
                f"nearer to training images than 99% of test images ({what})",
                of_mean(suspects(near.distance, real.distance)),
                of_mean(suspects(real.distance, real.distance)),
                "difference",
                percent=True,
            )
        )
        closest = near.distance.argsort(stable=True)[:PAIRS]
        picture += [subject.images[closest.numpy()], train.images[near.index[closest].numpy()]]
    report.closest = np.concatenate(picture)


def _score(space: Space, mine: Features, theirs: Features | None) -> list[Row]:
    if mine.logits is None:
        return []
    stored = space.reference.score
    floor = None if stored is None else Estimate(stored, NAN, NAN)
    if theirs is not None and theirs.logits is not None:
        floor = class_score(theirs.logits)
    name = f"class score ({space.extractor.name})"
    return [Row("class score", name, class_score(mine.logits), floor, "difference")]


def _agreement(
    report: Report,
    subject: Subject,
    floor: ImageSet | None,
    judge: Extractor | None,
    features: Callable[[Extractor, np.ndarray, str], Features],
) -> None:
    if judge is None or subject.labels is None:
        why = "there is no judge for these data" if judge is None else "the samples have no labels"
        report.skipped["label agreement"] = why
        return
    logits = features(judge, subject.images, "samples").logits
    assert logits is not None
    accuracy = Estimate(float(judge.facts["test_accuracy"]), NAN, NAN)
    if floor is not None and floor.labels is not None:
        of_floor = features(judge, floor.images, "test images").logits
        assert of_floor is not None
        accuracy = agreement(of_floor, torch.from_numpy(floor.labels))
    value = agreement(logits, torch.from_numpy(subject.labels))
    name = f"label agreement ({judge.name})"
    report.rows.append(Row("agreement", name, value, accuracy, "difference", percent=True))


def _train_on_synthetic(
    report: Report, subject: Subject, real: Real, recipe: Recipe, watch: Watch
) -> None:
    """Train a classifier on the samples, and one on as many training images; test both on real."""
    train, test = real.train, real.test
    name = "train on samples, test on real"
    if train is None or test is None or train.labels is None or subject.labels is None:
        report.skipped[name] = "needs labelled samples, training images and test images"
        return
    assert test.labels is not None
    which = np.sort(draw(len(train), len(subject.images)))
    results = []
    for whose, images, labels in (
        ("samples", subject.images, subject.labels),
        ("training images", train.images[which], train.labels[which]),
    ):
        done = watch(f"training on {whose}", run_length(len(images), recipe))
        network = train_classifier(images, labels, len(train.classes), recipe, progress=done)
        trained = Extractor("tstr", "", network, test.shape, train.classes, {})
        logits = trained(test.images).logits
        assert logits is not None
        results.append(agreement(logits, torch.from_numpy(test.labels)))
    value, on_real = results
    report.rows.append(Row("tstr", name, value, on_real, "difference", percent=True))
