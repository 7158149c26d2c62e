"""Linear measurements of images, y = A x, with exact adjoints: the tasks of `edit restore`.

Images x are [B,C,H,W], measurements y [B,...], of any float dtype and in model units. An operator
is a function of x with `adjoint`, <A x, y> = <x, A^T y>, and `solve`, (A A^T + c)^-1 y. In the
tasks here A A^T is a multiple of the identity, or diagonal after Fourier's transform (blur), so
that `solve` is a division; of anybody else's operator it is by conjugate gradients.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pocketddpm.errors import ConfigError, unknown
from pocketddpm.noise import Role, normal, send, uniform
from pocketddpm.values import real, whole

Shape = tuple[int, int, int]  # channels, height, width
SOLVED = 50  # iterations for the `solve` of an operator without a closed form


@dataclass(frozen=True, eq=False)
class Linear:
    """An operator of functions: x -> A x, y -> A^T y, and (y, c) -> (A A^T + c)^-1 y.

    inverse: a number g stands for A A^T = g; None for conjugate gradients.
    """

    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor], Tensor]
    inverse: float | Callable[[Tensor, float], Tensor] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Return A x."""
        return self.forward(x)

    def adjoint(self, y: Tensor) -> Tensor:
        """Return A^T y."""
        return self.backward(y)

    def solve(self, y: Tensor, c: float) -> Tensor:
        """Return (A A^T + c)^-1 y."""
        if self.inverse is None:
            return conjugate_gradients(lambda u: self(self.adjoint(u)) + c * u, y, SOLVED)
        return self.inverse(y, c) if callable(self.inverse) else y / (self.inverse + c)


def conjugate_gradients(apply: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """Return x with apply(x) = b, about: conjugate gradients from 0, for each of b, [B,...].

    apply: linear, symmetric and positive in each of them. Where it turns out not to be positive,
    that one stops where it is.
    """

    def dot(one: Tensor, other: Tensor) -> Tensor:
        return (one * other).flatten(1).sum(1).view(-1, *[1] * (b.ndim - 1))

    x, rest, direction = torch.zeros_like(b), b, b
    size = dot(rest, rest)
    going = size > 0
    for _ in range(iterations):
        image = apply(direction)
        curvature = dot(direction, image)
        going = going & (curvature > 0)
        step = torch.where(going, size / curvature, 0.0)
        x = x + step * direction
        rest = rest - step * image
        before, size = size, dot(rest, rest)
        going = going & (size > 0)
        direction = rest + torch.where(going, size / before, 0.0) * direction
    return x


# Tasks --------------------------------------------------------------------------------------------


def _noise(shape: Shape, factor: float | None, missing: Tensor | None, seed: int) -> Linear:
    """Noise is taken away."""
    return Linear(lambda x: x, lambda y: y, 1.0)


def _super_resolution(
    shape: Shape, factor: float | None, missing: Tensor | None, seed: int
) -> Linear:
    """Pixels become more: given are means of squares, --factor (4, else 3 or 2) pixels a side."""
    _, height, width = shape
    fit = [k for k in range(2, min(height, width) + 1) if not (height % k or width % k)]
    usual = max((k for k in fit if k <= 4), default=4)
    side = whole(usual if factor is None else factor, "--factor", ">= 2")
    if side not in fit:
        listed = " or ".join(map(str, fit))
        way = f"use --factor {listed}" if fit else "no factor does; choose another --task"
        raise ConfigError(f"--factor {side} does not divide {height}x{width} pixels; {way}")

    def enlarged(y: Tensor) -> Tensor:
        return y.repeat_interleave(side, 2).repeat_interleave(side, 3) / side**2

    return Linear(lambda x: F.avg_pool2d(x, side), enlarged, 1 / side**2)


def _blur(shape: Shape, factor: float | None, missing: Tensor | None, seed: int) -> Linear:
    """A blur is undone: a Gaussian with a deviation of --factor (2) pixels, periodic."""
    deviation = real(2.0 if factor is None else factor, "--factor", "> 0")
    gains = []
    for side in shape[1:]:
        place = torch.arange(side, dtype=torch.float64)
        kernel = (-torch.minimum(place, side - place).square() / (2 * deviation**2)).exp()
        gains.append(torch.fft.fft(kernel / kernel.sum()).real)
    # The transform of a symmetric kernel is real, and so A is symmetric.
    gain = gains[0][:, None] * gains[1][: shape[2] // 2 + 1]

    def filtered(x: Tensor, gain: Tensor = gain) -> Tensor:
        transformed = torch.fft.rfft2(x) * send(gain, x.device, x.dtype)
        return torch.fft.irfft2(transformed, s=x.shape[-2:])

    def inverse(y: Tensor, c: float) -> Tensor:
        if c == 0:
            raise ConfigError(
                "what a blur has wiped out cannot be divided back from a measurement without "
                "noise; give --noise above 0"
            )
        return filtered(y, 1 / (gain**2 + c))

    return Linear(filtered, filtered, inverse)


def _grey(shape: Shape, factor: float | None, missing: Tensor | None, seed: int) -> Linear:
    """Colour is given to a grey picture, the mean of the channels."""
    channels = shape[0]
    if channels == 1:
        raise ConfigError("the model's images are grey already; choose another --task")

    def coloured(y: Tensor) -> Tensor:
        return y.expand(-1, channels, -1, -1) / channels

    return Linear(lambda x: x.mean(1, keepdim=True), coloured, 1 / channels)


def _mask(shape: Shape, factor: float | None, missing: Tensor | None, seed: int) -> Linear:
    """Missing pixels are found: those of --mask or --box, else all but one in --factor (4)."""
    size = shape[1:]
    if missing is None:
        places = _some(size[0] * size[1], factor, seed, 1)
    else:
        if factor is not None:
            raise ConfigError(
                f"--mask and --box say which pixels are missing; leave --factor {factor!r} out"
            )
        if missing.dtype != torch.bool or missing.shape != size:
            raise ConfigError(
                f"a mask for restore is bool [{size[0]}, {size[1]}], the same for all images, "
                f"got {missing.dtype} {list(missing.shape)}"
            )
        places = (~missing).flatten().nonzero()[:, 0]
    if not len(places):
        raise ConfigError("no pixel is given: leave a part of the image outside of --mask or --box")

    def placed(y: Tensor) -> Tensor:
        empty = y.new_zeros(*y.shape[:2], size[0] * size[1])
        return empty.index_copy(2, places.to(y.device), y).unflatten(2, size)

    return Linear(lambda x: x.flatten(2)[:, :, places.to(x.device)], placed, 1.0)


def _compressed_sensing(
    shape: Shape, factor: float | None, missing: Tensor | None, seed: int
) -> Linear:
    """An image is found from one in --factor (4) numbers of a random orthogonal transform."""
    count = shape[0] * shape[1] * shape[2]
    signs = uniform(seed, Role.MEASURE, torch.arange(count), 2).sub(0.5).sign().float().view(shape)
    rows = _some(count, factor, seed, 3)

    # Hartley's transform, Re F - Im F of Fourier's F, is orthogonal and its own inverse.
    def hartley(x: Tensor) -> Tensor:
        transformed = torch.fft.fftn(x, dim=(1, 2, 3), norm="ortho")
        return transformed.real - transformed.imag

    def transposed(y: Tensor) -> Tensor:
        numbers = y.new_zeros(len(y), count).index_copy(1, rows.to(y.device), y)
        return signs.to(y) * hartley(numbers.unflatten(1, shape))

    return Linear(
        lambda x: hartley(signs.to(x) * x).flatten(1)[:, rows.to(x.device)], transposed, 1.0
    )


def _some(count: int, factor: float | None, seed: int, step: int) -> Tensor:
    """Return one in `factor` of 0..count-1 at random, in order, at least one; int64 [K]."""
    factor = real(4.0 if factor is None else factor, "--factor", ">= 1")
    order = uniform(seed, Role.MEASURE, torch.arange(count), step).argsort()
    return order[: max(1, round(count / factor))].sort().values


TASKS: dict[str, Callable[[Shape, float | None, Tensor | None, int], Linear]] = {
    "noise": _noise,
    "super-resolution": _super_resolution,
    "blur": _blur,
    "grey": _grey,
    "mask": _mask,
    "compressed-sensing": _compressed_sensing,
}
"""What may have happened to an image: from (shape, factor, missing, seed) to the operator."""


def build_operator(
    task: Any,
    shape: Shape,
    *,
    factor: float | None = None,
    missing: Tensor | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Linear:
    """Return the operator of a task for images of a shape.

    task: a name of TASKS; or an operator of one's own, with `A(x)` and `A_adjoint(y)` as those of
    deepinv.physics have, or a `Linear`. factor: how much is lost, see TASKS. missing:
    bool [H,W], the pixels that are not given, for the task mask. seed: of what is random in it.
    Raises ConfigError for an unknown task, for a factor or pixels that it does not take or that do
    not fit the shape, and for an operator without an adjoint, or with a wrong one.
    """
    if isinstance(task, str) and task not in TASKS:
        raise unknown("task", task, TASKS)
    name = task if isinstance(task, str) else "an operator of your own"
    if factor is not None and (name in ("noise", "grey") or not isinstance(task, str)):
        raise ConfigError(f"--factor is for no task {name}, got {factor!r}; leave it out")
    if missing is not None and name != "mask":
        raise ConfigError(f"--mask and --box are for --task mask, got {name}; leave them out")
    if isinstance(task, str):
        return TASKS[task](shape, factor, missing, seed)
    if hasattr(task, "A") and hasattr(task, "A_adjoint"):
        task = Linear(task.A, task.A_adjoint)
    if not isinstance(task, Linear):
        raise ConfigError(
            f"an operator needs A(x) and A_adjoint(y), as those of deepinv.physics have, got "
            f"{task!r:.100}; or name a task: {', '.join(TASKS)}"
        )
    _check_adjoint(task, shape, device)
    return task


def _check_adjoint(operator: Linear, shape: Shape, device: torch.device | str) -> None:
    """Raise ConfigError unless <A x, A x> = <x, A^T A x> for one random x, of the right shape."""
    x = normal(0, Role.MEASURE, torch.zeros(1, dtype=torch.int64, device=device), shape)
    y = operator(x)
    back = operator.adjoint(y)
    if back.shape != x.shape:
        raise ConfigError(
            f"the operator's A_adjoint returns {list(back.shape)} for images {list(x.shape)}"
        )
    one, other = float(y.square().sum()), float((x * back).sum())
    if abs(one - other) > 1e-3 * max(abs(one), abs(other)):
        raise ConfigError(
            f"the operator's A_adjoint is not the adjoint of its A: <A x, A x> is {one:.6g}, and "
            f"<x, A_adjoint(A x)> {other:.6g}"
        )
