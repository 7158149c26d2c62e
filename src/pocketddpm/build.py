"""Where the names of an experiment become objects; `diffusion.build` has its mathematics."""

from dataclasses import fields, replace
from inspect import signature

import torch
from torch import nn

from pocketddpm.catalog import NETWORKS, SAMPLERS, SCHEDULES, Catalog
from pocketddpm.config import Experiment, NetworkConfig, Options, ScheduleConfig
from pocketddpm.data.augmentation import CONDITIONS
from pocketddpm.diffusion.prediction import multiplies_bf16
from pocketddpm.diffusion.schedule import Schedule, shift_snr, zero_terminal_snr
from pocketddpm.distributed import local_rank
from pocketddpm.errors import ConfigError
from pocketddpm.plugins import records
from pocketddpm.values import from_dict

MAX_T = 100_000


def typed(experiment: Experiment) -> Experiment:
    """Return the experiment with sizes and options as the types that their entries declare.

    Text of the command line, '8/16', becomes what Python gives, (8, 16): both are stored alike.
    Raises ConfigError for an entry or an option that there is not, and for a value not allowed.
    """
    network, schedule, sampling = experiment.network, experiment.schedule, experiment.sampling
    sizes = _typed(NETWORKS, network.name, network.sizes)
    options = _typed(SCHEDULES, schedule.name, schedule.options)
    of_sampler = _typed(SAMPLERS, sampling.sampler, sampling.options)
    return replace(
        experiment,
        network=replace(network, sizes=sizes),
        schedule=replace(schedule, options=options),
        sampling=replace(sampling, options=of_sampler),
    )


def _typed(catalog: Catalog, name: str, options: Options) -> Options:
    config = from_dict(catalog.load(name).Config, options, f"{catalog.kind} {name}: ")
    return {key: getattr(config, key) for key in options}


def build_schedule(config: ScheduleConfig) -> Schedule:
    """Return the schedule; ConfigError for an unknown name or option, or T out of range."""
    if not 1 <= config.T <= MAX_T:
        raise ConfigError(f"T must lie in 1..{MAX_T}, got {config.T}")
    module = SCHEDULES.load(config.name)
    options = from_dict(module.Config, config.options, f"schedule {config.name}: ")
    alpha_bar = module.build(options, config.T)
    if config.shift != 1:
        alpha_bar = shift_snr(alpha_bar, config.shift)
    if config.zero_terminal and alpha_bar[-1] > 0:
        alpha_bar = zero_terminal_snr(alpha_bar)
    return Schedule(alpha_bar)


def plugin_records(experiment: Experiment) -> list[dict[str, str]]:
    """Return the plug-ins that the experiment uses, as its checkpoints keep them."""
    return records(
        {
            "network": experiment.network.name,
            "schedule": experiment.schedule.name,
            "sampler": experiment.sampling.sampler,
            "data set": experiment.data.name,
        }
    )


def takes_labels(config: NetworkConfig) -> bool:
    """Return whether the network has an input for labels."""
    return bool(NETWORKS.load(config.name).CONDITIONAL)


def build_network(experiment: Experiment, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Return the experiment's network for images [C,H,W] and so many classes (0: no labels).

    The initial weights are a function of the training seed; torch's global generator is left as it
    was. A network that owns a table of times (`Config.T`) gets as many as the schedule has; one
    that learns the variance has 2C output channels. Raises ConfigError with augmentation for one
    that cannot be told of it.
    """
    module = NETWORKS.load(experiment.network.name)
    given = experiment.network.sizes
    if "T" in {field.name for field in fields(module.Config)}:
        given = {"T": experiment.schedule.T, **given}
    sizes = from_dict(module.Config, given, f"network {experiment.network.name}: ")
    told = {"augmentation": CONDITIONS} if experiment.data.augment else {}
    if not told.keys() <= signature(module.build).parameters.keys():
        raise ConfigError(
            f"network {experiment.network.name} cannot be told how images were augmented; use "
            "--network lean or unet, or leave --augment out"
        )
    channels, height, width = shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(experiment.training.seed)
        return module.build(
            sizes,
            channels=channels,
            out_channels=channels * (2 if experiment.objective.variance == "learned" else 1),
            height=height,
            width=width,
            classes=classes if module.CONDITIONAL else 0,
            **told,
        )


def pick_device(name: str) -> torch.device:
    """Return the device called `name`; 'auto' is CUDA, else MPS, else the CPU.

    'cuda' is this process's GPU: the first, or under torchrun the one of its LOCAL_RANK.
    Raises ConfigError when there is no such device here.
    """
    cuda = f"cuda:{local_rank()}"
    if name == "auto":
        mps = "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(cuda if torch.cuda.is_available() else mps)
    try:
        device = torch.device(cuda if name == "cuda" else name)
        check_computes(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n", 1)[0][:200]
        raise ConfigError(
            f"--device {name} cannot be used here ({reason}); choose auto, cpu, cuda or mps"
        ) from None
    return device


def check_computes(device: torch.device) -> None:
    """Raise the error of torch's own when nothing can be computed on the device and read back."""
    (torch.ones(1, device=device) + 1).item()


def pick_precision(name: str, device: torch.device) -> str:
    """Return 'float32' or 'bf16'; 'auto' is bf16 where the hardware multiplies it natively."""
    if name != "auto":
        return name
    return "bf16" if multiplies_bf16(device) else "float32"
