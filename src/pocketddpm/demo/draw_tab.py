"""Tab: draw from noise and watch."""

from collections.abc import Iterator
from random import randrange
from typing import Any

import gradio as gr

from pocketddpm.demo import widgets
from pocketddpm.demo.drawing import Film, draw, wish
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
            labels = widgets.label_field(page, several=True)
            n = widgets.count_field(20)
            sampler = widgets.sampler_field(page)
            steps = widgets.steps_field(page, own=True)
            guidance = widgets.guidance_field(page)
            with gr.Row(elem_classes="bottom"):
                seed = widgets.seed_field()
                another = gr.Button("Another", size="md", min_width=90)
            with gr.Accordion("More", open=False):
                spacing = widgets.spacing_field(page)
        with gr.Column(scale=2, min_width=300):
            with gr.Row():
                start = gr.Button("Draw", variant="primary", elem_id="draw-start")
                stop = gr.Button("Stop", elem_id="draw-stop")
            view = FilmView(page, "draw")

    def films(
        labels: list[str], n: float, sampler: str, steps: float, guidance: float, seed: float,
        spacing: str, name: str,
    ) -> Iterator[Film]:  # fmt: skip
        model = page.shelf.model(name)
        wanted: dict[str, Any] = {"labels": labels, "n": n, "sampler": sampler, "steps": steps}
        return draw(model, wish(model, **wanted, guidance=guidance, seed=seed, spacing=spacing))

    view.wire(start, stop, films, [labels, n, sampler, steps, guidance, seed, spacing])
    another.click(lambda: randrange(1_000_000), None, seed, show_progress="hidden")
