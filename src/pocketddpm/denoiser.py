"""`Denoiser`: network + schedule + prediction -> (x0_hat, eps_hat), all that samplers ever see.

Clipping and classifier-free guidance live here, so that every sampler and every metric has them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from pocketddpm.errors import ConfigError
from pocketddpm.prediction import Prediction


class Estimate(NamedTuple):
    """What the network believes: the clean image and the noise, consistent with each other.

    x0, eps: [B,C,H,W], with x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps.
    """

    x0: Tensor
    eps: Tensor


class Denoise(Protocol):
    """The callable that a sampler is given."""

    def __call__(self, x_t: Tensor, t: float, alpha_bar: float) -> Estimate:
        """Return the estimate at one time t (as the network counts it) with its alpha_bar."""
        ...


@dataclass(frozen=True)
class Denoiser:
    """A trained network seen as x_t -> (x0_hat, eps_hat).

    network: net(x_t, t, y) -> output [B,C,H,W].
    labels: int64 [B] in 0..classes-1, `classes` for no label, or None for an unconditional network.
    guidance: w in eps_null + w (eps_label - eps_null) (arXiv 2207.12598 with w = 1 + its w):
      1 is the plain conditional model, 0 the unconditional one.
    null: the label value that means "no label".
    clip: brings an x0 estimate into the data's range, or None. eps is re-derived afterwards.
    """

    network: nn.Module
    prediction: Prediction
    labels: Tensor | None = None
    guidance: float = 1.0
    null: int | None = None
    clip: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.guidance != 1 and (self.labels is None or self.null is None):
            raise ConfigError(
                f"guidance {self.guidance:g} needs a model with labels, and this one has none; "
                "use --guidance 1"
            )

    @property
    def evaluations(self) -> int:
        """Network evaluations of an image per call: 2 under guidance, else 1."""
        return 1 if self.guidance == 1 else 2

    def __call__(self, x_t: Tensor, t: float, alpha_bar: float) -> Estimate:
        """Return (x0_hat, eps_hat) at x_t, [B,C,H,W]. One network call, guided or not.

        Raises ConfigError where eps prediction meets alpha_bar = 0.
        """
        a, b = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
        if a == 0 and self.prediction.name == "eps":
            raise ConfigError(
                "eps prediction needs alpha_bar[T] > 0 (got 0: zero terminal SNR); "
                "train with --prediction v or x0"
            )
        x0 = self.prediction.x0(self._output(x_t, t), x_t, a, b)
        if self.clip is not None:
            x0 = self.clip(x0)
        return Estimate(x0, (x_t - a * x0) / b)

    def _output(self, x_t: Tensor, t: float) -> Tensor:
        times = torch.full((len(x_t),), t, dtype=torch.float32, device=x_t.device)
        if self.guidance == 1 or self.labels is None or self.null is None:
            return self.network(x_t, times, self.labels)
        both = torch.cat([self.labels, torch.full_like(self.labels, self.null)])
        out = self.network(torch.cat([x_t, x_t]), torch.cat([times, times]), both)
        with_label, without = out.chunk(2)
        # Linear in the output, hence the same whether the network predicts eps, x0 or v.
        return without + self.guidance * (with_label - without)
