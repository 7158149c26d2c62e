"""diffusers' `UNet2DModel` with its scheduler, read without diffusers; the layout of
google/ddpm-cifar10-32, flat or with `unet/` and `scheduler/`.
"""

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor

from pocketddpm import __version__
from pocketddpm.build import build_network, build_schedule
from pocketddpm.catalog import SCHEDULES
from pocketddpm.config import (
    DataConfig,
    Experiment,
    NetworkConfig,
    ObjectiveConfig,
    SamplingConfig,
    ScheduleConfig,
    TrainingConfig,
)
from pocketddpm.convert.diffusers_write import ABOUT, PREDICTIONS, VARIANCES, plan_entries
from pocketddpm.data.scaling import Scaling
from pocketddpm.errors import CheckpointError, ConfigError, DDPMError
from pocketddpm.models.checkpoint import Checkpoint
from pocketddpm.models.limits import check_fit, check_sizes
from pocketddpm.networks.ddpm_unet import Config
from pocketddpm.values import from_dict, option, parse_size

T = TypeVar("T")
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
# Schedulers of the discrete DDPM process: the sampler that is the same, or else DDIM, and the
# spacing that each of them has by default.
SCHEDULERS = {
    "DDPMScheduler": ("ddpm", "leading"),
    "DDPMParallelScheduler": ("ddpm", "leading"),
    "DDIMScheduler": ("ddim", "leading"),
    "DDIMParallelScheduler": ("ddim", "leading"),
    "PNDMScheduler": ("ddim", "leading"),
    "DPMSolverMultistepScheduler": ("dpmpp", "linspace"),
    "DPMSolverSinglestepScheduler": ("ddim", "linspace"),
    "UniPCMultistepScheduler": ("unipc", "linspace"),
    "DEISMultistepScheduler": ("deis", "linspace"),
    "EulerDiscreteScheduler": ("euler", "linspace"),
    "EulerAncestralDiscreteScheduler": ("euler-ancestral", "linspace"),
    "HeunDiscreteScheduler": ("heun", "linspace"),
    "KDPM2DiscreteScheduler": ("ddim", "linspace"),
    "LMSDiscreteScheduler": ("ddim", "linspace"),
}
PIPELINES = ("DDPMPipeline", "DDIMPipeline", "PNDMPipeline")
WAY_OUT = "draw images with diffusers, and score them with: pocketddpm evaluate FOLDER --data NAME"
# What this reader takes for granted, with the values that mean the same (None: not said).
EXPECTED: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish", None),
    "center_input_sample": (False, None),
    "mid_block_scale_factor": (1, None),
    "mid_block_type": ("UNetMidBlock2D", None),
    "time_embedding_type": ("positional", None),
    "time_embedding_dim": (None,),
    "downsample_type": ("conv", None),
    "upsample_type": ("conv", None),
    "class_embed_type": (None,),
    "resnet_time_scale_shift": ("default", "scale_shift", None),
}
SCHEDULER_EXPECTED: dict[str, tuple[Any, ...]] = {
    "prediction_type": (*PREDICTIONS.values(), None),
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", None),
    "timestep_spacing": ("leading", "trailing", "linspace", None),
    "thresholding": (False, None),
    "clip_sample_range": (1, None),
    "use_flow_sigmas": (False, None),
    "use_exponential_sigmas": (False, None),
    "use_beta_sigmas": (False, None),
    "variance_type": (
        *("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
        *("learned_range", None),
    ),
}
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


@dataclass(frozen=True)
class UNetFile:
    """What config.json of `UNet2DModel` says; the defaults are those of the class."""

    sample_size: tuple[int, int] | None = option(None, ">= 1", read=parse_size)
    in_channels: int = option(3, ">= 1")
    out_channels: int = option(3, ">= 1")
    block_out_channels: tuple[int, ...] = (224, 448, 672, 896)
    layers_per_block: int = option(2, ">= 1")
    down_block_types: tuple[str, ...] = ("DownBlock2D", *["AttnDownBlock2D"] * 3)
    up_block_types: tuple[str, ...] = (*["AttnUpBlock2D"] * 3, "UpBlock2D")
    add_attention: bool = True
    attention_head_dim: int | None = option(8, ">= 1")
    attn_norm_num_groups: int | None = None
    norm_num_groups: int = option(32, ">= 1")
    norm_eps: float = option(1e-5, ">= 0")
    resnet_time_scale_shift: str = "default"
    downsample_padding: int = option(1, ">= 0")
    dropout: float = option(0.0, ">= 0, < 1")
    flip_sin_to_cos: bool = True
    freq_shift: int = option(0, ">= 0")
    num_class_embeds: int | None = option(None, ">= 0")


@dataclass(frozen=True)
class SchedulerFile:
    """What scheduler_config.json says; the defaults are those of `DDPMScheduler`."""

    num_train_timesteps: int = option(1000, ">= 1, <= 100000")
    beta_start: float = option(1e-4, "> 0, < 1")
    beta_end: float = option(0.02, "> 0, < 1")
    beta_schedule: str = "linear"
    trained_betas: tuple[float, ...] | None = option(None, "> 0, <= 1")
    rescale_betas_zero_snr: bool = False
    prediction_type: str = "epsilon"
    variance_type: str = "fixed_small"
    timestep_spacing: str | None = None
    use_karras_sigmas: bool = False
    clip_sample: bool | None = None


def read_diffusers(folder: Path, data: str | None = None) -> Checkpoint:
    """Read a folder that diffusers wrote, or `export --to diffusers`, as a checkpoint.

    data: the name of the data set that the model was trained on; None is what the folder says.

    Raises CheckpointError, naming the file and the entry, for a folder that holds no such model,
    for a model that `ddpm-unet` cannot represent or that is of another process than DDPM's, and for
    weights that do not fit its sizes.
    """
    index = _pipeline(folder)
    unet_file = (folder / "unet" if (folder / "unet").is_dir() else folder) / "config.json"
    config = _read_json(unet_file)
    if (kind := config.get("_class_name", "UNet2DModel")) != "UNet2DModel":
        raise CheckpointError(f"{unet_file}: a {kind}; only UNet2DModel can be imported")
    scheduler_file = folder / "scheduler" / "scheduler_config.json"
    if not scheduler_file.is_file():
        scheduler_file = folder / "scheduler_config.json"
    scheduler_config = _read_json(scheduler_file)
    kind = str(scheduler_config.get("_class_name", "DDPMScheduler"))
    if kind not in SCHEDULERS:
        raise CheckpointError(
            f"{scheduler_file}: the scheduler {kind} is not one of the discrete DDPM process "
            f"({', '.join(SCHEDULERS)}), so that its model cannot be imported; {WAY_OUT}"
        )
    _expect(config, EXPECTED, unet_file)
    _expect(scheduler_config, SCHEDULER_EXPECTED, scheduler_file)
    unet = _typed(UNetFile, config, unet_file)
    scheduler = _typed(SchedulerFile, scheduler_config, scheduler_file)
    if unet.sample_size is None:
        raise CheckpointError(f"{unet_file} does not say its sample_size; add it")
    if unet.out_channels not in (unet.in_channels, 2 * unet.in_channels):
        raise CheckpointError(
            f"{unet_file}: out_channels is {unet.out_channels}; as many as in_channels "
            f"({unet.in_channels}), or twice as many with a learned variance, can be imported"
        )
    learned = unet.out_channels == 2 * unet.in_channels
    tensors = _read_weights(unet_file.parent, unet.flip_sin_to_cos)
    ours = _read_json(folder / ABOUT) if (folder / ABOUT).is_file() else {}
    classes = _classes(unet, unet_file, tensors, index, ours)
    stored = ours.get("experiment")
    stored = stored if isinstance(stored, dict) else {}
    # An older version wrote no rule of selection, and had the other one.
    known = _part(DataConfig, {"name": "unknown", "selection": "first"}, stored, "data", folder)
    objective = ObjectiveConfig(
        prediction={v: k for k, v in PREDICTIONS.items()}[scheduler.prediction_type],
        variance="learned" if learned else "beta-tilde",
        loss="hybrid" if learned else "mse",
        label_dropout=0.1 if unet.num_class_embeds == len(classes) + 1 and classes else 0.0,
    )
    sampling = _sampling(kind, scheduler)
    if isinstance(stored.get("sampling"), dict):
        plan = _part(SamplingConfig, {}, stored, "sampling", folder)
        # An export of ours whose scheduler nobody has changed since.
        if plan_entries(plan, objective).items() <= scheduler_config.items():
            sampling = plan
    experiment = Experiment(
        preset="imported",
        data=known if data is None else replace(known, name=data),
        network=NetworkConfig("ddpm-unet", asdict(_sizes(unet, unet_file))),
        schedule=_schedule(scheduler, scheduler_file),
        objective=objective,
        sampling=sampling,
        training=TrainingConfig(precision="float32"),
    )
    counts = ours.get("class_counts") if classes and "class_counts" in ours else [1] * len(classes)
    shape = (unet.in_channels, *unet.sample_size)
    try:
        return _checkpoint(experiment, tensors, shape, classes, counts)
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(f"{folder}: {error}") from error


def _pipeline(folder: Path) -> dict[str, Any]:
    """Return model_index.json, or {}; CheckpointError for a pipeline of another kind."""
    path = folder / "model_index.json"
    index = _read_json(path) if path.is_file() else {}
    kind = index.get("_class_name", PIPELINES[0])
    parts = {name for name, value in index.items() if name[:1] != "_" and isinstance(value, list)}
    if kind not in PIPELINES or not parts <= {"unet", "scheduler"}:
        others = ", ".join(sorted(parts - {"unet", "scheduler"})) or "unet, scheduler"
        raise CheckpointError(
            f"{path}: a {kind} of {others}; only {', '.join(PIPELINES)} of a unet and a scheduler, "
            f"which work on pixels, can be imported; {WAY_OUT}"
        )
    return index


def _classes(
    unet: UNetFile,
    path: Path,
    tensors: dict[str, Tensor],
    index: dict[str, Any],
    ours: dict[str, Any],
) -> tuple[str, ...]:
    """Return the class names that the folder gives, or else numbers; () without classes."""
    rows, table = unet.num_class_embeds or 0, tensors.get("class_embedding.weight")
    if rows != (0 if table is None else len(table)):
        raise CheckpointError(
            f"{path}: num_class_embeds is {rows}, and the weights have "
            f"{0 if table is None else len(table)} rows in class_embedding.weight"
        )
    named = index.get("id2label")
    names = ours.get("classes") or list(named.values() if isinstance(named, dict) else [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(
            f"{path.parent}: the class names must be a list of text, got {names!r}"
        )
    return tuple(names) if rows and len(names) in (rows, rows - 1) else tuple(map(str, range(rows)))


def _checkpoint(
    experiment: Experiment,
    tensors: dict[str, Tensor],
    shape: tuple[int, int, int],
    classes: tuple[str, ...],
    counts: Any,
) -> Checkpoint:
    """Return the checkpoint of a run of no steps; CheckpointError for what does not fit."""
    key = "class_embedding.weight"
    if key in tensors and len(tensors[key]) == len(classes):
        # A label table without a row for "no label" gets one of zeros.
        tensors[key] = torch.cat([tensors[key], torch.zeros_like(tensors[key][:1])])
    try:
        if not isinstance(counts, list) or not all(type(count) is int for count in counts):
            raise CheckpointError(f"class_counts must be a list of whole numbers, got {counts!r}")
        check_sizes(shape, classes, tuple(counts))
        from_dict(Experiment, experiment.to_dict())
        build_schedule(experiment.schedule)
        check_fit(experiment, shape, len(classes), tensors)
        network = build_network(experiment, shape, len(classes))
        network.load_state_dict(tensors)
    except DDPMError:
        raise
    # Sizes that make no sense can make building fail in almost any way.
    except Exception as error:
        said = " ".join(str(error).split())
        raise CheckpointError(
            f"these weights are not those of the U-Net that is described with them: {said[:300]}"
        ) from error
    meta: dict[str, Any] = {
        "experiment": experiment.to_dict(),
        "shape": list(shape),
        "classes": list(classes),
        "class_counts": counts,
        "scaling": Scaling().to_config(),
        "data": {
            "name": experiment.data.name,
            "images": 0,
            "source": "imported from diffusers",
            "fingerprint": "unknown",
        },
        "versions": {"pocketddpm": __version__, "torch": torch.__version__},
        "run": {
            "step": 0,
            "images_seen": 0,
            "seconds": 0.0,
            "plan": None,
            "best_loss": None,
            "epoch_sum": 0.0,
            "epoch_steps": 0,
        },
    }
    return Checkpoint(meta, {f"model.{k}": v for k, v in network.state_dict().items()})


def _sizes(unet: UNetFile, path: Path) -> Config:
    down, up = unet.down_block_types, unet.up_block_types
    mirrored = tuple(name.replace("Down", "Up") for name in reversed(down))
    if not {"DownBlock2D", "AttnDownBlock2D"}.issuperset(down) or up != mirrored:
        raise CheckpointError(
            f"{path}: blocks {list(down)} and {list(up)}; only DownBlock2D and AttnDownBlock2D can "
            "be imported, with the same levels attending on the way up"
        )
    scale_shift = unet.resnet_time_scale_shift == "scale_shift"
    norm = unet.attn_norm_num_groups or (None if scale_shift else unet.norm_num_groups)
    if unet.add_attention and norm != unet.norm_num_groups:
        raise CheckpointError(
            f"{path}: the middle's attention has {norm or 'no'} groups and the rest "
            f"{unet.norm_num_groups}; only equal ones can be imported (attn_norm_num_groups)"
        )
    return Config(
        widths=unet.block_out_channels,
        blocks=unet.layers_per_block,
        attention=tuple(i for i, name in enumerate(down) if name.startswith("Attn")),
        middle=unet.add_attention,
        head_width=unet.attention_head_dim or 0,
        scale_shift=scale_shift,
        dropout=unet.dropout,
        groups=unet.norm_num_groups,
        eps=unet.norm_eps,
        padding=unet.downsample_padding,
        frequency_shift=unet.freq_shift,
    )


def _schedule(scheduler: SchedulerFile, path: Path) -> ScheduleConfig:
    T, zero_terminal = scheduler.num_train_timesteps, scheduler.rescale_betas_zero_snr
    if scheduler.trained_betas is not None:
        return _named_schedule(torch.tensor(scheduler.trained_betas, dtype=torch.float64), path)
    if scheduler.beta_schedule == "squaredcos_cap_v2":
        return ScheduleConfig("cosine", T, zero_terminal=zero_terminal)
    names = {"linear": "linear", "scaled_linear": "scaled-linear", "sigmoid": "sigmoid-beta"}
    ends = {"beta_start": scheduler.beta_start, "beta_end": scheduler.beta_end, "rescale": False}
    return ScheduleConfig(names[scheduler.beta_schedule], T, ends, zero_terminal)


def _named_schedule(betas: Tensor, path: Path) -> ScheduleConfig:
    """Return the schedule of the catalogue, with its default options, that has these betas."""
    for name in SCHEDULES.names() if len(betas) else ():
        for zero_terminal in (False, True):
            config = ScheduleConfig(name, len(betas), zero_terminal=zero_terminal)
            if torch.allclose(build_schedule(config).beta, betas, rtol=1e-5, atol=1e-9):
                return config
    raise CheckpointError(
        f"{path}: its trained_betas are those of no schedule of pocketddpm with default options; "
        "a schedule of your own can be given as a plug-in"
    )


def _sampling(kind: str, scheduler: SchedulerFile) -> SamplingConfig:
    (sampler, spacing), T = SCHEDULERS[kind], scheduler.num_train_timesteps
    spacing = "karras" if scheduler.use_karras_sigmas else scheduler.timestep_spacing or spacing
    # Only DDPM's and DDIM's schedulers clip unless they are told otherwise.
    clip = kind.startswith("DD") if scheduler.clip_sample is None else scheduler.clip_sample
    if sampler != "ddpm":
        return SamplingConfig(sampler, min(50, T), spacing, clip=clip)
    variance = scheduler.variance_type.removesuffix("_log")
    options = {"variance": {v: k for k, v in VARIANCES.items()}[variance]}
    return SamplingConfig("ddpm", T, spacing, options, clip=clip)


def _read_weights(folder: Path, cos_first: bool) -> dict[str, Tensor]:
    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        others = ", ".join(sorted(p.name for p in folder.glob("*model*"))[:5]) or "no such file"
        raise CheckpointError(f"{folder} holds neither {' nor '.join(WEIGHTS)}, but {others}")
    try:
        if path.suffix == ".bin":
            tensors = torch.load(path, map_location="cpu", weights_only=True)
        else:
            tensors = load_file(path)
    # What is no such file can make a reader raise almost anything.
    except Exception as error:
        said = (" ".join(str(error).split()) or type(error).__name__)[:300]
        raise CheckpointError(f"{path} cannot be read as weights: {said}") from error
    if not isinstance(tensors, dict) or not all(
        isinstance(key, str) and isinstance(t, Tensor) and t.is_floating_point()
        for key, t in tensors.items()
    ):
        raise CheckpointError(
            f"{path} must hold names and tensors of real numbers, and nothing else"
        )
    return _renamed(tensors, cos_first)


def _renamed(tensors: dict[str, Tensor], cos_first: bool) -> dict[str, Tensor]:
    named = {}
    for key, tensor in tensors.items():
        parts = key.split(".")
        if "attentions" in parts:
            key = ".".join(OLD_NAMES.get(part, part) for part in parts)
        named[key] = tensor.float()
    first = "time_embedding.linear_1.weight"
    if first in named and named[first].ndim == 2 and not cos_first:
        named[first] = named[first].roll(named[first].shape[1] // 2, dims=1)
    return named


def _typed(kind: type[T], config: dict[str, Any], path: Path) -> T:
    """Return the entries that `kind` names, checked; null is a default where it is no value."""
    known = {f.name: "None" in str(f.type) for f in fields(kind)}  # type: ignore[arg-type]
    given = {k: v for k, v in config.items() if k in known and (v is not None or known[k])}
    try:
        return from_dict(kind, given)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _part(kind: type[T], defaults: dict[str, Any], stored: Any, name: str, folder: Path) -> T:
    """Return a part of the experiment that an export of ours holds."""
    values = stored.get(name)
    try:
        return from_dict(
            kind, {**defaults, **(values if isinstance(values, dict) else {})}, f"{ABOUT}: {name}."
        )
    except ConfigError as error:
        raise CheckpointError(f"{folder / ABOUT}: {error}") from error


def _expect(config: dict[str, Any], expected: dict[str, tuple[Any, ...]], path: Path) -> None:
    for key, allowed in expected.items():
        if not any(config.get(key) == value for value in allowed):
            values = " or ".join(str(v) for v in allowed if v is not None) or "nothing"
            raise CheckpointError(
                f"{path}: {key} is {config[key]!r}; only {values} can be imported"
            )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"no {path}; give a folder that diffusers' save_pretrained wrote")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is damaged: an object is expected")
    return value
