"""The training loss: draw t and eps, ask the network, compare with the target, per image."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pocketddpm.bound import MINUS_ONE_TO_ONE, Bins, Decoder, pixel_decoder, term
from pocketddpm.config import ObjectiveConfig
from pocketddpm.errors import ConfigError, unknown
from pocketddpm.noise import Role, normal, uniform
from pocketddpm.prediction import Answer, Prediction, ask, get_prediction
from pocketddpm.process import VARIANCES, amplitudes
from pocketddpm.schedule import Schedule
from pocketddpm.times import Gather, Times, build_times
from pocketddpm.weighting import weight_table

HYBRID_SHARE = 0.001  # of the bound in bits/dim, in the hybrid loss
CONSISTENCY_STAGES = 8  # halvings of the gap between t and r
HUBER_WIDTH = 0.00054  # per root of the number of values (arXiv 2310.14189)


class Asked(NamedTuple):
    """One batch with the network's answer. t: int64 [B] on the CPU. a, b: [B,1,1,1].

    weight: [B], of the squared error. progress: share of the run that is done. believe(x, t, a, b):
    the network's x0 estimate at other times, without gradient. lead: what guidance adds to the
    target. The rest: [B,C,H,W].
    """

    t: Tensor
    x0: Tensor
    eps: Tensor
    x_t: Tensor
    a: Tensor
    b: Tensor
    weight: Tensor
    answer: Answer
    progress: float
    believe: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    lead: Tensor | float


@dataclass(frozen=True)
class Objective:
    """What is minimised: a loss, weighted by the time, at times drawn from `times`.

    weights: float64 [T], of the output's squared error at t = 1..T. null: the label that means "no
    label". variance, decoder: the bound's (see `bound.term`).
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

    def __call__(
        self,
        network: nn.Module,
        x0: Tensor,
        y: Tensor | None,
        position: Tensor,
        seed: int,
        progress: float = 0.0,
    ) -> Tensor:
        """Return the loss of each image, [B]: the mean over its pixels, the bound in bits/dim.

        x0: [B,C,H,W] in model range. y: int64 [B] or None. position: int64 [B], each image's number
        in the endless stream of training images; with `seed` it fixes t, eps and label dropout.
        progress: share of the run that is done, 0..1.
        """
        t, importance = self.times.draw(seed, position, progress)
        a, b = amplitudes(self.schedule.at(t), x0)
        shape = tuple(x0.shape[1:])
        eps = normal(seed, Role.TRAIN_EPS, position.to(x0.device), shape, dtype=x0.dtype)
        x_t = a * x0 + b * eps
        if y is not None and self.null is not None and self.label_dropout > 0:
            hidden = uniform(seed, Role.LABEL_DROPOUT, position.to(y.device)) < self.label_dropout
            y = torch.where(hidden, self.null, y)
        times = t.to(x0.device, torch.float32)
        answer = ask(network, self.prediction, x_t, times, y, a, b)
        lead: Tensor | float = 0.0
        if y is not None and self.null is not None and self.guidance != 1:
            with torch.no_grad():
                null = torch.full_like(y, self.null)
                weak = ask(network, self.prediction, x_t, times, null, a, b).output
                # Where the label is hidden both are the same, but for rounding and dropout.
                shown = (y != self.null).view(-1, 1, 1, 1)
                lead = (1 - 1 / self.guidance) * shown * (answer.output - weak)
        weight = self.weights[t - 1].to(x0)

        @torch.no_grad()
        def believe(x: Tensor, t: Tensor, a: Tensor, b: Tensor) -> Tensor:
            return self.prediction.x0(ask(network, self.prediction, x, t, y, a, b).output, x, a, b)

        asked = Asked(t, x0, eps, x_t, a, b, weight, answer, progress, believe, lead)
        losses = LOSSES[self.loss](self, asked)
        return losses * importance.to(losses)

    def observe(
        self, position: Tensor, losses: Tensor, seed: int, progress: float, gather: Gather
    ) -> None:
        """Let the distribution of t learn from a step: what `__call__` was given and returned.

        gather: joins the tensors of all processes; it is called only where there is need.
        """
        self.times.observe(seed, position, progress, losses, gather)

    def state(self) -> dict[str, Tensor]:
        """Return what an exact resumption needs."""
        return self.times.state()

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from `state()`; KeyError when something is missing."""
        self.times.load(state)


Loss = Callable[[Objective, Asked], Tensor]


def _distance(between: Callable[..., Tensor]) -> Loss:
    """Return the loss: the distance of output and target, the mean over pixels, times the weight.

    The weights are those of squared errors; other distances take them as they are. Guidance is
    learned by moving the target by (1 - 1/g)(F(x_t, y) - F(x_t)), held fixed (model guidance,
    arXiv 2502.12154): where F stands still, F(x_t, y) is what classifier-free guidance of scale g
    would have made of the unguided network.
    """

    def loss(objective: Objective, asked: Asked) -> Tensor:
        target = objective.prediction.target(asked.x0, asked.eps, asked.a, asked.b)
        distance = between(asked.answer.output, target + asked.lead, reduction="none")
        return asked.weight * distance.flatten(1).mean(1)

    return loss


def _bound(objective: Objective, asked: Asked) -> Tensor:
    """Return T times the bound's term at t: over uniform t, the whole bound but for the prior."""
    output, fraction = asked.answer
    x0_hat = objective.prediction.x0(output, asked.x_t, asked.a, asked.b)
    return objective.schedule.T * term(
        objective.schedule,
        asked.t,
        asked.t - 1,
        asked.x0,
        x0_hat,
        fraction,
        variance=objective.variance,
        decoder=objective.decoder,
    )


def _hybrid(objective: Objective, asked: Asked) -> Tensor:
    """Return L_simple + 0.001 L_vlb (arXiv 2102.09672, eq. 16); L_vlb moves the variance only."""
    output, fraction = asked.answer
    fixed = asked._replace(answer=Answer(output.detach(), fraction))
    return LOSSES["mse"](objective, asked) + HYBRID_SHARE * _bound(objective, fixed)


def _consistency(objective: Objective, asked: Asked) -> Tensor:
    """Return how far the x0 estimates at t and at a smaller r on the same noise differ.

    Easy consistency tuning (arXiv 2406.14548): sigma_r / sigma_t = 1 - n(sigma_t) / 2^stage with
    n = 1 + 8 sigmoid(-sigma_t); the gap halves `CONSISTENCY_STAGES` times over the run, and below
    the schedule's smallest sigma the image itself is the target. Pseudo-Huber distance over
    sigma_t - sigma_r.
    """
    _, x0, eps, x_t, a, b, _, answer, progress, believe, _ = asked
    sigma_t = b / a
    stage = 1 + int(CONSISTENCY_STAGES * progress)
    gap = (1 + 8 * torch.sigmoid(-sigma_t)) / 2**stage
    sigma_r = sigma_t * (1 - gap).clamp(min=0)
    clean = sigma_r < float(objective.schedule.sigma[1])
    sigma_r = torch.where(clean, objective.schedule.sigma[1].to(sigma_r), sigma_r)
    a_r = (1 + sigma_r.square()).rsqrt()
    b_r = sigma_r * a_r
    log_snr = -2 * sigma_r.flatten().double().log()
    r = objective.schedule.time_of(log_snr.cpu()).to(x0)
    target = torch.where(clean, x0, believe(a_r * x0 + b_r * eps, r, a_r, b_r))
    sigma_r = torch.where(clean, 0.0, sigma_r)
    x0_hat = objective.prediction.x0(answer.output, x_t, a, b)
    distance = (x0_hat - target).square().flatten(1).sum(1)
    c = HUBER_WIDTH * x0[0].numel() ** 0.5
    return ((distance + c**2).sqrt() - c) / (sigma_t - sigma_r).flatten() / x0[0].numel() ** 0.5


LOSSES: dict[str, Loss] = {
    "mse": _distance(F.mse_loss),
    "l1": _distance(F.l1_loss),
    "huber": _distance(F.smooth_l1_loss),
    "vlb": _bound,
    "hybrid": _hybrid,
    "consistency": _consistency,
}

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
