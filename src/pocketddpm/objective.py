"""The training loss: draw t and eps, ask the network, compare with the target, per image."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pocketddpm.config import ObjectiveConfig
from pocketddpm.errors import ConfigError, unknown
from pocketddpm.noise import Role, normal, uniform
from pocketddpm.prediction import Prediction, get_prediction
from pocketddpm.process import amplitudes
from pocketddpm.schedule import Schedule

LOSSES = {
    "mse": lambda out, target: F.mse_loss(out, target, reduction="none"),
    "l1": lambda out, target: F.l1_loss(out, target, reduction="none"),
    "huber": lambda out, target: F.smooth_l1_loss(out, target, reduction="none"),
}


@dataclass(frozen=True)
class Objective:
    """The simple loss of arXiv 2006.11239, eq. 14, for any prediction and distance."""

    schedule: Schedule
    prediction: Prediction
    loss: str
    label_dropout: float
    null: int | None

    def draw_times(self, seed: int, position: Tensor) -> Tensor:
        """Return t, int64 [B], uniform in 1..T; a function of (seed, position) alone."""
        u = uniform(seed, Role.TRAIN_TIME, position.cpu())
        return (u * self.schedule.T).long().clamp(max=self.schedule.T - 1) + 1

    def __call__(
        self, network: nn.Module, x0: Tensor, y: Tensor | None, position: Tensor, seed: int
    ) -> Tensor:
        """Return the loss of each image, float32 [B], the mean over its pixels.

        x0: [B,C,H,W] in model range. y: int64 [B] or None. position: int64 [B], each image's number
        in the endless stream of training images; with `seed` it fixes t, eps and label dropout.
        """
        t = self.draw_times(seed, position)
        a, b = amplitudes(self.schedule.at(t), x0)
        eps = normal(seed, Role.TRAIN_EPS, position.to(x0.device), tuple(x0.shape[1:]))
        x_t = a * x0 + b * eps
        if y is not None and self.null is not None and self.label_dropout > 0:
            hidden = uniform(seed, Role.LABEL_DROPOUT, position.to(y.device)) < self.label_dropout
            y = torch.where(hidden, self.null, y)
        out = network(x_t, t.to(x0.device, torch.float32), y)
        target = self.prediction.target(x0, eps, a, b)
        return LOSSES[self.loss](out.float(), target).mean(dim=(1, 2, 3))


def build_objective(config: ObjectiveConfig, schedule: Schedule, null: int | None) -> Objective:
    """Return the objective; ConfigError for combinations that cannot be learned."""
    if config.loss not in LOSSES:
        raise unknown("loss", config.loss, LOSSES)
    if not 0 <= config.label_dropout < 1:
        raise ConfigError(f"label dropout must lie in [0, 1), got {config.label_dropout}")
    if schedule.zero_terminal and config.prediction == "eps":
        raise ConfigError(
            "eps prediction needs alpha_bar[T] > 0 (got 0: zero terminal SNR); "
            "use --prediction v or x0"
        )
    return Objective(
        schedule, get_prediction(config.prediction), config.loss, config.label_dropout, null
    )
