"""Consistency tuning: estimates at two times of one path should be the same image.

    L = E of  pseudo-Huber(D(x_t, t), D(x_r, r)) / (sigma_t - sigma_r),   r < t, no gradient at r

D is the network's x0 estimate and x_r lies on the line from x_t to an end x0 with noise eps: a step
of the teacher's flow (consistency distillation by DDIM, arXiv 2303.01469, algorithm 2) or, without
a teacher, the image and the noise that x_t was made of (easy consistency tuning, arXiv 2406.14548).
"""

from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pocketddpm.diffusion.objective import LossInputs, NoisyBatch, Objective
from pocketddpm.diffusion.prediction import call_network
from pocketddpm.diffusion.process import amplitudes
from pocketddpm.noise import send

STAGES = range(1, 9)  # halvings of the gap between sigma_r and sigma_t, in turn
TEACHER_STAGES = range(3, 7)  # the same along a teacher's flow: docs/experiments.md


@dataclass(frozen=True)
class Consistency(Objective):
    """The objective of consistency tuning. teacher: the network whose flow is followed, or None."""

    teacher: nn.Module | None = None

    def compare(self, network: nn.Module, batch: NoisyBatch) -> LossInputs:
        """Return the x0 estimate at t, and the one at r as its target.

        Below the schedule's smallest sigma, r is the clean image, and the line's end the target.
        """
        x_t, a, b = batch.x_t, batch.a, batch.b
        # With its gradient first: autocast keeps the weights as they were cast in the first call.
        x0_hat = self.prediction.x0(self.call(network, batch).output, x_t, a, b)
        with torch.no_grad():
            x0, eps = batch.x0, batch.eps
            if self.teacher is not None:
                output = self.call(self.teacher, batch).output
                x0, eps = (f(output, x_t, a, b) for f in (self.prediction.x0, self.prediction.eps))
            # On the CPU, where the schedule lies.
            like = torch.empty(len(batch.t), 1, 1, 1, dtype=x0.dtype)
            a_t, b_t = amplitudes(self.schedule.at(batch.t), like)
            sigma_t = b_t / a_t
            sigma_r = self.next_sigma(sigma_t, batch.run_fraction)
            clean = sigma_r < float(self.schedule.sigma[1])
            sigma = torch.where(clean, self.schedule.sigma[1].to(sigma_r), sigma_r)
            r = self.schedule.time_of(-2 * sigma.flatten().double().log())
            gap = sigma_t - torch.where(clean, 0.0, sigma_r)
            sigma, r, gap = (send(v, x0.device, x0.dtype) for v in (sigma, r, gap))
            a_r = (1 + sigma.square()).rsqrt()
            b_r = sigma * a_r
            x_r = a_r * x0 + b_r * eps
            told = (batch.y, a_r, b_r, batch.augmentation)
            output = call_network(network, self.prediction, x_r, r, *told).output
            x0_r = self.prediction.x0(output, x_r, a_r, b_r)
            target = torch.where(send(clean, x0.device), x0, x0_r)
        return LossInputs(batch, x0_hat, target, 1 / gap.flatten())

    def next_sigma(self, sigma: Tensor, run_fraction: float) -> Tensor:
        """Return sigma_r = sigma_t (1 - n / 2^stage), n = 1 + 8 sigmoid(-sigma_t), at least 0.

        The stages divide the run evenly (arXiv 2406.14548).
        """
        stages = STAGES if self.teacher is None else TEACHER_STAGES
        stage = stages[min(int(len(stages) * run_fraction), len(stages) - 1)]
        return sigma * (1 - (1 + 8 * torch.sigmoid(-sigma)) / 2**stage).clamp(min=0)

    def prepare(self, network: nn.Module) -> "Consistency":
        """Return this objective with a frozen copy of the network as its teacher."""
        return replace(self, teacher=deepcopy(network).eval().requires_grad_(False))

    def state(self) -> dict[str, Tensor]:
        """Return what an exact resumption needs, the teacher's weights among it."""
        teacher = {} if self.teacher is None else self.teacher.state_dict()
        return super().state() | {f"teacher.{name}": value for name, value in teacher.items()}

    def load(self, state: dict[str, Tensor], network: nn.Module) -> "Consistency":
        """Return this objective as `state()` left it, with its teacher if it had one.

        network: one of the teacher's shape. KeyError or RuntimeError when something does not fit.
        """
        super().load(state, network)
        weights = {
            name.removeprefix("teacher."): value
            for name, value in state.items()
            if name.startswith("teacher.")
        }
        if not weights:
            return self
        loaded = self.prepare(network)
        assert loaded.teacher is not None
        loaded.teacher.load_state_dict(weights)
        return loaded
