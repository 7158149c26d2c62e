"""Samplers side by side: the same noise, the same number of network evaluations."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pocketddpm.catalog import SAMPLERS
from pocketddpm.demo.drawing import Wish
from pocketddpm.demo.streaming import stream
from pocketddpm.errors import ConfigError
from pocketddpm.metrics.extractor import Extractor
from pocketddpm.models.model import Model
from pocketddpm.models.samples import Images

MOST = 6


@dataclass(frozen=True)
class Lane:
    """One sampler's result; images uint8 [N,C,H,W] are None until it has run.

    nfe: network evaluations of an image. seconds: for all images. read: share of the images that
    the judge reads as asked. sure: mean probability that it gives the label that was asked for.
    """

    sampler: str
    steps: int
    nfe: int
    seconds: float = 0.0
    images: Images | None = None
    read: float | None = None
    sure: float | None = None


def drawing_samplers() -> list[str]:
    """Return the names of the samplers that draw (those that encode are left out)."""
    return [n for n in SAMPLERS.names() if not getattr(SAMPLERS.load(n), "INVERSE", False)]


def steps_for(model: Model, sampler: str, nfe: int, *, branches: int) -> int:
    """Return the most steps that need no more than `nfe` evaluations of an image.

    branches: 2 with guidance, which asks twice at each call.

    Raises ConfigError when a single step needs more.
    """
    calls = model.plan(sampler=sampler).sampler.calls
    possible = [s for s in range(1, nfe + 1) if calls(s) * branches <= nfe]
    if not possible:
        raise ConfigError(
            f"{sampler} needs {calls(1) * branches} evaluations for a single step"
            f"{' with guidance' if branches > 1 else ''}; allow more than {nfe}."
        )
    return min(max(possible), model.schedule.T)


def lanes(model: Model, samplers: list[str], nfe: int, wanted: Wish) -> list[Lane]:
    """Return the lanes of a race that has not begun; ConfigError for none or too many of them."""
    if not 1 <= len(samplers) <= MOST:
        raise ConfigError(f"Choose one to {MOST} samplers; got {len(samplers)}.")
    branches = wanted.branches(wanted.numbers(model))
    found = []
    for name in samplers:
        steps = steps_for(model, name, nfe, branches=branches)
        calls = model.plan(sampler=name).sampler.calls(steps)
        found.append(Lane(name, steps, calls * branches))
    return found


def race(
    model: Model, start: list[Lane], wanted: Wish, judge: Extractor | None = None
) -> Iterator[list[Lane]]:
    """Yield the lanes after each sampler has finished; close the generator to stop within a step.

    All begin from the same noise. The judge's time is not counted.
    """

    def work(report: Callable[[list[Lane]], None]) -> None:
        done = list(start)
        labels = wanted.numbers(model)
        for k, lane in enumerate(start):
            settings = wanted.settings() | {"sampler": lane.sampler, "steps": lane.steps}
            samples = model.sample(
                wanted.n, labels=labels, **settings, watch=lambda *_, done=done: report(done)
            )
            read, sure = _judged(samples.images, labels, judge)
            done = list(done)
            done[k] = Lane(
                lane.sampler, lane.steps, samples.nfe, samples.seconds, samples.images, read, sure
            )
            report(done)

    return stream(work)


def _judged(
    images: Images, labels: NDArray[np.int64] | None, judge: Extractor | None
) -> tuple[float | None, float | None]:
    """Return (share read as asked, mean probability of what was asked), if there is a judge."""
    if judge is None or labels is None:
        return None, None
    logits = judge(images).logits
    assert logits is not None  # `find_judge` returns classifiers only
    asked = torch.from_numpy(labels)
    sure = logits.softmax(1).gather(1, asked[:, None]).mean()
    return float((logits.argmax(1) == asked).float().mean()), float(sure)
