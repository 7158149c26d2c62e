"""The view of a film: both boards, progress, a slider through the frames, stop, and downloads."""

from collections.abc import Callable, Iterator
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
        with gr.Column(scale=2, min_width=300):
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
            off = gr.update(interactive=False)
            skip = gr.skip()
            yield skip, skip, skip, markup.progress(0, ["starting"]), *[off] * 4
            film = None
            for film in films(model, *fields):
                yield film, *_boards(film, len(film.frames) - 1), *[skip] * 4
            if film is None or not film.frames:
                raise ConfigError("Nothing was drawn.")
            yield self._whole(film, name)

        def stopped(film: Film | None, name: str) -> tuple[Any, ...]:
            if film is not None and film.frames:
                return self._whole(film, name)
            note = markup.progress(0, ["stopped before the first step"], busy=False)
            skip = gr.skip()
            return film, skip, skip, note, *[skip] * 4

        picker = self.page.picker
        event = self.page.run(self.start, run, [*inputs, picker], outputs)
        ended: dict[str, Any] = {"cancels": [event], "show_progress": "hidden"}
        self.stop.click(stopped, [self.film, picker], outputs, **ended)

    def _whole(self, film: Film, name: str) -> tuple[Any, ...]:
        """Return the outputs for a film that has ended: the slider and the files with it."""
        last = len(film.frames) - 1
        frame = gr.update(maximum=max(last, 1), value=last, interactive=last > 0)
        files = [gr.update(value=p, interactive=True) for p in write(film, self.page.files, name)]
        return film, *_boards(film, last), frame, *files


def _at(film: Film | None, frame: float) -> tuple[Any, Any, Any]:
    if film is None or not film.frames:
        return gr.skip(), gr.skip(), gr.skip()
    return _boards(film, min(max(int(frame), 0), len(film.frames) - 1))


def _boards(film: Film, k: int) -> tuple[str, str, str]:
    frame = film.frames[k]
    count, where = len(frame.x), f"at step {frame.i}"
    words = [
        f"step {frame.i} of {film.steps}",
        f"t = {frame.t:.4g}",
        f"{frame.nfe} network evaluations",
        f"{film.seconds:.1f} s",
    ]
    if frame.i == film.steps:
        words.append(f"{count / max(film.seconds, 1e-9):.1f} images/s")
    x = markup.board(frame.x, film.columns, alt=f"{count} images {where}, t = {frame.t:g}")
    x0 = markup.board(frame.x0, film.columns, alt=f"estimates of x0 {where}")
    status = markup.progress(frame.i / film.steps, words, busy=not film.done)
    return markup.panel(X, x), markup.panel(X0, x0), status
