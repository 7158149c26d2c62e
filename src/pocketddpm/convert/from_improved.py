"""improved-diffusion's weights (arXiv 2102.09672): a `.pt` file that holds a state dict.

Such a file says nothing of itself. Sizes are read from the tensors; the rest are the flags of its
training, by their own names and with their own defaults. Only tensors are read (weights_only=True).
"""

import re
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Literal

import torch
from torch import Tensor

from pocketddpm.config import ObjectiveConfig, SamplingConfig, ScheduleConfig
from pocketddpm.convert.imported import Foreign
from pocketddpm.errors import CheckpointError, ConfigError
from pocketddpm.networks.ddpm_unet import Config


@dataclass(frozen=True)
class Flags:
    """The flags of improved-diffusion's scripts that its files do not tell."""

    image_size: int = 64
    num_heads: int = 4
    diffusion_steps: int = 1000
    noise_schedule: Literal["linear", "cosine"] = "linear"
    rescale_timesteps: bool = True
    predict_xstart: bool = False
    sigma_small: bool = False


TOP = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb": "class_embedding",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
BLOCK = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
ATTENTION = {"norm": "group_norm", "proj_out": "to_out.0"}


def read_improved(path: Path, flags: Flags) -> Foreign:
    """Read a file of `UNetModel` weights.

    Raises CheckpointError for a file that cannot be read as tensors or holds another network, and
    ConfigError for flags that do not fit it.
    """
    tensors = _read(path)
    levels = _levels(tensors, path)
    widths = tuple(_width(tensors, level[0]) for level in levels)
    blocks = len(levels[0])
    attends = [f"input_blocks.{level[0]}.1.qkv.weight" in tensors for level in levels]
    if flags.num_heads < 1 or flags.diffusion_steps < 1:
        raise ConfigError(
            "num_heads and diffusion_steps must be at least 1, "
            f"got {flags.num_heads} and {flags.diffusion_steps}"
        )
    channels = tensors["input_blocks.0.0.weight"].shape[1]
    learned = tensors["out.2.weight"].shape[0] == 2 * channels
    projection, last = tensors["input_blocks.1.0.emb_layers.1.weight"], flags.diffusion_steps
    labels = tensors.get("label_emb.weight")
    variance = "learned" if learned else "beta-tilde" if flags.sigma_small else "beta"
    return Foreign(
        source="improved-diffusion",
        shape=(channels, flags.image_size, flags.image_size),
        sizes=Config(
            widths=widths,
            blocks=blocks,
            attention=tuple(i for i, yes in enumerate(attends) if yes),
            heads=flags.num_heads,
            scale_shift=projection.shape[0] == 2 * widths[0],
            eps=1e-5,
            padding=1,
            frequency_shift=0,
            time_scale=1000 / last if flags.rescale_timesteps else 1.0,
        ),
        tensors=_renamed(tensors, len(levels), blocks, flags.num_heads, path),
        objective=ObjectiveConfig(
            prediction="x0" if flags.predict_xstart else "eps",
            loss="hybrid" if learned else "mse",
            variance="learned" if learned else "beta-tilde",
            label_dropout=0.0,
        ),
        schedule=ScheduleConfig(flags.noise_schedule, last),
        sampling=SamplingConfig("ddpm", last, options={"variance": variance}),
        classes=() if labels is None else tuple(str(k) for k in range(len(labels))),
    )


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"no file {path}; give improved-diffusion's .pt file")
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        told = str(error).split("\n", 1)[0]
        raise CheckpointError(f"{path} cannot be read as weights: {told}") from error
    fine = isinstance(tensors, dict) and all(isinstance(t, Tensor) for t in tensors.values())
    if not fine or not {"input_blocks.0.0.weight", "out.2.weight"} <= set(tensors):
        raise CheckpointError(
            f"{path} does not hold improved-diffusion's UNetModel; a plain state dict is expected, "
            "such as ema_0.9999_500000.pt"
        )
    return {key: tensor.float() for key, tensor in tensors.items()}


def _levels(tensors: dict[str, Tensor], path: Path) -> list[list[int]]:
    """Return, for each level, the numbers of its residual blocks among `input_blocks`."""
    numbers = {int(m[1]) for k in tensors if (m := re.match(r"input_blocks\.(\d+)\.", k))}
    levels: list[list[int]] = [[]]
    for k in range(1, max(numbers) + 1):
        if f"input_blocks.{k}.0.op.weight" in tensors:
            levels.append([])
        elif f"input_blocks.{k}.0.in_layers.2.weight" in tensors:
            levels[-1].append(k)
        else:
            raise CheckpointError(
                f"{path}: input_blocks.{k} is neither a residual block nor a strided convolution; "
                "only improved-diffusion's UNetModel with conv_resample can be imported"
            )
    if not levels[0] or {len(level) for level in levels} != {len(levels[0])}:
        raise CheckpointError(f"{path}: its levels have {[len(x) for x in levels]} blocks each")
    return levels


def _width(tensors: dict[str, Tensor], block: int) -> int:
    return tensors[f"input_blocks.{block}.0.in_layers.2.weight"].shape[0]


def _renamed(
    tensors: dict[str, Tensor], levels: int, blocks: int, heads: int, path: Path
) -> dict[str, Tensor]:
    """Return the tensors by diffusers' names."""
    named: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        where, kind = key.rsplit(".", 1)
        if where in TOP:
            named[f"{TOP[where]}.{kind}"] = tensor
            continue
        try:
            level, j, rest = _place(where, levels, blocks)
            if rest in BLOCK:
                named[f"{level}.resnets.{j}.{BLOCK[rest]}.{kind}"] = tensor
            elif rest in ATTENTION:  # convolutions over a line, with kernels of one
                named[f"{level}.attentions.{j}.{ATTENTION[rest]}.{kind}"] = tensor.reshape(
                    tensor.shape[:2] if kind == "weight" and tensor.ndim == 3 else tensor.shape
                )
            elif rest == "qkv":
                parts = tensor.reshape(heads, 3, -1, *tensor.shape[1:2])  # [heads,3,C/heads,(C)]
                for to, part in zip(("to_q", "to_k", "to_v"), parts.unbind(1), strict=True):
                    flat = part.flatten(0, 1).reshape(-1, *tensor.shape[1:2])
                    named[f"{level}.attentions.{j}.{to}.{kind}"] = flat.contiguous()
            else:
                part = {"op": "downsamplers", "conv": "upsamplers"}[rest]
                named[f"{level}.{part}.0.conv.{kind}"] = tensor
        except (KeyError, ValueError, RuntimeError, AttributeError, TypeError) as error:
            raise CheckpointError(
                f"{path}: the tensor {key} {list(tensor.shape)} is none of improved-diffusion's "
                f"UNetModel with {heads} heads"
            ) from error
    return named


def _place(where: str, levels: int, blocks: int) -> tuple[str, int, str]:
    """Return the level's name, the block's number in it and what follows, for a tensor's path."""
    if where.startswith("middle_block."):
        _, number, rest = where.split(".", 2)
        return "mid_block", {"0": 0, "1": 0, "2": 1}[number], rest
    room, number, _, rest = where.split(".", 3)
    k = int(number)
    if room == "input_blocks":
        level, j = divmod(k - 1, blocks + 1)
        return f"down_blocks.{level}", j, rest
    if room != "output_blocks":
        raise KeyError(room)
    level, j = divmod(k, blocks + 1)
    return f"up_blocks.{level}", j, rest
