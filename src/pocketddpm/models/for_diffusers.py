"""What diffusers' format can hold: said when a run starts, and asked again when it is exported."""

from typing import Any

from pocketddpm.catalog import NETWORKS
from pocketddpm.config import Experiment
from pocketddpm.data.scaling import Scaling
from pocketddpm.values import from_dict

PREDICTIONS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
"""diffusers' names of the predictions that it has."""


def refusal(experiment: Experiment, shape: tuple[int, int, int], scaling: Scaling) -> str | None:
    """Return why diffusers cannot hold a model of images [C,H,W], or None where it can."""
    prediction = experiment.objective.prediction
    if why := _network_refusal(experiment, shape):
        return why
    if prediction not in PREDICTIONS:
        return f"diffusers' DDPM has no '{prediction}' prediction; it has eps, x0 and v"
    if scaling.bounds != (-1.0, 1.0) or scaling.mean is not None:
        low, high = scaling.bounds
        mean = " less a mean image" if scaling.mean is not None else ""
        return (
            f"diffusers' pipelines show images of -1..1, and this model's are of {low:g}..{high:g}"
            f"{mean}"
        )
    return None


def _network_refusal(experiment: Experiment, shape: tuple[int, int, int]) -> str | None:
    name, _, height, width = experiment.network.name, *shape
    if name not in ("unet", "ddpm-unet"):
        return (
            f"other tools' U-Nets cannot hold the network '{name}'; "
            "networks that they can hold are unet (with patch=1) and ddpm-unet"
        )
    sizes: Any = from_dict(
        NETWORKS.load(name).Config, experiment.network.sizes, f"network {name}: "
    )
    if name == "unet" and sizes.patch != 1:
        return (
            f"other tools' U-Nets cannot hold unet with patch={sizes.patch}, only with patch=1: "
            "train with --net patch=1 to export"
        )
    factor = 2 ** (len(sizes.widths) - 1)
    if height % factor or width % factor:
        return (
            f"other tools' U-Nets do not pad images, and {height}x{width} does not divide by "
            f"{factor}; train with fewer levels (--net widths) to export"
        )
    if name == "unet":
        return None
    if sizes.time_scale != 1:
        return f"diffusers' times count by one, and this network's by {sizes.time_scale:g}"
    attends = {sizes.widths[level] for level in sizes.attention}
    attends |= {sizes.widths[-1]} if sizes.middle else set()
    if not sizes.head_width and sizes.heads > 1 and len(attends) > 1:
        return (
            f"diffusers has heads of one width, and this network has {sizes.heads} heads at widths "
            f"{sorted(attends)}"
        )
    return None
