"""The losses: how far the network's output is from what it should be, for each image.

A new one is a function of `LossInputs` that returns [B], and its name in `LOSSES`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pocketddpm.diffusion.bound import Decoder, term
from pocketddpm.diffusion.prediction import NetworkOutput, Prediction
from pocketddpm.diffusion.schedule import Schedule

HYBRID_SHARE = 0.001  # of the bound in bits/dim, in the hybrid loss
CONSISTENCY_STAGES = range(1, 9)  # halvings of the gap between t and r, in turn
TAUGHT_STAGES = range(3, 7)  # of a teacher's flow: docs/experiments.md
HUBER_WIDTH = 0.00054  # per root of the number of values (arXiv 2310.14189)


class LossInputs(NamedTuple):
    """One batch with the network's output, and what it is measured by.

    variance, decoder: the bound's (see `bound.term`). t: int64 [B] on the CPU. a, b: [B,1,1,1].
    weight: [B], of the squared error. run_fraction: how much of the run is done, 0..1.
    predict_x0(x, t, a, b): the network's x0 estimate at other times, without gradient.
    guidance_shift: what learned guidance adds to the target. endpoints: image and noise whose mix
    is x_t; the true ones or, with a teacher, its estimates. The rest: [B,C,H,W].
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
    output: NetworkOutput
    run_fraction: float
    predict_x0: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    guidance_shift: Tensor | float
    endpoints: tuple[Tensor, Tensor]
    taught: bool


Loss = Callable[[LossInputs], Tensor]


def _distance(between: Callable[..., Tensor]) -> Loss:
    """Return the loss: the distance of output and target, the mean over pixels, times the weight.

    The weights are those of squared errors; other distances take them as they are. Guidance is
    learned by moving the target by (1 - 1/g)(F(x_t, y) - F(x_t)), held fixed (model guidance,
    arXiv 2502.12154): where F stands still, F(x_t, y) is what classifier-free guidance of scale g
    would have made of the unguided network.
    """

    def loss(inputs: LossInputs) -> Tensor:
        target = inputs.prediction.target(inputs.x0, inputs.eps, inputs.a, inputs.b)
        distance = between(inputs.output.output, target + inputs.guidance_shift, reduction="none")
        return inputs.weight * distance.flatten(1).mean(1)

    return loss


def _bound(inputs: LossInputs) -> Tensor:
    """Return T times the bound's term at t: over uniform t, the whole bound but for the prior."""
    output, fraction = inputs.output
    x0_hat = inputs.prediction.x0(output, inputs.x_t, inputs.a, inputs.b)
    return inputs.schedule.T * term(
        inputs.schedule,
        inputs.t,
        inputs.t - 1,
        inputs.x0,
        x0_hat,
        fraction,
        variance=inputs.variance,
        decoder=inputs.decoder,
    )


def _hybrid(inputs: LossInputs) -> Tensor:
    """Return L_simple + 0.001 L_vlb (arXiv 2102.09672, eq. 16); L_vlb moves the variance only."""
    output, fraction = inputs.output
    fixed = inputs._replace(output=NetworkOutput(output.detach(), fraction))
    return LOSSES["mse"](inputs) + HYBRID_SHARE * _bound(fixed)


def _consistency(inputs: LossInputs) -> Tensor:
    """Return how far the x0 estimates at t and at a smaller r on the same line differ.

    The line through x_t is a step of the teacher's flow (consistency distillation, arXiv
    2303.01469, by DDIM), or, with no teacher, that of the image and noise which made x_t. The times
    are those of easy consistency tuning (arXiv 2406.14548): sigma_r / sigma_t =
    1 - n(sigma_t) / 2^stage with n = 1 + 8 sigmoid(-sigma_t); the stages divide the run evenly, and
    below the schedule's smallest sigma the line's end is the target. Pseudo-Huber distance over
    sigma_t - sigma_r.
    """
    x_t, a, b, (x0, eps) = inputs.x_t, inputs.a, inputs.b, inputs.endpoints
    sigma_t = b / a
    stages = TAUGHT_STAGES if inputs.taught else CONSISTENCY_STAGES
    stage = stages[min(int(len(stages) * inputs.run_fraction), len(stages) - 1)]
    gap = (1 + 8 * torch.sigmoid(-sigma_t)) / 2**stage
    sigma_r = sigma_t * (1 - gap).clamp(min=0)
    clean = sigma_r < float(inputs.schedule.sigma[1])
    sigma_r = torch.where(clean, inputs.schedule.sigma[1].to(sigma_r), sigma_r)
    a_r = (1 + sigma_r.square()).rsqrt()
    b_r = sigma_r * a_r
    log_snr = -2 * sigma_r.flatten().double().log()
    r = inputs.schedule.time_of(log_snr.cpu()).to(x0)
    target = torch.where(clean, x0, inputs.predict_x0(a_r * x0 + b_r * eps, r, a_r, b_r))
    sigma_r = torch.where(clean, 0.0, sigma_r)
    x0_hat = inputs.prediction.x0(inputs.output.output, x_t, a, b)
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
