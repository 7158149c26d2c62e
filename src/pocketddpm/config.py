"""The configuration of an experiment: frozen dataclasses, saved whole in every checkpoint.

Standard library only, so that every `--help` is quick. An unknown key or a value of the wrong type
is an error, wherever it comes from: a preset, the command line or a checkpoint.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pocketddpm.errors import ConfigError, unknown

T = TypeVar("T")
Options = dict[str, Any]


@dataclass(frozen=True)
class DataConfig:
    """Which images, and in what form the network sees them.

    name: a built-in data set or the path of a folder. image_size: (height, width); None keeps the
    files' own. fit: how another size is reached. subset: the first N images. classes: names to
    keep. flip: random horizontal flips (None: the data set's own habit). low, high: where the
    bytes 0 and 255 go in the network's range. center: subtract the mean training image. held_out:
    how many images, the last of those that are left, are never trained on but evaluated against.
    """

    name: str
    image_size: tuple[int, int] | None = None
    fit: Literal["pad", "resize"] | None = None
    subset: int | None = None
    classes: tuple[str, ...] | None = None
    flip: bool | None = None
    low: float = -1.0
    high: float = 1.0
    center: bool = False
    held_out: int = 0


@dataclass(frozen=True)
class NetworkConfig:
    """Which network, and its sizes (checked against the dataclass in the network's file)."""

    name: str = "unet"
    sizes: Options = field(default_factory=dict)


@dataclass(frozen=True)
class ScheduleConfig:
    """Which noise schedule. zero_terminal: rescaled to alpha_bar[T] = 0. shift: SNR / shift^2."""

    name: str = "cosine"
    T: int = 1000
    options: Options = field(default_factory=dict)
    zero_terminal: bool = False
    shift: float = 1.0


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is learned.

    loss: 'vlb' is the variational bound, 'hybrid' the mean squared error with a little of it;
    'consistency' makes a trained model one of few steps.
    weighting: how much each time counts. times: how t is drawn; p_mean and p_std are those of
    ln sigma for 'log-normal'. progressive: few times at first. variance: of the bound's steps;
    'learned' gives the network a second output. sigma_data: the deviation of the images' pixels,
    for 'edm' and 'soft-min-snr'. label_dropout: the share of labels hidden, which makes guidance
    possible. guidance: learned into the network, so that sampling needs no second evaluation for
    it (1: none; without labels there is none).
    """

    prediction: Literal["eps", "x0", "v", "edm"] = "v"
    loss: Literal["mse", "l1", "huber", "vlb", "hybrid", "consistency"] = "mse"
    weighting: Literal["simple", "ddpm", "min-snr", "soft-min-snr", "p2", "edm"] = "simple"
    times: Literal["uniform", "stratified", "log-normal", "importance"] = "uniform"
    p_mean: float = -1.2
    p_std: float = 1.2
    progressive: bool = False
    variance: Literal["beta", "beta-tilde", "learned"] = "beta-tilde"
    sigma_data: float = 0.5
    label_dropout: float = 0.1
    guidance: float = 1.0


@dataclass(frozen=True)
class OptimiserConfig:
    """How it is learned.

    warmup: images over which the learning rate rises from 0. decay: its course from there to the
    end of the run. grad_clip: the largest gradient norm (0: none). ema_half_life: images after
    which a weight's share in the average has halved (0: no average; at most `ema_ramp` of the
    images seen so far, so that a young average is not stuck at the start).
    """

    name: Literal["adam", "adamw", "muon"] = "adamw"
    lr: float = 2e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    warmup: int = 5_000
    decay: Literal["none", "linear", "cosine"] = "linear"
    grad_clip: float = 1.0
    ema_half_life: int = 10_000
    ema_ramp: float = 0.05


@dataclass(frozen=True)
class TrainingConfig:
    """How much, how fast and from which seed.

    The budget is exactly one of steps, epochs, images and minutes. batch_size is the global batch
    of one optimiser step, whatever the number of processes or of accumulated parts.
    batches_per_epoch: a shorter epoch than the whole set, freshly shuffled each time.
    """

    batch_size: int = 128
    accumulate: int = 1
    steps: int | None = None
    epochs: float | None = None
    images: int | None = None
    minutes: float | None = None
    batches_per_epoch: int | None = None
    seed: int = 0
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"


@dataclass(frozen=True)
class EvaluationConfig:
    """How a run is measured while it trains, against training images held out from it.

    every: steps between evaluations; 0 is none, and nothing is held out. n: samples of each.
    best_by: what makes the best checkpoint: an epoch's mean loss, or the Frechet distance.
    """

    every: int = 0
    n: int = 1000
    best_by: Literal["loss", "evaluation"] = "loss"


@dataclass(frozen=True)
class SamplingConfig:
    """How `sample` draws from this model unless told otherwise."""

    sampler: str = "ddim"
    steps: int = 50
    spacing: str = "trailing"
    options: Options = field(default_factory=dict)
    guidance: float = 1.0
    clip: bool = True


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


def from_dict(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Return the dataclass `cls` from plain values; missing keys take their defaults.

    Raises ConfigError for an unknown key or a value that the field's type does not allow.
    """
    hints = get_type_hints(cls)
    names = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            raise unknown(f"option of {where.removesuffix(': ') or cls.__name__}", str(key), names)
    converted = {k: _convert(v, hints[k], f"{where}{k}") for k, v in values.items()}
    try:
        return cls(**converted)
    except TypeError as error:
        raise ConfigError(f"{where or cls.__name__}: {error}") from None


def parse_options(text: str) -> dict[str, str]:
    """Split 'width=48,depths=2/3/2' into {'width': '48', 'depths': '2/3/2'}."""
    options: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        key, equals, value = part.partition("=")
        if not equals or not key or not value:
            raise ConfigError(f"options read key=value,key=value; got '{part}' in '{text}'")
        options[key.strip().replace("-", "_")] = value.strip()
    return options


def _convert(value: Any, hint: Any, where: str) -> Any:
    """Return value as the type `hint`; text is parsed ('2/3' is a tuple), lists become tuples."""
    origin, args = get_origin(hint), get_args(hint)
    if is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} must be an object, got {value!r}")
        return from_dict(hint, value, f"{where}.")
    if origin in (Union, UnionType):
        if value is None:
            return None
        return _convert(value, next(a for a in args if a is not type(None)), where)
    if origin is Literal:
        if value not in args:
            raise unknown(where, str(value), map(str, args))
        return value
    if origin is tuple:
        parts = value.split("/") if isinstance(value, str) else value
        if not isinstance(parts, list | tuple):
            raise ConfigError(f"{where} must be a list such as 1/2/2, got {value!r}")
        kinds = [args[0]] * len(parts) if args[-1] is Ellipsis else list(args)
        if len(kinds) != len(parts):
            raise ConfigError(f"{where} needs {len(kinds)} values, got {value!r}")
        return tuple(_convert(p, k, where) for p, k in zip(parts, kinds, strict=True))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} must be an object, got {value!r}")
        return dict(value)
    return _scalar(value, hint, where)


def _scalar(value: Any, hint: Any, where: str) -> Any:
    wrong = ConfigError(f"{where} must be {getattr(hint, '__name__', hint)}, got {value!r}")
    if hint is bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        raise wrong
    if hint is str:
        if isinstance(value, str):
            return value
        raise wrong
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise wrong
    try:
        number = float(value) if hint is float else int(value)
    except ValueError:
        raise wrong from None
    if hint is int and float(value) != number:
        raise wrong
    return number
