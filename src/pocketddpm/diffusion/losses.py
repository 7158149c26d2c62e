"""The losses: distances between output and target, and the bound; one number per image, [B].

A new one is a function of the objective and its `LossInputs`, and a line in `LOSSES`.
"""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from pocketddpm.diffusion.bound import term
from pocketddpm.diffusion.objective import Loss, LossInputs, Objective

HYBRID_SHARE = 0.001  # of the bound in bits/dim, in the hybrid loss
HUBER_WIDTH = 0.00054  # per root of the number of values (arXiv 2310.14189)


def _weighted(distance: Callable[..., Tensor]) -> Loss:
    """Return the loss w mean over pixels of distance(output, target).

    The weights are those of squared errors; other distances take them as they are.
    """

    def loss(objective: Objective, inputs: LossInputs) -> Tensor:
        each = distance(inputs.output, inputs.target, reduction="none")
        return inputs.weight * each.flatten(1).mean(1)

    return loss


def _bound(objective: Objective, inputs: LossInputs) -> Tensor:
    """Return T times the bound's term at t: over uniform t, the whole bound but for the prior."""
    t, x0, _, x_t, a, b, *_ = inputs.batch
    return objective.schedule.T * term(
        objective.schedule,
        t,
        t - 1,
        x0,
        objective.prediction.x0(inputs.output, x_t, a, b),
        inputs.variance_fraction,
        variance=objective.variance,
        decoder=objective.decoder,
    )


def _hybrid(objective: Objective, inputs: LossInputs) -> Tensor:
    """Return L_simple + 0.001 L_vlb (arXiv 2102.09672, eq. 16); L_vlb moves the variance only."""
    fixed = inputs._replace(output=inputs.output.detach())
    return LOSSES["mse"](objective, inputs) + HYBRID_SHARE * _bound(objective, fixed)


def _pseudo_huber(objective: Objective, inputs: LossInputs) -> Tensor:
    """Return w (sqrt(|output - target|^2 + c^2) - c) / sqrt(D), with c = 0.00054 sqrt(D).

    D is the number of values of an image (arXiv 2310.14189).
    """
    size = inputs.output[0].numel() ** 0.5
    c = HUBER_WIDTH * size
    squared = (inputs.output - inputs.target).square().flatten(1).sum(1)
    return inputs.weight * ((squared + c**2).sqrt() - c) / size


LOSSES: dict[str, Loss] = {
    # The squared error.
    "mse": _weighted(F.mse_loss),
    # The absolute error.
    "l1": _weighted(F.l1_loss),
    # The squared error below 1, the absolute error above.
    "huber": _weighted(F.smooth_l1_loss),
    # The variational bound.
    "vlb": _bound,
    # The squared error with a little of the bound, which trains the variance.
    "hybrid": _hybrid,
    # The difference of two estimates on one path, for `pocketddpm distill`.
    "consistency": _pseudo_huber,
}
