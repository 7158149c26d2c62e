"""Tab: samplers side by side."""

from collections.abc import Iterator
from html import escape
from typing import Any

import gradio as gr

from pocketddpm.demo import markup, widgets
from pocketddpm.demo.drawing import whole, wish
from pocketddpm.demo.model_list import find_judge
from pocketddpm.demo.racing import MOST, Lane, drawing_samplers, lanes, race
from pocketddpm.demo.widgets import Page, slider
from pocketddpm.models.model import Model

FIRST = ["ddpm", "ddim", "heun", "dpmpp"]
READ = (
    "Read as asked: the share of images in which a shipped classifier sees the class that was "
    "asked for, and the mean probability that it gives it. With so few images that is a hint, "
    "no score: pocketddpm evaluate measures."
)
UNREAD = "No classifier is shipped for these images: look for yourself, or use pocketddpm evaluate."


def build(page: Page) -> None:
    """Lay the tab out and wire it."""
    widgets.lesson(
        "All samplers follow the same network from the same noise. What costs time is asking the "
        "network, so they are compared at an equal number of evaluations of it (nfe): a sampler "
        "that asks twice a step gets half as many steps."
    )
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            names, most = drawing_samplers(), f"Up to {MOST}."
            samplers = gr.CheckboxGroup(names, value=FIRST, label="Samplers", info=most)
            nfe = slider(2, 100, value=10, label="Evaluations (nfe)", elem_id="race-nfe")
            labels, n = widgets.classes_field(page), widgets.count_field(10)
            guidance, spacing = widgets.guidance_field(page), widgets.spacing_field(page)
            seed = widgets.seed_field()
        with gr.Column(scale=2, min_width=300, elem_classes="result"):
            start, stop = widgets.buttons("Compare", "race")
            status = gr.HTML(elem_id="race-status")
            results = gr.HTML(markup.empty("Nothing compared yet."), elem_id="race-results")

    def run(
        model: Model, samplers: list[str], nfe: float, labels: list[str], n: float,
        guidance: float, spacing: str, seed: float,
    ) -> Iterator[tuple[str, str]]:  # fmt: skip
        budget = whole(nfe, "Evaluations (nfe)", 2, 100)
        wanted = wish(model, labels, n, guidance=guidance, spacing=spacing, seed=seed)
        judge = find_judge(model)
        names = (
            [model.classes[k] for k in numbers]
            if (numbers := wanted.numbers(model)) is not None
            else []
        )
        for found in race(model, lanes(model, samplers, budget, wanted), wanted, judge):
            done = sum(lane.images is not None for lane in found)
            words = [f"{done} of {len(found)} samplers", f"{wanted.n} images each"]
            if judge is not None:
                words.append(f"read by {judge.name}")
            shown = markup.progress(done / len(found), words, busy=done < len(found))
            yield shown, _results(found, wanted.columns(model), names)

    inputs = [samplers, nfe, labels, n, guidance, spacing, seed]
    page.stop(stop, page.run(start, status, run, inputs, [status, results]), status)


def _results(found: list[Lane], columns: int, names: list[str]) -> str:
    judged = any(lane.read is not None for lane in found)
    head = ["sampler", "steps", "nfe", "seconds", *["read as asked", "how surely"] * judged]
    body = markup.table(head, [_row(lane, judged) for lane in found])
    note = f'<p class="facts">{READ if judged else UNREAD}</p>'
    return body + note + "".join(_board(lane, columns, names) for lane in found)


def _row(lane: Lane, judged: bool) -> list[str]:
    row: list[Any] = [escape(lane.sampler), f"{lane.steps}", f"{lane.nfe}"]
    row.append("…" if lane.images is None else f"{lane.seconds:.2f}")
    if not judged:
        return row
    waits = lane.read is None or lane.sure is None
    return [*row, *(["…", "…"] if waits else [f"{lane.read:.0%}", f"{lane.sure:.1%}"])]


def _board(lane: Lane, columns: int, names: list[str]) -> str:
    inside = markup.empty("waiting")
    if lane.images is not None:
        alt = f"{len(lane.images)} images drawn by {lane.sampler}"
        inside = markup.board(lane.images, columns, alt=alt, names=names)
    return f'<div class="lane">{markup.panel(f"{lane.sampler}, {lane.steps} steps", inside)}</div>'
