"""The configuration of an experiment: frozen dataclasses, saved whole in every checkpoint.

Everything about an option is written here, once: its type, default, sentence and allowed values.
The options of `pocketddpm train`, the arguments of `pocketddpm.train`, the check of a checkpoint
and the page of commands are made from it. A value that is not allowed is a ConfigError, wherever it
comes from. Standard library only, so that every `--help` is quick.
"""

import ast
import operator
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass, replace
from functools import cache
from itertools import pairwise
from math import isfinite
from numbers import Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from pocketddpm.catalog import TABLES, Table
from pocketddpm.errors import ConfigError, unknown

T = TypeVar("T")
Options = dict[str, Any]
SEEDS = ">= -9223372036854775808, < 18446744073709551616"  # what 64 bits hold
BUDGETS = ("steps", "epochs", "images", "minutes")


class Option(NamedTuple):
    """What is known of a field, beside its type and its default.

    bound: what a number must satisfy, such as '>= 0, < 1'; in a tuple, each of them.
    choices: the table whose names are allowed. read: how text becomes the value.
    name: what the option is called where it is not as the field.
    """

    bound: str = ""
    choices: Table | None = None
    read: Callable[[str], Any] | None = None
    name: str = ""


def option(default: Any, bound: str = "", **about: Any) -> Any:
    """Return a dataclass field with an `Option`. default: MISSING for none, or what makes it."""
    metadata = {"option": Option(bound, **about)}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def sentence(kind: type, name: str) -> str:
    """Return the sentence that stands below a field of a config class."""
    return _sentences(str(sys.modules[kind.__module__].__file__))[kind.__name__, name]


@cache
def _sentences(path: str) -> dict[tuple[str, str], str]:
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    return {
        (c.name, f.target.id): " ".join(below.value.value.split())  # type: ignore[attr-defined]
        for c in tree.body
        if isinstance(c, ast.ClassDef)
        for f, below in pairwise(c.body)
        if isinstance(f, ast.AnnAssign) and isinstance(below, ast.Expr)
    }


def parse_options(text: str) -> dict[str, str]:
    """Split 'width=48,depths=2/3/2' into {'width': '48', 'depths': '2/3/2'}."""
    options: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        key, equals, value = part.partition("=")
        if not equals or not key or not value:
            raise ConfigError(f"options read key=value,key=value; got '{part}' in '{text}'")
        options[key.strip().replace("-", "_")] = value.strip()
    return options


def parse_size(text: str) -> tuple[int, int]:
    """Return (height, width) from '32' or '28x36'."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip())
    if not match or 0 in (sides := [int(s) for s in match.groups() if s]):
        raise ConfigError(f"an image size reads 32 or 28x36 (height x width), got '{text}'")
    return sides[0], sides[-1]


def parse_names(text: str) -> tuple[str, ...]:
    """Return the names in 'a,b,c'."""
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    if not names:
        raise ConfigError(f"a list reads a,b,c; got '{text}'")
    return names


@dataclass(frozen=True)
class DataConfig:
    """Which images, and in what form the network sees them."""

    name: str = option(MISSING, name="data")
    """A data set's name or a folder of images, instead of the preset's."""
    image_size: tuple[int, int] | None = option(None, bound=">= 1", read=parse_size)
    """Image size, 32 or 28x36 (height x width)."""
    fit: Literal["pad", "resize"] | None = None
    """How another image size is reached."""
    subset: int | None = option(None, bound=">= 1")
    """Train on the first N images."""
    classes: tuple[str, ...] | None = option(None, read=parse_names)
    """Train on these classes only, such as 0,1,7."""
    # None: the data set's own habit.
    flip: bool | None = None
    """Mirror images at random."""
    low: float = -1.0
    """What the byte 0 becomes in the network's input."""
    high: float = 1.0
    """What the byte 255 becomes in the network's input."""
    center: bool = False
    """Subtract the mean training image."""
    held_out: int = option(0, bound=">= 0")
    """Training images that are held out; --evaluate-every chooses a number."""


@dataclass(frozen=True)
class NetworkConfig:
    """Which network, and its sizes (checked against the dataclass in the network's file)."""

    name: str = option("unet", name="network")
    """Another network."""
    sizes: Options = option(dict, read=parse_options, name="net")
    """Sizes of the network, such as widths=32/64/128,blocks=2."""


@dataclass(frozen=True)
class ScheduleConfig:
    """Which noise schedule, and its options (checked against the schedule's own dataclass)."""

    name: str = option("cosine", name="schedule")
    """Another noise schedule."""
    T: int = option(1000, bound=">= 1, <= 100000", name="timesteps")
    """T, the number of noise levels."""
    options: Options = option(dict, read=parse_options, name="schedule_options")
    """Options of the schedule, such as beta_end=0.2."""
    zero_terminal: bool = False
    """Rescale the schedule so that x_T is pure noise."""
    shift: float = option(1.0, bound="> 0")
    """Divide the SNR by this number squared, for larger images."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is learned; its names are those of the tables in `diffusion/`."""

    prediction: str = option("v", choices=TABLES["predictions"])
    """What the network predicts."""
    loss: str = option("mse", choices=TABLES["losses"])
    """Distance between prediction and target, or the variational bound."""
    weighting: str = option("simple", choices=TABLES["weightings"])
    """How much each noise level counts in the loss."""
    times: str = option("uniform", choices=TABLES["times"])
    """How noise levels are drawn."""
    p_mean: float = -1.2
    """Mean of ln sigma, for log-normal times."""
    p_std: float = option(1.2, bound="> 0")
    """Deviation of ln sigma, for log-normal times."""
    progressive: bool = False
    """Begin with 10 noise levels, and double them up to half of the run."""
    variance: Literal["beta", "beta-tilde", "learned"] = "beta-tilde"
    """Variance of the reverse steps, for the bound; learned needs hybrid or vlb."""
    sigma_data: float = option(0.5, bound="> 0")
    """Deviation of the images' pixels, for edm and soft-min-snr."""
    label_dropout: float = option(0.1, bound=">= 0, < 1")
    """Share of labels hidden, for guidance."""
    guidance: float = option(1.0, bound=">= 1")
    """Guidance learned into the network, which then samples guided at no extra cost; 1: none."""


@dataclass(frozen=True)
class OptimiserConfig:
    """How it is learned."""

    name: Literal["adam", "adamw", "muon"] = option("adamw", name="optimiser")
    """Another optimiser."""
    lr: float = option(2e-3, bound="> 0")
    """Peak learning rate."""
    betas: tuple[float, float] = option((0.9, 0.99), bound=">= 0, < 1")
    """Adam's decay of the gradient's mean and square, 0.9/0.99."""
    weight_decay: float = option(0.01, bound=">= 0")
    """Decay of the weights; adam has none."""
    warmup: int = option(5_000, bound=">= 0")
    """Images over which the learning rate rises from 0."""
    decay: Literal["none", "linear", "cosine"] = "linear"
    """Course of the learning rate to the end."""
    grad_clip: float = option(1.0, bound=">= 0")
    """Largest gradient norm; 0 for none."""
    ema_half_life: int = option(10_000, bound=">= 0")
    """Half-life of the weight average, in images; 0 for none."""
    ema_ramp: float = option(0.05, bound=">= 0")
    """Largest half-life as a share of the images seen, for a young average."""


@dataclass(frozen=True)
class TrainingConfig:
    """How much, how fast and from which seed. Exactly one of the four budgets is given."""

    batch_size: int = option(128, bound=">= 1")
    """Images per optimiser step, over all processes."""
    accumulate: int = option(1, bound=">= 1")
    """Parts in which a batch is computed, to save memory."""
    steps: int | None = option(None, bound="> 0")
    """Budget in optimiser steps."""
    epochs: float | None = option(None, bound="> 0")
    """Budget in epochs."""
    images: int | None = option(None, bound="> 0")
    """Budget in images."""
    minutes: float | None = option(None, bound="> 0")
    """Budget in minutes, everything included."""
    batches_per_epoch: int | None = option(None, bound=">= 0")
    """A shorter epoch, freshly shuffled each time; 0 for the whole set."""
    seed: int = option(0, bound=SEEDS)
    """Seed of weights, order, times and noise."""
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    """Arithmetic of the network; auto is bf16 where the hardware has it."""


@dataclass(frozen=True)
class EvaluationConfig:
    """How a run is measured while it trains, against training images held out from it."""

    every: int = option(0, bound=">= 0", name="evaluate_every")
    """Steps between evaluations on held-out training images (the last 5000, at most a tenth)."""
    n: int = option(1000, bound=">= 20", name="evaluate_n")
    """Samples of each evaluation; 1000 by default."""
    best_by: Literal["loss", "evaluation"] = "loss"
    """What best.safetensors is the best by: mean loss of an epoch, or Frechet distance."""


@dataclass(frozen=True)
class SamplingConfig:
    """How `sample` draws from this model unless told otherwise; no options of training."""

    sampler: str = "ddim"
    """The sampler."""
    steps: int = option(50, bound=">= 1")
    """Its steps."""
    spacing: str = "trailing"
    """How its times are spaced."""
    options: Options = option(dict, read=parse_options)
    """Its options."""
    guidance: float = 1.0
    """The scale of guidance; 1: none."""
    clip: bool = True
    """Keep estimates of x0 in the images' range."""


@dataclass(frozen=True)
class Experiment:
    """Everything that defines a run."""

    preset: str
    data: DataConfig
    network: NetworkConfig = NetworkConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    sampling: SamplingConfig = SamplingConfig()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class RunConfig:
    """Where and how a run is kept: no part of the experiment, and free to change on resuming."""

    device: str = "auto"
    """auto, cpu, cuda or mps."""
    out: Path | None = None
    """The run folder; runs/PRESET by default."""
    resume: str | None = None
    """auto (the run in --out, if there is one) or the path of a run or checkpoint."""
    begin_with: str | None = None
    """A model whose averaged weights a new run begins with (fine-tuning): as `sample` names it."""
    checkpoint_every: int = option(500, bound=">= 0")
    """Steps between checkpoints; 0: at the end only."""
    sample_every: int = option(500, bound=">= 0")
    """Steps between previews (DDIM, 50 steps); 0 for none."""
    sample_at_start: bool = False
    """Also a preview before training."""
    sample_each_epoch: bool = False
    """Also a preview after every epoch."""
    tensorboard: bool = False
    """Also write TensorBoard logs."""
    overwrite: bool = False
    """Replace the run in --out."""


DISTILLATION = {"lr": 2e-3, "seed": 0, "sample_every": 0}
"""Defaults of distillation that are not those of training."""


class Place(NamedTuple):
    """Where an option's value lies: a field, with its type, of the experiment's `part`."""

    part: str
    kind: type
    field: "Field[Any]"
    hint: Any


@cache
def experiment_options() -> dict[str, Place]:
    """Return the options that belong to the experiment, by their names."""
    places = {}
    for part, kind in get_type_hints(Experiment).items():
        hints = get_type_hints(kind) if part not in ("preset", "sampling") else {}
        for f in fields(kind) if hints else ():
            places[option_of(f).name or f.name] = Place(part, kind, f, hints[f.name])
    return places


def option_of(f: "Field[Any]") -> Option:
    """Return what a field says of itself; an empty `Option` where it was declared without one."""
    return f.metadata.get("option", Option())


def with_options(experiment: Experiment, options: Mapping[str, Any]) -> Experiment:
    """Return the experiment with the options that are not None in place of its own values.

    Another network or schedule begins without the sizes or options of the one before; a budget
    takes the place of the one that was there. Raises ConfigError for what is not allowed.
    """
    known = experiment_options()
    for name in options:
        if name not in known:
            raise unknown("option of training", name, known)
    given = {name: options[name] for name in known if options.get(name) is not None}
    parts = {f.name: getattr(experiment, f.name) for f in fields(experiment)}
    if not given.keys().isdisjoint(BUDGETS):
        parts["training"] = replace(parts["training"], **dict.fromkeys(BUDGETS))
    for name, value in given.items():
        part, _, f, hint = known[name]
        config = parts[part]
        value = _convert(value, hint, name, f)
        if hint == Options:
            value = {**getattr(config, f.name), **value}
        elif f.name == "name" and value != config.name:
            own = {o.name: {} for o in fields(config) if o.default_factory is dict}
            config = replace(config, **own)
        parts[part] = replace(config, **{f.name: value})
    return replace(experiment, **parts)


def from_dict(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Return the dataclass `cls` from plain values; missing keys take their defaults.

    Raises ConfigError for an unknown or missing key, and for a value that the field's type, bound
    or choices do not allow. where: what the message begins with.
    """
    hints, known = get_type_hints(cls), {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise unknown(f"option of {where.rstrip(': ') or cls.__name__}", str(key), known)
    for name, f in known.items():
        if name not in values and f.default is MISSING and f.default_factory is MISSING:
            raise ConfigError(f"{where.rstrip(': ') or cls.__name__} needs a value for '{name}'")
    return cls(**{k: _convert(v, hints[k], f"{where}{k}", known[k]) for k, v in values.items()})


def _convert(value: Any, hint: Any, where: str, f: "Field[Any]") -> Any:
    """Return value as the type `hint`; text is parsed ('2/3' is a tuple), lists become tuples."""
    origin, args, about = get_origin(hint), get_args(hint), option_of(f)
    if origin in (Union, UnionType):
        if value is None:
            return None
        return _convert(value, next(a for a in args if a is not NoneType), where, f)
    choices = args if origin is Literal else about.choices and about.choices.names()
    if choices:
        if value not in choices:
            raise unknown(where, str(value), choices)
        return value
    if origin in (tuple, dict) and about.read and isinstance(value, str):
        try:
            value = about.read(value)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
    if is_dataclass(hint) or origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} must be an object of names and values, got {value!r}")
        if origin is dict:
            return {_scalar(k, str, where, f): _plain(v, f"{where} {k}") for k, v in value.items()}
        return from_dict(hint, value, f"{where}.")  # type: ignore[arg-type]
    if origin is tuple:
        if about.read is parse_size and type(value) is int:
            value = (value, value)
        parts = value.split("/") if isinstance(value, str) else value
        if not isinstance(parts, list | tuple):
            raise ConfigError(f"{where} must be a list such as 1/2/2, got {value!r}")
        kinds = [args[0]] * len(parts) if args[-1] is Ellipsis else list(args)
        if len(kinds) != len(parts):
            raise ConfigError(f"{where} needs {len(kinds)} values, got {value!r}")
        return tuple(_convert(p, k, where, f) for p, k in zip(parts, kinds, strict=True))
    return _scalar(value, hint, where, f)


KINDS = {bool: "yes or no", int: "a whole number", float: "a finite number", str: "text"}
ANSWERS = {"yes": True, "true": True, "no": False, "false": False}
COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def _scalar(value: Any, hint: Any, where: str, f: "Field[Any]") -> Any:
    bound = option_of(f).bound
    allowed = f"{KINDS.get(hint, 'a path')}{' ' * bool(bound)}{bound}"
    wrong = ConfigError(f"{where} must be {allowed}, got {value!r}")
    if hint in (str, Path):
        if not isinstance(value, str | os.PathLike):
            raise wrong
        return os.fspath(value) if hint is str else Path(value).expanduser()
    if hint is bool:
        answer = ANSWERS.get(value.lower()) if isinstance(value, str) else value
        if not isinstance(answer, bool):
            raise wrong
        return answer
    if isinstance(value, bool) or not isinstance(value, Real | str):
        raise wrong
    try:
        number: Any = (float if hint is float else int)(value)  # type: ignore[arg-type]
        exact = hint is float or isinstance(value, str) or value == number
    except (ValueError, OverflowError):  # no number, nan or infinite
        raise wrong from None
    # Infinite only where that is the default, as for an interval that has no end.
    if not exact or not (isfinite(number) or number == f.default):
        raise wrong
    for sign, limit in (part.split() for part in bound.split(", ") if part):
        if not COMPARE[sign](number, int(limit)):
            raise wrong
    return number


def _plain(value: Any, where: str) -> Any:
    """Return a value of an object as JSON holds it, with tuples in place of lists."""
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, list | tuple):
        return tuple(_plain(each, where) for each in value)
    if isinstance(value, Real):
        return float(value)
    raise ConfigError(f"{where} must be a number, text or a list of them, got {value!r}")
