"""Tab: paint a part anew, go from one seed to another, finish a sketch, restore what was lost."""

from collections.abc import Iterator
from typing import Any

import gradio as gr
import numpy as np

from pocketddpm.demo import markup, painting, widgets
from pocketddpm.demo.drawing import Film, whole, wish
from pocketddpm.demo.film_view import FilmView
from pocketddpm.demo.widgets import Page, slider
from pocketddpm.diffusion.conditioning import METHODS
from pocketddpm.models.model import Model

CANVAS = 336  # CSS pixels; 12 for each of 28
VARIANTS = {"n": widgets.VARIANTS}


def build(page: Page) -> None:
    """Lay the four parts out."""
    with gr.Tabs():
        with gr.Tab("Paint a part anew"):
            _inpaint(page)
        with gr.Tab("From seed to seed"):
            _between(page)
        with gr.Tab("Finish my drawing"):
            _sketch(page)
        with gr.Tab("Restore"):
            _restore(page)


def _inpaint(page: Page) -> None:
    widgets.lesson(
        "The marked part is forgotten and drawn anew; the rest is put back, noised to the right t, "
        "after each step. Repeating a few steps back and forth (RePaint) lets the new part come to "
        "agree with the old one."
    )
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            number = slider(0, 63, value=0, label="Image")
            gr.Markdown("**Brush over what to paint anew**, or choose a half below.")
            editor = _editor("Image to mark", "edit-mask", 36, ["#d97706"])
            part = gr.Dropdown(list(painting.REGIONS), value=painting.BRUSH, label="Part")
            repeats = slider(1, 10, value=2, label="Repeats", info="1 is none.")
            # Not one that follows the model by itself: an image brings its class along.
            kind = gr.Dropdown(label="Class", **widgets.one_class(page.first))
            fields = widgets.wish_fields(page, kind)
        view = FilmView(page, "inpaint", "Paint")

    def image(model: Model, number: float) -> tuple[Any, Any]:
        """Return the image to mark, and its own class where it is known."""
        examples = page.models.examples(model)
        k = min(int(number), len(examples.images) - 1)
        background = painting.enlarged(examples.images[k], CANVAS)
        classes = widgets.one_class(model, unlabelled=True)
        if examples.labels is not None:
            classes["value"] = model.classes[examples.labels[k]]
        value = {"background": background, "layers": [], "composite": background}
        return value, gr.update(**classes)

    def other(model: Model) -> tuple[Any, ...]:
        last = len(page.models.examples(model).images) - 1
        return gr.update(maximum=last, value=0), *image(model, 0)

    page.show([number.change], image, [number], [editor, kind])
    page.show([page.picker.change], other, [], [number, editor, kind])

    def films(
        model: Model, number: float, value: Any, part: str, repeats: float, *fields: Any
    ) -> Iterator[Film]:
        images = page.models.examples(model).images
        image = images[whole(number, "Image", 0, len(images) - 1)]
        brushed, shape = part == painting.BRUSH, model.shape
        mask = painting.mask_of(value, shape) if brushed else painting.region(part, shape)
        wanted = wish(model, *fields, sampler="ddpm", called=VARIANTS)
        return painting.inpainted(model, image, mask, wanted, repeats)

    view.wire(films, [number, editor, part, repeats, *fields])


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
            label, n = widgets.class_field(page), widgets.count_field(10, "Images on the way", 2)
            steps, guidance = widgets.steps_field(page), widgets.guidance_field(page)
        view = FilmView(page, "between", "Go")
    called = {"seed": "From seed", "n": "Images on the way"}

    def films(model: Model, other: float, *fields: Any) -> Iterator[Film]:
        return painting.between(model, other, wish(model, *fields, called=called))

    view.wire(films, [other, label, n, steps, guidance, seed])


def _sketch(page: Page) -> None:
    widgets.lesson(
        "Your drawing is noised up to a time t and drawn from there (SDEdit). A low strength keeps "
        "your strokes, a high one only their idea. Draw boldly, and fill the sheet as the training "
        "images do."
    )
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            gr.Markdown("**Draw here**, or put an image in.")
            editor = _editor(
                "Sheet to draw on", "edit-sketch", 34, ["#ffffff", "#999999"],
                sources=("upload", "clipboard"), value=painting.blank(CANVAS),
            )  # fmt: skip
            info = "The time t as a share of T."
            strength = slider(0.05, 1, value=0.6, step=0.05, label="Strength", info=info)
            fields = widgets.wish_fields(page, widgets.class_field(page, unlabelled=True))
        view = FilmView(page, "sketch", "Finish it")

    def films(model: Model, value: Any, strength: float, *fields: Any) -> Iterator[Film]:
        sketch = painting.sketch_of(value, model.shape)
        return painting.finished(
            model, sketch, float(strength), wish(model, *fields, called=VARIANTS)
        )

    view.wire(films, [editor, strength, *fields])


def _restore(page: Page) -> None:
    widgets.lesson(
        "An image is measured: made small, blurred, or most of it left out, with noise on top. The "
        "model knows what images look like, and draws some that would be measured alike. Where "
        "they agree the measurement decides; where they differ, the model fills in."
    )
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            number = slider(0, 63, value=0, label="Image")
            task = page.follow(
                gr.Dropdown,
                lambda m: {"choices": painting.tasks(m), "value": "super-resolution"},
                label="What was lost",
            )
            info = "Deviation; black and white are 2 apart."
            noise = slider(0.05, 1, value=0.05, step=0.05, label="Noise", info=info)
            known = gr.HTML(elem_id="restore-known")
            info = "mmps is the most exact, diffpir the quickest."
            method = gr.Dropdown(list(METHODS), value="mmps", label="Method", info=info)
            fields = widgets.wish_fields(page, widgets.class_field(page, unlabelled=True))
        view = FilmView(page, "restore", "Restore")

    def image(model: Model, number: float) -> Any:
        images = page.models.examples(model).images
        return images[min(int(number), len(images) - 1)]

    def show(model: Model, number: float, task: str, noise: float) -> str:
        truth = image(model, number)
        task = task if task in painting.tasks(model) else "super-resolution"
        _, _, picture = painting.measured(model, truth, task, float(noise))
        both = np.stack([truth, picture[0]])
        board = markup.board(both, 2, alt="an image and its measurement", names=["image", task])
        return markup.panel("What is given: the measurement alone", board)

    given = [number, task, noise]
    page.show([field.change for field in (*given, page.picker)], show, given, known)

    def films(
        model: Model, number: float, task: str, noise: float, method: str, *fields: Any
    ) -> Iterator[Film]:
        wanted = wish(model, *fields, called=VARIANTS)
        return painting.restored(model, image(model, number), task, float(noise), method, wanted)

    view.wire(films, [*given, method, *fields])


def _editor(label: str, name: str, brush: int, colors: list[Any], **more: Any) -> gr.ImageEditor:
    return gr.ImageEditor(**{
        "label": label, "show_label": False, "elem_id": name,
        "brush": gr.Brush(default_size=brush, colors=colors, color_mode="fixed"),
        "eraser": gr.Eraser(default_size=brush), "sources": (), "transforms": (), "layers": False,
        "type": "numpy", "image_mode": "RGBA", "canvas_size": (CANVAS, CANVAS),
        "fixed_canvas": True, "buttons": [], **more,
    })  # fmt: skip
