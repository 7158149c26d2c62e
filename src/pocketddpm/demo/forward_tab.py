"""Tab: the forward process under a slider."""

from typing import Any

import gradio as gr

from pocketddpm.demo import markup, widgets
from pocketddpm.demo.noising import Noised, noised
from pocketddpm.demo.widgets import QUEUED, Page, explained
from pocketddpm.models.model import Model

SHOWN = 10


def build(page: Page) -> None:
    """Lay the tab out and wire it."""
    widgets.lesson(
        "Training images are turned into noise in one go: **x_t = √ᾱ_t · x0 + √(1 − ᾱ_t) · ε**. "
        "The network learns to see through it. Move t: near 0 it has little to do, near T it can "
        "only guess an average of all images."
    )
    T = page.first.schedule.T
    t = gr.Slider(0, T, value=T // 4, step=1, label="Time t", buttons=[], elem_id="forward-t")
    with gr.Row():
        x = gr.HTML(elem_id="forward-x")
        guess = gr.HTML(elem_id="forward-x0")
    with gr.Row():
        told = gr.HTML(elem_id="forward-facts")
    curve = gr.HTML(elem_id="forward-curve")

    @explained
    def show(t: float, name: str) -> tuple[str, str, str, str]:
        model = page.shelf.model(name)
        examples = page.shelf.examples(name)
        labels = None if examples.labels is None else examples.labels[:SHOWN]
        found = noised(model, examples.images[:SHOWN], min(int(t), model.schedule.T), labels)
        told = "no label told" if labels is None else "labels told"
        return (*_pictures(found, told), _facts(found, examples.source), _curve(model, found))

    outputs = [x, guess, told, curve]
    settings: Any = {**QUEUED, "trigger_mode": "always_last"}
    t.input(show, [t, page.picker], outputs, **settings)
    page.blocks.load(show, [t, page.picker], outputs, **settings)
    widgets.on_model(page, t, lambda m: gr.update(maximum=m.schedule.T, value=m.schedule.T // 4))
    page.picker.change(
        lambda name: show(page.shelf.model(name).schedule.T // 4, name),
        page.picker, outputs, **settings,
    )  # fmt: skip


def _pictures(found: Noised, told: str) -> tuple[str, str]:
    x = markup.board(found.x_t, 5, alt=f"{len(found.x_t)} images at t = {found.t}")
    guess = markup.board(found.guess, 5, alt="the network's estimates of the clean images")
    return (
        markup.panel(f"x_t at t = {found.t}", x),
        markup.panel(f"The network's guess at x0 from it ({told})", guess),
    )


def _facts(found: Noised, source: str) -> str:
    return markup.facts(
        [
            f"√ᾱ = {found.signal:.3f}, the image's share",
            f"√(1 − ᾱ) = {found.noise:.3f}, the noise's",
            f"SNR {found.decibels:+.1f} dB",
            f"the guess is off by {found.error:.0f} of 255 grey levels (rms)",
            f"images: {source}",
        ]
    )


def _curve(model: Model, found: Noised) -> str:
    fig, axes = markup.curves(6.4, 2.2)
    alpha_bar = model.schedule.alpha_bar
    axes.plot(alpha_bar.sqrt().numpy(), color=markup.COLOURS[0], label="√ᾱ (image)")
    axes.plot((1 - alpha_bar).sqrt().numpy(), color=markup.COLOURS[1], label="√(1 − ᾱ) (noise)")
    axes.axvline(found.t, color=markup.INK, linewidth=1)
    axes.set(xlabel="t", xlim=(0, model.schedule.T), ylim=(0, 1.03))
    axes.legend(frameon=False, labelcolor=markup.INK, loc="center right")
    return markup.svg(fig, f"the shares of image and noise over t, marked at t = {found.t}")
