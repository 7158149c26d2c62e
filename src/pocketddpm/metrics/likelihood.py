"""Bits per dimension of real images under a model, with intervals; docs/likelihood.md says why."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import log2, prod
from typing import Any

import torch
from torch import Tensor

from pocketddpm.diffusion.bound import Bins, pixel_decoder
from pocketddpm.diffusion.likelihood import Bound, Flow, cut, draw_bound, flow, flow_nfe, per_image
from pocketddpm.errors import DDPMError
from pocketddpm.metrics.intervals import Estimate, of_mean
from pocketddpm.metrics.likelihood_images import Counted, choose_images
from pocketddpm.metrics.report import Report, Row, flatten, markdown_table, number
from pocketddpm.models.model import Model

FEW_IMAGES = 500
FEW_DRAWS = 10
Watch = Callable[[str, int], Callable[[int], object]]


@dataclass
class Likelihood:
    """The result. bits: key -> (name, estimate), in bits per counted dimension.

    curve: a row per stratum of steps first..last: what it adds; that per step, with the half-width
    of its 95 % interval; the rate of all steps above; x0_hat's root mean squared error in grey
    levels there. notes: what must be known before quoting.
    """

    bits: dict[str, tuple[str, Estimate]]
    curve: list[dict[str, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """Return the numbers for a terminal."""
        width = max(len(name) for name, _ in self.bits.values())
        lines = [f"{name:{width}}  {number(e, False)}" for name, e in self.bits.values()]
        lines += ["", *(f"note: {note}" for note in self.notes)]
        lines.append("repeat: " + ", ".join(f"{k} {v}" for k, v in flatten(self.facts).items()))
        return "\n".join(lines)

    def markdown(self) -> str:
        """Return the numbers, the notes and all facts as a Markdown page."""
        rows = [[name, number(e, False)] for name, e in self.bits.values()]
        lines = ["# Likelihood", "", *markdown_table(("bits/dim", "value [95 %]"), rows), ""]
        lines += [f"- {note}" for note in self.notes]
        if self.curve:
            lines += ["", "![bits of each step, and rate against distortion](curve.png)"]
        facts = [[key, str(value)] for key, value in flatten(self.facts).items()]
        lines += ["", "## To repeat it", "", *markdown_table(("what", "value"), facts)]
        return "\n".join(lines) + "\n"

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


def measure(
    model: Model,
    images: Counted,
    *,
    draws: int | None = 20,
    flow_steps: int | None = None,
    variance: str | None = None,
    seed: int = 0,
    batch_size: int = 100,
    watch: Watch = lambda what, total: lambda k: None,
) -> Likelihood:
    """Return the bound with `draws` steps per image, and the flow with `flow_steps` steps.

    None leaves one of them out. variance: of the bound's steps; None is the model's own. Intervals
    hold all that is random: the images, the steps drawn, the noise, the probe.
    """
    conditional = images.labels is not None
    told = "p(x given y)" if conditional else "p(x)"
    result = Likelihood({}, notes=_notes(model, images), facts={**images.facts, "of what": told})
    result.facts |= {"dimensions": images.dims, "seed": seed}
    if draws is not None:
        variance = variance or model.experiment.objective.variance
        bound = _bound(model, images, draws, variance, seed, batch_size, watch)
        _add_bound(result, bound, images, model)
        result.facts |= {"variance": variance, "draws of t": f"{draws} of {model.schedule.T}"}
    if flow_steps is not None:
        _add_flow(result, _flow(model, images, flow_steps, seed, batch_size, watch), images, model)
        nfe, backward = flow_nfe(flow_steps)
        result.facts |= {"flow steps": flow_steps, "flow nfe": f"{nfe}, {backward} with gradient"}
    return result


def add_bits(
    report: Report, model: Model, n: int, data: str | None, seed: int, watch: Watch
) -> None:
    """Add a row to `evaluate`'s report, from few images and few draws; or why it is missing."""
    try:
        images = choose_images(model, min(n, FEW_IMAGES), data=data)
        draws = min(FEW_DRAWS, model.schedule.T)
        found = measure(model, images, draws=draws, seed=seed, watch=watch)
    except DDPMError as error:
        report.skipped["bits/dim"] = str(error)
        return
    name, value = found.bits["bound"]
    report.rows.append(Row("bits_per_dim", f"bits/dim ({name})", value, None, "difference"))
    what = f"{len(images.images)} {images.facts['split']} images"
    report.notes += [f"bits/dim: {what}, {found.facts['draws of t']} steps each", *found.notes]


def _batches(model: Model, images: Counted, size: int, clip: bool) -> Any:
    """Yield (denoise, x0, index) for every batch."""
    for start in range(0, len(images.images), size):
        part = slice(start, start + size)
        x0 = model.scaling.to_model(torch.from_numpy(images.images[part]).to(model.device))
        y = None if images.labels is None else torch.from_numpy(images.labels[part])
        y = None if y is None else y.to(model.device)
        index = torch.from_numpy(images.positions[part]).to(model.device)
        yield per_image(model.denoiser(y, clip=clip)), x0, index


def _bound(
    model: Model, images: Counted, draws: int, variance: str, seed: int, size: int, watch: Watch
) -> Bound:
    scaling, strata = model.scaling, cut(model.schedule.T, draws)
    low, high = scaling.bounds
    mean = 0.0 if scaling.mean is None else scaling.mean.to(model.device)
    decoder = pixel_decoder(Bins(low - mean, high - mean, scaling.bin_width))
    done = watch("bound (images x draws)", len(images.images) * draws)
    parts = [
        draw_bound(
            denoise,
            model.schedule,
            x0,
            index,
            strata,
            seed=seed,
            variance=variance,
            decoder=decoder,
            done=done,
        )
        for denoise, x0, index in _batches(model, images, size, clip=True)
    ]
    joined = (torch.cat([getattr(p, k) for p in parts]) for k in ("t", "prior", "bits", "error"))
    return Bound(strata, *joined)


def _flow(model: Model, images: Counted, steps: int, seed: int, size: int, watch: Watch) -> Flow:
    done = watch("flow (images x steps)", len(images.images) * (steps + steps // 2))
    parts = [
        flow(
            denoise,
            model.schedule,
            x0,
            index,
            bin_width=model.scaling.bin_width,
            steps=steps,
            seed=seed,
            done=done,
        )
        for denoise, x0, index in _batches(model, images, size, clip=False)
    ]
    return Flow(*(torch.cat([getattr(p, k) for p in parts]) for k in ("coarse", "fine")))


def _add_bound(result: Likelihood, bound: Bound, images: Counted, model: Model) -> None:
    def add(key: str, name: str, terms: Tensor) -> None:
        result.bits[key] = (name, of_mean(terms * images.factor))

    add("bound", _named("bound", images), bound.total)
    add("rate", "  rate: all steps but the last, and the prior", bound.total - bound.bits[:, 0])
    add("distortion", "  distortion: the last step, the decoder", bound.bits[:, 0])
    add("prior", "  prior (a part of the rate)", bound.prior)
    _add_label_bits(result, "bound", bound.total, images, model)
    low, high = model.scaling.bounds
    grey = 255 / (high - low)
    for k, (first, last) in enumerate(bound.strata):
        terms = of_mean(bound.bits[:, k] * images.factor)
        steps = last - first + 1
        above = bound.prior + bound.bits[:, k + 1 :].sum(1)
        result.curve.append(
            {
                "first": first,
                "last": last,
                "bits": terms.value,
                "bits_per_step": terms.value / steps,
                "error_per_step": (terms.high - terms.value) / steps,
                "rate": float((above * images.factor).mean()),
                "rmse": float(bound.error[:, k].mean().sqrt()) * grey,
            }
        )


def _add_flow(result: Likelihood, found: Flow, images: Counted, model: Model) -> None:
    result.bits["flow"] = (_named("flow", images), of_mean(found.total * images.factor))
    gap = (found.total - found.fine) * images.factor
    result.bits["flow_remainder"] = ("  of this, extrapolated from two solves", of_mean(gap))
    _add_label_bits(result, "flow", found.total, images, model)


def _named(what: str, images: Counted) -> str:
    given = ", given the label" if images.labels is not None else ""
    return f"{what}{given}{', resized: not comparable' if images.resized else ''}"


def _add_label_bits(
    result: Likelihood, key: str, bits: Tensor, images: Counted, model: Model
) -> None:
    """Add what p(x given y) says of p(x): -log p(x) <= -log p(x given y) - log p(y)."""
    if images.labels is None:
        return
    total = sum(model.class_counts)
    of_class = torch.tensor([-log2(c / total) if c else float("inf") for c in model.class_counts])
    label = of_class[torch.from_numpy(images.labels)].double() / images.dims
    name = f"{key} of p(x): the label's own bits added"
    result.bits[f"{key}_with_label"] = (name, of_mean(bits * images.factor + label))


def _notes(model: Model, images: Counted) -> list[str]:
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
            "of the image itself: an upper bound, since padding costs nothing less than 0"
        )
    if images.labels is not None:
        notes.append("given the label, numbers compare with other p(x given y) only")
    if images.facts["split"] == "train":
        notes.append("of training images: not a test likelihood")
    return notes
