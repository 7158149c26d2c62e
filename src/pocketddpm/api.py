"""The library's verbs: they take Python's own types, and commands and programs call them alike.

A function here imports what it needs when it is called, so that none pays for another.
"""

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pocketddpm.commands.evaluate import Evaluate, write_report
from pocketddpm.config import Experiment
from pocketddpm.errors import unknown
from pocketddpm.models.model import Model, load_model
from pocketddpm.presets import get_preset

if TYPE_CHECKING:
    from pocketddpm.metrics.report import Report
    from pocketddpm.runs.run import Session

Command = TypeVar("Command", bound=Evaluate)


def train(preset: str | Experiment, *, out: str | Path | None = None, **options: Any) -> Model:
    """Train a preset, or an experiment of one's own, and return the model.

    out: the run folder, runs/PRESET by default. options: those of `pocketddpm train` by name, as
    Python's own types: `flip=True`, `image_size=(28, 28)`, `net={"widths": (32, 64)}`,
    `classes=["cat", "dog"]`; text as on the command line is read too. None keeps the preset's
    value. Give exactly one budget (steps, epochs, images, minutes), or keep the preset's.
    Raises ConfigError for an option that is unknown or not allowed, before anything is written, and
    KeyboardInterrupt on Ctrl-C, with the run saved.
    """
    from pocketddpm.runs.start import start

    experiment = get_preset(preset) if isinstance(preset, str) else preset
    return _trained(start(experiment, out=out, **options))


def distill(model: str | Path, *, out: str | Path | None = None, **options: Any) -> Model:
    """Tune a trained model so that one or two steps give an image, and return the new model.

    model: a run folder, a checkpoint or the name of a shipped model. out: the run folder,
    runs/PRESET-distilled by default. options: those of `pocketddpm distill` by name.
    Raises as `train` does, and ConfigError for a model that cannot be distilled.
    """
    from pocketddpm.runs.start import distillation

    return _trained(distillation(model, out=out, **options))


def _trained(session: "Session") -> Model:
    try:
        session.run()
    except SystemExit as stop:  # the command line's way to end after a signal
        raise KeyboardInterrupt(f"stopped; the run is in {session.out}") from stop
    return load_model(session.out)


def evaluate(subject: str | Path | Model, **options: Any) -> "Report":
    """Score a model, samples.npz or a folder of images, as `pocketddpm evaluate` does.

    options: those of the command, `n=1000` for --n 1000; `out` writes the report's folder too.
    Raises ConfigError for an unknown one.
    """
    model = subject if isinstance(subject, Model) else None
    name = "a model in memory" if model else str(subject)
    if options.get("out") is not None:
        options["out"] = Path(options["out"])
    command = _command(Evaluate, {"subject": name, **options})
    report = command.measure(model)
    if command.out is not None:
        write_report(command.out, report)
    return report


def _command(kind: type[Command], options: dict[str, Any]) -> Command:
    names = [field.name for field in fields(kind)]
    for name in options:
        if name not in names:
            raise unknown(f"option of {kind.__name__.lower()}", name, names)
    return kind(**options)
