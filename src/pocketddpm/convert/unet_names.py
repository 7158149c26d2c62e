"""A U-Net of ours as `ddpm-unet`: the sizes and tensor names that published formats share."""

import torch
from torch import Tensor

from pocketddpm.catalog import NETWORKS
from pocketddpm.data.augmentation import WEIGHT
from pocketddpm.models.model import Model
from pocketddpm.networks import ddpm_unet, unet
from pocketddpm.values import from_dict

TOP = {
    "embed_time.0": "time_embedding.linear_1",
    "embed_time.2": "time_embedding.linear_2",
    "embed_label": "class_embedding",
    "conv_in": "conv_in",
    "norm_out": "conv_norm_out",
    "conv_out": "conv_out",
}
BLOCK = {
    "norm1": "norm1",
    "conv1": "conv1",
    "modulate": "time_emb_proj",
    "norm2": "norm2",
    "conv2": "conv2",
    "shortcut": "conv_shortcut",
}


def as_ddpm_unet(model: Model) -> tuple[ddpm_unet.Config, dict[str, Tensor]]:
    """Return sizes and tensors (float32, CPU) of the `ddpm-unet` that is the same function.

    model: one that `models.for_diffusers` does not refuse.
    """
    name, given = model.experiment.network.name, model.experiment.network.sizes
    sizes = from_dict(NETWORKS.load(name).Config, given, f"network {name}: ")
    # Of an image as it is, at 0, the layer for augmentation adds nothing.
    state = {k: v for k, v in model.network.state_dict().items() if k != WEIGHT}
    tensors = {k: v.detach().cpu().float().contiguous() for k, v in state.items()}
    if isinstance(sizes, unet.Config):
        return _from_unet(sizes, tensors)
    return sizes, tensors


def _from_unet(
    sizes: unet.Config, tensors: dict[str, Tensor]
) -> tuple[ddpm_unet.Config, dict[str, Tensor]]:
    levels = len(sizes.widths)
    config = ddpm_unet.Config(
        widths=sizes.widths,
        blocks=sizes.blocks,
        attention=tuple(range(levels - sizes.attention, levels)),
        middle=sizes.attention > 0,
        head_width=sizes.head_width,
        scale_shift=True,
        dropout=sizes.dropout,
        groups=sizes.groups,
        eps=1e-5,
        padding=1,
        frequency_shift=0,
    )
    places = _places(levels, sizes.blocks)
    named: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        for where, value in _renamed(key, tensor, places):
            named[where] = value.contiguous()
    first = "time_embedding.linear_1.weight"
    named[first] = turned(named[first], 1.0)
    return config, named


def turned(weight: Tensor, by: float) -> Tensor:
    """Return the first linear layer, [E,w], that sees the [cos, sin] of t - by instead of t.

    cos(t w) and sin(t w) are those of (t - by) w turned by the angle by w: a linear map.
    """
    half = weight.shape[1] // 2
    rates = torch.exp(torch.arange(half) * (-torch.tensor(10_000.0).log() / half)).double()
    of_cos, of_sin = weight.double().split(half, dim=1)
    c, s = (by * rates).cos(), (by * rates).sin()
    return torch.cat([of_cos * c + of_sin * s, of_sin * c - of_cos * s], dim=1).float()


def _places(levels: int, blocks: int) -> dict[str, tuple[str, str]]:
    """Return, for each entry of unet's flat lists, its level's name and its place in the level."""
    places = {"middle.0": ("mid_block", "0"), "middle.1": ("mid_block", "1")}
    for side, count in (("down", blocks), ("up", blocks + 1)):
        at = 0
        for level in range(levels):
            for j in range(count):
                places[f"{side}.{at + j}"] = (f"{side}_blocks.{level}", str(j))
            at += count + 1
            if level < levels - 1:
                places[f"{side}.{at - 1}"] = (f"{side}_blocks.{level}", f"{side}samplers.0")
    return places


def _renamed(
    key: str, tensor: Tensor, places: dict[str, tuple[str, str]]
) -> list[tuple[str, Tensor]]:
    path, kind = key.rsplit(".", 1)
    if path in TOP:
        return [(f"{TOP[path]}.{kind}", tensor)]
    room, number, *rest = path.split(".")
    level, j = places[f"{room}.{number}"]
    if rest == ["conv"]:
        return [(f"{level}.{j}.conv.{kind}", tensor)]
    if rest[0] != "attention":
        return [(f"{level}.resnets.{j}.{BLOCK[rest[0]]}.{kind}", tensor)]
    attention = f"{level}.attentions.{j}"
    if rest[1] == "qkv":
        thirds = zip(("to_q", "to_k", "to_v"), tensor.chunk(3), strict=True)
        return [(f"{attention}.{to}.{kind}", third) for to, third in thirds]
    name = {"norm": "group_norm", "out": "to_out.0"}[rest[1]]
    return [(f"{attention}.{name}.{kind}", tensor)]
