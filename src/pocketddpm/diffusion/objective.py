"""The training loss: draw t and eps, ask the network, compare with the target, per image."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from math import inf

import torch
from torch import Tensor, nn

from pocketddpm.config import ObjectiveConfig
from pocketddpm.diffusion.bound import MINUS_ONE_TO_ONE, Bins, Decoder, pixel_decoder
from pocketddpm.diffusion.losses import LOSSES, LossInputs
from pocketddpm.diffusion.prediction import Prediction, call_network, get_prediction
from pocketddpm.diffusion.process import VARIANCES, amplitudes
from pocketddpm.diffusion.schedule import Schedule
from pocketddpm.diffusion.times import Gather, Times, build_times
from pocketddpm.diffusion.weighting import weight_table
from pocketddpm.errors import ConfigError, unknown
from pocketddpm.noise import Role, normal, uniform


@dataclass(frozen=True)
class Objective:
    """What is minimised: a loss, weighted by the time, at times drawn from `times`.

    weights: float64 [T], of the output's squared error at t = 1..T. null: the label that means "no
    label". variance, decoder: the bound's (see `bound.term`). teacher: the network whose flow the
    consistency loss follows; None for that of the data.
    """

    schedule: Schedule
    prediction: Prediction
    loss: str
    weights: Tensor
    times: Times
    variance: str
    decoder: Decoder
    label_dropout: float
    guidance: float
    null: int | None
    teacher: nn.Module | None = None

    def taught_by(self, network: nn.Module) -> "Objective":
        """Return this objective with a frozen copy of the network as its teacher."""
        return replace(self, teacher=deepcopy(network).eval().requires_grad_(False))

    def __call__(
        self,
        network: nn.Module,
        x0: Tensor,
        y: Tensor | None,
        stream_index: Tensor,
        seed: int,
        run_fraction: float = 0.0,
    ) -> Tensor:
        """Return the loss of each image, [B]: the mean over its pixels, the bound in bits/dim.

        x0: [B,C,H,W] in model range. y: int64 [B] or None. stream_index: int64 [B], each
        image's number in the endless stream of training images; with `seed` it fixes t, eps and
        label dropout. run_fraction: how much of the run is done, 0..1.
        """
        t, importance = self.times.draw(seed, stream_index, run_fraction)
        a, b = amplitudes(self.schedule.at(t), x0)
        shape = tuple(x0.shape[1:])
        eps = normal(seed, Role.TRAIN_EPS, stream_index.to(x0.device), shape, dtype=x0.dtype)
        x_t = a * x0 + b * eps
        if y is not None and self.null is not None and self.label_dropout > 0:
            hidden = (
                uniform(seed, Role.LABEL_DROPOUT, stream_index.to(y.device)) < self.label_dropout
            )
            y = torch.where(hidden, self.null, y)
        times = t.to(x0.device, torch.float32)
        output = call_network(network, self.prediction, x_t, times, y, a, b)
        guidance_shift: Tensor | float = 0.0
        if y is not None and self.null is not None and self.guidance != 1:
            with torch.no_grad():
                null = torch.full_like(y, self.null)
                weak = call_network(network, self.prediction, x_t, times, null, a, b).output
                # Where the label is hidden both are the same, but for rounding and dropout.
                shown = (y != self.null).view(-1, 1, 1, 1)
                guidance_shift = (1 - 1 / self.guidance) * shown * (output.output - weak)
        weight = self.weights[t - 1].to(x0)

        @torch.no_grad()
        def predict_x0(x: Tensor, t: Tensor, a: Tensor, b: Tensor) -> Tensor:
            return self.prediction.x0(
                call_network(network, self.prediction, x, t, y, a, b).output, x, a, b
            )

        endpoints = x0, eps
        if self.teacher is not None:
            with torch.no_grad():
                told = call_network(self.teacher, self.prediction, x_t, times, y, a, b).output
                endpoints = (
                    self.prediction.x0(told, x_t, a, b),
                    self.prediction.eps(told, x_t, a, b),
                )
        inputs = LossInputs(
            schedule=self.schedule,
            prediction=self.prediction,
            variance=self.variance,
            decoder=self.decoder,
            t=t,
            x0=x0,
            eps=eps,
            x_t=x_t,
            a=a,
            b=b,
            weight=weight,
            output=output,
            run_fraction=run_fraction,
            predict_x0=predict_x0,
            guidance_shift=guidance_shift,
            endpoints=endpoints,
            taught=self.teacher is not None,
        )
        losses = LOSSES[self.loss](inputs)
        return losses * importance.to(losses)

    def observe(
        self, stream_index: Tensor, losses: Tensor, seed: int, run_fraction: float, gather: Gather
    ) -> None:
        """Let the distribution of t learn from a step: what `__call__` was given and returned.

        gather: joins the tensors of all processes; it is called only where there is need.
        """
        self.times.observe(seed, stream_index, run_fraction, losses, gather)

    def state(self) -> dict[str, Tensor]:
        """Return what an exact resumption needs."""
        teacher = self.teacher.state_dict() if self.teacher is not None else {}
        return self.times.state() | {f"teacher.{k}": v for k, v in teacher.items()}

    def load(self, state: dict[str, Tensor], network: nn.Module) -> "Objective":
        """Return this objective as `state()` left it, with its teacher if it had one.

        network: one of the teacher's shape. KeyError or RuntimeError when something does not fit.
        """
        self.times.load(state)
        start = len("teacher.")
        weights = {k[start:]: v for k, v in state.items() if k.startswith("teacher.")}
        if not weights:
            return self
        taught = self.taught_by(network)
        assert taught.teacher is not None
        taught.teacher.load_state_dict(weights)
        return taught


Refusal = tuple[Callable[[ObjectiveConfig, Schedule], bool], str]
REFUSALS: tuple[Refusal, ...] = (
    (
        lambda c, s: not 0 <= c.label_dropout < 1,
        "label dropout must lie in [0, 1), got {c.label_dropout}",
    ),
    (
        lambda c, s: not 1 <= c.guidance < inf,
        "guidance that is learned must be 1 (none) or more, got {c.guidance}",
    ),
    (
        lambda c, s: c.guidance > 1 and c.label_dropout == 0,
        "guidance {c.guidance} is learned from images whose label is hidden; "
        "use --label-dropout 0.1, or --guidance 1 for none",
    ),
    (
        lambda c, s: c.guidance > 1 and c.loss not in ("mse", "l1", "huber"),
        "loss '{c.loss}' cannot learn guidance {c.guidance}; use --loss mse, "
        "or --guidance 1 for none",
    ),
    (
        lambda c, s: c.sigma_data <= 0 or c.p_std <= 0,
        "sigma_data and p_std must be positive, got {c.sigma_data} and {c.p_std}",
    ),
    (
        lambda c, s: s.zero_terminal and c.prediction == "eps",
        "eps prediction needs alpha_bar[T] > 0 (got 0: zero terminal SNR); "
        "use --prediction v or x0",
    ),
    (
        lambda c, s: s.zero_terminal and c.times == "log-normal",
        "log-normal times never reach t = T, where sigma is infinite (zero terminal SNR) and "
        "sampling begins; use --times stratified",
    ),
    (
        lambda c, s: c.variance == "learned" and c.loss not in ("vlb", "hybrid"),
        "loss '{c.loss}' does not train a learned variance; use --loss hybrid or vlb, "
        "or --variance beta-tilde",
    ),
    (
        lambda c, s: c.variance != "learned" and c.loss == "hybrid",
        "loss 'hybrid' adds the bound to train a learned variance; use --variance learned, "
        "or --loss mse",
    ),
    (
        lambda c, s: c.loss in ("vlb", "consistency") and c.weighting != "simple",
        "loss '{c.loss}' has weights of its own; leave --weighting {c.weighting} out, "
        "or use --loss mse",
    ),
    (
        lambda c, s: c.loss == "consistency" and (c.prediction != "edm" or s.zero_terminal),
        "loss 'consistency' needs a network that gives x_t back at sigma = 0, and a finite sigma; "
        "use --prediction edm and a schedule that ends above SNR 0",
    ),
    (
        lambda c, s: c.loss in ("vlb", "hybrid") and c.times == "log-normal",
        "loss '{c.loss}' counts every time alike; use --times stratified or importance",
    ),
)
"""Combinations that cannot be learned, and what to do instead."""


def build_objective(
    config: ObjectiveConfig,
    schedule: Schedule,
    null: int | None,
    *,
    batch_size: int = 1,
    bins: Bins = MINUS_ONE_TO_ONE,
) -> Objective:
    """Return the objective; ConfigError for combinations that cannot be learned.

    null: the label that means "no label". batch_size: images of one optimiser step, over all
    processes. bins: where pixel values lie in model units.
    """
    for kind, name, names in (
        ("loss", config.loss, LOSSES),
        ("variance", config.variance, VARIANCES),
    ):
        if name not in names:
            raise unknown(kind, name, names)
    for refused, message in REFUSALS:
        if refused(config, schedule):
            raise ConfigError(message.format(c=config))
    prediction = get_prediction(config.prediction, config.sigma_data)
    return Objective(
        schedule=schedule,
        prediction=prediction,
        loss=config.loss,
        weights=weight_table(config.weighting, schedule, prediction, config.sigma_data),
        times=build_times(config, schedule, batch_size),
        variance=config.variance,
        decoder=pixel_decoder(bins),
        label_dropout=config.label_dropout,
        guidance=config.guidance,
        null=null,
    )
