"""What the tabs share of Gradio: the page, explained errors, the fields of a wish."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from inspect import isgeneratorfunction
from pathlib import Path
from typing import Any

import gradio as gr

from pocketddpm.demo.drawing import GUIDANCE, LARGEST_SEED, MOST_IMAGES, MOST_STEPS
from pocketddpm.demo.model_list import Shelf
from pocketddpm.demo.racing import drawing_samplers
from pocketddpm.demo.streaming import WORKERS
from pocketddpm.diffusion.grid import SPACINGS
from pocketddpm.errors import DDPMError
from pocketddpm.models.model import Model

# Everything that asks the network waits in one queue, so that no run starves another.
QUEUED = {"concurrency_id": "network", "concurrency_limit": WORKERS, "show_progress": "hidden"}


@dataclass(frozen=True)
class Page:
    """What every tab is built from. picker: the field with the model's name."""

    shelf: Shelf
    files: Path
    blocks: gr.Blocks
    picker: gr.Dropdown

    @property
    def first(self) -> Model:
        """The model that is shown at the start."""
        return self.shelf.model(self.shelf.names[0])


def explained(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Let a DDPMError reach the person as a message instead of a traceback."""

    def told(error: DDPMError) -> gr.Error:
        return gr.Error(str(error), title="That cannot be", print_exception=False)

    @wraps(handler)
    def generator(*args: Any) -> Iterator[Any]:
        try:
            yield from handler(*args)
        except DDPMError as error:
            raise told(error) from None

    @wraps(handler)
    def function(*args: Any) -> Any:
        try:
            return handler(*args)
        except DDPMError as error:
            raise told(error) from None

    return generator if isgeneratorfunction(handler) else function


def lesson(text: str) -> None:
    """Put a short explanation at the top of a tab."""
    gr.Markdown(text, elem_classes="lesson")


def label_field(page: Page, *, several: bool) -> Any:
    """Return the field for classes: any of them (none means all), or one (or no label)."""
    if several:
        field = gr.CheckboxGroup(
            list(page.first.classes),
            label="Classes",
            info="None ticked: all of them in turn.",
            visible=bool(page.first.classes),
        )
        change = lambda m: gr.update(choices=list(m.classes), value=[], visible=bool(m.classes))  # noqa: E731
    else:
        field = gr.Dropdown(
            one_label(page.first), value="", label="Class", visible=bool(page.first.classes)
        )
        change = lambda m: gr.update(choices=one_label(m), value="", visible=bool(m.classes))  # noqa: E731
    on_model(page, field, change)
    return field


def one_label(model: Model) -> list[tuple[str, str]]:
    """Return the choices of a field for one class."""
    return [("no label", ""), *((name, name) for name in model.classes)]


def sampler_field(page: Page) -> gr.Dropdown:
    """Return the field for the sampler; the model's own at first."""
    own = lambda m: m.experiment.sampling.sampler  # noqa: E731
    field = gr.Dropdown(drawing_samplers(), value=own(page.first), label="Sampler")
    on_model(page, field, lambda m: gr.update(value=own(m)))
    return field


def steps_field(page: Page, value: int = 20, *, own: bool = False) -> gr.Slider:
    """Return the field for steps, no more than the model's T.

    own: whether a model that draws in fewer steps than `value` begins with them.
    """

    def start(model: Model) -> dict[str, Any]:
        most = min(MOST_STEPS, model.schedule.T)
        wanted = min(value, model.experiment.sampling.steps) if own else value
        return {"maximum": most, "value": min(wanted, most)}

    field = gr.Slider(1, step=1, label="Steps", buttons=[], **start(page.first))
    on_model(page, field, lambda m: gr.update(**start(m)))
    return field


def guidance_field(page: Page) -> gr.Slider:
    """Return the field for guidance, which only models with and without labels can follow."""
    told = lambda m: (  # noqa: E731
        "1 is none. More: truer to the class, twice the work."
        if m.null is not None
        else "This model was not trained for guidance."
    )
    start = page.first
    field = gr.Slider(
        *GUIDANCE,
        value=1.0,
        step=0.1,
        label="Guidance",
        info=told(start),
        interactive=start.null is not None,
        buttons=[],
    )
    on_model(
        page,
        field,
        lambda m: gr.update(value=1.0, info=told(m), interactive=m.null is not None),
    )
    return field


def count_field(value: int, label: str = "Images", least: int = 1) -> gr.Slider:
    """Return the field for how many images."""
    return gr.Slider(least, MOST_IMAGES, value=value, step=1, label=label, buttons=[])


def seed_field(value: int = 0, label: str = "Seed") -> gr.Number:
    """Return the field for a seed."""
    return gr.Number(
        value, label=label, precision=0, minimum=0, maximum=LARGEST_SEED, min_width=110
    )


def spacing_field(page: Page) -> gr.Dropdown:
    """Return the field for where the steps lie; the model's own at first."""
    own = lambda m: m.experiment.sampling.spacing  # noqa: E731
    field = gr.Dropdown(list(SPACINGS), value=own(page.first), label="Spacing of the steps")
    on_model(page, field, lambda m: gr.update(value=own(m)))
    return field


def on_model(page: Page, field: Any, change: Callable[[Model], Any]) -> None:
    """Update a field when another model is picked."""

    @explained
    def update(name: str) -> Any:
        return change(page.shelf.model(name))

    page.picker.change(update, page.picker, field, show_progress="hidden")
