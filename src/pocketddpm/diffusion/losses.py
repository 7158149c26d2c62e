"""The losses: how far the network's answer is from what it should be, for each image.

A new one is a function of `Asked` that returns [B], and its name in `LOSSES`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pocketddpm.diffusion.bound import Decoder, term
from pocketddpm.diffusion.prediction import Answer, Prediction
from pocketddpm.diffusion.schedule import Schedule

HYBRID_SHARE = 0.001  # of the bound in bits/dim, in the hybrid loss
CONSISTENCY_STAGES = range(1, 9)  # halvings of the gap between t and r, in turn
TAUGHT_STAGES = range(3, 7)  # of a teacher's flow: docs/experiments.md
HUBER_WIDTH = 0.00054  # per root of the number of values (arXiv 2310.14189)


class Asked(NamedTuple):
    """One batch with the network's answer, and what it is measured by.

    variance, decoder: the bound's (see `bound.term`). t: int64 [B] on the CPU. a, b: [B,1,1,1].
    weight: [B], of the squared error. progress: share of the run that is done. believe(x, t, a, b):
    the network's x0 estimate at other times, without gradient. lead: what guidance adds to the
    target. line: image and noise whose mix is x_t; the true ones or, if it is taught, a teacher's
    estimates. The rest: [B,C,H,W].
    """

    schedule: Schedule
    prediction: Prediction
    variance: str
    decoder: Decoder
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
    line: tuple[Tensor, Tensor]
    taught: bool


Loss = Callable[[Asked], Tensor]


def _distance(between: Callable[..., Tensor]) -> Loss:
    """Return the loss: the distance of output and target, the mean over pixels, times the weight.

    The weights are those of squared errors; other distances take them as they are. Guidance is
    learned by moving the target by (1 - 1/g)(F(x_t, y) - F(x_t)), held fixed (model guidance,
    arXiv 2502.12154): where F stands still, F(x_t, y) is what classifier-free guidance of scale g
    would have made of the unguided network.
    """

    def loss(asked: Asked) -> Tensor:
        target = asked.prediction.target(asked.x0, asked.eps, asked.a, asked.b)
        distance = between(asked.answer.output, target + asked.lead, reduction="none")
        return asked.weight * distance.flatten(1).mean(1)

    return loss


def _bound(asked: Asked) -> Tensor:
    """Return T times the bound's term at t: over uniform t, the whole bound but for the prior."""
    output, fraction = asked.answer
    x0_hat = asked.prediction.x0(output, asked.x_t, asked.a, asked.b)
    return asked.schedule.T * term(
        asked.schedule,
        asked.t,
        asked.t - 1,
        asked.x0,
        x0_hat,
        fraction,
        variance=asked.variance,
        decoder=asked.decoder,
    )


def _hybrid(asked: Asked) -> Tensor:
    """Return L_simple + 0.001 L_vlb (arXiv 2102.09672, eq. 16); L_vlb moves the variance only."""
    output, fraction = asked.answer
    fixed = asked._replace(answer=Answer(output.detach(), fraction))
    return LOSSES["mse"](asked) + HYBRID_SHARE * _bound(fixed)


def _consistency(asked: Asked) -> Tensor:
    """Return how far the x0 estimates at t and at a smaller r on the same line differ.

    The line through x_t is a step of the teacher's flow (consistency distillation, arXiv
    2303.01469, by DDIM), or, with no teacher, that of the image and noise which made x_t. The times
    are those of easy consistency tuning (arXiv 2406.14548): sigma_r / sigma_t =
    1 - n(sigma_t) / 2^stage with n = 1 + 8 sigmoid(-sigma_t); the stages divide the run evenly, and
    below the schedule's smallest sigma the line's end is the target. Pseudo-Huber distance over
    sigma_t - sigma_r.
    """
    x_t, a, b, (x0, eps) = asked.x_t, asked.a, asked.b, asked.line
    sigma_t = b / a
    stages = TAUGHT_STAGES if asked.taught else CONSISTENCY_STAGES
    stage = stages[min(int(len(stages) * asked.progress), len(stages) - 1)]
    gap = (1 + 8 * torch.sigmoid(-sigma_t)) / 2**stage
    sigma_r = sigma_t * (1 - gap).clamp(min=0)
    clean = sigma_r < float(asked.schedule.sigma[1])
    sigma_r = torch.where(clean, asked.schedule.sigma[1].to(sigma_r), sigma_r)
    a_r = (1 + sigma_r.square()).rsqrt()
    b_r = sigma_r * a_r
    log_snr = -2 * sigma_r.flatten().double().log()
    r = asked.schedule.time_of(log_snr.cpu()).to(x0)
    target = torch.where(clean, x0, asked.believe(a_r * x0 + b_r * eps, r, a_r, b_r))
    sigma_r = torch.where(clean, 0.0, sigma_r)
    x0_hat = asked.prediction.x0(asked.answer.output, x_t, a, b)
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
