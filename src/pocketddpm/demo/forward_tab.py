"""Tab: the forward process under a slider."""

import gradio as gr

from pocketddpm.demo import markup, widgets
from pocketddpm.demo.noising import Noised, noised
from pocketddpm.demo.widgets import Page
from pocketddpm.models.model import Model

SHOWN = 10


def build(page: Page) -> None:
    """Lay the tab out and wire it."""
    widgets.lesson(
        "Training images are turned into noise in one go: **x_t = √ᾱ_t · x0 + √(1 − ᾱ_t) · ε**. "
        "The network learns to see through it. Move t: near 0 it has little to do, near T it can "
        "only guess an average of all images."
    )
    t = page.follow(
        widgets.slider,
        lambda m: {"maximum": m.schedule.T, "value": m.schedule.T // 4},
        minimum=0,
        label="Time t",
        elem_id="forward-t",
    )
    with gr.Row():
        x, guess = gr.HTML(elem_id="forward-x"), gr.HTML(elem_id="forward-x0")
    with gr.Row():
        facts = gr.HTML(elem_id="forward-facts")
    curve = gr.HTML(elem_id="forward-curve")

    def show(model: Model, t: float) -> tuple[str, ...]:
        examples = page.models.examples(model)
        images, labels = examples.first(SHOWN)
        found = noised(model, images, labels, min(int(t), model.schedule.T))
        told = "no label told" if labels is None else "labels told"
        known = () if examples.labels is None else examples.labels[:SHOWN]
        names = [model.classes[k] for k in known]
        return (*_boards(found, told, names), _facts(found, examples.source), _curve(model, found))

    outputs = [x, guess, facts, curve]
    page.show([t.input], show, [t], outputs)
    page.show([page.picker.change], lambda m: show(m, m.schedule.T // 4), [], outputs)


def _boards(found: Noised, told: str, names: list[str]) -> tuple[str, str]:
    x = markup.board(found.x_t, 5, alt=f"{len(found.x_t)} images at t = {found.t}", names=names)
    alt = "the network's estimates of the clean images"
    guess = markup.board(found.guess, 5, alt=alt, names=names)
    title = f"The network's guess at x0 from it ({told})"
    return markup.panel(f"x_t at t = {found.t}", x), markup.panel(title, guess)


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
    return markup.svg(fig, f"the shares of image and noise over t, marked at t = {found.t}")
