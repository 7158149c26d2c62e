"""Tab: samplers side by side."""

from collections.abc import Iterator
from html import escape
from typing import Any

import gradio as gr

from pocketddpm.demo import markup, widgets
from pocketddpm.demo.drawing import whole, wish
from pocketddpm.demo.model_list import find_judge
from pocketddpm.demo.racing import MOST, Lane, drawing_samplers, lanes, race
from pocketddpm.demo.widgets import QUEUED, Page, explained

FIRST = ["ddpm", "ddim", "heun", "dpmpp"]


def build(page: Page) -> None:
    """Lay the tab out and wire it."""
    widgets.lesson(
        "All samplers follow the same network from the same noise. What costs time is asking the "
        "network, so they are compared at an equal number of evaluations of it (nfe): a sampler "
        "that asks twice a step gets half as many steps."
    )
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            samplers = gr.CheckboxGroup(
                drawing_samplers(), value=FIRST, label="Samplers", info=f"Up to {MOST}."
            )
            nfe = gr.Slider(
                2, 100, value=10, step=1, label="Evaluations (nfe)", buttons=[], elem_id="race-nfe"
            )
            labels = widgets.label_field(page, several=True)
            n = widgets.count_field(10)
            guidance = widgets.guidance_field(page)
            spacing = widgets.spacing_field(page)
            seed = widgets.seed_field()
        with gr.Column(scale=2, min_width=300):
            with gr.Row():
                start = gr.Button("Compare", variant="primary", elem_id="race-start")
                stop = gr.Button("Stop", elem_id="race-stop")
            status = gr.HTML(elem_id="race-status")
            results = gr.HTML(markup.empty("Nothing compared yet."), elem_id="race-results")

    @explained
    def run(
        samplers: list[str], nfe: float, labels: list[str], n: float, guidance: float, spacing: str,
        seed: float, name: str,
    ) -> Iterator[tuple[Any, Any]]:  # fmt: skip
        model = page.shelf.model(name)
        budget = whole(nfe, "The number of evaluations", 2, 100)
        wanted = wish(model, labels=labels, n=n, guidance=guidance, spacing=spacing, seed=seed)
        start = lanes(model, samplers, budget, wanted)
        judge = find_judge(model)
        columns = min(wanted.n, 10)
        for found in race(model, start, wanted, judge):
            done = sum(lane.images is not None for lane in found)
            share = done / len(found)
            words = [f"{done} of {len(found)} samplers", f"{wanted.n} images each"]
            if judge is not None:
                words.append(f"read by {judge.name}")
            yield markup.progress(share, words, busy=share < 1), _results(found, columns)

    inputs = [samplers, nfe, labels, n, guidance, spacing, seed, page.picker]
    event = start.click(run, inputs, [status, results], **QUEUED)
    stop.click(
        lambda: markup.progress(0, ["stopped"], busy=False), None, status,
        cancels=[event], show_progress="hidden",
    )  # fmt: skip


def _results(found: list[Lane], columns: int) -> str:
    head = ["sampler", "steps", "nfe", "seconds"]
    judged = any(lane.read is not None for lane in found)
    if judged:
        head += ["read as asked", "how surely"]
    rows = []
    for lane in found:
        waits = lane.images is None
        row = [escape(lane.sampler), f"{lane.steps}", f"{lane.nfe}"]
        row.append("…" if waits else f"{lane.seconds:.2f}")
        if judged:
            row += (
                ["…", "…"]
                if lane.read is None or lane.sure is None
                else [f"{lane.read:.0%}", f"{lane.sure:.1%}"]
            )
        rows.append(row)
    boards = [
        '<div class="lane">'
        + markup.panel(
            f"{lane.sampler}, {lane.steps} steps",
            markup.empty("waiting")
            if lane.images is None
            else markup.board(
                lane.images, columns, alt=f"{len(lane.images)} images drawn by {lane.sampler}"
            ),
        )
        + "</div>"
        for lane in found
    ]
    note = (
        "Read as asked: the share of images in which a shipped classifier sees the class that was "
        "asked for, and the mean probability that it gives it. With so few images that is a hint, "
        "no score: pocketddpm evaluate measures."
        if judged
        else "No classifier is shipped for these images: look for yourself, or use "
        "pocketddpm evaluate."
    )
    return markup.table(head, rows) + f'<p class="facts">{note}</p>' + "".join(boards)
