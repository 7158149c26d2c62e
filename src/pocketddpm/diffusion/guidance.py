"""Guidance: a strong and a weak estimate combined into a sharper one, and thresholding.

    guided = weak + scale (strong - weak)

strong is the network's output with the label. weak is its output without a label (classifier-free
guidance, arXiv 2207.12598) or with another one (a negative label), or the output of a weaker
network with the same label (autoguidance, arXiv 2406.02507).
"""

from dataclasses import dataclass
from math import ceil, floor

import torch
from torch import Tensor

from pocketddpm.errors import ConfigError
from pocketddpm.values import real, several, whole


@dataclass(frozen=True)
class Guidance:
    """How an estimate is guided; by default it is not.

    scale: 1 is the strong estimate alone, 0 the weak one (arXiv 2207.12598 has scale = 1 + w).
    interval: (low, high): guided at times low <= t <= high; elsewhere the strong estimate alone, at
      one evaluation (arXiv 2404.07724). None: at all times.
    rescale: phi of arXiv 2305.08891, section 3.4, see `rescaled`.
    cfg_plus_plus: x0_hat is the guided one, eps_hat the weak one, so that samplers renoise with
      the latter (arXiv 2406.08070). The scale is then a share, 0 to 1.
    negative_label: the label of the weak branch; None is no label.
    threshold: dynamic thresholding in the place of clipping, see `dynamic_threshold`.
    Raises ConfigError for values outside their range.
    """

    scale: float = 1.0
    interval: tuple[float, float] | None = None
    rescale: float = 0.0
    cfg_plus_plus: bool = False
    negative_label: int | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        real(self.scale, "guidance")
        if self.interval is not None:
            low, high = several(self.interval, 2, "the guidance interval", real)
            if not 0 <= low <= high:
                raise ConfigError(
                    f"a guidance interval reads LOW,HIGH in times with 0 <= LOW <= HIGH, "
                    f"got {low:g},{high:g}"
                )
        real(self.rescale, "guidance rescale", ">= 0, <= 1")
        if self.negative_label is not None:
            whole(self.negative_label, "the negative label")
        if self.cfg_plus_plus and not 0 <= self.scale <= 1:
            raise ConfigError(
                f"with CFG++ guidance must lie in 0..1, got {self.scale:g}; "
                "0.6 is about as strong as 7.5 is without"
            )
        if self.threshold is not None and not 0 < real(self.threshold, "the threshold") <= 1:
            raise ConfigError(
                f"the threshold is a share of the values such as 0.995, got {self.threshold}; "
                "it must lie above 0 and not above 1"
            )

    @property
    def is_none(self) -> bool:
        """Whether the strong estimate is used alone, at all times."""
        return self.scale == 1 and not self.cfg_plus_plus

    def covers(self, t: float) -> bool:
        """Return whether the estimate is guided at time t."""
        return self.interval is None or self.interval[0] <= t <= self.interval[1]

    def combine(self, strong: Tensor, weak: Tensor) -> Tensor:
        """Return the guided network output, [B,C,H,W].

        It is linear, and so means the same whether the network predicts eps, x0 or v (`rescaled`
        does not: it acts on the output as published, whatever that is).
        """
        return rescaled(weak + self.scale * (strong - weak), strong, self.rescale)

    def check_sampler(self, name: str) -> None:
        """Raise ConfigError for CFG++ with a sampler that does not renoise x0_hat with eps_hat."""
        # The others step from x_t with x0_hat or eps_hat alone: plain guidance, or none at all.
        if self.cfg_plus_plus and name != "ddim":
            raise ConfigError(
                f"CFG++ needs a sampler that renoises x0 with eps, and {name} does not; "
                "use --sampler ddim"
            )


def as_guidance(value: Guidance | float) -> Guidance:
    """Return the guidance that a plain number means: that scale and nothing else."""
    return value if isinstance(value, Guidance) else Guidance(value)


def rescaled(guided: Tensor, strong: Tensor, phi: float) -> Tensor:
    """Return `guided` with the standard deviation of `strong`, by the share phi in 0..1.

    guided (phi std(strong) / std(guided) + 1 - phi), over each image of [B,...] (arXiv 2305.08891,
    eqs. 15-16): strong guidance blows the contrast up, and this takes it back.
    """
    if phi == 0:
        return guided
    dims = tuple(range(1, guided.ndim))
    # An image of one value has no deviation to restore: 0 / 0 is kept at 0.
    std = guided.std(dims, keepdim=True).clamp_min(torch.finfo(guided.dtype).tiny)
    return guided * (phi * strong.std(dims, keepdim=True) / std + (1 - phi))


def dynamic_threshold(
    x0: Tensor, share: float, low: float | Tensor, high: float | Tensor
) -> Tensor:
    """Return x0, [B,...], shrunk into low..high about the centre (arXiv 2205.11487, section 2.3).

    In half-widths from the range's centre, s is the quantile `share` of an image's distances, but
    at least 1; the distances are clipped to s and divided by it. An image that lies in the range
    stays as it is; of another, clipping would have saturated all that now keeps its order.
    """
    centre, half = (low + high) / 2, (high - low) / 2
    distance = (x0 - centre) / half
    ordered = distance.abs().flatten(1).sort(dim=1).values
    # torch.quantile, but without float64 on the device.
    rank = share * (ordered.shape[1] - 1)
    s = ordered[:, floor(rank)].lerp(ordered[:, ceil(rank)], rank - floor(rank)).clamp_min(1)
    s = s.view(-1, *[1] * (x0.ndim - 1))
    return centre + half * (distance.clamp(-s, s) / s)
