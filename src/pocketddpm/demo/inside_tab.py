"""Tab: a look inside the model."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from pocketddpm.demo import insight, markup, widgets
from pocketddpm.demo.drawing import draw, wish
from pocketddpm.demo.insight import Errors
from pocketddpm.demo.widgets import QUEUED, Page, explained
from pocketddpm.models.model import Model

IMAGES = 32
PANELS = 10


def build(page: Page) -> None:
    """Lay the tab out and wire it."""
    _schedule(page)
    _errors(page)
    _estimates(page)


def _schedule(page: Page) -> None:
    gr.Markdown("### The noise schedule")
    widgets.lesson(
        "How fast the image drowns: the signal-to-noise ratio on its way from t = 0 to T, and the "
        "times at which a sampler of so many steps asks the network."
    )
    with gr.Row():
        steps = widgets.steps_field(page, 10)
        spacing = widgets.spacing_field(page)
    curve = gr.HTML(elem_id="inside-schedule")

    @explained
    def show(steps: float, spacing: str, name: str) -> str:
        model = page.shelf.model(name)
        wanted = wish(model, steps=min(steps, model.schedule.T), spacing=spacing)
        return schedule_curve(model, wanted.steps, wanted.spacing)

    settings: Any = {"show_progress": "hidden", "trigger_mode": "always_last"}
    for listen in (steps.input, spacing.input, page.picker.change, page.blocks.load):
        listen(show, [steps, spacing, page.picker], curve, **settings)


def _errors(page: Page) -> None:
    gr.Markdown("### The loss at each time")
    widgets.lesson(
        f"{IMAGES} images are noised to a few times each, and the network is asked. Noise is easy "
        "to tell at high t, where there is little else; the clean image is easy to tell at low t. "
        "The same error, seen from two sides."
    )
    with gr.Row():
        start = gr.Button("Measure", variant="primary", elem_id="errors-start")
        stop = gr.Button("Stop")
    status, curve = gr.HTML(elem_id="errors-status"), gr.HTML(elem_id="errors-curve")

    @explained
    def run(name: str) -> Iterator[tuple[str, str]]:
        model = page.shelf.model(name)
        examples = page.shelf.examples(name)
        labels = None if examples.labels is None else examples.labels[:IMAGES]
        for found in insight.errors_by_time(model, examples.images[:IMAGES], labels):
            share = len(found.t) / found.total
            words = [f"{len(found.t)} of {found.total} times", f"images: {examples.source}"]
            yield markup.progress(share, words, busy=share < 1), error_curve(found, model)

    event = start.click(run, page.picker, [status, curve], **QUEUED)
    stop.click(None, cancels=[event])


def _estimates(page: Page) -> None:
    gr.Markdown("### What the network takes x_t for, on the way")
    widgets.lesson(
        "Above: one image from noise to the end. Below: the network's estimate of x0 at the same "
        "times. First an average of everything, then the outline, then the detail."
    )
    with gr.Row():
        label = widgets.label_field(page, several=False)
        seed = widgets.seed_field()
        steps = widgets.steps_field(page)
    with gr.Row():
        start = gr.Button("Draw one", variant="primary", elem_id="estimates-start")
        stop = gr.Button("Stop")
    picture = gr.HTML(markup.empty("Nothing drawn yet."), elem_id="inside-estimates")

    @explained
    def run(label: str, seed: float, steps: float, name: str) -> Iterator[str]:
        model = page.shelf.model(name)
        labels = [label] if label else []
        for film in draw(model, wish(model, labels=labels, n=1, steps=steps, seed=seed)):
            if len(film.frames) > 1:
                times = ", ".join(f"{t:.4g}" for t in insight.strip_times(film, PANELS))
                panels = insight.strip(film, PANELS)
                columns = len(panels) // 2
                board = markup.board(panels, columns, alt="x_t above, estimates of x0 below")
                yield markup.panel(f"t = {times}", board)

    event = start.click(run, [label, seed, steps, page.picker], picture, **QUEUED)
    stop.click(None, cancels=[event])


def schedule_curve(model: Model, steps: int, spacing: str) -> str:
    """Return the log-SNR over t as SVG, with the times of a sampler's grid marked."""
    schedule = model.schedule
    grid = model.plan(steps=steps, spacing=spacing).grid
    log_snr = schedule.log_snr[1:]
    fig, axes = markup.curves(6.4, 2.8)
    axes.plot(range(1, schedule.T + 1), log_snr.numpy(), color=markup.COLOURS[0], label="log SNR")
    asked = [(t, a) for t, a in zip(grid.t, grid.alpha_bar, strict=True) if 0 < a < 1]
    from math import log

    axes.plot(
        [t for t, _ in asked],
        [log(a / (1 - a)) for _, a in asked],
        "o",
        color=markup.COLOURS[1],
        label=f"asked: {grid.steps} steps, {spacing}",
    )
    axes.set(xlabel="t", ylabel="log SNR", xlim=(0, schedule.T * 1.02))
    axes.legend(frameon=False, labelcolor=markup.INK)
    name = model.experiment.schedule.name
    return markup.svg(fig, f"log SNR of the {name} schedule over t, with {grid.steps} steps marked")


def error_curve(found: Errors, model: Model) -> str:
    """Return both errors over t as SVG."""
    fig, axes = markup.curves(6.4, 2.8)
    axes.plot(found.t, found.eps, "o-", color=markup.COLOURS[1], label="of the noise, eps")
    axes.plot(found.t, found.x0, "o-", color=markup.COLOURS[0], label="of the clean image, x0")
    axes.set(
        xlabel="t", ylabel="mean squared error", yscale="log", xlim=(0, model.schedule.T * 1.02)
    )
    axes.legend(frameon=False, labelcolor=markup.INK)
    return markup.svg(fig, "errors of the network's estimates over t")
