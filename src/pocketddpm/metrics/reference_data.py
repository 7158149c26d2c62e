"""`ReferenceData`: the real images, feature spaces and judge that samples are measured with.

MNIST and Fashion-MNIST have shipped moments, so that much can be measured without their images.
"""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pocketddpm.build import pick_device
from pocketddpm.catalog import DATASETS
from pocketddpm.config import ImageOptions
from pocketddpm.data.decode import Fit, times
from pocketddpm.data.image_set import ImageSet, alike
from pocketddpm.data.load import fingerprint, has_test, load_images
from pocketddpm.data.split import Parts, usual_parts
from pocketddpm.errors import DataError, unknown
from pocketddpm.metrics.classifier_scores import class_score
from pocketddpm.metrics.extractor import (
    SUFFIX,
    Extractor,
    Features,
    load_extractor,
    load_shipped,
    read_file,
)
from pocketddpm.metrics.extractors import (
    ASSETS,
    EXTRACTORS,
    INCEPTION,
    PIXELS_PCA,
    shipped_for,
    shipped_sha256,
)
from pocketddpm.metrics.frechet import Moments, frechet_distance, predicted_bias
from pocketddpm.metrics.inception import has_inception, load_inception
from pocketddpm.metrics.options import FEWEST
from pocketddpm.metrics.pca import fit_pixels_pca
from pocketddpm.metrics.samples import round_trip, to_data_size
from pocketddpm.metrics.split import random_indices, split_halves
from pocketddpm.metrics.train_extractor import FEWEST as FEWEST_HALF
from pocketddpm.metrics.train_extractor import how_read, own_classifier
from pocketddpm.progress import counter

FEWEST_HELD_OUT = 100  # to report by: of fewer, 1 % is less than one image
FEWEST_IMAGES = 8
FOR_COPIES = 100
Source = Literal["test images", "held-out images", "training images"]


@dataclass(frozen=True)
class FeatureSpace:
    """A feature space to measure in, and what real images look like in it.

    half_b, test: moments of half B of the training set, and of the test set. score: the class score
    of the test set, if the extractor classifies. train: features of all training images, where they
    have been computed.
    """

    extractor: Extractor
    half_b: Moments
    test: Moments
    score: float | None = None
    train: Features | None = None

    @classmethod
    def of(
        cls, extractor: Extractor, half_b: Features, test: Features, train: Features | None = None
    ) -> "FeatureSpace":
        """Return the space with the moments of features of half B and of the test set."""
        score = None if test.logits is None else class_score(test.logits).value
        return cls(extractor, Moments.of(half_b.values), Moments.of(test.values), score, train)

    def floor(self, n: int) -> float:
        """Return the Frechet distance expected of n real test images.

        It is that of the whole test set, plus what having only n of them adds for a Gaussian.
        """
        added = predicted_bias(self.half_b, n) - predicted_bias(self.half_b, self.test.n)
        return frechet_distance(self.test, self.half_b) + added


@dataclass(frozen=True)
class ReferenceData:
    """A data set, and all that samples are measured with against it.

    name: the data set, or a folder. train, test: its real images; None when they are not on the
    disk, and then `missing` says why. spaces: the first one gives the headline. judge: reads
    labels; None where there is none. classes: the data set's, in label order. fit: how its images
    usually reach another size. half: the indices of the training images that the reference is of;
    None for all of half B. source: where the real images come from.
    """

    name: str
    train: ImageSet | None
    test: ImageSet | None
    missing: str
    spaces: list[FeatureSpace]
    judge: Extractor | None
    classes: tuple[str, ...]
    fit: Fit
    half: NDArray[np.int64] | None = None
    source: Source = "test images"

    @property
    def from_training(self) -> bool:
        """Whether the real images that samples stand beside were trained on."""
        return self.source == "training images"

    @property
    def is_tiny(self) -> bool:
        """Whether there are too few real images to measure distances."""
        return self.max_real < FEWEST

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the data set's images."""
        return self.spaces[0].extractor.shape

    @property
    def max_real(self) -> int:
        """How many real images there are to stand beside samples."""
        return self.spaces[0].test.n

    @property
    def max_samples(self) -> int:
        """How many samples can be scored: as many as there are real images to compare with.

        Where these are too few for distances, enough to count copies.
        """
        return FOR_COPIES if self.is_tiny else self.max_real

    def reference_indices(self, n: int) -> NDArray[np.int64]:
        """Return n of the training images that the reference is of, drawn at random, int64 [n]."""
        assert self.train is not None
        half = split_halves(len(self.train))[1] if self.half is None else self.half
        return half[random_indices(len(half), n)]

    def floor_images(self, n: int) -> ImageSet | None:
        """Return n test images drawn at random (in MNIST the first 5000 are the easier half)."""
        if self.test is None:
            return None
        return self.test.select(np.sort(random_indices(len(self.test), n)))

    def resized_like(self, size: tuple[int, int], fit: Fit) -> "ReferenceData":
        """Return the same with test images that went to the samples' (height, width) and back."""
        return self if self.test is None else replace(self, test=round_trip(self.test, size, fit))

    def facts(self) -> dict[str, Any]:
        """Return what is needed to repeat a measurement against these data, as plain JSON."""
        sets = {"training set": self.train, "test set": self.test}
        return {
            "reference": f"moments of half B of the training set of {self.name}, "
            f"{self.spaces[0].half_b.n} images",
            "fingerprints": {k: fingerprint(v) for k, v in sets.items() if v is not None},
            "real": f"{self.max_real} {self.source}" + (" of half B" if self.from_training else ""),
            "extractors": {s.extractor.name: s.extractor.sha256 for s in self.spaces},
            "real images": self.train.source or None if self.train is not None else None,
            "judge": None if self.judge is None else f"{self.judge.name} {self.judge.sha256}",
        }


def load_reference_data(
    data: str,
    extractor: str | None = None,
    *,
    size: tuple[int, int] | None = None,
    fit: Fit | None = None,
    images: ImageOptions | None = None,
    parts: Parts | None = None,
    device: str = "cpu",
) -> ReferenceData:
    """Return the reference data of a data set, or of a folder.

    Without a test split, the real images are what a run holds out for reporting; where these are
    fewer than 100, half of half B, and the reference is the other half. Images with labels get a
    classifier of their own, which is trained when it is first needed.

    extractor: a name, or a .safetensors file, for the headline; None for the data set's own.
    size: (height, width) of the samples. Folders, and sets whose images are usually resized, have
    no size of their own: they are measured at the extractor file's size, else at this one, else as
    they are. fit: how they reach it. images: what else becomes of them. parts: the images of the
    run that is measured, where they are known. device: where a classifier is trained.
    Raises ConfigError for unknown names; DataError when images are needed and not found.
    """
    given, options = None, (images or ImageOptions()).image_options()
    if extractor is not None and extractor.endswith(SUFFIX):
        given = load_extractor(Path(extractor).stem, Path(extractor))
    elif extractor is not None and extractor not in EXTRACTORS:
        raise unknown("extractor", extractor, EXTRACTORS)
    is_shipped = bool(shipped_for(data, "metric"))
    image_size = image_fit = None
    if usual_fit(data) == "resize" and not is_shipped:
        image_size, image_fit = (size if given is None else given.shape[1:]), fit
        if given is not None and size is not None and fit in (None, "resize", "contain"):
            _check_sides(given, size, data)
    chosen = {"image_size": image_size, "fit": image_fit, **options}
    train = test = half = None
    missing, source = "", "test images"
    try:
        if parts is None and has_test(data):
            train, test = (load_images(data, split, **chosen) for split in ("train", "test"))
        else:
            train, test, half, source = _own_images(data, parts, chosen)
    except DataError as error:
        if not is_shipped:
            raise
        missing = str(error)
    if train is not None and alike(train.images):
        raise DataError(
            f"{train.name}: all {len(train)} training images are the same one, so that nothing can "
            "be measured by how much real images differ; look at the samples"
        )
    if given is not None and train is not None:
        _check_reading(given, train, data)
    names = [] if extractor is None or given is not None else [extractor]
    names += [*shipped_for(data, "metric"), PIXELS_PCA]  # pixels, which suit all data, last
    extractors = [_named_extractor(name, data, train) for name in dict.fromkeys(names)]
    extractors = extractors if given is None else [given, *extractors]
    judges = shipped_for(data, "judge")
    judge = load_shipped(judges[0], data) if judges else None
    if extractor is None and not is_shipped and train is not None:
        if train.labels is None and has_inception():
            extractors = [load_inception(train.shape), *extractors]
        elif train.labels is not None and len(train.classes) > 1 and len(train) >= 2 * FEWEST_HALF:
            judge = own_classifier(train, pick_device(device))
            extractors = [judge, *extractors]
    return ReferenceData(
        name=data,
        train=train,
        test=test,
        missing=missing,
        spaces=[_space(each, data, train, test, half) for each in extractors],
        judge=judge,
        classes=train.classes if train is not None else DATASETS.load(data).CLASSES,
        fit=usual_fit(data),
        half=half,
        source=source,
    )


def _own_images(
    data: str, parts: Parts | None, chosen: dict[str, Any]
) -> tuple[ImageSet, ImageSet, NDArray[np.int64] | None, Source]:
    """Return training images, real images beside samples, the reference's half, and their source.

    parts: of a run; None for images of which a run is not known: as it would divide them. chosen:
    options of `load_images`.
    Raises DataError for fewer than 8 images.
    """
    if parts is None:
        parts = usual_parts(load_images(data, **chosen))
    train, reporting = parts.training, parts.reporting
    if (image_size := chosen["image_size"]) is not None:
        # As samples of a run come from its own size to the extractor's.
        fit: Fit = chosen["fit"] or "resize"

        def brought(images: ImageSet) -> ImageSet:
            shape = (images.shape[0], *image_size)
            return replace(images, images=to_data_size(images.images, shape, fit, images.name))

        train, reporting = brought(train), reporting and brought(reporting)
    if reporting is not None and len(reporting) >= FEWEST_HELD_OUT:
        return train, reporting, None, "held-out images"
    if len(train) < FEWEST_IMAGES:
        raise DataError(
            f"{train.name}: {len(train)} images are too few to compare with; {FEWEST_IMAGES} are "
            "needed to count copies"
        )
    _, half_b = split_halves(len(train))
    middle = len(half_b) // 2
    order = half_b[random_indices(len(half_b), len(half_b))]
    reference, real = np.sort(order[middle:]), np.sort(order[:middle])
    return train, train.select(real), reference, "training images"


def _check_sides(extractor: Extractor, size: tuple[int, int], data: str) -> None:
    """Raise DataError when samples of a size would lose a part of them in the extractor's."""
    _, height, width = extractor.shape
    if abs(size[0] * width / height - size[1]) >= 1:
        raise DataError(
            f"extractor {extractor.name} takes images of {height}x{width}, but the samples are "
            f"{times(size)}, of other sides: make one with "
            f"pocketddpm extractor {shlex.quote(data)} --image-size {times(size)}"
        )


def _check_reading(extractor: Extractor, images: ImageSet, data: str) -> None:
    """Raise DataError when an extractor of these data was made of images that look otherwise."""
    made, here = extractor.facts.get("reading") or {}, how_read(images)
    if extractor.facts.get("data") != images.name:
        return  # other images anyway
    if other := [key for key in made if key in here and made[key] != here[key]]:
        then, now = (
            " ".join(f"--{key} {shlex.quote(read[key])}" for key in other) for read in (made, here)
        )
        own = images.reading and images.reading.size
        size = f"--image-size {times(own or extractor.shape[1:])}"
        raise DataError(
            f"extractor {extractor.name} was made of images with {then}, but these have {now}: "
            f"make one with pocketddpm extractor {shlex.quote(data)} {size} {now}"
        )


def own_extractor(data: str) -> Extractor | None:
    """Return the network that is shipped for a data set; None where there is none."""
    names = [name for name in shipped_for(data, "metric") if name != PIXELS_PCA]
    return load_shipped(names[0], data) if names else None


def usual_fit(data: str) -> Fit:
    """Return how a data set's images, or a folder's, usually reach another size."""
    fit: Fit = DATASETS.load(data if data in DATASETS.names() else "folder").FIT
    return fit


def _named_extractor(name: str, data: str, train: ImageSet | None) -> Extractor:
    """Return an extractor of the table for these data; another data set's, if it has none."""
    files = EXTRACTORS[name].files
    if data in files or (files and name != PIXELS_PCA):
        return load_shipped(name, data if data in files else next(iter(files)))
    if train is None:
        raise DataError(f"the extractor {name} needs the images of {data}, which were not found")
    if name == INCEPTION:
        return load_inception(train.shape)
    return fit_pixels_pca(train.select(split_halves(len(train))[0]).images, data)


def _space(
    extractor: Extractor,
    data: str,
    train: ImageSet | None,
    test: ImageSet | None,
    half: NDArray[np.int64] | None,
) -> FeatureSpace:
    """Return the space with shipped moments, else with those of all images, features kept."""
    name = extractor.name
    file = EXTRACTORS[name].files.get(data) if name in EXTRACTORS else None
    if file is not None and extractor.sha256 == shipped_sha256(f"{file}{SUFFIX}"):
        return load_moments(extractor, f"{file}-moments{SUFFIX}")
    if train is None or test is None:
        raise DataError(f"{data} has no shipped moments for {name}, and its images were not found")
    extractor.check(train.images)  # before a progress bar is drawn
    of_train, of_test = (
        extractor(images.images, advance=counter(f"{name} of {split} images", len(images)))
        for split, images in (("training", train), ("test", test))
    )
    half_b = of_train[torch.from_numpy(split_halves(len(train))[1] if half is None else half)]
    return FeatureSpace.of(extractor, half_b, of_test, of_train)


def load_moments(extractor: Extractor, file: str) -> FeatureSpace:
    """Return the space of a shipped file of moments; DataError when it is another extractor's."""
    facts, tensors = read_file(ASSETS / file, shipped_sha256(file))
    if facts["extractor"] != extractor.sha256:
        raise DataError(f"{file} was made with another version of {extractor.name}")
    half_b, test = (
        Moments(int(facts["n"][name]), tensors[f"{name}.total"], tensors[f"{name}.outer"])
        for name in ("half_b", "test")
    )
    return FeatureSpace(extractor, half_b, test, facts["score"])
