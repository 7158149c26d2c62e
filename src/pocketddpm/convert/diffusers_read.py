"""diffusers' `UNet2DModel` with its scheduler, read without diffusers; the layout of
google/ddpm-cifar10-32, flat or with `unet/` and `scheduler/`.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
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
from pocketddpm.convert.diffusers_write import ABOUT, PREDICTIONS, VARIANCES
from pocketddpm.data.scaling import Scaling
from pocketddpm.errors import CheckpointError
from pocketddpm.models.checkpoint import Checkpoint
from pocketddpm.networks.ddpm_unet import Config
from pocketddpm.values import from_dict

WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
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
    "thresholding": (False, None),
    "clip_sample_range": (1, None),
    "variance_type": (*VARIANCES.values(), "fixed_small_log", "fixed_large_log", None),
}
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def read_diffusers(folder: Path, data: str | None = None) -> Checkpoint:
    """Read a folder that diffusers wrote, or `export --to diffusers`, as a checkpoint.

    data: the name of the data set that the model was trained on; None is what the folder says.

    Raises CheckpointError, naming the file and the entry, for a folder that holds no such model,
    for a model that `ddpm-unet` cannot represent, and for weights that do not fit its sizes.
    """
    unet = folder / "unet" if (folder / "unet").is_dir() else folder
    config = _read_json(unet / "config.json")
    if config.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise CheckpointError(
            f"{unet}: a {config['_class_name']}; only UNet2DModel can be imported"
        )
    _expect(config, EXPECTED, unet / "config.json")
    scheduler_file = folder / "scheduler" / "scheduler_config.json"
    if not scheduler_file.is_file():
        scheduler_file = folder / "scheduler_config.json"
    scheduler = _read_json(scheduler_file)
    _expect(scheduler, SCHEDULER_EXPECTED, scheduler_file)
    tensors = _read_weights(unet, bool(config.get("flip_sin_to_cos", True)))
    channels, size = int(config.get("in_channels", 3)), config.get("sample_size")
    if size is None:
        raise CheckpointError(f"{unet}/config.json does not say its sample_size; add it")
    height, width = (size, size) if isinstance(size, int) else size
    learned = int(config.get("out_channels", 3)) == 2 * channels
    prediction = {v: k for k, v in PREDICTIONS.items()}[scheduler.get("prediction_type", "epsilon")]
    ours = _read_json(folder / ABOUT) if (folder / ABOUT).is_file() else {}
    rows = config.get("num_class_embeds") or 0
    classes = tuple(ours.get("classes", ())) if rows else ()
    if len(classes) not in (rows, rows - 1):
        classes = tuple(str(k) for k in range(rows))
    counts = ours.get("class_counts") if classes else None
    known = ours.get("experiment", {}).get("data") or {"name": "unknown"}
    about_data = from_dict(DataConfig, known, f"{ABOUT}: ")
    experiment = Experiment(
        preset="imported",
        data=about_data if data is None else replace(about_data, name=data),
        network=NetworkConfig("ddpm-unet", asdict(_sizes(config, unet / "config.json"))),
        schedule=_schedule(scheduler, scheduler_file),
        objective=ObjectiveConfig(
            prediction=prediction,  # pyright: ignore[reportArgumentType]
            variance="learned" if learned else "beta-tilde",
            loss="hybrid" if learned else "mse",
            label_dropout=0.1 if rows == len(classes) + 1 and classes else 0.0,
        ),
        sampling=_sampling(scheduler),
        training=TrainingConfig(precision="float32"),
    )
    return _checkpoint(experiment, tensors, (channels, int(height), int(width)), classes, counts)


def _checkpoint(
    experiment: Experiment,
    tensors: dict[str, Tensor],
    shape: tuple[int, int, int],
    classes: tuple[str, ...],
    counts: list[int] | None,
) -> Checkpoint:
    """Return the checkpoint of a run of no steps; CheckpointError for tensors that do not fit."""
    build_schedule(experiment.schedule)
    network = build_network(experiment, shape, len(classes))
    key = "class_embedding.weight"
    if key in tensors and len(tensors[key]) == len(classes):
        # A label table without a row for "no label" gets one of zeros.
        tensors[key] = torch.cat([tensors[key], torch.zeros_like(tensors[key][:1])])
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        said = " ".join(str(error).split())
        raise CheckpointError(
            f"these weights are not those of the U-Net that is described with them: {said[:300]}"
        ) from error
    meta: dict[str, Any] = {
        "experiment": experiment.to_dict(),
        "shape": list(shape),
        "classes": list(classes),
        "class_counts": list(counts or [1] * len(classes)),
        "scaling": Scaling().to_config(),
        "data": {
            "name": experiment.data.name,
            "images": 0,
            "source": "imported from diffusers",
            "fingerprint": "unknown",
        },
        "versions": {"pocketddpm": __version__, "torch": torch.__version__},
        "run": {"step": 0, "images_seen": 0, "seconds": 0.0, "plan": None, "best_loss": None},
    }
    return Checkpoint(meta, {f"model.{k}": v for k, v in network.state_dict().items()})


def _sizes(config: dict[str, Any], path: Path) -> Config:
    # The defaults are those of UNet2DModel: a file need not name them.
    down = config.get("down_block_types", ["DownBlock2D", *["AttnDownBlock2D"] * 3])
    up = config.get("up_block_types", [*["AttnUpBlock2D"] * 3, "UpBlock2D"])
    mirrored = [name.replace("Down", "Up") for name in reversed(down)]
    if not {"DownBlock2D", "AttnDownBlock2D"}.issuperset(down) or list(up) != mirrored:
        raise CheckpointError(
            f"{path}: blocks {down} and {up}; only DownBlock2D and AttnDownBlock2D can be imported,"
            " with the same levels attending on the way up"
        )
    scale_shift = config.get("resnet_time_scale_shift") == "scale_shift"
    middle = bool(config.get("add_attention", True))
    groups = int(config.get("norm_num_groups", 32))
    norm = config.get("attn_norm_num_groups") or (None if scale_shift else groups)
    if middle and norm != groups:
        raise CheckpointError(
            f"{path}: the middle's attention has {norm or 'no'} groups and the rest {groups}; only "
            "equal ones can be imported (attn_norm_num_groups)"
        )
    return Config(
        widths=tuple(config.get("block_out_channels", (224, 448, 672, 896))),
        blocks=int(config.get("layers_per_block", 2)),
        attention=tuple(i for i, name in enumerate(down) if name.startswith("Attn")),
        middle=middle,
        head_width=int(config.get("attention_head_dim", 8) or 0),
        scale_shift=scale_shift,
        dropout=float(config.get("dropout", 0.0)),
        groups=groups,
        eps=float(config.get("norm_eps", 1e-5)),
        padding=int(config.get("downsample_padding", 1)),
        frequency_shift=int(config.get("freq_shift", 0)),
    )


def _schedule(config: dict[str, Any], path: Path) -> ScheduleConfig:
    T = int(config.get("num_train_timesteps", 1000))
    zero_terminal = bool(config.get("rescale_betas_zero_snr", False))
    if (betas := config.get("trained_betas")) is not None:
        return _named_schedule(torch.tensor(betas, dtype=torch.float64), path)
    kind = config.get("beta_schedule", "linear")
    names = {"linear": "linear", "scaled_linear": "scaled-linear", "sigmoid": "sigmoid-beta"}
    if kind == "squaredcos_cap_v2":
        return ScheduleConfig("cosine", T, zero_terminal=zero_terminal)
    if kind not in names:
        raise CheckpointError(
            f"{path}: beta_schedule '{kind}'; linear, scaled_linear, squaredcos_cap_v2 and sigmoid "
            "can be imported"
        )
    ends = {"beta_start": config.get("beta_start", 1e-4), "beta_end": config.get("beta_end", 0.02)}
    return ScheduleConfig(names[kind], T, {**ends, "rescale": False}, zero_terminal)


def _named_schedule(betas: Tensor, path: Path) -> ScheduleConfig:
    """Return the schedule of the catalogue, with its default options, that has these betas."""
    for name in SCHEDULES.names():
        for zero_terminal in (False, True):
            config = ScheduleConfig(name, len(betas), zero_terminal=zero_terminal)
            if torch.allclose(build_schedule(config).beta, betas, rtol=1e-5, atol=1e-9):
                return config
    raise CheckpointError(
        f"{path}: its trained_betas are those of no schedule of pocketddpm with default options; "
        "a schedule of your own can be given as a plug-in"
    )


def _sampling(config: dict[str, Any]) -> SamplingConfig:
    kind = config.get("_class_name", "DDPMScheduler")
    T = int(config.get("num_train_timesteps", 1000))
    spacing = "trailing" if config.get("timestep_spacing", "leading") != "leading" else "leading"
    clip = bool(config.get("clip_sample", True))
    if kind != "DDPMScheduler":
        return SamplingConfig("ddim", min(50, T), spacing, clip=clip)
    variance = str(config.get("variance_type") or "fixed_small").removesuffix("_log")
    names = {theirs: ours for ours, theirs in VARIANCES.items()}
    return SamplingConfig("ddpm", T, spacing, {"variance": names[variance]}, clip=clip)


def _read_weights(folder: Path, cos_first: bool) -> dict[str, Tensor]:
    for name in WEIGHTS:
        path = folder / name
        if not path.is_file():
            continue
        try:
            if path.suffix == ".bin":
                tensors = torch.load(path, map_location="cpu", weights_only=True)
            else:
                tensors = load_file(path)
        except (SafetensorError, OSError, RuntimeError, UnpicklingError) as error:
            raise CheckpointError(f"{path} cannot be read as weights: {error}") from error
        return _renamed(tensors, cos_first)
    raise CheckpointError(f"{folder} holds neither {WEIGHTS[0]} nor {WEIGHTS[1]}")


def _renamed(tensors: dict[str, Tensor], cos_first: bool) -> dict[str, Tensor]:
    named = {}
    for key, tensor in tensors.items():
        parts = key.split(".")
        if "attentions" in parts:
            key = ".".join(OLD_NAMES.get(part, part) for part in parts)
        named[key] = tensor.float()
    first = "time_embedding.linear_1.weight"
    if first in named and not cos_first:
        named[first] = named[first].roll(named[first].shape[1] // 2, dims=1)
    return named


def _expect(config: dict[str, Any], expected: dict[str, tuple[Any, ...]], path: Path) -> None:
    for key, allowed in expected.items():
        if config.get(key) not in allowed:
            values = " or ".join(str(v) for v in allowed if v is not None) or "nothing"
            raise CheckpointError(
                f"{path}: {key} is {config[key]!r}; only {values} can be imported"
            )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"no {path}; give a folder that diffusers' save_pretrained wrote")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is damaged: an object is expected")
    return value
