"""What the network predicts: eps, x0, v or EDM's F, with exact maps between them.

With a = sqrt(alpha_bar), b = sqrt(1 - alpha_bar) and x_t = a x0 + b eps:
v = a eps - b x0 (arXiv 2202.00512). a and b are floats or tensors that broadcast against x_t.

EDM's preconditioning (arXiv 2206.00364, eq. 7) is D(x) = c_skip x + c_out F(c_in x) for images of
deviation sigma_data, with x = x_t / a and sigma = b / a. Let n^2 = b^2 + a^2 sigma_data^2; then
c_in x = x_t / n and D = (a sigma_data^2 / n^2) x_t + (b sigma_data / n) F. Nothing is divided by a,
so that it holds at zero terminal SNR too. Where sigma_data is 1, n is 1 and F is -v.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pocketddpm.errors import unknown

Scalar = float | Tensor
Map = Callable[[Tensor, Tensor, Scalar, Scalar], Tensor]


@dataclass(frozen=True)
class Prediction:
    """One parametrisation: the training target, the two maps back, and the scale of the input.

    target(x0, eps, a, b): what the output should be. x0(output, x_t, a, b) and
    eps(output, x_t, a, b): the estimates that an output means, both linear in it.
    input_scale(a, b): the factor of x_t in the network's input. a, b: floats or [B,1,1,1].
    """

    name: str
    target: Map
    x0: Map
    eps: Map
    input_scale: Callable[[Scalar, Scalar], Scalar] = lambda a, b: 1.0


def _edm(sigma_data: float) -> Prediction:
    def n(a: Scalar, b: Scalar) -> Scalar:
        return (b**2 + (a * sigma_data) ** 2) ** 0.5

    return Prediction(
        "edm",
        target=lambda x0, eps, a, b: (b / sigma_data * x0 - a * sigma_data * eps) / n(a, b),
        x0=lambda out, x_t, a, b: (
            a * sigma_data**2 / n(a, b) ** 2 * x_t + b * sigma_data / n(a, b) * out
        ),
        eps=lambda out, x_t, a, b: b / n(a, b) ** 2 * x_t - a * sigma_data / n(a, b) * out,
        input_scale=lambda a, b: 1 / n(a, b),
    )


_EPS = Prediction(
    "eps",
    target=lambda x0, eps, a, b: eps,
    x0=lambda out, x_t, a, b: (x_t - b * out) / a,
    eps=lambda out, x_t, a, b: out,
)
_X0 = Prediction(
    "x0",
    target=lambda x0, eps, a, b: x0,
    x0=lambda out, x_t, a, b: out,
    eps=lambda out, x_t, a, b: (x_t - a * out) / b,
)
_V = Prediction(
    "v",
    target=lambda x0, eps, a, b: a * eps - b * x0,
    x0=lambda out, x_t, a, b: a * x_t - b * out,
    eps=lambda out, x_t, a, b: b * x_t + a * out,
)

PREDICTIONS: dict[str, Callable[[float], Prediction]] = {
    "eps": lambda sigma_data: _EPS,
    "x0": lambda sigma_data: _X0,
    "v": lambda sigma_data: _V,
    "edm": _edm,
}
"""From sigma_data, the images' root mean square, to the parametrisation."""


def get_prediction(name: str, sigma_data: float = 0.5) -> Prediction:
    """Return the parametrisation called `name`; ConfigError when there is none."""
    if name not in PREDICTIONS:
        raise unknown("prediction", name, PREDICTIONS)
    return PREDICTIONS[name](sigma_data)


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Return the context in which a network computes in `dtype`; None is that of its weights."""
    if dtype is None and not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)


def multiplies_bf16(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 natively; emulated, it is a slow float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


class NetworkOutput(NamedTuple):
    """The network's output at x_t, both [B,C,H,W].

    output: the prediction. fraction: where the variance lies between beta_tilde (0) and beta (1),
    from a network with 2C output channels; None from one with C.
    """

    output: Tensor
    fraction: Tensor | None


def call_network(
    network: nn.Module,
    prediction: Prediction,
    x_t: Tensor,
    t: Tensor,
    y: Tensor | None,
    a: Scalar,
    b: Scalar,
    augmentation: Tensor | None = None,
) -> NetworkOutput:
    """Return the network's output at x_t, [B,C,H,W]; this is the only call of a network.

    t: float32 [B], 0..T. y: int64 [B] or None. a, b: amplitudes of image and noise, as in
    `Prediction`. augmentation: float [B,A], how an image was changed, for networks with that input;
    None for an image as it is. The output has the dtype of x_t, also under autocast.
    """
    told = () if augmentation is None else (augmentation,)
    out = network(prediction.input_scale(a, b) * x_t, t, y, *told).to(x_t.dtype)
    output, *rest = out.split(x_t.shape[1], dim=1)
    # The network's zero is the middle: an untrained one begins between the two variances.
    return NetworkOutput(output, (rest[0] + 1) / 2 if rest else None)
