"""A denoiser that knows a measurement y = A x0 + sigma n: estimates of x0 given x_t and y.

Tweedie's formula holds for the posterior as well: with a = sqrt(alpha_bar), b = sqrt(1 - alpha_bar)

    E[x0 | x_t, y] = x0_hat + (b^2 / a) grad log p(y | x_t)

and p(y | x_t) is what each method approximates, without training. What it returns is a `Denoise`
again: any sampler draws from the posterior with it. Images are [B,C,H,W], measurements [B,...].
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from pocketddpm.config import Options
from pocketddpm.diffusion.denoiser import Denoise, DenoiserOutput
from pocketddpm.diffusion.grid import Grid
from pocketddpm.diffusion.operators import Linear, conjugate_gradients
from pocketddpm.diffusion.process import posterior
from pocketddpm.errors import ConfigError, unknown
from pocketddpm.values import from_dict, option


@dataclass(frozen=True, eq=False)
class Measurement:
    """y = A x0 + sigma n with n ~ N(0, I), all in model units. y: [B,...]. sigma >= 0."""

    y: Tensor
    operator: Linear
    sigma: float


Clip = Callable[[Tensor], Tensor]


class Method(Protocol):
    """A way to condition on a measurement; its fields are its options.

    sampler: the one that draws unless another is named.
    """

    sampler: ClassVar[str]

    @property
    def gradients(self) -> int:
        """Backward passes through the network, for each call of the denoiser."""
        ...

    def condition(self, denoise: Denoise, known: Measurement, grid: Grid, clip: Clip) -> Denoise:
        """Return the denoiser that knows the measurement.

        denoise: without clipping. grid: the steps that will be walked. clip: brings an estimate
        into the images' range. Raises ConfigError for a sigma that the method cannot work with.
        """
        ...


@dataclass(frozen=True)
class DPS:
    """Diffusion posterior sampling (Chung et al. 2022, arXiv 2209.14687, algorithm 1).

    Each step ends with x_s - step * grad |y - A x0_hat|, the gradient by x_t. The step is one of
    the sampler `ddpm`; another sampler moves about as far. The published 1 is for 1000 steps: fewer
    want more. It is biased: docs/restore.md.
    """

    sampler: ClassVar[str] = "ddpm"
    step: float = option(3.0, "> 0")

    @property
    def gradients(self) -> int:
        """One: of the distance."""
        return 1

    def condition(self, denoise: Denoise, known: Measurement, grid: Grid, clip: Clip) -> Denoise:
        """Shift x0_hat by so much that `ddpm`'s x_s is shifted as in algorithm 1."""

        def conditional(x_t: Tensor, t: float, alpha_bar: float) -> DenoiserOutput:
            with torch.enable_grad():
                x = x_t.detach().requires_grad_()
                estimate = denoise(x, t, alpha_bar)
                x0 = clip(estimate.x0)
                distance = (known.y - known.operator(x0)).flatten(1).norm(dim=1)
                (slope,) = torch.autograd.grad(distance.sum(), x, materialize_grads=True)
            next_alpha_bar = next((s for s in grid.alpha_bar if s > alpha_bar), 1.0)
            weight = posterior(alpha_bar, next_alpha_bar).x0_weight
            return _consistent(estimate, x0 - self.step / weight * slope, x_t, alpha_bar)

        return conditional


@dataclass(frozen=True)
class MMPS:
    """Moment matching posterior sampling (Rozet et al. 2024, arXiv 2405.13712, section 4.2).

    p(x0 | x_t) is taken for a Gaussian with the mean x0_hat and Tweedie's covariance
    V = (b^2 / a) d x0_hat / d x_t, so that x0_hat moves by

        V A^T (A V A^T + sigma^2)^-1 (y - A x0_hat)

    iterations: of the conjugate gradients that solve this, each with a backward pass. For Gaussian
    data it is exact. At alpha_bar = 0, where x_t knows nothing of x0, nothing is moved.
    """

    sampler: ClassVar[str] = "ddpm"
    iterations: int = option(3, ">= 1")

    @property
    def gradients(self) -> int:
        """One for each iteration, and one for the move."""
        return self.iterations + 1

    def condition(self, denoise: Denoise, known: Measurement, grid: Grid, clip: Clip) -> Denoise:
        """Return the denoiser; ConfigError for sigma = 0, where the system has no solution."""
        if known.sigma == 0:
            raise ConfigError(
                "method mmps divides by the measurement's noise, which is 0; give --noise above 0, "
                "or use --method diffpir"
            )

        def conditional(x_t: Tensor, t: float, alpha_bar: float) -> DenoiserOutput:
            if alpha_bar == 0:
                estimate = denoise(x_t, t, alpha_bar)
                return _consistent(estimate, clip(estimate.x0), x_t, alpha_bar)
            with torch.enable_grad():
                x = x_t.detach().requires_grad_()
                estimate = denoise(x, t, alpha_bar)
            A, scale = known.operator, (1 - alpha_bar) / alpha_bar**0.5

            def spread(u: Tensor) -> Tensor:  # V A^T u; V is symmetric
                (product,) = torch.autograd.grad(
                    estimate.x0, x, A.adjoint(u), retain_graph=True, materialize_grads=True
                )
                return scale * product

            x0 = estimate.x0.detach()
            solved = conjugate_gradients(
                lambda u: A(spread(u)) + known.sigma**2 * u, known.y - A(x0), self.iterations
            )
            return _consistent(estimate, clip(x0 + spread(solved)), x_t, alpha_bar)

        return conditional


@dataclass(frozen=True)
class DiffPIR:
    """Plug-and-play restoration (Zhu et al. 2023, arXiv 2305.08995, algorithm 1); no gradients.

    x0_hat becomes the x that has the least |y - A x|^2 / sigma^2 + weight |x - x0_hat|^2 a^2 / b^2.
    The published step renoises x0_hat, by a share zeta with fresh noise: the sampler `consistency`
    is zeta = 1, `ddpm` less, `ddim` 0. On images 1 was far the best (docs/restore.md).
    """

    sampler: ClassVar[str] = "consistency"
    weight: float = option(1.0, "> 0")

    @property
    def gradients(self) -> int:
        """None."""
        return 0

    def condition(self, denoise: Denoise, known: Measurement, grid: Grid, clip: Clip) -> Denoise:
        """Return the denoiser; ConfigError for sigma = 0 and a blur."""
        if known.sigma == 0:
            known.operator.solve(known.y, 0.0)  # which refuses what it cannot divide

        def conditional(x_t: Tensor, t: float, alpha_bar: float) -> DenoiserOutput:
            estimate = denoise(x_t, t, alpha_bar)
            A, x0 = known.operator, clip(estimate.x0)
            rho = self.weight * known.sigma**2 * alpha_bar / (1 - alpha_bar)
            if rho == 0 < known.sigma:  # at alpha_bar = 0
                return _consistent(estimate, x0, x_t, alpha_bar)
            moved = x0 + A.adjoint(A.solve(known.y - A(x0), rho))
            return _consistent(estimate, moved, x_t, alpha_bar)

        return conditional


def _consistent(
    estimate: DenoiserOutput, x0: Tensor, x_t: Tensor, alpha_bar: float
) -> DenoiserOutput:
    """Return the estimate with another x0, and the eps that goes with it."""
    x0, fraction = x0.detach(), estimate.variance_fraction
    eps = (x_t - alpha_bar**0.5 * x0) / (1 - alpha_bar) ** 0.5
    return DenoiserOutput(x0, eps, None if fraction is None else fraction.detach())


METHODS: dict[str, Callable[..., Method]] = {
    # MMPS: exact for Gaussian data, a few backward passes a step (arXiv 2405.13712).
    "mmps": MMPS,
    # DPS: one backward pass a step, biased (arXiv 2209.14687).
    "dps": DPS,
    # DiffPIR: no backward pass, the quickest (arXiv 2305.08995).
    "diffpir": DiffPIR,
}
"""The methods; each class has the options of its method as its fields."""


def build_method(name: str, options: Options | None = None) -> Method:
    """Return the method of this name; ConfigError for an unknown name or option."""
    if not isinstance(name, str) or name not in METHODS:
        raise unknown("method", str(name), METHODS)
    return from_dict(METHODS[name], options or {}, f"method {name}: ")  # type: ignore[arg-type]
