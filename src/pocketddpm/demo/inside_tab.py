"""Tab: a look inside the model."""

import math
from collections.abc import Iterator

import gradio as gr

from pocketddpm.demo import insight, markup, widgets
from pocketddpm.demo.drawing import draw, wish
from pocketddpm.demo.insight import Errors
from pocketddpm.demo.widgets import Page
from pocketddpm.models.model import Model
from pocketddpm.pictures import time_text

IMAGES = 32


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
        steps, spacing = widgets.steps_field(page, 10), widgets.spacing_field(page)
    curve = gr.HTML(elem_id="inside-schedule")

    def show(model: Model, steps: float, spacing: str) -> str:
        wanted = wish(model, steps=min(steps, model.schedule.T), spacing=spacing)
        return schedule_curve(model, wanted.steps, wanted.spacing)

    events = [steps.input, spacing.input, page.picker.change]
    page.show(events, show, [steps, spacing], curve)


def _errors(page: Page) -> None:
    gr.Markdown("### The loss at each time")
    widgets.lesson(
        f"{IMAGES} images are noised to a few times each, and the network is asked. Noise is easy "
        "to tell at high t, where there is little else; the clean image is easy to tell at low t. "
        "The same error, seen from two sides."
    )
    start, stop = widgets.buttons("Measure", "errors")
    status, curve = gr.HTML(elem_id="errors-status"), gr.HTML(elem_id="errors-curve")

    def run(model: Model) -> Iterator[tuple[str, str]]:
        examples = page.models.examples(model)
        for found in insight.errors_by_time(model, *examples.first(IMAGES)):
            done = len(found.t)
            words = [f"{done} of {found.total} times", f"images: {examples.source}"]
            shown = markup.progress(done / found.total, words, busy=done < found.total)
            yield shown, error_curve(found, model)

    page.stop(stop, page.run(start, status, run, [], [status, curve]), status)


def _estimates(page: Page) -> None:
    gr.Markdown("### What the network takes x_t for, on the way")
    widgets.lesson(
        "Above: one image from noise to the end. Below: the network's estimate of x0 at the same "
        "times. First an average of everything, then the outline, then the detail."
    )
    with gr.Row():
        label = widgets.class_field(page, unlabelled=True)
        fields = [label, widgets.seed_field(), widgets.steps_field(page)]
    start, stop = widgets.buttons("Draw one", "estimates")
    status = gr.HTML(elem_id="estimates-status")
    board = gr.HTML(markup.empty("Nothing drawn yet."), elem_id="inside-estimates")

    def run(model: Model, label: str, seed: float, steps: float) -> Iterator[tuple[str, str]]:
        for film in draw(model, wish(model, label, 1, steps, seed=seed)):
            if len(film.frames) > 1:
                times, panels = insight.strip(film)
                alt = "x_t, and below it estimates of x0"
                names = [time_text(t) for t in times] * 2
                done = film.frames[-1].i
                words = [f"step {done} of {film.steps}", *film.names]
                shown = markup.progress(done / film.steps, words, busy=not film.done)
                yield shown, markup.board(panels, len(times), alt=alt, names=names)

    page.stop(stop, page.run(start, status, run, fields, [status, board]), status)


def schedule_curve(model: Model, steps: int, spacing: str) -> str:
    """Return the log-SNR over t as SVG, with the times of a sampler's grid marked."""
    schedule = model.schedule
    grid = model.plan(steps=steps, spacing=spacing).grid
    fig, axes = markup.curves(6.4, 2.8)
    log_snr = schedule.log_snr[1:].numpy()
    axes.plot(range(1, schedule.T + 1), log_snr, color=markup.COLOURS[0], label="log SNR")
    finite = [(t, a) for t, a in zip(grid.t, grid.alpha_bar, strict=True) if 0 < a < 1]
    times, asked = [t for t, _ in finite], [math.log(a / (1 - a)) for _, a in finite]
    label = f"asked: {grid.steps} steps, {spacing}"
    axes.plot(times, asked, "o", color=markup.COLOURS[1], label=label)
    axes.set(xlabel="t", ylabel="log SNR", xlim=(0, schedule.T * 1.02))
    name = model.experiment.schedule.name
    return markup.svg(fig, f"log SNR of the {name} schedule over t, with {grid.steps} steps marked")


def error_curve(found: Errors, model: Model) -> str:
    """Return both errors over t as SVG."""
    fig, axes = markup.curves(6.4, 2.8)
    axes.plot(found.t, found.eps, "o-", color=markup.COLOURS[1], label="of the noise, eps")
    axes.plot(found.t, found.x0, "o-", color=markup.COLOURS[0], label="of the clean image, x0")
    limits = (0, model.schedule.T * 1.02)
    axes.set(xlabel="t", ylabel="mean squared error", yscale="log", xlim=limits)
    return markup.svg(fig, "errors of the network's estimates over t")
