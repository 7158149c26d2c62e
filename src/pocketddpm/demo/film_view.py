"""The view of a film: both boards, progress, a slider through the frames, stop, and downloads."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import gradio as gr

from pocketddpm.demo import markup
from pocketddpm.demo.drawing import KINDS, Film, write
from pocketddpm.demo.widgets import LATEST, Page, buttons, slider
from pocketddpm.errors import ConfigError
from pocketddpm.models.model import Model

X, X0 = "The images at time t: x_t", "What the network takes them for: its estimate of x0"


class FilmView:
    """Shows one film. Build it inside of a Gradio row, then call `wire`."""

    def __init__(self, page: Page, name: str, start: str) -> None:
        """Lay it out; `name` makes the elements' ids, `start` is the button's text."""
        self.page = page
        self.film = gr.State(None)
        with gr.Column(scale=2, min_width=300, elem_classes="result"):
            self.start, self.stop = buttons(start, name)
            ready = markup.progress(0, ["ready"], busy=False)
            self.status = gr.HTML(ready, elem_id=f"{name}-status")
            nothing = markup.panel(X, markup.empty("Nothing drawn yet."))
            self.x = gr.HTML(nothing, elem_id=f"{name}-x")
            guess = markup.panel(X0, markup.empty("Its guess, step by step."))
            self.x0 = gr.HTML(guess, elem_id=f"{name}-x0")
            self.frame = slider(
                0, 1, value=0, label="Step", info="Go back through the run.",
                interactive=False, elem_id=f"{name}-frame",
            )  # fmt: skip
            with gr.Row():
                size: dict[str, Any] = {"interactive": False, "size": "sm", "min_width": 90}
                self.files = [
                    gr.DownloadButton(kind, elem_id=f"{name}-{kind.lower()}", **size)
                    for kind in KINDS
                ]
        boards = [self.x, self.x0, self.status]
        self.frame.input(_at, [self.film, self.frame], boards, **LATEST)

    def wire(self, films: Callable[..., Iterator[Film]], inputs: list[Any]) -> None:
        """Let the button show films(model, *inputs), and the other one end it."""
        outputs = [self.film, self.x, self.x0, self.status, self.frame, *self.files]

        def run(model: Model, *values: Any) -> Iterator[tuple[Any, ...]]:
            *fields, name = values
            running = films(model, *fields)  # which refuses what it cannot do
            off = gr.update(interactive=False)
            skip = gr.skip()
            yield None, skip, skip, markup.progress(0, ["starting"]), *[off] * 4
            film = None
            try:
                for film in running:
                    if film.stop.is_set():
                        return
                    yield film, *_boards(film, len(film.frames) - 1), *[skip] * 4
            finally:
                if film is not None:
                    film.ended.set()
            if film is None or not film.frames:
                raise ConfigError("Nothing was drawn.")
            yield self._whole(film, name)

        def stopped(film: Film | None, name: str) -> tuple[Any, ...]:
            if film is not None and film.frames:
                # A frame that is still on its way to the page comes before what is said here.
                film.stop.set()
                film.ended.wait(60)
                return self._whole(film, name)
            note = markup.progress(0, ["stopped before the first step"], busy=False)
            skip = gr.skip()
            return film, skip, skip, note, *[skip] * 4

        picker = self.page.picker
        event = self.page.run(self.start, self.status, run, [*inputs, picker], outputs)
        ended: dict[str, Any] = {"cancels": [event], "show_progress": "hidden"}
        self.stop.click(stopped, [self.film, picker], outputs, **ended)

    def _whole(self, film: Film, name: str) -> tuple[Any, ...]:
        """Return the outputs for a film that has ended: the slider and the files with it."""
        film = replace(film, frames=list(film.frames))  # a step may just be under way
        steps = [frame.i for frame in film.frames]
        last = len(steps) - 1
        # The slider counts steps. The noise is left out where it is no stride from the next frame.
        first = steps[0] if last and steps[1] - steps[0] == film.every else steps[min(last, 1)]
        frame = gr.update(
            minimum=first, maximum=max(steps[-1], first + 1), step=film.every, value=steps[-1],
            interactive=steps[-1] > first,
        )  # fmt: skip
        files = [gr.update(value=p, interactive=True) for p in write(film, self.page.files, name)]
        return film, *_boards(film, last), frame, *files


def _at(film: Film | None, frame: float) -> tuple[Any, Any, Any]:
    if film is None or not film.frames:
        return gr.skip(), gr.skip(), gr.skip()
    nearest = min(range(len(film.frames)), key=lambda k: abs(film.frames[k].i - frame))
    return _boards(film, nearest)


def _boards(film: Film, k: int) -> tuple[str, str, str]:
    frame = film.frames[k]
    count, where = len(frame.x), f"at step {frame.i}"
    words = [
        f"step {frame.i} of {film.steps}",
        f"t = {frame.t:.4g}",
        f"{frame.nfe} network evaluations",
        f"{film.seconds:.1f} s",
    ]
    if film.note:
        words[0] += f" ({film.note})"
    if frame.i == film.steps:
        words.append(f"{count / max(film.seconds, 1e-9):.1f} images/s")
    shown = {"columns": film.columns, "names": film.names}
    x = markup.board(frame.x, **shown, alt=f"{count} images {where}, t = {frame.t:g}")
    x0 = markup.board(frame.x0, **shown, alt=f"estimates of x0 {where}")
    status = markup.progress(frame.i / film.steps, words, busy=not film.done)
    return markup.panel(X, x), markup.panel(X0, x0), status
