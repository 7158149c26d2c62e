"""Tab: paint a part anew, go from one seed to another, finish a sketch."""

from collections.abc import Iterator
from typing import Any

import gradio as gr
import numpy as np

from pocketddpm.demo import painting, widgets
from pocketddpm.demo.drawing import Film, whole, wish
from pocketddpm.demo.film_view import FilmView
from pocketddpm.demo.widgets import Page, explained

CANVAS = 336  # CSS pixels; 12 for each of 28
Array = np.ndarray[Any, np.dtype[np.uint8]]


def build(page: Page) -> None:
    """Lay the three parts out."""
    with gr.Tabs():
        with gr.Tab("Paint a part anew"):
            _inpaint(page)
        with gr.Tab("From seed to seed"):
            _between(page)
        with gr.Tab("Finish my drawing"):
            _sketch(page)


def _inpaint(page: Page) -> None:
    widgets.lesson(
        "The marked part is forgotten and drawn anew; the rest is put back, noised to the right t, "
        "after each step. Repeating a few steps back and forth (RePaint) lets the new part come to "
        "agree with the old one."
    )
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            number = gr.Slider(0, 63, value=0, step=1, label="Picture", buttons=[])
            gr.Markdown("**Brush over what to paint anew**, or choose a half below.")
            editor = gr.ImageEditor(
                label="Picture to mark", show_label=False,
                brush=gr.Brush(default_size=36, colors=["#d97706"], color_mode="fixed"),
                eraser=gr.Eraser(default_size=36),
                sources=(), transforms=(), layers=False, type="numpy", image_mode="RGBA",
                canvas_size=(CANVAS, CANVAS), fixed_canvas=True, buttons=[], elem_id="edit-mask",
            )  # fmt: skip
            part = gr.Dropdown(list(painting.REGIONS), value=painting.BRUSH, label="Part")
            label = widgets.label_field(page, several=False)
            n = widgets.count_field(8, "Ways")
            steps = widgets.steps_field(page)
            repeats = gr.Slider(
                1, 10, value=2, step=1, label="Repeats", info="1 is none.", buttons=[]
            )
            guidance = widgets.guidance_field(page)
            seed = widgets.seed_field()
        with gr.Column(scale=2, min_width=300):
            with gr.Row():
                start = gr.Button("Paint", variant="primary", elem_id="inpaint-start")
                stop = gr.Button("Stop", elem_id="inpaint-stop")
            view = FilmView(page, "inpaint")

    @explained
    def picture(number: float, name: str) -> Any:
        images = page.shelf.examples(name).images
        k = min(int(number), len(images) - 1)
        background = painting.enlarged(images[k], CANVAS)
        return {"background": background, "layers": [], "composite": background}

    number.change(picture, [number, page.picker], editor, show_progress="hidden")
    page.blocks.load(picture, [number, page.picker], editor, show_progress="hidden")

    @explained
    def other(name: str) -> tuple[Any, Any]:
        count = len(page.shelf.examples(name).images)
        return gr.update(maximum=count - 1, value=0), picture(0, name)

    page.picker.change(other, page.picker, [number, editor], show_progress="hidden")
    page.blocks.load(
        lambda name: gr.update(maximum=len(page.shelf.examples(name).images) - 1),
        page.picker, number, show_progress="hidden",
    )  # fmt: skip

    def films(
        number: float, value: dict[str, Any], part: str, label: str, n: float, steps: float,
        repeats: float, guidance: float, seed: float, name: str,
    ) -> Iterator[Film]:  # fmt: skip
        model = page.shelf.model(name)
        images = page.shelf.examples(name).images
        brushed = part == painting.BRUSH
        mask = (
            painting.mask_of(value, model.shape) if brushed else painting.region(part, model.shape)
        )
        wanted = wish(
            model, labels=[label] if label else [], n=n, sampler="ddpm", steps=steps,
            guidance=guidance, seed=seed,
        )  # fmt: skip
        image = images[whole(number, "The picture's number", 0, len(images) - 1)]
        return painting.inpainted(model, image, mask, wanted, repeats)

    inputs = [number, editor, part, label, n, steps, repeats, guidance, seed]
    view.wire(start, stop, films, inputs)


def _between(page: Page) -> None:
    widgets.lesson(
        "Two seeds are two noises. Points on the great circle between them are noises as well, and "
        "DDIM, which adds none of its own, turns a smooth way between noises into a smooth way "
        "between images."
    )
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            with gr.Row():
                seed = widgets.seed_field(0, "From seed")
                other = widgets.seed_field(1, "To seed")
            label = widgets.label_field(page, several=False)
            n = widgets.count_field(10, "Pictures on the way", 2)
            steps = widgets.steps_field(page)
            guidance = widgets.guidance_field(page)
        with gr.Column(scale=2, min_width=300):
            with gr.Row():
                start = gr.Button("Go", variant="primary", elem_id="between-start")
                stop = gr.Button("Stop", elem_id="between-stop")
            view = FilmView(page, "between")

    def films(
        seed: float, other: float, label: str, n: float, steps: float, guidance: float, name: str
    ) -> Iterator[Film]:
        model = page.shelf.model(name)
        labels = [label] if label else []
        wanted = wish(model, labels=labels, n=n, steps=steps, guidance=guidance, seed=seed)
        return painting.between(model, other, wanted)

    view.wire(start, stop, films, [seed, other, label, n, steps, guidance])


def _sketch(page: Page) -> None:
    widgets.lesson(
        "Your drawing is noised up to a time t and drawn from there (SDEdit). A low strength keeps "
        "your strokes, a high one only their idea. Draw boldly, and fill the sheet as the training "
        "images do."
    )
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            gr.Markdown("**Draw here**, or put a picture in.")
            editor = gr.ImageEditor(
                painting.blank(CANVAS), label="Sheet to draw on", show_label=False,
                brush=gr.Brush(default_size=34, colors=["#ffffff", "#999999"], color_mode="fixed"),
                eraser=gr.Eraser(default_size=34),
                sources=("upload", "clipboard"), transforms=(), layers=False, type="numpy",
                image_mode="RGBA", canvas_size=(CANVAS, CANVAS), fixed_canvas=True, buttons=[],
                elem_id="edit-sketch",
            )  # fmt: skip
            strength = gr.Slider(
                0.05,
                1,
                value=0.6,
                step=0.05,
                label="Strength",
                info="The time t as a share of T.",
                buttons=[],
            )
            label = widgets.label_field(page, several=False)
            n = widgets.count_field(8, "Ways")
            steps = widgets.steps_field(page)
            guidance = widgets.guidance_field(page)
            seed = widgets.seed_field()
        with gr.Column(scale=2, min_width=300):
            with gr.Row():
                start = gr.Button("Finish it", variant="primary", elem_id="sketch-start")
                stop = gr.Button("Stop", elem_id="sketch-stop")
            view = FilmView(page, "sketch")

    def films(
        value: dict[str, Any], strength: float, label: str, n: float, steps: float,
        guidance: float, seed: float, name: str,
    ) -> Iterator[Film]:  # fmt: skip
        model = page.shelf.model(name)
        labels = [label] if label else []
        wanted = wish(model, labels=labels, n=n, steps=steps, guidance=guidance, seed=seed)
        sketch = painting.sketch_of(value, model.shape)
        return painting.finished(model, sketch, float(strength), wanted)

    view.wire(start, stop, films, [editor, strength, label, n, steps, guidance, seed])
