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
from pocketddpm.demo.model_list import ModelList, describe

TABS = {
    "Draw": draw_tab.build,
    "Forward": forward_tab.build,
    "Samplers": race_tab.build,
    "Edit": edit_tab.build,
    "Inside": inside_tab.build,
}


def build(models: ModelList, files: Path) -> gr.Blocks:
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
            names = models.names
            picker = gr.Dropdown(
                names, value=names[0], label="Model", elem_id="model", min_width=200, scale=0
            )
            dark = gr.Button("Light / dark", size="sm", scale=0, min_width=110, elem_id="dark")
        page = widgets.Page(models, files, blocks, picker)
        page.follow(gr.HTML, lambda m: {"value": markup.facts(describe(m))}, elem_id="model-facts")
        with gr.Tabs(elem_id="tabs"):
            for name, build_tab in TABS.items():
                with gr.Tab(name):
                    build_tab(page)
        dark.click(None, js=theme.TOGGLE_DARK)
    return blocks
