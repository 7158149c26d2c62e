"""The view of a film: both boards, progress, a slider through the frames, stop, and downloads."""

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from pocketddpm.demo import markup
from pocketddpm.demo.downloads import write
from pocketddpm.demo.drawing import Film
from pocketddpm.demo.widgets import QUEUED, Page, explained
from pocketddpm.errors import ConfigError

X, X0 = "The images at time t: x_t", "What the network takes them for: its estimate of x0"


class FilmView:
    """Shows one film. Build it inside of a Gradio layout, then call `wire`."""

    def __init__(self, page: Page, name: str) -> None:
        """Lay it out; `name` makes the elements' ids."""
        self.page = page
        self.film = gr.State(None)
        self.status = gr.HTML(markup.progress(0, ["ready"], busy=False), elem_id=f"{name}-status")
        self.x = gr.HTML(markup.panel(X, markup.empty("Nothing drawn yet.")), elem_id=f"{name}-x")
        self.x0 = gr.HTML(
            markup.panel(X0, markup.empty("Its guess, step by step.")), elem_id=f"{name}-x0"
        )
        self.frame = gr.Slider(
            0, 1, value=0, step=1, label="Step", info="Go back through the run.",
            interactive=False, buttons=[], elem_id=f"{name}-frame",
        )  # fmt: skip
        with gr.Row():
            self.files = [
                gr.DownloadButton(
                    kind,
                    interactive=False,
                    size="sm",
                    min_width=90,
                    elem_id=f"{name}-{kind.lower()}",
                )
                for kind in ("PNG", "GIF", "npz")
            ]
        self.frame.input(
            _at, [self.film, self.frame], [self.x, self.x0, self.status],
            show_progress="hidden", trigger_mode="always_last",
        )  # fmt: skip

    @property
    def outputs(self) -> list[Any]:
        """What every event of the view writes."""
        return [self.film, self.x, self.x0, self.status, self.frame, *self.files]

    def wire(
        self, start: gr.Button, stop: gr.Button, films: Callable[..., Iterator[Film]], inputs: Any
    ) -> None:
        """Let `start` show films(*inputs), the model's name last, and `stop` end it."""

        @explained
        def run(*values: Any) -> Iterator[tuple[Any, ...]]:
            still = [gr.skip()] * 3
            yield (
                gr.skip(), gr.skip(), gr.skip(), markup.progress(0, ["starting"]),
                gr.update(interactive=False), *[gr.update(interactive=False)] * 3,
            )  # fmt: skip
            film = None
            for film in films(*values):
                x, x0, status = _boards(film, len(film.frames) - 1)
                yield film, x, x0, status, gr.skip(), *still
            if film is None or not film.frames:
                raise ConfigError("Nothing was drawn.")
            yield self._whole(film, values[-1])

        def stopped(film: Film | None, name: str) -> tuple[Any, ...]:
            if film is None or not film.frames:
                note = markup.progress(0, ["stopped before the first step"], busy=False)
                return film, gr.skip(), gr.skip(), note, gr.skip(), *[gr.skip()] * 3
            return self._whole(film, name)

        event = start.click(run, [*inputs, self.page.picker], self.outputs, **QUEUED)
        stop.click(
            stopped, [self.film, self.page.picker], self.outputs,
            cancels=[event], show_progress="hidden",
        )  # fmt: skip

    def _whole(self, film: Film, name: str) -> tuple[Any, ...]:
        """Return the outputs for a film that has ended: the slider and the files with it."""
        last = len(film.frames) - 1
        x, x0, status = _boards(film, last)
        slider = gr.update(maximum=max(last, 1), value=last, interactive=last > 0)
        paths = write(film, self.page.files, name)
        return film, x, x0, status, slider, *(gr.update(value=p, interactive=True) for p in paths)


def _at(film: Film | None, frame: float) -> tuple[Any, Any, Any]:
    if film is None or not film.frames:
        return gr.skip(), gr.skip(), gr.skip()
    return _boards(film, min(max(int(frame), 0), len(film.frames) - 1))


def _boards(film: Film, k: int) -> tuple[str, str, str]:
    frame = film.frames[k]
    count = len(frame.x)
    words = [
        f"step {frame.i} of {film.steps}",
        f"t = {frame.t:.4g}",
        f"{frame.nfe} network evaluations",
        f"{film.seconds:.1f} s",
    ]
    if frame.i == film.steps:
        words.append(f"{count / max(film.seconds, 1e-9):.1f} images/s")
    x = markup.board(
        frame.x, film.columns, alt=f"{count} images at step {frame.i}, t = {frame.t:g}"
    )
    x0 = markup.board(frame.x0, film.columns, alt=f"estimates of x0 at step {frame.i}")
    share = frame.i / film.steps
    return (
        markup.panel(X, x),
        markup.panel(X0, x0),
        markup.progress(share, words, busy=not film.done),
    )
