"""The page: a header with the model, and a tab for each thing to do."""

from pathlib import Path

import gradio as gr

from pocketddpm.demo import (
    draw_tab,
    edit_tab,
    forward_tab,
    inside_tab,
    markup,
    race_tab,
    theme,
    widgets,
)
from pocketddpm.demo.model_list import Shelf, describe

TABS = {
    "Draw": draw_tab.build,
    "Forward": forward_tab.build,
    "Samplers": race_tab.build,
    "Edit": edit_tab.build,
    "Inside": inside_tab.build,
}


def build(shelf: Shelf, files: Path) -> gr.Blocks:
    """Return the page. files: a folder for what people download; emptied by the caller."""
    blocks = gr.Blocks(
        title="pocketddpm", analytics_enabled=False, delete_cache=(600, 3600), fill_width=False
    )
    with blocks:
        with gr.Row(elem_id="header"):
            gr.HTML(
                "<h1>pocketddpm</h1><p>Watch a diffusion model draw. Everything runs on this "
                "machine.</p>"
            )
            picker = gr.Dropdown(
                shelf.names, value=shelf.names[0], label="Model", elem_id="model", min_width=200,
                scale=0,
            )  # fmt: skip
            dark = gr.Button("Light / dark", size="sm", scale=0, min_width=110, elem_id="dark")
        first = describe(shelf.model(shelf.names[0]))
        told = gr.HTML(markup.facts(first), elem_id="model-facts")
        page = widgets.Page(shelf, files, blocks, picker)
        with gr.Tabs(elem_id="tabs"):
            for name, build_tab in TABS.items():
                with gr.Tab(name):
                    build_tab(page)
        widgets.on_model(page, told, lambda model: markup.facts(describe(model)))
        dark.click(None, js=theme.TOGGLE_DARK)
    return blocks
