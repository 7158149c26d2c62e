"""What a data set is measured with: its real images, its extractors, its judge.

Built-in data sets have shipped files, and so can be measured against in part without their images.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketddpm.catalog import DATASETS, EXTRACTORS
from pocketddpm.data.image_set import ImageSet
from pocketddpm.data.load import fingerprint, load_images
from pocketddpm.errors import DataError
from pocketddpm.metrics.evaluate import Real, Space
from pocketddpm.metrics.extractor import ASSETS, Asset, Extractor, load_extractor
from pocketddpm.metrics.halves import halves
from pocketddpm.metrics.principal import NAME as PIXELS
from pocketddpm.metrics.principal import fit_pixels_pca
from pocketddpm.metrics.reference import Reference, load_reference, make_reference
from pocketddpm.metrics.samples import Fit, round_trip

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
            "judge": None if self.judge is None else f"{self.judge.name} {self.judge.sha256}",
        }


def load_setting(data: str, extractor: str | None = None) -> Setting:
    """Return the setting for a data set or a folder with train/ and test/.

    extractor: a name, or a .safetensors file, that comes before the data set's own; None for these.
    Raises ConfigError for unknown names; DataError when images are needed that are not there.
    """
    train = test = None
    missing = ""
    try:
        train, test = load_images(data), load_images(data, "test")
    except DataError as error:
        if data not in _shipped():
            raise
        missing = str(error)
    names = _extractor_names(data, extractor)
    spaces = [_space(name, data, train, test) for name in names]
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


def _space(name: str, data: str, train: ImageSet | None, test: ImageSet | None) -> Space:
    if name.endswith(SUFFIX):
        extractor = load_extractor(Path(name).stem, Path(name))
    elif name == PIXELS and data not in _weights(name):
        assert train is not None
        extractor = fit_pixels_pca(train.images[halves(len(train))[0]], data)
    else:
        extractor = _named(name, data)
    return Space(extractor, _reference(name, data, extractor, train, test))


def _reference(
    name: str, data: str, extractor: Extractor, train: ImageSet | None, test: ImageSet | None
) -> Reference:
    if not name.endswith(SUFFIX) and (asset := _entry(name).MOMENTS.get(data)) is not None:
        return load_reference(asset, extractor)
    if train is None or test is None:
        raise DataError(f"{data} has no shipped moments for {name}: its images are needed")
    half_b = train.images[halves(len(train))[1]]
    return make_reference(extractor(half_b), extractor(test.images))
