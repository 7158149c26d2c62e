"""The weight of each time in the loss: of squared errors, as a table over t = 1..T.

Papers weigh the error of whatever their network predicts. Here every weight is written once, as the
weight of the squared error of x0, and converted: x0 is linear in the output, so the output's weight
is the x0 weight times (d x0 / d output)^2. With SNR = alpha_bar / (1 - alpha_bar), that square is
1 / SNR for eps, 1 for x0 and 1 - alpha_bar = 1 / (SNR + 1) for v.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pocketddpm.diffusion.prediction import Prediction
from pocketddpm.diffusion.process import posterior, step_beta
from pocketddpm.diffusion.schedule import Schedule
from pocketddpm.errors import ConfigError


class WeightInputs(NamedTuple):
    """What a weight may depend on; float64 [T] for t = 1..T, but for sigma_data.

    before: alpha_bar one step earlier.
    """

    alpha_bar: Tensor
    before: Tensor
    snr: Tensor
    dx0_doutput: Tensor
    sigma_data: float


def _ddpm(at: WeightInputs) -> Tensor:
    """Weight of the mean's error in the bound with sigma^2 = beta (arXiv 2006.11239, eq. 12).

    It is beta / (2 alpha (1 - alpha_bar)) on eps; in x0 it holds no 1 / alpha, which may be 1 / 0.
    """
    share = posterior(at.alpha_bar, at.before).x0_weight
    return share**2 / (2 * step_beta(at.alpha_bar, at.before))


WEIGHTINGS: dict[str, Callable[[WeightInputs], Tensor]] = {
    # 1 on the output, whatever it is (arXiv 2006.11239, eq. 14).
    "simple": lambda at: at.dx0_doutput**-2,
    "ddpm": _ddpm,
    # min(SNR, gamma) with gamma = 5 (arXiv 2303.09556).
    "min-snr": lambda at: at.snr.clamp(max=5),
    # 1 / (sigma^2 + sigma_data^2): the same with a smooth bend (arXiv 2401.11605).
    "soft-min-snr": lambda at: at.snr / (1 + at.sigma_data**2 * at.snr),
    # 1 / (k + SNR)^gamma on eps, with k = gamma = 1 (arXiv 2204.00227).
    "p2": lambda at: at.snr / (1 + at.snr),
    # (sigma^2 + sigma_data^2) / (sigma sigma_data)^2 (arXiv 2206.00364, table 1).
    "edm": lambda at: at.snr + at.sigma_data**-2,
}


def weight_table(
    name: str, schedule: Schedule, prediction: Prediction, sigma_data: float
) -> Tensor:
    """Return the weight of the output's squared error, float64 [T] for t = 1..T.

    name: a key of `WEIGHTINGS`. sigma_data: the images' root mean square, in model units. Raises
    ConfigError where a time would have no weight or an infinite one.
    """
    alpha_bar = schedule.alpha_bar[1:]
    a, b = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    # x0 is linear in the output: its value at output 1 and x_t = 0 is the derivative.
    dx0_doutput = prediction.x0(torch.ones_like(a), torch.zeros_like(a), a, b)
    at = WeightInputs(alpha_bar, schedule.alpha_bar[:-1], schedule.snr[1:], dx0_doutput, sigma_data)
    weight = WEIGHTINGS[name](at) * dx0_doutput**2
    bad = ~(weight.isfinite() & (weight > 0))
    if bool(bad.any()):
        t = int(bad.nonzero()[-1]) + 1
        raise ConfigError(
            f"weighting '{name}' gives t = {t}, where the SNR is {float(schedule.snr[t]):.3g}, "
            f"the weight {float(weight[t - 1]):g}; use --weighting simple or edm, "
            "or a schedule that ends above SNR 0"
        )
    return weight
