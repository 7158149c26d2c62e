"""`Denoiser`: network and prediction as (x_t, t, alpha_bar) -> (x0_hat, eps_hat).

Samplers, metrics and edits call nothing else.
 Clipping and guidance are applied here, for all of them alike.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from pocketddpm.diffusion.guidance import Guidance
from pocketddpm.diffusion.prediction import (
    NetworkOutput,
    Prediction,
    Scalar,
    autocast,
    call_network,
)
from pocketddpm.errors import ConfigError


class DenoiserOutput(NamedTuple):
    """The estimates of the clean image and of the noise, consistent with each other.

    x0, eps: [B,C,H,W], with x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps (but under CFG++,
    where eps is the one to renoise with). variance_fraction: [B,C,H,W], where a learned variance
    lies between beta_tilde (0) and beta (1); None without one.
    """

    x0: Tensor
    eps: Tensor
    variance_fraction: Tensor | None = None


class Denoise(Protocol):
    """The callable that a sampler is given."""

    def __call__(self, x_t: Tensor, t: float, alpha_bar: float) -> DenoiserOutput:
        """Return the estimates at x_t, [B,C,H,W], at one time t in 0..T with its alpha_bar."""
        ...


def denoiser_output(
    prediction: Prediction,
    output: NetworkOutput,
    x_t: Tensor,
    a: Scalar,
    b: Scalar,
    clip: Callable[[Tensor], Tensor] | None,
) -> DenoiserOutput:
    """Return x0_hat, clipped, and eps_hat = (x_t - a x0_hat) / b, b > 0; a, b: see `Prediction`."""
    x0 = prediction.x0(output.output, x_t, a, b)
    x0 = x0 if clip is None else clip(x0)
    return DenoiserOutput(x0, (x_t - a * x0) / b, output.fraction)


def check_invertible(prediction: Prediction, alpha_bar: float) -> None:
    """Raise ConfigError for eps prediction at alpha_bar = 0, where x_t = eps whatever x0 is."""
    if alpha_bar == 0 and prediction.name == "eps":
        raise ConfigError(
            "eps prediction needs alpha_bar[T] > 0 (got 0: zero terminal SNR); "
            "train with --prediction v or x0"
        )


@dataclass
class Denoiser:
    """A trained network seen as x_t -> (x0_hat, eps_hat).

    network: net(x_t, t, y) -> output [B,C,H,W], or [B,2C,H,W] with a learned variance.
    labels: int64 [B] in 0..classes-1, `classes` for no label, or None for an unconditional network.
    guidance: how the estimate is guided; by default not at all.
    null: the label value that means "no label".
    clip: brings an x0 estimate into the data's range, or None. eps is re-derived afterwards.
    guide: a weaker network with the same prediction, for autoguidance in the place of `null`.
    bf16: whether the network computes in bfloat16; everything around it stays as it is.
    nfe: network evaluations of an image so far, over all calls.
    """

    network: nn.Module
    prediction: Prediction
    labels: Tensor | None = None
    guidance: Guidance = field(default_factory=Guidance)
    null: int | None = None
    clip: Callable[[Tensor], Tensor] | None = None
    guide: nn.Module | None = None
    bf16: bool = False
    nfe: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        without = self.labels is None or self.null is None
        if not self.guidance.is_none and self.guide is None and without:
            raise ConfigError(
                f"guidance {self.guidance.scale:g} needs a model with labels, and this one has "
                "none; use --guidance 1, or a weaker model as --guide"
            )
        if self.guide is not None and self.guidance.negative_label is not None:
            raise ConfigError(
                "--guide and --negative-label both choose the weak estimate; leave one of them out"
            )

    def __call__(self, x_t: Tensor, t: float, alpha_bar: float) -> DenoiserOutput:
        """Return (x0_hat, eps_hat) at x_t, [B,C,H,W]. One network call, two with a guide.

        Raises ConfigError for eps prediction at alpha_bar = 0.
        """
        check_invertible(self.prediction, alpha_bar)
        guidance = self.guidance
        if guidance.is_none or not guidance.covers(t):
            output = self._call(self.network, x_t, t, alpha_bar, self.labels)
            return self._estimate(output, x_t, alpha_bar)
        if guidance.scale == 0 and guidance.rescale == 0:
            return self._estimate(self._weak(x_t, t, alpha_bar), x_t, alpha_bar)
        strong, weak = self._both(x_t, t, alpha_bar)
        # The variance is not guided: beyond its range there is none.
        guided = NetworkOutput(guidance.combine(strong.output, weak.output), strong.fraction)
        estimate = self._estimate(guided, x_t, alpha_bar)
        if guidance.cfg_plus_plus:
            return estimate._replace(eps=self._estimate(weak, x_t, alpha_bar).eps)
        return estimate

    def _estimate(self, output: NetworkOutput, x_t: Tensor, alpha_bar: float) -> DenoiserOutput:
        a, b = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
        return denoiser_output(self.prediction, output, x_t, a, b, self.clip)

    def _call(
        self, network: nn.Module, x_t: Tensor, t: float, alpha_bar: float, labels: Tensor | None
    ) -> NetworkOutput:
        self.nfe += 1
        times = torch.full((len(x_t),), t, dtype=torch.float32, device=x_t.device)
        a, b = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
        with autocast(x_t.device, torch.bfloat16 if self.bf16 else None):
            return call_network(network, self.prediction, x_t, times, labels, a, b)

    def _weak(self, x_t: Tensor, t: float, alpha_bar: float) -> NetworkOutput:
        if self.guide is not None:
            return self._call(self.guide, x_t, t, alpha_bar, self.labels)
        return self._call(self.network, x_t, t, alpha_bar, self._weak_labels())

    def _both(self, x_t: Tensor, t: float, alpha_bar: float) -> tuple[NetworkOutput, NetworkOutput]:
        """Return (strong, weak), in one call where they are of one network."""
        if self.guide is not None or self.labels is None:
            strong = self._call(self.network, x_t, t, alpha_bar, self.labels)
            return strong, self._weak(x_t, t, alpha_bar)
        labels = torch.cat([self.labels, self._weak_labels()])
        both = self._call(self.network, torch.cat([x_t, x_t]), t, alpha_bar, labels)
        self.nfe += 1  # each image went through twice
        strong, weak = both.output.chunk(2)
        fraction = None if both.fraction is None else both.fraction[: len(x_t)]
        return NetworkOutput(strong, fraction), NetworkOutput(weak, None)

    def _weak_labels(self) -> Tensor:
        assert self.labels is not None and self.null is not None  # as __post_init__ has checked
        negative = self.guidance.negative_label
        return torch.full_like(self.labels, self.null if negative is None else negative)
