"""A `Model` around any network, as if it had been loaded from a checkpoint."""

import torch
from torch import nn

from pocketddpm.build import build_schedule
from pocketddpm.config import (
    DataConfig,
    Experiment,
    ObjectiveConfig,
    SamplingConfig,
    ScheduleConfig,
)
from pocketddpm.data.scaling import Scaling
from pocketddpm.models.model import Model


class Answers(nn.Module):
    """Predicts x0 as an oracle (`tests/oracle.py`) knows it; the times are a schedule's own."""

    def __init__(self, oracle, schedule):
        super().__init__()
        self.oracle, self.schedule = oracle, schedule

    def forward(self, x_t, t, y=None):
        return self.oracle(x_t, 0.0, float(self.schedule.alpha_bar[int(t[0])])).x0


class Labelled(nn.Module):
    """An untrained network whose output depends on x, t and y; it counts what it is asked."""

    def __init__(self, slope=0.3, null=10):
        super().__init__()
        self.slope, self.null = slope, null
        self.batches = []

    def forward(self, x_t, t, y=None):
        self.batches.append(len(x_t))
        y = torch.full_like(t, self.null) if y is None else y
        label = y.to(x_t)[:, None, None, None]
        return (self.slope * x_t * (1 + 0.1 * label) + t.to(x_t)[:, None, None, None] / 2000).sin()


def model_around(
    network,
    shape=(1, 4, 4),
    classes=tuple("0123456789"),
    *,
    prediction="x0",
    schedule="cosine",
    scaling=None,
    label_dropout=0.1,
    sigma_data=None,
    **sampling,
):
    experiment = Experiment(
        preset="test",
        data=DataConfig("test"),
        schedule=ScheduleConfig(schedule),
        objective=ObjectiveConfig(
            prediction=prediction, label_dropout=label_dropout, sigma_data=sigma_data
        ),
        sampling=SamplingConfig(**sampling),
    )
    return Model(
        experiment=experiment,
        network=network,
        schedule=build_schedule(experiment.schedule),
        scaling=scaling or Scaling(),
        shape=shape,
        classes=classes,
        class_counts=(1,) * len(classes),
        meta={},
        device=torch.device("cpu"),
    )


def model_of(oracle, dim):
    """Return a model that knows the data of an oracle exactly; its images hold -6..6 in bytes."""
    schedule = build_schedule(ScheduleConfig("cosine"))
    network = Answers(oracle, schedule)
    return model_around(network, (1, 1, dim), (), scaling=Scaling(-6.0, 6.0), clip=False)
