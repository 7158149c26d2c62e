"""The images of the run that made a model, loaded and divided as it did."""

from typing import Any

from pocketddpm.config import DataConfig
from pocketddpm.data.image_set import ImageSet
from pocketddpm.data.load import Split, fingerprint, load_images
from pocketddpm.data.split import Parts, divide
from pocketddpm.errors import DataError


def load_chosen(config: DataConfig, split: Split = "train", *, quiet: bool = False) -> ImageSet:
    """Return a split of the images that a run's options choose; raises what `load_images` does."""
    return load_images(
        config.name,
        split,
        image_size=config.image_size,
        fit=config.fit,
        subset=config.subset if split == "train" else None,
        selection=config.selection,
        classes=config.classes,
        **config.image_options(),
        quiet=quiet,
    )


def reporting_images(record: dict[str, Any]) -> int:
    """Return how many of a run's held-out images are for reporting.

    record: what its checkpoint says of its images. None in runs of before there were two draws.
    """
    return int(record.get("reporting", 0))


def run_images(config: DataConfig, record: dict[str, Any]) -> Parts:
    """Return the images of a run, divided as they were when it was trained.

    record: what its checkpoint says of its images.
    Raises DataError when they are not there any more, or are others.
    """
    images = load_chosen(config)
    stored = record.get("fingerprint")
    if stored is not None and (found := fingerprint(images)) != stored:
        raise DataError(
            f"{images.name} has changed since this model was trained (fingerprint {stored}; now "
            f"{len(images)} images, {found}), so that what it held out is not known; restore it, "
            "or name another data set with --data"
        )
    return divide(images, config.held_out or 0, reporting_images(record), config.selection)
