"""From names and options to a sampler and an objective; what does not go together is refused."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from pocketddpm.catalog import SAMPLERS
from pocketddpm.config import ObjectiveConfig, Options
from pocketddpm.diffusion.bound import MINUS_ONE_TO_ONE, Bins, pixel_decoder
from pocketddpm.diffusion.consistency import Consistency
from pocketddpm.diffusion.losses import LOSSES
from pocketddpm.diffusion.objective import Objective
from pocketddpm.diffusion.prediction import get_prediction
from pocketddpm.diffusion.sampling import Sampler
from pocketddpm.diffusion.schedule import Schedule
from pocketddpm.diffusion.times import build_times
from pocketddpm.diffusion.weighting import weight_table
from pocketddpm.errors import ConfigError
from pocketddpm.values import from_dict


@dataclass(frozen=True)
class SamplerChoice:
    """A sampler of the catalogue with its options.

    config: an instance of the sampler's `Config`. stochastic: whether it draws noise at its steps.
    nfe: denoiser calls from (steps, config); None for one a step.
    """

    name: str
    sample: Sampler
    config: Any
    stochastic: bool
    nfe: Callable[[int, Any], int] | None

    def calls(self, steps: int) -> int:
        """Return the exact number of denoiser calls for this many steps."""
        return steps if self.nfe is None else self.nfe(steps, self.config)


def build_sampler(
    name: str, options: Options | None = None, *, inverse: bool = False
) -> SamplerChoice:
    """Return the sampler of this name: one that starts from noise, or (inverse) from images.

    ConfigError for an unknown name or option, and for a sampler of the other direction.
    """
    module = SAMPLERS.load(name)
    config = from_dict(module.Config, options or {}, f"sampler {name}: ")
    if getattr(module, "INVERSE", False) != inverse:
        made = "images from noise" if inverse else "noise from images"
        raise ConfigError(f"sampler {name} makes {made}; choose another sampler")
    nfe = getattr(module, "nfe", None)
    return SamplerChoice(name, module.sample, config, module.STOCHASTIC, nfe)


Refusal = tuple[Callable[[ObjectiveConfig, Schedule], bool], str]
REFUSALS: tuple[Refusal, ...] = (
    (
        lambda c, s: c.guidance > 1 and c.label_dropout == 0,
        "guidance {c.guidance} is learned from images whose label is hidden; "
        "use --label-dropout 0.1, or --guidance 1 for none",
    ),
    (
        lambda c, s: c.guidance > 1 and c.loss in ("vlb", "hybrid", "consistency"),
        "loss '{c.loss}' cannot learn guidance {c.guidance}; use --loss mse, "
        "or --guidance 1 for none",
    ),
    (
        lambda c, s: s.zero_terminal and c.prediction == "eps",
        "eps prediction needs alpha_bar[T] > 0 (got 0: zero terminal SNR); "
        "use --prediction v or x0",
    ),
    (
        lambda c, s: s.zero_terminal and c.times == "log-normal",
        "log-normal times never reach t = T, where sigma is infinite (zero terminal SNR) and "
        "sampling begins; use --times stratified",
    ),
    (
        lambda c, s: c.variance == "learned" and c.loss not in ("vlb", "hybrid"),
        "loss '{c.loss}' does not train a learned variance; use --loss hybrid or vlb, "
        "or --variance beta-tilde",
    ),
    (
        lambda c, s: c.variance != "learned" and c.loss == "hybrid",
        "loss 'hybrid' adds the bound to train a learned variance; use --variance learned, "
        "or --loss mse",
    ),
    (
        lambda c, s: c.loss in ("vlb", "consistency") and c.weighting != "simple",
        "loss '{c.loss}' has weights of its own; leave --weighting {c.weighting} out, "
        "or use --loss mse",
    ),
    (
        lambda c, s: c.loss == "consistency" and (c.prediction != "edm" or s.zero_terminal),
        "loss 'consistency' needs a network that returns x_t at sigma = 0, and a finite sigma; "
        "use --prediction edm and a schedule that ends above SNR 0",
    ),
    (
        lambda c, s: c.loss in ("vlb", "hybrid") and c.times == "log-normal",
        "loss '{c.loss}' weights every time alike; use --times stratified or importance",
    ),
)
"""Combinations that cannot be learned, and what to do instead."""


def build_objective(
    config: ObjectiveConfig,
    schedule: Schedule,
    null: int | None,
    *,
    batch_size: int = 1,
    bins: Bins = MINUS_ONE_TO_ONE,
) -> Objective:
    """Return the objective of a configuration.

    null: the label that means "no label"; None for a network without labels. batch_size: images of
    one optimiser step, over all processes. bins: where pixel values lie in model units. ConfigError
    for a value that is not allowed and for a combination that cannot be learned.
    """
    config = from_dict(ObjectiveConfig, asdict(config))
    for refused, message in REFUSALS:
        if refused(config, schedule):
            raise ConfigError(message.format(c=config))
    prediction = get_prediction(config.prediction, config.deviation)
    kind = Consistency if config.loss == "consistency" else Objective
    return kind(
        schedule=schedule,
        prediction=prediction,
        loss=LOSSES[config.loss],
        weights=weight_table(config.weighting, schedule, prediction, config.deviation),
        times=build_times(config, schedule, batch_size),
        variance=config.variance,
        decoder=pixel_decoder(bins),
        label_dropout=config.label_dropout,
        guidance=config.guidance,
        guidance_below=config.guidance_below,
        null=null,
    )
