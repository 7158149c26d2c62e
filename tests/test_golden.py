"""diffusers' published scheduler values, from numbers alone (diffusers need not be installed).

Its test's sample, noise and model f(x, t) = x t / (t + 1), on our schedules in float64: relative
1e-5 against the float64 column where there is one, else 5e-5 against diffusers' float32 run. A
diffusers time t is ours minus 1. f is linear in x, so these see neither layout nor clipping;
test_parity.py does.
"""

import json
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from pocketddpm.build import build_schedule
from pocketddpm.config import ScheduleConfig
from pocketddpm.diffusion.denoiser import Denoise, Denoiser, DenoiserOutput
from pocketddpm.diffusion.grid import Grid, explicit_grid, make_grid
from pocketddpm.diffusion.prediction import get_prediction
from pocketddpm.diffusion.process import add_noise, posterior
from pocketddpm.diffusion.schedule import Schedule
from pocketddpm.samplers import ddim, ddpm, dpmpp, heun, unipc

GOLDEN = json.loads(Path(__file__).with_name("golden_samplers.json").read_text(encoding="utf-8"))

RAMP = torch.arange(768, dtype=torch.float64)
SAMPLE = (RAMP.reshape(3, 8, 8, 4) / 768).permute(3, 0, 1, 2)
NOISE = (RAMP.flip(0).reshape(3, 8, 8, 4) / 768).permute(3, 0, 1, 2)

LINEAR = build_schedule(ScheduleConfig("linear"))


class Model(nn.Module):
    """f(x, t) = x t / (t + 1), with diffusers' times by our grid's."""

    def __init__(self, times: dict[float, float] | None = None) -> None:
        super().__init__()
        self.times = times

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        theirs = float(t[0]) - 1 if self.times is None else self.times[float(t[0])]
        return x * (theirs / (theirs + 1))


def run(
    module: Any,
    config: Any,
    grid: Grid,
    *,
    x: Tensor = SAMPLE,
    prediction: str = "eps",
    model: nn.Module | None = None,
    clip: Callable[[Tensor], Tensor] | None = None,
    keep: Denoise | None = None,
) -> Tensor:
    """Return the last image; noise comes from torch's generator with seed 0, in order."""
    generator = torch.Generator().manual_seed(0)

    def noise(step: int) -> Tensor:
        return torch.randn(x.shape, generator=generator).double()

    denoiser = Denoiser(model or Model(), get_prediction(prediction), clip=clip)
    *_, state = module.sample(denoiser if keep is None else keep, x, grid, noise, config)
    return state.x


def unit(x0: Tensor) -> Tensor:
    return x0.clamp(-1, 1)


def linear(beta_start: float) -> Schedule:
    return build_schedule(ScheduleConfig("linear", options={"beta_start": beta_start}))


COSINE = build_schedule(ScheduleConfig("cosine"))
ZERO = build_schedule(ScheduleConfig("linear", zero_terminal=True))


# DDPM and DDIM -----------------------------------------------------------------------------------


def ddpm_run(schedule: Schedule = LINEAR, variance: Any = "beta-tilde", **options: Any) -> Tensor:
    return run(ddpm, ddpm.Config(variance), make_grid(schedule, 1000), clip=unit, **options)


def noisy(t: float) -> Tensor:
    """Return the sample with noise at our time t."""
    grid = explicit_grid(LINEAR, [t, 0])
    return add_noise(SAMPLE, NOISE, torch.tensor([grid.alpha_bar[0]], dtype=torch.float64))


def ddim_run(
    schedule: Schedule = LINEAR,
    spacing: str = "leading",
    eta: float = 0.0,
    clip: Any = unit,
    **options: Any,
) -> Tensor:
    return run(ddim, ddim.Config(eta), make_grid(schedule, 10, spacing), clip=clip, **options)


def keeping_eps(x_t: Tensor, t: float, alpha_bar: float) -> DenoiserOutput:
    """Clip x0 but keep the network's eps, as diffusers does unless told otherwise."""
    estimate = Denoiser(Model(), get_prediction("eps"))(x_t, t, alpha_bar)
    return estimate._replace(x0=unit(estimate.x0))


def not_to_one() -> Tensor:
    """The last step of set_alpha_to_one=False ends at alpha_bar of diffusers' t = 0."""
    grid = make_grid(linear(0.01), 10, "leading")
    last = float(linear(0.01).alpha_bar[1])
    # Its last step, from there to there, is one of no length: it is left out.
    return run(ddim, ddim.Config(), Grid(grid.t[:-1], (*grid.alpha_bar[:-2], last)), clip=unit)


# Grids of sigmas ---------------------------------------------------------------------------------

DPM_TIMES = [999, 899, 799, 699, 599, 500, 400, 300, 200, 100]  # 499.5 is rounded to even


def sigma_run(
    module: Any,
    config: Any,
    times: Sequence[float] = DPM_TIMES,
    *,
    schedule: Schedule = LINEAR,
    final: str = "sigma_min",
    **options: Any,
) -> Tensor:
    """Run over diffusers' times, to its t = 0 ('sigma_min') or to the clean image ('zero')."""
    ends = [1.0, 0.0] if final == "zero" else [1.0]
    grid = explicit_grid(schedule, [*(t + 1 for t in times), ends[-1]])
    return run(module, config, grid, **options)


def even_run(module: Any, config: Any, spacing: str, **options: Any) -> Tensor:
    """Run over 10 levels even in sigma^(1/7) or in log(sigma).

    diffusers rounds their times to integers, but not the levels, and takes a last step of no length
    from sigma_min to sigma_min, which for UniPC is when the step before it is corrected.
    """
    levels = make_grid(LINEAR, 10, spacing).alpha_bar[:-1]
    log_snr = torch.logit(torch.tensor(levels, dtype=torch.float64))
    theirs = (LINEAR.time_of(log_snr) - 1).round().tolist()
    t = [float(10 - i) for i in range(11)]
    grid = Grid(tuple(t), (*levels, levels[-1] * (1 + 1e-12)))
    return run(module, config, grid, model=Model(dict(zip(t, theirs, strict=False))), **options)


def dpm(order: int = 2, **options: Any) -> dpmpp.Config:
    """diffusers' settings in its tests: no lower order at the end, the published order 3."""
    return dpmpp.Config(order=order, third="published", lower_order_final=False, **options)


def edm_run(module: Any, config: Any) -> Tensor:
    """Euler's and Heun's test, stepping from the sample itself: 1100 steps, 10 of them.

    sigma is interpolated linearly between the table's entries.
    """
    schedule = build_schedule(ScheduleConfig("linear", T=1100, options={"rescale": False}))
    sigma = schedule.sigma[1:]
    theirs = torch.linspace(1099, 0, 10, dtype=torch.float64)
    low = theirs.floor().long().clamp(max=1098)
    levels = sigma[low] + (theirs - low) * (sigma[low + 1] - sigma[low])
    grid = Grid(
        (*(theirs + 1).tolist(), 0.0), (*(1 / (1 + levels.square())).tolist(), 1.0), schedule
    )
    start = SAMPLE * levels[0] / (1 + levels[0].square()).sqrt()  # x / a starts at sample * sigma
    return run(module, config, grid, x=start)


CASES: dict[str, Callable[[], Tensor]] = {
    "DDPM no_noise": ddpm_run,
    "DDPM v": lambda: ddpm_run(prediction="v"),
    "DDPM extra {'variance_type': 'fixed_large'}": lambda: ddpm_run(variance="beta"),
    "DDIM no_noise": ddim_run,
    "DDIM v": lambda: ddim_run(prediction="v"),
    "DDIM alpha1 True b.01": lambda: ddim_run(linear(0.01)),
    "DDIM alpha1 False b.01": not_to_one,
    "DDIM with_noise": lambda: run(
        ddim, ddim.Config(), explicit_grid(LINEAR, [101, 1, 0]), x=noisy(101), clip=unit
    ),
    "DDIM extra trailing": lambda: ddim_run(spacing="trailing"),
    "DDIM extra noclip": lambda: ddim_run(clip=None),
    "DDIM extra eta1": lambda: ddim_run(eta=1.0, keep=keeping_eps),
    "DDIM extra zsnr v trailing": lambda: ddim_run(ZERO, "trailing", prediction="v"),
    "DPM++ no_noise": lambda: sigma_run(dpmpp, dpm()),
    "DPM++ with_noise": lambda: sigma_run(dpmpp, dpm(), DPM_TIMES[5:], x=noisy(501)),
    "DPM++ thres": lambda: sigma_run(dpmpp, dpm(), clip=lambda x0: x0.clamp(-0.5, 0.5) / 0.5),
    "DPM++ v": lambda: sigma_run(dpmpp, dpm(), prediction="v"),
    "DPM++ v karras": lambda: even_run(dpmpp, dpm(), "karras", prediction="v"),
    "DPM++ v lu": lambda: even_run(dpmpp, dpm(), "log-snr", prediction="v"),
    "DPM++ extra {'solver_order': 1}": lambda: sigma_run(dpmpp, dpm(1)),
    "DPM++ extra {'solver_order': 3}": lambda: sigma_run(dpmpp, dpm(3)),
    "DPM++ extra {'solver_type': 'heun'}": lambda: sigma_run(dpmpp, dpm(solver="heun")),
    "DPM++ extra {'final_sigmas_type': 'zero'}": lambda: sigma_run(dpmpp, dpm(), final="zero"),
    "DPM++ extra {'lower_order_final': True, 'final_sigmas_type': 'zero'}": (
        lambda: sigma_run(dpmpp, dpmpp.Config(), final="zero")
    ),
    "DPM++ extra {'solver_order': 3, 'lower_order_final': True, 'final_sigmas_type': 'zero'}": (
        lambda: sigma_run(dpmpp, dpmpp.Config(order=3, third="published"), final="zero")
    ),
    "DPM++ extra {'prediction_type': 'sample'}": lambda: sigma_run(dpmpp, dpm(), prediction="x0"),
    "UniPC no_noise": lambda: sigma_run(unipc, unipc.Config()),
    "UniPC karras": lambda: even_run(unipc, unipc.Config(), "karras"),
    "UniPC v": lambda: sigma_run(unipc, unipc.Config(), prediction="v"),
    "UniPC v karras": lambda: even_run(unipc, unipc.Config(), "karras", prediction="v"),
    "UniPC with_noise": lambda: sigma_run(unipc, unipc.Config(), DPM_TIMES[8:], x=noisy(201)),
    "UniPC extra {'solver_order': 1}": lambda: sigma_run(unipc, unipc.Config(order=1)),
    "UniPC extra {'solver_order': 3}": lambda: sigma_run(unipc, unipc.Config(order=3)),
    "UniPC extra {'solver_type': 'bh1'}": lambda: sigma_run(unipc, unipc.Config(variant="bh1")),
    "UniPC extra {'final_sigmas_type': 'zero'}": (
        lambda: sigma_run(unipc, unipc.Config(), final="zero")
    ),
    "EulerDiscrete correct loop": lambda: edm_run(ddim, ddim.Config()),
    "HeunDiscrete correct loop": lambda: edm_run(heun, heun.Config()),
}


# Rows that diffusers' float32 decides ------------------------------------------------------------
#
# 1 - alpha_bar_t / alpha_bar_s loses 3 digits in float32 near t = 0, and alpha_bar_T as much on the
# cosine schedule, which moves these four sums by 5e-5 to 3e-4. So here the published algorithm is
# written out for any precision: in float32 it must give diffusers' number, in float64 ours.


def table(schedule: str) -> Tensor:
    """Return diffusers' alpha_bar, float32 [1000]."""
    if schedule == "cosine":
        curve = [math.cos((i / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(1001)]
        return (1 - torch.tensor([min(1 - b / a, 0.999) for a, b in pairwise(curve)])).cumprod(0)
    alpha_bar = (1 - torch.linspace(1e-4, 0.02, 1000)).cumprod(0)
    if schedule == "linear":
        return alpha_bar
    root = alpha_bar.sqrt()
    rescaled = ((root - root[-1]) * (root[0] / (root[0] - root[-1]))).square()
    return torch.cat([rescaled[:1], rescaled[1:] / rescaled[:-1]]).cumprod(0)


def plain_ddpm(dtype: torch.dtype, schedule: str, prediction: str, start: int) -> Tensor:
    """Algorithm 2 of arXiv 2006.11239 in one precision throughout, from diffusers' t = start."""
    alpha_bar = torch.cat([table(schedule), torch.ones(1)]).to(dtype)  # [-1] is the clean image
    generator = torch.Generator().manual_seed(0)
    x = SAMPLE.to(dtype)
    if start < 999:
        x = alpha_bar[start] ** 0.5 * x + (1 - alpha_bar[start]) ** 0.5 * NOISE.to(dtype)
    for t in range(start, -1, -1):
        now, before = alpha_bar[t], alpha_bar[t - 1]
        out, beta = x * (t / (t + 1)), 1 - now / before
        if prediction == "eps":
            x0 = (x - (1 - now) ** 0.5 * out) / now**0.5
        else:
            x0 = now**0.5 * x - (1 - now) ** 0.5 * out
        keep = (now / before) ** 0.5 * (1 - before) / (1 - now)
        x = before**0.5 * beta / (1 - now) * unit(x0) + keep * x
        if t > 0:
            z = torch.randn(x.shape, generator=generator).to(dtype)
            x = x + ((1 - before) / (1 - now) * beta) ** 0.5 * z
    return x


def plain_dpm(dtype: torch.dtype) -> Tensor:
    """DPM-Solver++(2M) in one precision throughout, on the cosine schedule's DPM_TIMES."""
    alpha_bar = table("cosine")[[*DPM_TIMES, 0]]
    sigma = ((1 - alpha_bar) / alpha_bar).sqrt().to(dtype)
    a = 1 / (1 + sigma.square()).sqrt()
    b = a * sigma
    lam = a.log() - b.log()
    x, earlier = SAMPLE.to(dtype), None
    for i, t in enumerate(DPM_TIMES):
        x0 = (x - b[i] * x * (t / (t + 1))) / a[i]
        h = lam[i + 1] - lam[i]
        slope = 0.0 if earlier is None else h / (lam[i] - lam[i - 1]) * (x0 - earlier)
        x = b[i + 1] / b[i] * x + a[i + 1] * (1 - (-h).exp()) * (x0 + slope / 2)
        earlier = x0
    return x


BRIDGED: dict[str, tuple[Callable[[torch.dtype], Tensor], Callable[[], Tensor]]] = {
    "DDPM with_noise": (
        lambda dtype: plain_ddpm(dtype, "linear", "eps", 1),
        lambda: run(ddpm, ddpm.Config(), explicit_grid(LINEAR, [2, 1, 0]), x=noisy(2), clip=unit),
    ),
    "DDPM extra {'beta_schedule': 'squaredcos_cap_v2'}": (
        lambda dtype: plain_ddpm(dtype, "cosine", "eps", 999),
        lambda: ddpm_run(COSINE),
    ),
    "DDPM extra {'rescale_betas_zero_snr': True, 'prediction_type': 'v_prediction'}": (
        lambda dtype: plain_ddpm(dtype, "zero", "v", 999),
        lambda: ddpm_run(ZERO, prediction="v"),
    ),
    "DPM++ extra {'beta_schedule': 'squaredcos_cap_v2'}": (
        plain_dpm,
        lambda: sigma_run(dpmpp, dpm(), schedule=COSINE),
    ),
}


@pytest.fixture(autouse=True)
def one_thread():
    """Tensors of this size only lose by threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def size(x: Tensor) -> float:
    return float(x.double().abs().sum())


def check_elements(x: Tensor, row: dict[str, Any]) -> None:
    """Compare the elements that are known, to 5e-5 of the largest."""
    largest = float(x.abs().max())
    known = [*row.get("run_first3", []), *([row["run_last"]] if "run_last" in row else [])]
    mine = [*x.flatten()[:3].tolist(), float(x.flatten()[-1])][-len(known) :] if known else []
    assert_close(mine, known, rtol=0, atol=5e-5 * largest)


@pytest.mark.parametrize("name", list(CASES))
def test_golden(name):
    row, x = GOLDEN["rows"][name], CASES[name]()
    if "float64_sum" in row:
        assert size(x) == pytest.approx(row["float64_sum"], rel=1e-5)
    else:
        assert size(x) == pytest.approx(row["run_sum"], rel=5e-5)
    check_elements(x, row)


@pytest.mark.parametrize("name", list(BRIDGED))
def test_golden_that_float32_decides(name):
    row, (plain, ours) = GOLDEN["rows"][name], BRIDGED[name]
    assert size(plain(torch.float32)) == pytest.approx(row["run_sum"], rel=5e-5)
    assert size(ours()) == pytest.approx(size(plain(torch.float64)), rel=1e-5)
    check_elements(plain(torch.float32), row)


def test_no_row_is_forgotten():
    assert {*CASES, *BRIDGED} == set(GOLDEN["rows"])
    assert not {*CASES, *BRIDGED} & set(GOLDEN["skipped"])


@pytest.mark.parametrize(
    ("t", "s", "variance"),
    [
        (0, -1, 0.0),
        (487, 486, 0.00979),
        (999, 998, 0.02),
        (420, 400, 0.14771),
        (980, 960, 0.32460),
    ],
)
def test_variance(t, s, variance):
    """The tests of the variance, at diffusers' times."""
    alpha_bar = LINEAR.alpha_bar
    assert float(posterior(alpha_bar[t + 1], alpha_bar[s + 1]).variance) == pytest.approx(
        variance, abs=1e-5
    )
