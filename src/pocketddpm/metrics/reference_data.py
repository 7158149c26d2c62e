"""`ReferenceData`: the real images, feature spaces and judge that samples are measured with.

MNIST and Fashion-MNIST have shipped moments, so that much can be measured without their images.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pocketddpm.catalog import DATASETS
from pocketddpm.config import ImageOptions
from pocketddpm.data.decode import Fit
from pocketddpm.data.image_set import ImageSet
from pocketddpm.data.load import fingerprint, load_images
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
from pocketddpm.metrics.inception import load_inception
from pocketddpm.metrics.pca import fit_pixels_pca
from pocketddpm.metrics.samples import round_trip
from pocketddpm.metrics.split import random_indices, split_halves
from pocketddpm.progress import counter


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
    usually reach another size.
    """

    name: str
    train: ImageSet | None
    test: ImageSet | None
    missing: str
    spaces: list[FeatureSpace]
    judge: Extractor | None
    classes: tuple[str, ...]
    fit: Fit

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the data set's images."""
        return self.spaces[0].extractor.shape

    @property
    def max_samples(self) -> int:
        """How many samples can be scored: as many as there are real test images."""
        return self.spaces[0].test.n

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
) -> ReferenceData:
    """Return the reference data of a data set, or of a folder with train/ and test/.

    extractor: a name, or a .safetensors file, for the headline; None for the data set's own.
    size: (height, width) of the samples. Folders, and sets whose images are usually resized, have
    no size of their own: they are measured at the extractor file's size, else at this one, else as
    they are. fit: how they reach it. images: what else becomes of them.
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
    train = test = None
    missing = ""
    try:
        train, test = (
            load_images(data, split, image_size=image_size, fit=image_fit, **options)
            for split in ("train", "test")
        )
    except DataError as error:
        if not is_shipped:
            raise
        missing = str(error)
    names = [] if extractor is None or given is not None else [extractor]
    names += [*shipped_for(data, "metric"), PIXELS_PCA]  # pixels, which suit all data, last
    extractors = [_named_extractor(name, data, train) for name in dict.fromkeys(names)]
    extractors = extractors if given is None else [given, *extractors]
    judges = shipped_for(data, "judge")
    return ReferenceData(
        name=data,
        train=train,
        test=test,
        missing=missing,
        spaces=[_space(each, data, train, test) for each in extractors],
        judge=load_shipped(judges[0], data) if judges else None,
        classes=train.classes if train is not None else DATASETS.load(data).CLASSES,
        fit=usual_fit(data),
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
    return fit_pixels_pca(train.images[split_halves(len(train))[0]], data)


def _space(
    extractor: Extractor, data: str, train: ImageSet | None, test: ImageSet | None
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
    half_b = of_train[torch.from_numpy(split_halves(len(train))[1])]
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
