"""What the network is asked for: eps, x0 or v, with exact maps between them.

With a = sqrt(alpha_bar), b = sqrt(1 - alpha_bar) and x_t = a x0 + b eps:
v = a eps - b x0 (arXiv 2202.00512). a and b are floats or tensors that broadcast against x_t.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from pocketddpm.errors import unknown

Scalar = float | Tensor


@dataclass(frozen=True)
class Prediction:
    """One parametrisation: the training target and the two maps back.

    target(x0, eps, a, b); x0(output, x_t, a, b); eps(output, x_t, a, b).
    """

    name: str
    target: Callable[[Tensor, Tensor, Scalar, Scalar], Tensor]
    x0: Callable[[Tensor, Tensor, Scalar, Scalar], Tensor]
    eps: Callable[[Tensor, Tensor, Scalar, Scalar], Tensor]


PREDICTIONS = {
    "eps": Prediction(
        "eps",
        target=lambda x0, eps, a, b: eps,
        x0=lambda out, x_t, a, b: (x_t - b * out) / a,
        eps=lambda out, x_t, a, b: out,
    ),
    "x0": Prediction(
        "x0",
        target=lambda x0, eps, a, b: x0,
        x0=lambda out, x_t, a, b: out,
        eps=lambda out, x_t, a, b: (x_t - a * out) / b,
    ),
    "v": Prediction(
        "v",
        target=lambda x0, eps, a, b: a * eps - b * x0,
        x0=lambda out, x_t, a, b: a * x_t - b * out,
        eps=lambda out, x_t, a, b: b * x_t + a * out,
    ),
}


def get_prediction(name: str) -> Prediction:
    """Return the parametrisation called `name`; ConfigError when there is none."""
    if name not in PREDICTIONS:
        raise unknown("prediction", name, PREDICTIONS)
    return PREDICTIONS[name]
