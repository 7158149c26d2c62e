"""The configuration of an experiment: frozen dataclasses, saved whole in every checkpoint.

Everything about an option is written here, once: its type, default, sentence and allowed values.
The options of `pocketddpm train`, the arguments of `pocketddpm.train`, the check of a checkpoint
and the page of commands are made from it (`values.py`). Standard library only, so that every
`--help` is quick.
"""

from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, fields, replace
from functools import cache
from typing import Any, Literal, NamedTuple, get_type_hints

from pocketddpm.catalog import TABLES
from pocketddpm.errors import unknown
from pocketddpm.values import (
    SEEDS,
    convert,
    option,
    option_of,
    parse_names,
    parse_options,
    parse_size,
)
from pocketddpm.values import from_dict as from_dict

Options = dict[str, Any]
BUDGETS = ("steps", "epochs", "images", "minutes")


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """What becomes of images on their way; None is the habit, or a model's own way."""

    grey: bool | None = None
    """Make grey images of coloured ones."""
    background: str | None = None
    """Colour under transparency and in padding, by name or as #rrggbb; white under transparency."""
    stretch: bool | None = None
    """Spread the values of image files, from the least to the greatest of the training set, over
    the whole range, as 12 bits in 16-bit files need."""

    def image_options(self) -> dict[str, Any]:
        """Return these options by name, as `load_images` takes them."""
        return {f.name: getattr(self, f.name) for f in fields(ImageOptions)}

    def over(self, own: "ImageOptions") -> "ImageOptions":
        """Return these options, and where they are None the others."""
        given = {k: v for k, v in self.image_options().items() if v is not None}
        return ImageOptions(**{**own.image_options(), **given})


@dataclass(frozen=True)
class DataConfig(ImageOptions):
    """Which images, and in what form the network sees them."""

    name: str = option(MISSING, name="data")
    """A data set's name, a folder of images or an .npz file, instead of the preset's."""
    image_size: tuple[int, int] | None = option(None, ">= 1", read=parse_size)
    """Image size, 32 or 28x36 (height x width)."""
    fit: Literal["pad", "crop", "resize", "contain"] | None = None
    """How another image size is reached: pad and crop keep the scale; resize takes the largest
    centred part of that shape, contain the whole image, and pads the rest."""
    subset: int | None = option(None, ">= 1")
    """Train on N images only."""
    selection: Literal["random", "first"] = "random"
    """Which images --subset keeps and evaluations hold out: random, from every class in proportion;
    or the first ones, and the last."""
    classes: tuple[str, ...] | None = option(None, read=parse_names)
    """Train on these classes only, such as 0,1,7."""
    # None: the data set's own habit.
    flip: bool | None = None
    """Mirror images at random."""
    augment: float = option(0.0, ">= 0, <= 1")
    """Chance of each kind of change of an image (mirror, scale, turn, stretch, shift) that the
    network is told of, for few images; 0: none. About 0.12 is usual."""
    low: float = -1.0
    """What the byte 0 becomes in the network's input."""
    high: float = 1.0
    """What the byte 255 becomes in the network's input."""
    center: bool = False
    """Subtract the mean training image."""
    # None: as `data.split.usual_hold_out` says; a run stores what came of it.
    held_out: int | None = option(None, ">= 0", name="hold_out")
    """How many training images are held out; 0: none. By default a tenth, at most 5000, where the
    data have no test split or --evaluate-every is given."""


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
    T: int = option(1000, ">= 1, <= 100000", name="timesteps")
    """T, the number of noise levels."""
    options: Options = option(dict, read=parse_options, name="schedule_options")
    """Options of the schedule, such as beta_end=0.2."""
    zero_terminal: bool = False
    """Rescale the schedule so that x_T is pure noise."""
    shift: float = option(1.0, "> 0")
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
    p_std: float = option(1.2, "> 0")
    """Deviation of ln sigma, for log-normal times."""
    progressive: bool = False
    """Begin with 10 noise levels, and double them up to half of the run."""
    variance: Literal["beta", "beta-tilde", "learned"] = "beta-tilde"
    """Variance of the reverse steps, for the bound; learned needs hybrid or vlb."""
    # None: measured when a run starts, where something uses it.
    sigma_data: float | None = option(None, "> 0")
    """Root mean square of the images as the network sees them, for edm and soft-min-snr; measured
    unless it is given."""
    label_dropout: float = option(0.1, ">= 0, < 1")
    """Share of labels hidden, for guidance."""
    guidance: float = option(1.0, ">= 1")
    """Guidance learned into the network, which then samples guided at no extra cost; 1: none."""
    guidance_below: float | None = option(None, "> 0")
    """Learn guidance only where sigma is below this number; at all noise levels by default."""

    @property
    def deviation(self) -> float:
        """sigma_data; EDM's 0.5 where nothing was measured (arXiv 2206.00364, table 1)."""
        return 0.5 if self.sigma_data is None else self.sigma_data

    @property
    def uses_deviation(self) -> bool:
        """Whether anything depends on sigma_data."""
        return self.prediction == "edm" or self.weighting in ("edm", "soft-min-snr")


@dataclass(frozen=True)
class OptimiserConfig:
    """How it is learned."""

    name: Literal["adam", "adamw", "muon"] = option("adamw", name="optimiser")
    """Another optimiser."""
    lr: float = option(2e-3, "> 0")
    """Peak learning rate."""
    betas: tuple[float, float] = option((0.9, 0.99), ">= 0, < 1")
    """Adam's decay of the gradient's mean and square, 0.9/0.99."""
    weight_decay: float = option(0.01, ">= 0")
    """Decay of the weights; adam has none."""
    warmup: int = option(5_000, ">= 0")
    """Images over which the learning rate rises from 0."""
    decay: Literal["none", "linear", "cosine"] = "linear"
    """Course of the learning rate to the end."""
    grad_clip: float = option(1.0, ">= 0")
    """Largest gradient norm; 0 for none."""
    ema_half_life: int = option(10_000, ">= 0")
    """Half-life of the weight average, in images; 0 for none."""
    ema_also: tuple[int, ...] = option((), ">= 1")
    """Half-lives of further averages, 3000/30000: `--weights ema-3000` takes one."""
    ema_ramp: float = option(0.05, ">= 0")
    """Largest half-life as a share of the images seen, for a young average."""


@dataclass(frozen=True)
class TrainingConfig:
    """How much, how fast and from which seed. Exactly one of the four budgets is given."""

    batch_size: int = option(128, ">= 1")
    """Images per optimiser step, over all processes."""
    accumulate: int = option(1, ">= 1")
    """Parts in which a batch is computed, to save memory."""
    steps: int | None = option(None, "> 0")
    """Budget in optimiser steps."""
    epochs: float | None = option(None, "> 0")
    """Budget in epochs."""
    images: int | None = option(None, "> 0")
    """Budget in images."""
    minutes: float | None = option(None, "> 0")
    """Budget in minutes, everything included."""
    batches_per_epoch: int | None = option(None, ">= 0")
    """A shorter epoch, freshly shuffled each time; 0 for the whole set, the most that there is."""
    seed: int = option(0, SEEDS)
    """Seed of weights, order, times and noise."""
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    """Arithmetic of the network; auto is bf16 where the hardware has it."""

    @property
    def epoch_images(self) -> int:
        """Images in an epoch that is shorter than the set; 0 for the whole set."""
        return (self.batches_per_epoch or 0) * self.batch_size


@dataclass(frozen=True)
class EvaluationConfig:
    """How a run is measured while it trains, against training images held out from it."""

    every: int = option(0, ">= 0", name="evaluate_every")
    """Steps between evaluations on held-out training images (see --hold-out)."""
    n: int = option(1000, ">= 20", name="evaluate_n")
    """Samples of each evaluation; 1000 by default."""
    best_by: Literal["loss", "evaluation"] = "loss"
    """What best.safetensors is the best by: mean loss of an epoch, or Frechet distance."""
    patience: int = option(0, ">= 0")
    """Stop after N evaluations in a row that are no better than the best; 0: never."""


@dataclass(frozen=True)
class SamplingConfig:
    """How `sample` draws from this model unless told otherwise; no options of training."""

    sampler: str = "ddim"
    """The sampler."""
    steps: int = option(50, ">= 1")
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
        for f in sorted(fields(kind), key=lambda f: f.kw_only is True) if hints else ():
            places[option_of(f).name or f.name] = Place(part, kind, f, hints[f.name])
    return places


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
        value = convert(value, hint, name, f)
        if hint == Options:
            value = {**getattr(config, f.name), **value}
        elif f.name == "name" and value != config.name:
            own = {o.name: {} for o in fields(config) if o.default_factory is dict}
            config = replace(config, **own)
        parts[part] = replace(config, **{f.name: value})
    return replace(experiment, **parts)
