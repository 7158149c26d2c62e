"""What several verbs' options have in common: made of a config's fields; text forms; reports."""

import json
import sys
from collections.abc import Mapping
from dataclasses import Field, field, fields, make_dataclass
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

from pocketddpm.config import (
    DataConfig,
    EvaluationConfig,
    NetworkConfig,
    ObjectiveConfig,
    OptimiserConfig,
    ScheduleConfig,
    TrainingConfig,
    experiment_options,
)
from pocketddpm.errors import ConfigError
from pocketddpm.runs.options import RunOptions
from pocketddpm.values import option_of, sentence

if TYPE_CHECKING:
    from pocketddpm.metrics.likelihood import LikelihoodReport
    from pocketddpm.metrics.report import Report

T = TypeVar("T")
Number = TypeVar("Number", int, float)
POSITIONAL, REPEATED = "positional", "repeated"  # marks that `commands.parser` reads
Positional = Annotated[T, POSITIONAL]
"""The type of what is typed without a name, in the order of the fields."""
Plugins = Annotated[tuple[Path, ...], REPEATED]
"""The type of --plugin, which may be given several times; `main` loads them before a verb runs."""
GROUPS = {
    DataConfig: "data",
    NetworkConfig: "network",
    ScheduleConfig: "noise and loss",
    ObjectiveConfig: "noise and loss",
    OptimiserConfig: "optimiser",
    TrainingConfig: "budget",
    EvaluationConfig: "measuring",
}
"""The groups of training's options in its help."""


class Flag(NamedTuple):
    """The mark of an option that is not called as its field."""

    name: str


Place = tuple[type, "Field[Any]", Any, Any]
"""Class and field where an option stands, its type on the command line, its default."""


def training_options(*names: str, **defaults: Any) -> type:
    """Return a base class for a command: a dataclass with options of training.

    names: which of them; all when none is named. defaults: in place of their own.
    """
    hints = get_type_hints(RunOptions)
    places: dict[str, Place] = {
        name: (kind, f, _asked(f, hint), None)
        for name, (_, kind, f, hint) in experiment_options().items()
    }
    places |= {f.name: (RunOptions, f, hints[f.name], f.default) for f in fields(RunOptions)}
    return _base({name: places[name] for name in names or places}, defaults)


def options_of(config: type) -> type:
    """Return a base class for a command: a dataclass with the options of a config class."""
    hints, places = get_type_hints(config), dict[str, Place]()
    for f in fields(config):
        hint: Any = hints[f.name]
        default: Any = f.default
        if option_of(f).read is not None:  # is read from text
            hint, default = (str, ",".join(default)) if default else (str | None, None)
        elif bool in get_args(hint):  # and None
            hint = Literal["yes", "no"] | None
        places[f.name] = (config, f, hint, default)
    return _base(places, {})


def _base(places: Mapping[str, Place], defaults: Mapping[str, Any]) -> type:
    made = []
    for name, (kind, f, hint, default) in places.items():
        told = {"option": option_of(f), "told": (sentence(kind, f.name), GROUPS.get(kind))}
        default = field(default=defaults.get(name, default), kw_only=True, metadata=told)
        made.append((name, hint, default))
    return make_dataclass("Options", made, frozen=True)


def _asked(f: "Field[Any]", hint: Any) -> Any:
    """Return the type that the command line reads an option of the experiment as."""
    about, kinds = option_of(f), [a for a in get_args(hint) if a is not type(None)]
    plain: Any = kinds[0] if type(None) in get_args(hint) else hint
    if about.choices is not None:
        plain = Literal[tuple(about.choices.names())]
    elif plain is bool:
        plain = Literal["yes", "no"]
    elif get_origin(plain) in (tuple, dict):
        plain = str
    return plain | None


def given(command: Any) -> dict[str, Any]:
    """Return the options that a command has from its base class, by name."""
    return {f.name: getattr(command, f.name) for f in fields(type(command).__bases__[0])}


def parse_numbers(text: str, form: str, kind: type[Number]) -> tuple[Number, ...]:
    """Return as many numbers, of the type `kind`, as `form` (such as LOW,HIGH) has names."""
    try:
        numbers = tuple(kind(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != form.count(",") + 1:
        what = "whole numbers" if kind is int else "numbers"
        raise ConfigError(f"{form} must be {form.count(',') + 1} {what}, got '{text}'")
    return numbers


def print_report(report: "Report | LikelihoodReport", as_json: bool, out: Path | None) -> None:
    """Print a report as text or JSON, and where it was written; under torchrun only once."""
    from pocketddpm.distributed import rank

    if rank() > 0:
        return
    print(json.dumps(report.to_json(), indent=2) if as_json else report.text())
    if out is not None:
        print(f"wrote {out}", file=sys.stderr)
