"""`sample`: any function, whoever wrote it, sampled by any sampler of the catalogue."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from pocketddpm.catalog import SCHEDULES
from pocketddpm.config import Options
from pocketddpm.diffusion.build import build_sampler
from pocketddpm.diffusion.denoiser import Denoise, DenoiserOutput, check_invertible, denoiser_output
from pocketddpm.diffusion.grid import make_grid
from pocketddpm.diffusion.prediction import NetworkOutput, get_prediction
from pocketddpm.diffusion.sampling import sample_states
from pocketddpm.diffusion.schedule import Schedule
from pocketddpm.errors import ConfigError, unknown
from pocketddpm.values import IMAGES, SEEDS, real, several, whole

Takes = Literal["x, sigma", "x_t, t", "x_t, t, alpha_bar"]
Predicts = Literal["x0", "eps", "v"]
TAKES = ("x, sigma", "x_t, t", "x_t, t, alpha_bar")
PREDICTS = ("x0", "eps", "v")
SIGMA_LEVELS = 1000  # of the schedule in the place of a range of sigma: it bounds the steps


def sample(
    f: Callable[..., Tensor],
    *,
    shape: tuple[int, ...],
    predicts: Predicts,
    takes: Takes = "x, sigma",
    schedule: Schedule | None = None,
    sigma_range: tuple[float, float] = (0.002, 80.0),
    sampler: str = "dpmpp",
    options: Options | None = None,
    steps: int = 20,
    spacing: str | None = None,
    clip: tuple[float, float] | None = None,
    seed: int = 0,
    first: int = 0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return samples of the model that `f` is, float32 of the given shape, on the device.

    f is called without gradient, with float32 tensors of `shape` and, for times and levels, [n], in
    which all n values are the same. Labels and whatever else it needs are its own affair.

    shape: (n, ...), such as (n, C, H, W): n samples.
    takes: what f is called with:
      'x, sigma'            x = x0 + sigma eps, and sigma in sigma_range (arXiv 2206.00364; EDM and
                            k-diffusion);
      'x_t, t'              x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps, and t in 1..T of
                            `schedule`, not always whole (`make_grid`), where t = T is the noisiest;
      'x_t, t, alpha_bar'   the same, and alpha_bar in 0..1.
    predicts: what f returns, of x's shape: x0; the eps of the equations above; or
      v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0, with alpha_bar = 1 / (1 + sigma^2).
    schedule: for the last two of `takes`, and for them only. sigma_range: smallest and largest
      sigma for the first. The start is x_t ~ N(0, I), which is x with deviation sqrt(1 + sigma^2).
    sampler, options: a name of `pocketddpm list samplers`, and its options as in its file.
    steps: 1..T, or 1..1000 levels of sigma. spacing: as in `make_grid`; by default karras (rho = 7)
      for sigma and trailing for t.
    clip: (low, high), to which every estimate of x0 is clipped; None leaves it as it is.
    seed, first: sample k depends on (seed, first + k) alone, whatever n.

    Raises ConfigError for values that are not allowed or do not go together, and for an f that
    returns another shape.

    Images that are all black, -1: whatever the noise, that is the estimate.

    >>> import torch
    >>> import pocketddpm as pd
    >>> black = lambda x, sigma: -torch.ones_like(x)
    >>> pd.diffusion.sample(black, shape=(2, 1, 8, 8), predicts="x0", steps=5).unique()
    tensor([-1.])
    """
    choice = build_sampler(sampler, options)
    if takes not in TAKES:
        raise unknown("takes", str(takes), TAKES)
    if predicts not in PREDICTS:
        raise unknown("predicts", str(predicts), PREDICTS)
    if (schedule is None) != (takes == "x, sigma"):
        given = "no schedule" if schedule is None else "a schedule"
        raise ConfigError(
            f"takes '{takes}' with {given}: 'x, sigma' needs a sigma_range and no schedule, "
            "'x_t, t' and 'x_t, t, alpha_bar' need a schedule"
        )
    if not isinstance(shape, tuple | list) or not shape:
        raise ConfigError(f"shape must be (n, ...), got {shape!r}")
    shape = several(shape, len(shape), "shape", whole)
    if min(shape) < 1:
        raise ConfigError(f"shape must be (n, ...), whole numbers >= 1, got {shape}")
    if clip is not None:
        low, high = clip = several(clip, 2, "clip", real)
        if not low < high:
            raise ConfigError(f"clip must be (low, high) with low < high, got {clip}")
    if schedule is None:
        sigma_range = several(sigma_range, 2, "sigma_range", real, "> 0")
        log_linear = SCHEDULES.load("log-linear")
        schedule = Schedule(log_linear.build(log_linear.Config(*sigma_range), SIGMA_LEVELS))
        spacing = spacing or "karras"
    grid = make_grid(schedule, steps, spacing or "trailing")
    seed, first = whole(seed, "seed", SEEDS), whole(first, "first", IMAGES)
    index = torch.arange(first, first + shape[0], device=device)
    *_, last = sample_states(
        _denoiser_of(f, takes, predicts, clip),
        choice.sample,
        grid,
        choice.config,
        index=index,
        shape=tuple(shape[1:]),
        seed=seed,
    )
    return last.x


def _denoiser_of(
    f: Callable[..., Tensor], takes: str, predicts: str, clip: tuple[float, float] | None
) -> Denoise:
    prediction = get_prediction(predicts)

    def clipped(x0: Tensor) -> Tensor:
        return x0 if clip is None else x0.clamp(*clip)

    def denoise(x_t: Tensor, t: float, alpha_bar: float) -> DenoiserOutput:
        check_invertible(prediction, alpha_bar)
        a, b = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
        levels = [b / a] if takes == "x, sigma" else [t, alpha_bar][: takes.count(",")]
        x = x_t / a if takes == "x, sigma" else x_t
        output = f(x, *(x.new_full((len(x),), level) for level in levels))
        if output.shape != x.shape:
            raise ConfigError(
                f"f must return {predicts} of shape {list(x.shape)}, got {list(output.shape)}"
            )
        return denoiser_output(
            prediction, NetworkOutput(output.to(x.dtype), None), x_t, a, b, clipped
        )

    return denoise
