"""Tab: draw from noise and watch."""

from random import randrange

import gradio as gr

from pocketddpm.demo import widgets
from pocketddpm.demo.drawing import draw, wish
from pocketddpm.demo.film_view import FilmView
from pocketddpm.demo.widgets import Page


def build(page: Page) -> None:
    """Lay the tab out and wire it."""
    widgets.lesson(
        "Every image starts as noise, x_T. At each step the network looks at x_t, guesses the "
        "clean image x0, and the sampler goes a little way towards the guess. The same seed gives "
        "the same noise."
    )
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            labels, n = widgets.classes_field(page), widgets.count_field(20)
            sampler = widgets.sampler_field(page)
            steps = widgets.steps_field(page, own=True)
            guidance = widgets.guidance_field(page)
            with gr.Row(elem_classes="bottom"):
                seed = widgets.seed_field()
                another = gr.Button("Another", size="md", min_width=90)
            with gr.Accordion("More", open=False):
                spacing = widgets.spacing_field(page)
        view = FilmView(page, "draw", "Draw")
    view.wire(
        lambda model, *fields: draw(model, wish(model, *fields)),
        [labels, n, steps, guidance, seed, sampler, spacing],
    )
    another.click(lambda: randrange(1_000_000), None, seed, show_progress="hidden")
