"""The protocol: every number of the samples beside the same number of real images, at equal n.

Reference: half B of the training set (moments of all of it; n of its images, drawn at random, where
pairs are compared). Floor: n test images, drawn at random; without a test split, images that the
run held out, or half of half B. docs/evaluation.md argues each choice.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pocketddpm.data.image_set import ImageArray, ImageSet
from pocketddpm.data.load import fingerprint, has_test
from pocketddpm.distributed import rank
from pocketddpm.errors import ConfigError, DataError
from pocketddpm.metrics.classifier_scores import agreement, class_score
from pocketddpm.metrics.extractor import Extractor, Features, features_together
from pocketddpm.metrics.frechet import Moments, frechet_distance, predicted_bias
from pocketddpm.metrics.intervals import Interval, bootstrap, positive_interval, share_interval
from pocketddpm.metrics.kid import kernel_distance
from pocketddpm.metrics.likelihood import add_bits
from pocketddpm.metrics.memorisation import Pixels, Rows, distinct_share, nearest, suspects
from pocketddpm.metrics.options import FEWEST, EvaluateOptions
from pocketddpm.metrics.precision_recall import neighbourhoods
from pocketddpm.metrics.reference_data import FeatureSpace, ReferenceData, load_reference_data
from pocketddpm.metrics.report import PAIRS, Report, Row, number
from pocketddpm.metrics.samples import (
    NO_LABEL,
    draw_samples,
    load_subject,
    read_samples,
    to_data_size,
)
from pocketddpm.metrics.split import random_indices
from pocketddpm.metrics.train_extractor import Recipe, run_length, train_classifier
from pocketddpm.models.model import Model
from pocketddpm.models.provenance import versions
from pocketddpm.models.run_images import run_images
from pocketddpm.models.samples import Samples
from pocketddpm.output import refuse_existing, remove_files
from pocketddpm.progress import counter

FOR_MODELS = ("sampler", "steps", "spacing", "sampler_options", "guidance", "labels", "weights")
WIDE = 512  # features
MOST = 5000  # training images whose nearest others are looked for
# A distance d^2 + b, of which b is the bias of n images, has a variance as 4 d^2 + 2 b; its
# replicates, at the level d^2 + 2 b, have one as 4 d^2 + 6 b. Its relative spread is therefore 1 to
# 1.16 times theirs.
WIDER = 1.15


def evaluate(subject: str | Path | Model, options: EvaluateOptions) -> Report:
    """Score a model, samples.npz or a folder of images; write the report to `options.out`, if any.

    subject: a `Model`; the path or name of one; an .npz array or a folder of images, which need
    `options.data`. Under torchrun all processes draw and score, and the first one writes; a `Model`
    in memory is drawn from and scored by its process alone.
    Raises ConfigError for options that do not apply, DataError for too few or damaged images.
    """
    together = not isinstance(subject, Model)
    is_files = not isinstance(subject, Model) and _is_files(Path(subject))
    defaults = EvaluateOptions()
    for name in FOR_MODELS if is_files else ():
        if getattr(options, name) != getattr(defaults, name):
            option = name.replace("_", "-")
            raise ConfigError(f"--{option} is for models, and {subject} holds samples already")
    if options.out is not None:
        refuse_existing(options.out, options.overwrite, folder=True)
    model, is_own = None, False
    if is_files:
        samples, reference, facts = _read(Path(str(subject)), options)
        fit = options.fit or reference.fit
    else:
        model, facts = load_subject(subject, options.device, options.weights)
        data, size = model.experiment.data, model.shape[1:]
        name, images = options.data or data.name, options.over(data)
        is_own = name == data.name and images.image_options() == data.image_options()
        parts = None
        if is_own and not has_test(name):
            parts = run_images(data, model.meta.get("data", {}))
        reference = load_reference_data(
            name,
            options.extractor,
            size=size,
            fit=options.fit or data.fit,
            images=images,
            parts=parts,
            device=options.device,
        )
        fit = options.fit or data.fit or reference.fit
        n = min(options.n, reference.max_samples)
        drawn, drawing = draw_samples(model, options, n, together)
        samples = ImageSet(drawn.images, drawn.labels, (*model.classes, NO_LABEL), "")
        facts |= drawing
    if len(samples) < FEWEST:
        raise DataError(f"{subject}: {len(samples)} images; at least {FEWEST} are needed")
    size, (_, height, width) = samples.shape[1:], reference.shape
    if size != (height, width):
        way = "the middle of" if fit == "pad" else "resized with antialiasing from"
        facts["size"] = f"{height}x{width}, {way} {size[0]}x{size[1]}"
    name = str(subject) if together else "the model's samples"
    images = to_data_size(samples.images, reference.shape, fit, name)
    samples = replace(samples, images=images)
    if options.out is not None and model is not None and rank() == 0:
        # Drawing may have taken hours: the samples are kept, whatever comes next.
        Samples(np.asarray(images), samples.labels, 0, model.classes).save(
            options.out / "samples.npz"
        )
    recipe = Recipe(epochs=12) if options.tstr else None
    report = score(samples, reference.resized_like(size, fit), tstr=recipe, together=together)
    if model is not None:
        add_bits(report, model, options.n, options.data, options.seed)
    report.facts |= {**facts, **reference.facts(), **versions()}
    report.notes += _caveats(facts, reference)
    if model is not None and is_own and (changed := _changed(model, reference)):
        report.notes.append(changed)
    if options.out is not None and rank() == 0:
        if is_files and (options.out / "report.json").is_file():
            drop_samples(options.out, Path(str(subject)))
        report.save(options.out)
    return report


def _changed(model: Model, reference: ReferenceData) -> str | None:
    """Return that the training images are not those of the model's run; None where they are.

    What a run of its own parts holds has been checked; parts of a data set are not known here.
    """
    data, record, train = model.experiment.data, model.meta.get("data", {}), reference.train
    if train is None or train.shape != model.shape or reference.source != "test images":
        return None
    if data.subset or data.classes or "fingerprint" not in record:
        return None
    now, then = fingerprint(train), record["fingerprint"]
    return (
        None if now == then else f"the training images have changed since: {then} then, {now} now"
    )


def _is_files(path: Path) -> bool:
    """Return whether a path is samples rather than a model."""
    if path.is_dir():
        return not any(path.glob("*.safetensors"))
    return path.suffix == ".npz"


def drop_samples(folder: Path, scored: Path) -> None:
    """Remove the samples of an earlier report from its folder, unless they are scored now."""
    old = folder / "samples.npz"
    if scored.resolve() not in (old.resolve(), folder.resolve()):
        remove_files(folder, old.name)


def _read(path: Path, options: EvaluateOptions) -> tuple[ImageSet, ReferenceData, dict[str, Any]]:
    """Return samples read from files, what they are measured with, and where they come from."""
    if not path.exists():
        raise DataError(f"there is no file {path}; give a run, a model's name, or samples")
    if options.data is None:
        raise ConfigError(f"{path} does not say what its samples should look like: give --data")
    reference = load_reference_data(
        options.data, options.extractor, images=options, device=options.device
    )
    samples = read_samples(path, reference.classes)
    facts = {"samples": str(path), "given": len(samples)}
    if len(samples) > (n := min(options.n, reference.max_samples)):
        samples = samples.select(random_indices(len(samples), n))
    return samples, reference, facts


def _caveats(facts: dict[str, Any], reference: ReferenceData) -> list[str]:
    """Return what the way that a model was sampled means for the numbers."""
    notes = []
    if facts.get("guidance", 1) != 1:
        notes.append("guided samples trade variety for agreement: quote guidance 1")
    if facts.get("labels", "all") != "all":
        notes.append("chosen labels do not have the data's proportions, which changes every number")
    classes = facts.get("trained on", {}).get("classes")
    if classes and set(classes) != set(reference.classes):
        notes.append(f"the model was trained on some classes only: {', '.join(classes)}")
    return notes


def score(
    samples: ImageSet,
    reference: ReferenceData,
    *,
    tstr: Recipe | None = None,
    together: bool = False,
) -> Report:
    """Return the report on samples.

    samples: at the reference's image size; at most as many as it has test images. Labels match
    by the names of their classes. tstr: the recipe of the classifier that is
    trained on them; None leaves that out. together: whether all processes of torchrun compute the
    features.
    """
    n = len(samples)
    real, train = reference.source, reference.train
    report = Report(n, train.name if train is not None else reference.name, real)
    floor = reference.floor_images(n)

    def features(extractor: Extractor, images: ImageArray, whose: str) -> Features:
        advance = counter(f"{extractor.name} of {whose}", len(images))
        if together:
            return features_together(extractor, images, advance)
        return extractor(images, advance=advance)

    of_samples = [features(s.extractor, samples.images, "samples") for s in reference.spaces]
    of_floor = [
        None if floor is None else features(s.extractor, floor.images, real)
        for s in reference.spaces
    ]
    main = reference.spaces[0]  # the headline's
    if reference.is_tiny:
        report.skipped["distances, precision, recall"] = (
            f"{reference.max_real} real images, a quarter of those trained on, are too few to "
            f"stand beside samples: {FEWEST} are needed"
        )
    else:
        report.rows += map(_frechet, reference.spaces, of_samples, of_floor)
    if train is None or floor is None or of_floor[0] is None:
        for name in ("kernel distance", "precision, recall, density, coverage", "memorisation"):
            report.skipped[name] = f"needs the images of {reference.name}: {reference.missing}"
    else:
        of_train = main.train or features(main.extractor, train.images, "training images")
        values = [found.values for found in (of_samples[0], of_floor[0], of_train)]
        if not reference.is_tiny:
            index = torch.from_numpy(reference.reference_indices(n))
            report.rows += _pairs(values[0], values[1], values[2][index])
        pixels = [Pixels(images.images) for images in (samples, floor, train)]
        _memorisation(report, {"pixels": pixels, "features": values}, samples, train)
    if not reference.is_tiny:
        report.rows += _class_score(main, of_samples[0], of_floor[0])
    judge = reference.judge
    if judge is None:
        report.skipped["label agreement"] = f"there is no judge for {reference.name}"
    else:
        known = judge is main.extractor  # a classifier of one's own
        whole = Interval(float(judge.facts.get("test_accuracy", nan)))
        if floor is not None and _unlike(floor, judge.classes) is None:
            of_real = of_floor[0] if known else None
            whole = _agreement(judge, floor, of_real or features(judge, floor.images, real))
        if known:
            report.notes.append(
                f"{judge.name}: trained on half A of the training images, {len(judge.classes)} "
                f"classes; accuracy {number(whole, percent=True)} on "
                f"{0 if floor is None else len(floor)} {real} that it has not seen"
            )
        if (unlike := _unlike(samples, judge.classes)) is not None:
            report.skipped["label agreement"] = unlike
        else:
            found = of_samples[0] if known else features(judge, samples.images, "samples")
            value = _agreement(judge, samples, found)
            name = f"label agreement ({judge.name})"
            report.rows.append(Row("agreement", name, value, whole, "difference", percent=True))
    value = Interval(distinct_share(np.asarray(samples.images)))
    of_real = None if floor is None else Interval(distinct_share(np.asarray(floor.images)))
    report.rows.append(
        Row("distinct", "distinct images", value, of_real, "difference", percent=True)
    )
    if tstr is not None:
        _train_on_samples(report, samples, reference, tstr)
    # Likelihood (bits/dim) needs the model, not its samples: `evaluate` adds its row.
    return report


def frechet(features: Features, reference: Moments) -> Interval:
    """Return the Frechet distance to the reference, with a bootstrap interval.

    Of more than 512 features there is no interval: a hundred roots of their covariances take hours.
    """
    values = features.values.double()
    value = frechet_distance(Moments.of(values), reference)
    if values.shape[1] > WIDE:
        return Interval(value)

    def statistic(counts: Tensor) -> float:
        return frechet_distance(Moments.of(values, counts), reference)

    return bootstrap(len(values), value, statistic, wider=WIDER)


def _frechet(space: FeatureSpace, samples: Features, floor: Features | None) -> Row:
    """Return the row of a space's Frechet distance; without images the floor is computed."""
    name, n = space.extractor.name, len(samples.values)
    return Row(
        f"frechet {name}",
        f"Frechet distance ({name})",
        frechet(samples, space.half_b),
        Interval(space.floor(n)) if floor is None else frechet(floor, space.half_b),
        "ratio",
        bias=predicted_bias(space.half_b, n),
    )


def _pairs(samples: Tensor, floor: Tensor, reference: Tensor) -> list[Row]:
    """Return kernel distance, precision, recall, density, coverage; all features are [n,D]."""
    value, real = (kernel_distance(values, reference) for values in (samples, floor))
    rows = [Row("kernel distance", "kernel distance", value, real, "difference", bias=0.0)]
    of_samples, of_floor = (neighbourhoods(reference, values) for values in (samples, floor))
    for name in ("precision", "recall", "density", "coverage"):
        interval = positive_interval if name == "density" else share_interval
        value, real = (interval(getattr(terms, name)) for terms in (of_samples, of_floor))
        rows.append(Row(name, name, value, real, "difference"))
    return rows


def _memorisation(
    report: Report, spaces: dict[str, Sequence[Rows]], samples: ImageSet, train: ImageSet
) -> None:
    """Add the shares of samples near training images, and the closest pairs.

    spaces: name -> coordinates of the samples, of the real images and of all training images. Real
    images that were trained on give way to all training images, each without itself.
    """
    picture, among = [], report.real == "training images"
    for space, (of_samples, of_floor, of_train) in spaces.items():
        own = None
        if among:
            own = torch.from_numpy(random_indices(len(of_train), MOST))
            of_floor = of_train[own]
        advance = [
            counter(f"nearest {space} of {whose}", len(of_train))
            for whose in ("samples", report.real)
        ]
        found = nearest(of_samples, of_train, advance[0])
        real = nearest(of_floor, of_train, advance[1], own=own)
        closest = found.distance.argsort(stable=True)[:PAIRS]
        picture += [samples.images[closest.numpy()], train.images[found.index[closest].numpy()]]
        below = suspects(real.distance, real.distance)
        if not real.distance.any():
            report.skipped[f"copies ({space})"] = f"all {report.real} are training images"
            continue
        name, value = f"copies ({space})", suspects(found.distance, real.distance)
        floor = share_interval(below)
        row = Row(f"copies {space}", name, share_interval(value), floor, "difference", percent=True)
        report.rows.append(row)
        k = int(below.sum())
        report.threshold = f"all but {k} of {len(below)}" if k else f"all {len(below)}"
    report.closest = np.concatenate(picture)


def _class_score(space: FeatureSpace, samples: Features, floor: Features | None) -> list[Row]:
    if samples.logits is None:
        return []
    real = None if space.score is None else Interval(space.score)
    if floor is not None and floor.logits is not None:
        real = class_score(floor.logits)
    name = f"class score ({space.extractor.name})"
    return [Row("class score", name, class_score(samples.logits), real, "difference")]


def _unlike(samples: ImageSet, classes: tuple[str, ...]) -> str | None:
    """Return why the samples' labels are of no use with these classes; None where they are."""
    if samples.labels is None:
        return "the samples have no labels"
    names = [samples.classes[k] for k in np.unique(samples.labels)]
    if missing := [name for name in names if name not in classes]:
        return f"the samples' classes {_few(missing)} are none of {_few(classes)}"
    return None


def _few(names: Sequence[str]) -> str:
    """Return at most ten names, each as one short line."""
    shown = [" ".join(name.split())[:30] for name in names[:10]]
    return ", ".join(shown + ["..."] * (len(names) > 10))


def _agreement(classifier: Extractor, images: ImageSet, features: Features) -> Interval:
    """Return the share of labelled images whose label a classifier's features agree with."""
    labels = images.labels_in(classifier.classes)
    return agreement(features, replace(images, labels=labels, classes=classifier.classes))


def _train_on_samples(
    report: Report, samples: ImageSet, reference: ReferenceData, recipe: Recipe
) -> None:
    """Train a classifier on the samples, and one on as many training images; test both on real."""
    train, test = reference.train, reference.test
    name = "train on samples, test on real"
    if train is None or test is None or train.labels is None or test.labels is None:
        report.skipped[name] = f"needs labelled training and test images of {reference.name}"
        return
    if reference.from_training:
        report.skipped[name] = "no images are held out to test on"
        return
    if (unlike := _unlike(samples, train.classes)) is not None:
        report.skipped[name] = unlike
        return
    accuracies = []
    as_many = train.select(np.sort(random_indices(len(train), len(samples))))
    for whose, images in (("samples", samples), ("training images", as_many)):
        labels = images.labels_in(train.classes)
        assert labels is not None
        advance = counter(f"training on {whose}", run_length(len(images), recipe))
        classes = len(train.classes)
        pixels = np.asarray(images.images)
        network = train_classifier(pixels, labels, classes, recipe, advance=advance)
        classifier = Extractor("tstr", "", network, test.shape, train.classes, {})
        accuracies.append(_agreement(classifier, test, classifier(test.images)))
    value, real = accuracies
    report.rows.append(Row("tstr", name, value, real, "difference", percent=True))
