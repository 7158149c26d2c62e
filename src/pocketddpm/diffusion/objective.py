"""The training loss: draw t and eps, call the network at x_t, compare with the target, per image.

    L = E over x0, t, eps of  w(t) distance(F(x_t, t, y), target),   x_t = a x0 + b eps

with F the network, a = sqrt(alpha_bar_t), b = sqrt(1 - alpha_bar_t): the simple loss of DDPM
(arXiv 2006.11239, eq. 14) where F predicts eps and w = 1. The distances are in `losses`, w in
`weighting`, the law of t in `times`, the targets in `prediction`; `build` chooses among them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pocketddpm.diffusion.bound import Decoder
from pocketddpm.diffusion.prediction import NetworkOutput, Prediction, call_network
from pocketddpm.diffusion.process import amplitudes
from pocketddpm.diffusion.schedule import Schedule
from pocketddpm.diffusion.times import Gather, Times
from pocketddpm.noise import Role, normal, send, uniform


class NoisyBatch(NamedTuple):
    """Training images x0 at their times: x_t = a x0 + b eps.

    t: int64 [B] in 1..T, on the CPU. a, b: [B,1,1,1]. y: int64 [B], of which some are hidden, or
    None. x0, eps, x_t: [B,C,H,W]. run_fraction: how much of the run is done, 0..1. augmentation:
    float32 [B,9], how the images were changed, or None.
    """

    t: Tensor
    x0: Tensor
    eps: Tensor
    x_t: Tensor
    a: Tensor
    b: Tensor
    y: Tensor | None
    run_fraction: float
    augmentation: Tensor | None = None


class LossInputs(NamedTuple):
    """What a loss is made of.

    output: what is compared, [B,C,H,W], with its gradient; the network's output, if the objective
    does not say otherwise. target: what it should be, likewise. weight: [B], of the squared error.
    variance_fraction: [B,C,H,W], from a network that learns the variance, or None.
    """

    batch: NoisyBatch
    output: Tensor
    target: Tensor
    weight: Tensor
    variance_fraction: Tensor | None = None


@dataclass(frozen=True)
class Objective:
    """What is minimised: a loss of what is compared, at times drawn from `times`.

    loss: one of `losses.LOSSES`. weights: float64 [T], of the output's squared error at t = 1..T.
    variance, decoder: the bound's (see `bound.term`). label_dropout: the share of labels that are
    hidden, 0..1. guidance: the scale that is learned; 1 is none. guidance_below: the sigma = b / a
    below which it is learned (arXiv 2404.07724: at high noise it costs variety); None: everywhere.
    null: the label that means "no label"; None for a network without labels.
    """

    schedule: Schedule
    prediction: Prediction
    loss: "Loss"
    weights: Tensor
    times: Times
    variance: str
    decoder: Decoder
    label_dropout: float
    guidance: float
    guidance_below: float | None
    null: int | None

    def __call__(
        self,
        network: nn.Module,
        x0: Tensor,
        y: Tensor | None,
        stream_index: Tensor,
        seed: int,
        run_fraction: float = 0.0,
        augmentation: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of each image, [B]: the mean over its pixels, the bound in bits/dim.

        x0: [B,C,H,W] in model range. y: int64 [B] or None. stream_index: int64 [B] on the CPU, each
        image's number in the endless stream of training images; with `seed` it fixes t, eps and
        label dropout. run_fraction: how much of the run is done, 0..1. augmentation: float32 [B,9],
        how the images were changed, which the network is told; None tells it nothing.
        """
        t, importance = self.times.draw(seed, stream_index, run_fraction)
        a, b = amplitudes(self.schedule.at(t), x0)
        shape = tuple(x0.shape[1:])
        index = send(stream_index, x0.device)
        eps = normal(seed, Role.TRAIN_EPS, index, shape, dtype=x0.dtype)
        if y is not None and self.null is not None and self.label_dropout > 0:
            hidden = uniform(seed, Role.LABEL_DROPOUT, stream_index) < self.label_dropout
            y = torch.where(send(hidden, y.device), self.null, y)
        x_t = a * x0 + b * eps
        batch = NoisyBatch(t, x0, eps, x_t, a, b, y, run_fraction, augmentation)
        losses = self.loss(self, self.compare(network, batch))
        return losses * send(importance, losses.device, losses.dtype)

    def compare(self, network: nn.Module, batch: NoisyBatch) -> LossInputs:
        """Return the network's output at x_t, and its target."""
        output, variance_fraction = self.call(network, batch)
        target = self.prediction.target(batch.x0, batch.eps, batch.a, batch.b)
        if self.guidance != 1 and batch.y is not None and self.null is not None:
            target = target + self._guidance_shift(network, batch, output)
        weight = send(self.weights[batch.t - 1], batch.x0.device, batch.x0.dtype)
        return LossInputs(batch, output, target, weight, variance_fraction)

    def call(self, network: nn.Module, batch: NoisyBatch) -> NetworkOutput:
        """Return the network's output at x_t."""
        times = send(batch.t, batch.x0.device, torch.float32)
        return call_network(
            network,
            self.prediction,
            batch.x_t,
            times,
            batch.y,
            batch.a,
            batch.b,
            batch.augmentation,
        )

    @torch.no_grad()
    def _guidance_shift(self, network: nn.Module, batch: NoisyBatch, output: Tensor) -> Tensor:
        """Return (1 - 1/g) (F(x_t, y) - F(x_t)), by which guidance g moves the target.

        This is model guidance (arXiv 2502.12154): at a fixed point, F(x_t, y) is what
        classifier-free guidance of scale g would have made of the unguided network.
        """
        assert batch.y is not None and self.null is not None  # as `compare` has checked
        unlabelled = batch._replace(y=torch.full_like(batch.y, self.null))
        weak = self.call(network, unlabelled).output
        # Where the label is hidden both are the same, but for rounding and dropout.
        shown = (batch.y != self.null).view(-1, 1, 1, 1)
        if self.guidance_below is not None:
            shown = shown & (batch.b < self.guidance_below * batch.a)
        return (1 - 1 / self.guidance) * shown * (output - weak)

    def observe(
        self, stream_index: Tensor, losses: Tensor, seed: int, run_fraction: float, gather: Gather
    ) -> None:
        """Let the distribution of t learn from a step: what `__call__` was given and returned.

        gather: joins the tensors of all processes; it is called only where there is need.
        """
        self.times.observe(seed, stream_index, run_fraction, losses, gather)

    def prepare(self, network: nn.Module) -> "Objective":
        """Return the objective of a run that starts with the weights that `network` holds now."""
        return self

    def state(self) -> dict[str, Tensor]:
        """Return what an exact resumption needs."""
        return self.times.state()

    def load(self, state: dict[str, Tensor], network: nn.Module) -> "Objective":
        """Return this objective as `state()` left it.

        network: the one that is trained. KeyError or RuntimeError when something does not fit.
        """
        self.times.load(state)
        return self


Loss = Callable[[Objective, LossInputs], Tensor]
