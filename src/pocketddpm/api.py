"""`train` and `evaluate` for Python: the commands of those names, with their options by name."""

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pocketddpm.commands.evaluate import Evaluate, write_report
from pocketddpm.commands.train import Train
from pocketddpm.errors import unknown
from pocketddpm.models.model import Model, load_model

if TYPE_CHECKING:
    from pocketddpm.metrics.report import Report

Command = TypeVar("Command", Train, Evaluate)


def train(preset: str, *, out: str | Path | None = None, **options: Any) -> Model:
    """Train as `pocketddpm train PRESET` does, and return the model.

    out: the run folder, runs/PRESET by default. options: those of the command, `minutes=10` for
    --minutes 10; give exactly one budget (steps, epochs, images, minutes) or keep the preset's.
    Raises KeyboardInterrupt on Ctrl-C, with the run saved, and ConfigError for an unknown option.
    """
    folder = Path("runs") / preset if out is None else Path(out)
    command = _command(Train, {"preset": preset, "out": folder, **options})
    try:
        command.run()
    except SystemExit as stop:  # the command line's way to end after a signal
        raise KeyboardInterrupt(f"stopped; the run is in {folder}") from stop
    return load_model(folder)


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
