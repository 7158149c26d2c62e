"""Bits per dimension of real images under a model, with intervals; docs/likelihood.md says why."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from math import inf, log2, prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pocketddpm.catalog import DATASETS
from pocketddpm.data.image_set import ImageSet
from pocketddpm.data.load import fingerprint, has_test, load_images
from pocketddpm.diffusion.bound import Bins, pixel_decoder
from pocketddpm.diffusion.likelihood import Bound, Flow, cut, draw_bound, flow, flow_nfe, per_image
from pocketddpm.errors import ConfigError, DDPMError
from pocketddpm.metrics.intervals import Interval, mean_interval
from pocketddpm.metrics.options import LikelihoodOptions
from pocketddpm.metrics.report import (
    Report,
    Row,
    facts_line,
    facts_section,
    markdown_table,
    number,
)
from pocketddpm.metrics.samples import load_subject
from pocketddpm.metrics.split import random_indices
from pocketddpm.models.model import Model
from pocketddpm.models.provenance import versions
from pocketddpm.models.run_images import run_images
from pocketddpm.output import refuse_existing, remove_files, write_json, write_text
from pocketddpm.pictures import save_bound_curve
from pocketddpm.progress import counter

FEW_IMAGES = 500
FEW_DRAWS = 10


@dataclass(frozen=True)
class LikelihoodImages:
    """Real images in the form that a model takes, and what their bits are divided by.

    images: uint8 [N,C,H,W]. labels: int64 [N] in the model's order, or None for p(x). index: int64
    [N], their positions in the data set, which seed the noise. dims: dimensions of an image, as
    bits/dim count them. resized: whether the pixels are not the data set's own. facts: where they
    come from, as plain JSON.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    index: NDArray[np.int64]
    dims: int
    resized: bool
    facts: dict[str, Any]

    @property
    def factor(self) -> float:
        """Dimensions of the model's (padded) images over those that count: scales bits/dim."""
        return prod(self.images.shape[1:]) / self.dims

    def titled(self, what: str) -> str:
        """Return the name of a number of these images, with what restricts its comparison."""
        given = ", given the label" if self.labels is not None else ""
        return f"{what}{given}{', resized: not comparable' if self.resized else ''}"


@dataclass
class LikelihoodReport:
    """The result. bits: key -> (name, number), in bits per counted dimension.

    curve: a row for each stratum of steps first..last: the bits that it adds; those per step, with
    the half-width of their 95 % interval; the rate of all steps above; the root mean squared error
    of x0_hat there, in grey levels. notes: what must be known before quoting. facts: what is needed
    to repeat it.
    """

    bits: dict[str, tuple[str, Interval]]
    curve: list[dict[str, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """Return the numbers for a terminal."""
        width = max(len(name) for name, _ in self.bits.values())
        lines = [f"{name:{width}}  {number(value)}" for name, value in self.bits.values()]
        lines += ["", *(f"note: {note}" for note in self.notes), facts_line(self.facts)]
        return "\n".join(lines)

    def markdown(self) -> str:
        """Return the numbers, the notes and all facts as a Markdown page."""
        rows = [[name, number(value)] for name, value in self.bits.values()]
        lines = ["# Likelihood", "", *markdown_table(("bits/dim", "value [95 %]"), rows), ""]
        lines += [f"- {note}" for note in self.notes]
        if self.curve:
            lines += ["", "![bits of each step, and rate against distortion](curve.png)"]
        return "\n".join([*lines, *facts_section(self.facts)]) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "bits_per_dim": {
                key: {"name": name, "value": e.value, "low": e.low, "high": e.high}
                for key, (name, e) in self.bits.items()
            },
            "curve": self.curve,
            "notes": self.notes,
            "facts": self.facts,
        }

    def save(self, folder: Path) -> None:
        """Write report.md, report.json and curve.png; OutputError when that fails."""
        remove_files(folder, "curve.png")
        write_text(folder / "report.md", self.markdown())
        write_json(folder / "report.json", self.to_json())
        if self.curve:
            save_bound_curve(folder / "curve.png", self.curve)


def likelihood(subject: str | Path | Model, options: LikelihoodOptions) -> LikelihoodReport:
    """Measure bits per dimension under a model; write the report to `options.out`, if any.

    subject: a `Model`, or the path or name of one. Raises ConfigError for options that do not fit
    the model or the images.
    """
    if options.out is not None:
        refuse_existing(options.out, options.overwrite, folder=True)
    model, facts = load_subject(subject, options.device, options.weights)
    report = measure(model, likelihood_images(model, options), options)
    report.facts |= {**facts, "device": str(model.device), **versions()}
    if options.out is not None:
        report.save(options.out)
    return report


def measure(model: Model, images: LikelihoodImages, options: LikelihoodOptions) -> LikelihoodReport:
    """Return the bound, the flow or both of images.

    Intervals cover all that is random: the images, the steps drawn, the noise, the probe.
    """
    quantity = "p(x)" if images.labels is None else "p(x given y)"
    facts = {**images.facts, "of what": quantity, "dimensions": images.dims, "seed": options.seed}
    report = LikelihoodReport({}, notes=_notes(images), facts=facts)
    if options.which != "flow":
        variance = options.variance or model.experiment.objective.variance
        _add_bound(report, model, images, _bound(model, images, variance, options))
        facts |= {"variance": variance, "draws of t": f"{options.draws} of {model.schedule.T}"}
    if options.which != "bound":
        _add_flow(report, model, images, _flow(model, images, options))
        nfe, backward = flow_nfe(options.flow_steps)
        facts |= {"flow steps": options.flow_steps, "flow nfe": f"{nfe}, {backward} with gradient"}
    return report


def add_bits(report: Report, model: Model, n: int, data: str | None, seed: int) -> None:
    """Add a row to `evaluate`'s report, of few images and few draws; or why it is missing."""
    draws = min(FEW_DRAWS, model.schedule.T)
    options = LikelihoodOptions(n=min(n, FEW_IMAGES), draws=draws, data=data, seed=seed)
    try:
        images = likelihood_images(model, options)
        bits = measure(model, images, options)
    except DDPMError as error:
        report.skipped["bits/dim"] = str(error)
        return
    name, value = bits.bits["bound"]
    report.rows.append(Row("bits_per_dim", f"bits/dim ({name})", value, None, "difference"))
    what = f"{len(images.images)} {images.facts['split']} images"
    report.notes += [f"bits/dim: {what}, {bits.facts['draws of t']} steps each", *bits.notes]


def likelihood_images(model: Model, options: LikelihoodOptions) -> LikelihoodImages:
    """Return images of a split, drawn at random with a fixed seed, in the form the model takes.

    Split 'train' is what the run trained on, 'held-out' what it held out; where its data have no
    test split, 'test' is what it held out for reporting.
    Raises ConfigError for a split or labels that do not exist, and what `load_images` raises.
    """
    if options.labels == "none" and model.classes and model.null is None:
        raise ConfigError(
            "this model never saw an image without its label (label_dropout 0), and so knows "
            "p(x given y) alone; use --labels data"
        )
    config = model.experiment.data
    name, split = options.data or config.name, options.split
    is_own = name == config.name
    fit = config.fit or DATASETS.load(name if name in DATASETS.names() else "folder").FIT
    if split == "held-out" and not (is_own and config.held_out):
        raise ConfigError("this model's run held no images out; use --split test")
    is_reporting = is_own and split == "test" and not has_test(name)
    stored_split = "test" if split == "test" and not is_reporting else "train"
    if is_own and stored_split == "train":
        parts = run_images(config, model.meta.get("data", {}))
        found = {"train": parts.training, "held-out": parts.held_out}.get(split, parts.reporting)
        split = "held-out" if is_reporting else split
        if found is None:
            raise ConfigError(
                f"{name} has no test split, and this model's run held no images out for "
                "reporting; use --split train"
            )
        images = found
    else:
        images = load_images(
            name,
            stored_split,
            image_size=model.shape[1:],
            fit=fit,
            classes=config.classes if is_own else None,
            **config.image_options(),
        )
    if images.shape != model.shape:
        raise ConfigError(
            f"{name} has images {_size(images.shape)}, and the model is of {_size(model.shape)}; "
            "choose another --data"
        )
    dims, resized = prod(images.shape), False
    if fit == "pad":
        dims = prod(load_images(name, stored_split, fit=fit).shape)
    else:
        # Folders resize while they decode, and do not say which of their files needed it.
        decoded = name not in DATASETS.names() and not (is_own and config.image_size is None)
        resized = bool(images.source) or decoded
    index = np.sort(random_indices(len(images), options.n))
    facts = {
        "data": name,
        "split": split,
        "images": len(index),
        "of": len(images),
        "size": images.source or _size(images.shape),
        "fingerprint": fingerprint(images),
    }
    numbers = _labels(model, images) if options.labels == "data" else None
    numbers = None if numbers is None else numbers[index]
    return LikelihoodImages(images.images[index], numbers, index, dims, resized, facts)


def _labels(model: Model, images: ImageSet) -> NDArray[np.int64] | None:
    if not model.classes:
        return None
    labels = images.labels_in(model.classes)
    if labels is None:
        raise ConfigError(
            f"{images.name} does not have this model's classes ({', '.join(model.classes)}); "
            "use --labels none"
        )
    return labels


def _size(shape: tuple[int, int, int]) -> str:
    return "x".join(map(str, shape))


def _batches(
    model: Model, images: LikelihoodImages, size: int, clip: bool
) -> Iterator[tuple[Any, Tensor, Tensor]]:
    """Yield the denoiser of each batch, its x0 [B,C,H,W] and index [B]."""
    for start in range(0, len(images.images), size):
        x0, y, index = (
            None if v is None else torch.from_numpy(v[start : start + size]).to(model.device)
            for v in (images.images, images.labels, images.index)
        )
        assert x0 is not None and index is not None
        yield per_image(model.denoiser(y, clip=clip)), model.scaling.to_model(x0), index


def _bound(
    model: Model, images: LikelihoodImages, variance: str, options: LikelihoodOptions
) -> Bound:
    scaling, strata = model.scaling, cut(model.schedule.T, options.draws)
    low, high = scaling.bounds
    mean = 0.0 if scaling.mean is None else scaling.mean.to(model.device)
    decoder = pixel_decoder(Bins(low - mean, high - mean, scaling.bin_width))
    done = counter("bound (images x draws)", len(images.images) * options.draws)
    draw = partial(draw_bound, seed=options.seed, variance=variance, decoder=decoder, done=done)
    parts = [
        draw(denoise, model.schedule, x0, index, strata)
        for denoise, x0, index in _batches(model, images, options.batch_size, clip=True)
    ]
    joined = (torch.cat([getattr(p, k) for p in parts]) for k in ("t", "prior", "bits", "error"))
    return Bound(strata, *joined)


def _flow(model: Model, images: LikelihoodImages, options: LikelihoodOptions) -> Flow:
    steps, seed = options.flow_steps, options.seed
    done = counter("flow (images x steps)", len(images.images) * (steps + steps // 2))
    solve = partial(flow, bin_width=model.scaling.bin_width, steps=steps, seed=seed, done=done)
    parts = [
        solve(denoise, model.schedule, x0, index)
        for denoise, x0, index in _batches(model, images, options.batch_size, clip=False)
    ]
    return Flow(*(torch.cat([getattr(p, k) for p in parts]) for k in ("coarse", "fine")))


def _add_bound(
    report: LikelihoodReport, model: Model, images: LikelihoodImages, bound: Bound
) -> None:
    for key, name, terms in (
        ("bound", images.titled("bound"), bound.total),
        ("rate", "  rate: all steps but the last, and the prior", bound.total - bound.bits[:, 0]),
        ("distortion", "  distortion: the last step, the decoder", bound.bits[:, 0]),
        ("prior", "  prior (a part of the rate)", bound.prior),
    ):
        report.bits[key] = (name, mean_interval(terms * images.factor))
    _add_label_bits(report, "bound", bound.total, images, model)
    low, high = model.scaling.bounds
    grey_levels = 255 / (high - low)  # in one model unit
    for k, (first, last) in enumerate(bound.strata):
        terms = mean_interval(bound.bits[:, k] * images.factor)
        steps = last - first + 1
        above = bound.prior + bound.bits[:, k + 1 :].sum(1)
        report.curve.append(
            {
                "first": first,
                "last": last,
                "bits": terms.value,
                "bits_per_step": terms.value / steps,
                "error_per_step": (terms.high - terms.value) / steps,
                "rate": float((above * images.factor).mean()),
                "rmse": float(bound.error[:, k].mean().sqrt()) * grey_levels,
            }
        )


def _add_flow(report: LikelihoodReport, model: Model, images: LikelihoodImages, bits: Flow) -> None:
    report.bits["flow"] = (images.titled("flow"), mean_interval(bits.total * images.factor))
    extrapolated = mean_interval((bits.total - bits.fine) * images.factor)
    report.bits["flow_remainder"] = ("  of this, extrapolated from two solves", extrapolated)
    _add_label_bits(report, "flow", bits.total, images, model)


def _add_label_bits(
    report: LikelihoodReport, key: str, bits: Tensor, images: LikelihoodImages, model: Model
) -> None:
    """Add the bound on p(x) that follows: -log p(x) <= -log p(x given y) - log p(y)."""
    if images.labels is None:
        return
    total = sum(model.class_counts)
    of_class = torch.tensor([-log2(c / total) if c else inf for c in model.class_counts])
    label = of_class[torch.from_numpy(images.labels)].double() / images.dims
    name = f"{key} of p(x): the label's own bits added"
    report.bits[f"{key}_with_label"] = (name, mean_interval(bits * images.factor + label))


def _notes(images: LikelihoodImages) -> list[str]:
    notes = []
    chain = prod(images.images.shape[1:])
    if images.resized:
        notes.append(
            f"the images were resized ({images.facts['size']}): these are bits of the resized "
            "8-bit image, comparable with no published number"
        )
    if chain != images.dims:
        notes.append(
            f"all nats of the padded image ({chain} dimensions) are divided by the {images.dims} "
            "of the image itself: an upper bound, because the padding's own nats are at least 0"
        )
    if images.labels is not None:
        notes.append("given the label, numbers compare with other p(x given y) only")
    if images.facts["split"] == "train":
        notes.append("of training images: not a test likelihood")
    return notes
