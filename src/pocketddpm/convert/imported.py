"""Foreign weights as an ordinary checkpoint, which sample, evaluate and edit accept."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from pocketddpm import __version__
from pocketddpm.build import build_network, build_schedule
from pocketddpm.config import (
    DataConfig,
    Experiment,
    NetworkConfig,
    ObjectiveConfig,
    SamplingConfig,
    ScheduleConfig,
)
from pocketddpm.data.scaling import Scaling
from pocketddpm.errors import CheckpointError
from pocketddpm.models.checkpoint import Checkpoint
from pocketddpm.networks.ddpm_unet import Config


@dataclass(frozen=True)
class Foreign:
    """What a file of another tool says of its model.

    source: the other tool. shape: (channels, height, width). sizes, tensors: as `ddpm-unet` has
    them, without the row of "no label" where the other tool knows none. classes: names, or empty.
    """

    source: str
    shape: tuple[int, int, int]
    sizes: Config
    tensors: dict[str, Tensor]
    objective: ObjectiveConfig
    schedule: ScheduleConfig
    sampling: SamplingConfig
    classes: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    data: DataConfig = field(default_factory=lambda: DataConfig("unknown"))


def as_checkpoint(foreign: Foreign) -> Checkpoint:
    """Return the checkpoint; CheckpointError when the tensors are not those of the sizes."""
    experiment = Experiment(
        preset="imported",
        data=foreign.data,
        network=NetworkConfig("ddpm-unet", asdict(foreign.sizes)),
        objective=foreign.objective,
        schedule=foreign.schedule,
        sampling=foreign.sampling,
    )
    training = replace(experiment.training, precision="float32")
    experiment = replace(experiment, training=training)
    build_schedule(experiment.schedule)
    network = build_network(experiment, foreign.shape, len(foreign.classes))
    tensors = _with_null_row(foreign.tensors, len(foreign.classes))
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        told = " ".join(str(error).split())
        raise CheckpointError(
            f"these weights are not those of the U-Net that is described with them: {told[:300]}"
        ) from error
    meta: dict[str, Any] = {
        "experiment": experiment.to_dict(),
        "shape": list(foreign.shape),
        "classes": list(foreign.classes),
        "class_counts": list(foreign.counts or [1] * len(foreign.classes)),
        "scaling": Scaling().to_config(),
        "data": {
            "name": foreign.data.name,
            "images": 0,
            "source": f"imported from {foreign.source}",
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


def _with_null_row(tensors: dict[str, Tensor], classes: int) -> dict[str, Tensor]:
    """Give a label table without a row for "no label" one of zeros."""
    key = "class_embedding.weight"
    table = tensors.get(key)
    if table is None or len(table) != classes:
        return tensors
    return {**tensors, key: torch.cat([table, torch.zeros_like(table[:1])])}
