"""What the tabs share of Gradio: the page, errors as messages, the fields of a wish."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from pocketddpm.demo import markup
from pocketddpm.demo.drawing import GUIDANCE, MOST_IMAGES, MOST_STEPS
from pocketddpm.demo.model_list import ModelList
from pocketddpm.demo.racing import drawing_samplers
from pocketddpm.demo.streaming import WORKERS
from pocketddpm.diffusion.grid import SPACINGS
from pocketddpm.errors import DDPMError
from pocketddpm.models.labels import NO_LABEL
from pocketddpm.models.model import Model

# Everything that asks the network waits in one queue, so that no run starves another.
QUEUED: dict[str, Any] = {
    "concurrency_id": "network",
    "concurrency_limit": WORKERS,
    "show_progress": "hidden",
}
# An event that comes while another of its kind is being answered waits, and only the last counts.
LATEST: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last"}

slider = partial(gr.Slider, step=1, buttons=[])
VARIANTS = "Variants"


@contextmanager
def explained() -> Iterator[None]:
    """Let a DDPMError reach the person as a message instead of a traceback."""
    try:
        yield
    except DDPMError as error:
        raise gr.Error(str(error), title="Invalid value", print_exception=False) from None


@dataclass(frozen=True)
class Page:
    """What every tab is built from. picker: the field with the model's name."""

    models: ModelList
    files: Path
    blocks: gr.Blocks
    picker: gr.Dropdown

    @property
    def first(self) -> Model:
        """The model that is shown at the start."""
        return self.models.model(self.models.names[0])

    def follow(self, kind: Any, values: Callable[[Model], dict[str, Any]], **fixed: Any) -> Any:
        """Return a component some of whose values depend on the model that is picked."""
        field = kind(**fixed, **values(self.first))

        @explained()
        def update(name: str) -> Any:
            return gr.update(**values(self.models.model(name)))

        self.picker.change(update, self.picker, field, show_progress="hidden")
        return field

    def show(self, events: list[Any], handler: Any, inputs: list[Any], outputs: Any) -> None:
        """Let handler(model, *inputs) fill the outputs at these events, and when the page loads."""

        @explained()
        def answer(*values: Any) -> Any:
            return handler(self.models.model(values[-1]), *values[:-1])

        for listen in (*events, self.blocks.load):
            listen(answer, [*inputs, self.picker], outputs, **LATEST)

    def run(
        self, start: gr.Button, status: gr.HTML, handler: Any, inputs: list[Any], outputs: list[Any]
    ) -> Any:
        """Let `start` yield from handler(model, *inputs) into the outputs; return the event.

        status: the output that says what went wrong, so that nothing goes on waiting.
        """

        def answer(*values: Any) -> Iterator[Any]:
            try:
                yield from handler(self.models.model(values[-1]), *values[:-1])
            except DDPMError as error:
                yield {status: markup.problem(str(error))}
            except Exception:
                yield {status: markup.problem("That failed; the terminal says why.")}
                raise

        return start.click(answer, [*inputs, self.picker], outputs, **QUEUED)

    def stop(self, button: gr.Button, event: Any, status: gr.HTML) -> None:
        """Let a button end an event, and the status say so."""
        stopped = markup.progress(0, ["stopped"], busy=False)
        button.click(lambda: stopped, None, status, cancels=[event], show_progress="hidden")


def lesson(text: str) -> None:
    """Put a short explanation at the top of a tab."""
    gr.Markdown(text, elem_classes="lesson")


def buttons(start: str, name: str) -> tuple[gr.Button, gr.Button]:
    """Return a button that starts, and one that stops; `name` makes their ids."""
    with gr.Row():
        return (
            gr.Button(start, variant="primary", elem_id=f"{name}-start", min_width=100),
            gr.Button("Stop", elem_id=f"{name}-stop", min_width=100),
        )


def classes_field(page: Page) -> Any:
    """Return the field for several classes."""
    return page.follow(
        gr.CheckboxGroup,
        lambda m: {"choices": list(m.classes), "value": [], "visible": bool(m.classes)},
        label="Classes",
        info="None ticked: all of them in turn.",
        elem_classes="classes",
    )


def one_class(model: Model, *, unlabelled: bool = False) -> dict[str, Any]:
    """Return the values of a field for one class; or no label, where the model has learned that.

    unlabelled: whether no label is chosen at first, in place of the first class.
    """
    none = [] if model.null is None else [("no label", NO_LABEL)]
    named = [(name, name) for name in model.classes]
    first = next(iter([*none, *named] if unlabelled else named), ("", ""))[1]
    return {"choices": [*none, *named], "value": first, "visible": bool(model.classes)}


def class_field(page: Page, *, unlabelled: bool = False) -> Any:
    """Return the field for one class, see `one_class`."""
    return page.follow(gr.Dropdown, partial(one_class, unlabelled=unlabelled), label="Class")


def sampler_field(page: Page) -> Any:
    """Return the field for the sampler; the model's own at first."""
    return page.follow(
        gr.Dropdown,
        lambda m: {"value": m.experiment.sampling.sampler},
        choices=drawing_samplers(),
        label="Sampler",
    )


def spacing_field(page: Page) -> Any:
    """Return the field for where the steps lie; the model's own at first."""
    return page.follow(
        gr.Dropdown,
        lambda m: {"value": m.experiment.sampling.spacing},
        choices=list(SPACINGS),
        label="Spacing of the steps",
    )


def steps_field(page: Page, value: int = 20, *, own: bool = False) -> Any:
    """Return the field for steps, no more than the model's T.

    own: whether a model that draws in fewer steps than `value` begins with them.
    """

    def values(model: Model) -> dict[str, Any]:
        most = min(MOST_STEPS, model.schedule.T)
        wanted = min(value, model.experiment.sampling.steps) if own else value
        return {"maximum": most, "value": min(wanted, most)}

    return page.follow(slider, values, minimum=1, label="Steps")


def guidance_field(page: Page) -> Any:
    """Return the field for guidance, for models that have learned to draw without a label."""

    def values(model: Model) -> dict[str, Any]:
        info = "1 is none. More: truer to the class, twice the work."
        if model.null is None:
            info = "This model was not trained for guidance."
        return {"value": 1.0, "info": info, "interactive": model.null is not None}

    low, high = GUIDANCE
    return page.follow(slider, values, minimum=low, maximum=high, step=0.1, label="Guidance")


def count_field(value: int, label: str = "Images", least: int = 1) -> Any:
    """Return the field for how many images."""
    return slider(least, MOST_IMAGES, value=value, label=label)


def seed_field(value: int = 0, label: str = "Seed") -> gr.Number:
    """Return the field for a seed. `drawing.wish` knows its bounds, and names it where it errs."""
    return gr.Number(value, label=label, min_width=110)


def wish_fields(page: Page, kind: Any) -> list[Any]:
    """Return the fields of a wish for one class, `kind`, in the order of `drawing.wish`."""
    count = count_field(8, VARIANTS)
    return [kind, count, steps_field(page), guidance_field(page), seed_field()]
