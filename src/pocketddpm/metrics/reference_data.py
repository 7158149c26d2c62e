"""What a data set is measured with: its real images, its extractors, its judge.

Built-in data sets have shipped files, and so can be measured against in part without their images.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pocketddpm.catalog import DATASETS, EXTRACTORS
from pocketddpm.data.image_set import ImageSet
from pocketddpm.data.load import fingerprint, load_images
from pocketddpm.errors import DataError
from pocketddpm.metrics.extractor import ASSETS, Asset, Extractor, load_extractor
from pocketddpm.metrics.pca import NAME as PIXELS
from pocketddpm.metrics.pca import fit_pixels_pca
from pocketddpm.metrics.protocol import Real, Space, Watch
from pocketddpm.metrics.reference import load_reference, make_reference
from pocketddpm.metrics.samples import Fit, round_trip
from pocketddpm.metrics.split import halves

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Setting:
    """A data set and everything to measure with.

    train, test: its real images, or None when they are not on the disk. missing: why. spaces: the
    first is the headline's. fit: how the data set's images usually reach another size.
    """

    data: str
    train: ImageSet | None
    test: ImageSet | None
    missing: str
    spaces: list[Space]
    judge: Extractor | None
    classes: tuple[str, ...]
    fit: Fit

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the data set's images."""
        return self.spaces[0].extractor.shape

    @property
    def most(self) -> int:
        """How many samples can be scored: as many as there are real test images."""
        return self.spaces[0].reference.test.n

    def real(self, size: tuple[int, int], fit: Fit) -> Real:
        """Return the real images, those of the test set after the samples' round trip of sizes."""
        test = None if self.test is None else round_trip(self.test, size, fit)
        return Real(self.data, self.train, test, self.missing)

    def facts(self) -> dict[str, Any]:
        """Return what is needed to repeat a measurement against this setting, as plain JSON."""
        sets = {"training set": self.train, "test set": self.test}
        return {
            "reference": f"moments of half B of the training set of {self.data}, "
            f"{self.spaces[0].reference.half_b.n} images",
            "fingerprints": {k: fingerprint(v) for k, v in sets.items() if v is not None},
            "extractors": {s.extractor.name: s.extractor.sha256 for s in self.spaces},
            "real images": self.train.source or None if self.train is not None else None,
            "judge": None if self.judge is None else f"{self.judge.name} {self.judge.sha256}",
        }


def load_setting(
    data: str,
    extractor: str | None = None,
    *,
    size: tuple[int, int] | None = None,
    watch: Watch = lambda what, total: lambda k: None,
) -> Setting:
    """Return the setting for a data set or a folder with train/ and test/.

    extractor: a name, or a .safetensors file, that comes before the data set's own; None for these.
    size: that of the samples. Folders, and sets whose images are usually resized, have no size of
    their own: they are measured at the extractor file's size, else at this one, else as they are.
    watch: as for `evaluate`.
    Raises ConfigError for unknown names; DataError when images are needed that are not there.
    """
    train = test = None
    missing = ""
    files = [Path(extractor)] if extractor is not None and extractor.endswith(SUFFIX) else []
    own = [load_extractor(path.stem, path) for path in files]
    at = None
    if usual_fit(data) == "resize" and data not in _shipped():
        at = own[0].shape[1:] if own else size
    try:
        train, test = (load_images(data, split, image_size=at) for split in ("train", "test"))
    except DataError as error:
        if data not in _shipped():
            raise
        missing = str(error)
    first = extractor if not own else None
    extractors = [*own, *(_extractor(name, data, train) for name in _extractor_names(data, first))]
    spaces = [_space(found, data, train, test, watch) for found in extractors]
    judges = [n for n in EXTRACTORS.names() if _entry(n).ROLE == "judge" and data in _weights(n)]
    judge = _named(judges[0], data) if judges else None
    known = train.classes if train is not None else DATASETS.load(data).CLASSES
    return Setting(data, train, test, missing, spaces, judge, known, usual_fit(data))


def own_extractor(data: str) -> Extractor | None:
    """Return the network that is shipped for a data set; None where there is none."""
    for name in EXTRACTORS.names():
        if name != PIXELS and _entry(name).ROLE == "metric" and data in _weights(name):
            return _named(name, data)
    return None


def usual_fit(data: str) -> Fit:
    """Return how a data set's images, or a folder's, usually reach another size."""
    fit: Fit = DATASETS.load(data if data in DATASETS.names() else "folder").FIT
    return fit


def _entry(name: str) -> Any:
    return EXTRACTORS.load(name)


def _weights(name: str) -> dict[str, Asset]:
    return _entry(name).WEIGHTS


def _shipped() -> set[str]:
    return {data for name in EXTRACTORS.names() for data in _weights(name)}


def _extractor_names(data: str, first: str | None) -> list[str]:
    """Return the metrics to use, the headline's first; pixels, which suit all data, last."""
    metrics = [n for n in EXTRACTORS.names() if _entry(n).ROLE == "metric"]
    own = [n for n in metrics if data in _weights(n) and n != PIXELS]
    return list(dict.fromkeys([*([first] if first else []), *own, PIXELS]))


def _named(name: str, data: str) -> Extractor:
    """Return a shipped extractor; that of another data set, if this one has none."""
    weights = _weights(name)
    asset = weights.get(data) or next(iter(weights.values()))
    return load_extractor(name, ASSETS / asset.file, asset.sha256)


def _extractor(name: str, data: str, train: ImageSet | None) -> Extractor:
    """Return the extractor of the catalogue for these data."""
    weights = _weights(name)
    if data in weights or (weights and name != PIXELS):
        return _named(name, data)
    if train is None:
        raise DataError(f"{name} needs the images of {data}, which are not there")
    if name == PIXELS:
        return fit_pixels_pca(train.images[halves(len(train))[0]], data)
    extractor: Extractor = _entry(name).load(train.shape)
    return extractor


def _space(
    extractor: Extractor, data: str, train: ImageSet | None, test: ImageSet | None, watch: Watch
) -> Space:
    """Return the space with its reference: shipped, or made of all images, which are then kept."""
    name = extractor.name
    asset = _entry(name).MOMENTS.get(data) if name in EXTRACTORS.names() else None
    if asset is not None and extractor.sha256 == _weights(name)[data].sha256:
        return Space(extractor, load_reference(asset, extractor))
    if train is None or test is None:
        raise DataError(f"{data} has no shipped moments for {name}: its images are needed")
    extractor.check(train.images)  # before a progress bar is drawn
    of_train, of_test = (
        extractor(images.images, progress=watch(f"{name} of {whose} images", len(images)))
        for whose, images in (("training", train), ("test", test))
    )
    half_b = torch.from_numpy(halves(len(train))[1])
    return Space(extractor, make_reference(of_train[half_b], of_test), of_train)
