"""The only place where names become objects."""

import os
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn

from pocketddpm.catalog import NETWORKS, SAMPLERS, SCHEDULES
from pocketddpm.config import Experiment, NetworkConfig, Options, ScheduleConfig, from_dict
from pocketddpm.diffusion.sampling import Sampler
from pocketddpm.diffusion.schedule import Schedule, shift_snr, zero_terminal_snr
from pocketddpm.errors import ConfigError
from pocketddpm.plugins import records

MAX_T = 100_000


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
    that learns the variance has 2C output channels.
    """
    module = NETWORKS.load(experiment.network.name)
    given = experiment.network.sizes
    if "T" in {field.name for field in fields(module.Config)}:
        given = {"T": experiment.schedule.T, **given}
    sizes = from_dict(module.Config, given, f"network {experiment.network.name}: ")
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
        )


@dataclass(frozen=True)
class SamplerChoice:
    """A sampler with its options. calls(steps): denoiser calls that it needs."""

    name: str
    sample: Sampler
    config: Any
    stochastic: bool
    _nfe: Any

    def calls(self, steps: int) -> int:
        """Return the exact number of denoiser calls for this many steps."""
        return self._nfe(steps, self.config)


def build_sampler(name: str, options: Options) -> SamplerChoice:
    """Return the sampler; ConfigError for an unknown name or option."""
    module = SAMPLERS.load(name)
    config = from_dict(module.Config, options, f"sampler {name}: ")
    return SamplerChoice(name, module.sample, config, module.STOCHASTIC, module.nfe)


def pick_device(name: str) -> torch.device:
    """Return the device called `name`; 'auto' is CUDA, else MPS, else the CPU.

    Raises ConfigError when there is no such device here.
    """
    if name == "auto":
        rank = os.environ.get("LOCAL_RANK", "0")
        if torch.cuda.is_available():
            return torch.device(f"cuda:{rank}")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n", 1)[0]
        raise ConfigError(
            f"--device {name} cannot be used here ({reason}); choose auto, cpu, cuda or mps"
        ) from None
    return device


def pick_precision(name: str, device: torch.device) -> str:
    """Return 'float32' or 'bf16'; 'auto' is bf16 where the hardware multiplies it natively."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    native = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return "bf16" if native else "float32"
