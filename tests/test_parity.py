"""Every sampler that diffusers has too, against its scheduler, on its own grid and in float32.

Relative 5e-5 of the largest value. The network is smooth and nonlinear in x and t, so a wrong time,
sign or order shows. A diffusers time t is ours minus 1. Not compared: diffusers' own test loops for
Euler, Heun and Euler ancestral, which step from an already scaled sample; here it is the sample.
"""

import math
from functools import cache
from itertools import count

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from pocketddpm.build import build_schedule
from pocketddpm.config import ScheduleConfig
from pocketddpm.diffusion.denoiser import Denoiser
from pocketddpm.diffusion.grid import Grid, make_grid
from pocketddpm.diffusion.prediction import get_prediction
from pocketddpm.diffusion.sampling import step_noise
from pocketddpm.samplers import (
    ddim,
    ddim_inversion,
    ddpm,
    deis,
    dpmpp,
    dpmpp_singlestep,
    heun,
    ipndm,
    sde_dpmpp,
    unipc,
)

diffusers = pytest.importorskip("diffusers")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

SHAPE = (3, 4, 5)
START = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
NOISE = cache(step_noise(0, torch.arange(2), SHAPE))
OURS = {"epsilon": "eps", "v_prediction": "v"}


@pytest.fixture(autouse=True)
def one_thread():
    """Tensors of this size only lose by threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def toy(x: Tensor, t: float) -> Tensor:
    """Stand in for a network, at diffusers' times 0..999; flat where x is large."""
    return torch.tanh(1.5 * x + 0.2) * math.cos(0.003 * t) + math.sin(0.01 * t) / (1 + x.square())


class Network(nn.Module):
    """The toy as ours: told the grid's time, it looks up (or takes off 1 for) diffusers' one."""

    def __init__(self, times: dict[float, float] | None = None) -> None:
        super().__init__()
        self.times = times

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        ours = float(t[0])
        return toy(x, ours - 1 if self.times is None else self.times[ours])


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    """Compare to 5e-5 of the largest value."""
    assert ours.dtype == torch.float32
    assert_close(ours, theirs, rtol=0, atol=5e-5 * float(theirs.abs().max()))


def base(cls: str, **settings):
    """Return diffusers' scheduler over 1000 linear betas."""
    return getattr(diffusers, cls)(
        num_train_timesteps=1000, beta_schedule="linear", beta_start=1e-4, beta_end=0.02, **settings
    )


def ours_run(module, config, grid: Grid, x: Tensor, prediction: str, network=None, clip=None):
    """Return our last image."""
    denoiser = Denoiser(network or Network(), get_prediction(OURS[prediction]), clip=clip)
    *_, state = module.sample(denoiser, x, grid, NOISE, config)
    return state.x


# DDPM and DDIM: grids of table entries -----------------------------------------------------------


def table_grid(scheduler, times: list[int]) -> Grid:
    """Return our grid through diffusers' times; a negative one is the clean image."""
    bars = scheduler.alphas_cumprod.double()
    alpha_bar = [float(bars[t]) if t >= 0 else 1.0 for t in times]
    return Grid(tuple(float(max(t, -1) + 1) for t in times), tuple(alpha_bar))


def unit(x: Tensor) -> Tensor:
    return x.clamp(-1, 1)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("prediction", list(OURS))
@pytest.mark.parametrize("steps", [1000, 50, 10, 4, 1])
@pytest.mark.parametrize("variance", ["beta", "beta-tilde"])
def test_ddpm(monkeypatch, steps, prediction, clip, variance):
    kind = {"beta": "fixed_large", "beta-tilde": "fixed_small"}[variance]
    scheduler = base(
        "DDPMScheduler", clip_sample=clip, variance_type=kind, prediction_type=prediction
    )
    scheduler.set_timesteps(steps)
    steps_of_noise = count()
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddpm.randn_tensor",
        lambda *_, **__: NOISE(next(steps_of_noise)),
    )
    x = START
    for t in scheduler.timesteps:
        x = scheduler.step(toy(x, float(t)), t, x).prev_sample
    grid = table_grid(scheduler, [*scheduler.timesteps.tolist(), -1])
    config = ddpm.Config(variance)
    assert_same(ours_run(ddpm, config, grid, START, prediction, clip=unit if clip else None), x)


def ddim_step(scheduler, x: Tensor, t: int, eta: float, noise: Tensor) -> Tensor:
    return scheduler.step(
        toy(x, t), t, x, eta=eta, use_clipped_model_output=True, variance_noise=noise
    ).prev_sample


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("prediction", list(OURS))
@pytest.mark.parametrize("eta", [0.0, 0.5])
@pytest.mark.parametrize(
    ("spacing", "steps"),
    [("leading", n) for n in (1000, 50, 10, 4, 1)] + [("trailing", n) for n in (50, 10, 4, 1)],
)
def test_ddim(spacing, eta, steps, prediction, clip):
    """Whole runs, where diffusers' t - T//N is the grid's next time."""
    scheduler = base(
        "DDIMScheduler", clip_sample=clip, prediction_type=prediction, timestep_spacing=spacing
    )
    scheduler.set_timesteps(steps)
    times = scheduler.timesteps.tolist()
    x = START
    for i, t in enumerate(times):
        x = ddim_step(scheduler, x, t, eta, NOISE(i))
    grid = table_grid(scheduler, [*times, -1])
    ours = make_grid(build_schedule(ScheduleConfig("linear")), steps, spacing)
    assert grid.t == ours.t
    config = ddim.Config(eta)
    assert_same(ours_run(ddim, config, grid, START, prediction, clip=unit if clip else None), x)


@pytest.mark.parametrize("prediction", list(OURS))
@pytest.mark.parametrize(("spacing", "steps"), [("linspace", 10), ("linspace", 7), ("trailing", 7)])
def test_ddim_single_steps(spacing, steps, prediction):
    """Where t - T//N is not the next time, each of its steps by itself."""
    scheduler = base(
        "DDIMScheduler", clip_sample=True, prediction_type=prediction, timestep_spacing=spacing
    )
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps.tolist():
        grid = table_grid(scheduler, [t, t - 1000 // steps])
        theirs = ddim_step(scheduler, START, t, 0.0, NOISE(0))
        assert_same(ours_run(ddim, ddim.Config(), grid, START, prediction, clip=unit), theirs)


@pytest.mark.parametrize("steps", [1000, 50, 10, 4, 1])
def test_ddim_inversion(steps):
    """diffusers asks at the next time up in every step, ours only at the clean image."""
    scheduler = base("DDIMInverseScheduler", clip_sample=False)
    scheduler.set_timesteps(steps)
    times = scheduler.timesteps.tolist()
    x = START
    for t in times:
        x = scheduler.step(toy(x, t), t, x).prev_sample
    asked = iter(times)

    class OneLater(Network):
        def forward(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
            return toy(x, next(asked))

    grid = table_grid(scheduler, [*times[::-1], -1])
    config = ddim_inversion.Config()
    assert_same(ours_run(ddim_inversion, config, grid, START, "epsilon", network=OneLater()), x)


# The others: grids of sigmas ---------------------------------------------------------------------


def sigma_grid(scheduler) -> tuple[Grid, Network]:
    """Return our grid of diffusers' sigmas, and a network that knows its times by position.

    diffusers rounds some times to integers, so that two may be equal: ours just count down.
    """
    sigmas, times = scheduler.sigmas.double().tolist(), scheduler.timesteps.tolist()
    if scheduler.order == 2:  # Heun's are doubled
        sigmas, times = [sigmas[0], *sigmas[1::2]], times[::2]
    t = [float(len(times) - i) for i in range(len(times) + 1)]
    bars = tuple(1 / (1 + sigma**2) for sigma in sigmas)
    return Grid(tuple(t), bars), Network(dict(zip(t, times, strict=False)))


def theirs_run(scheduler, x: Tensor, *, scaled: bool = False, noise: str | None = None) -> Tensor:
    """Return diffusers' last image. scaled: it keeps x / a instead of x."""
    if scaled:
        x = x * float(scheduler.sigmas[0] ** 2 + 1) ** 0.5
    for i, t in enumerate(scheduler.timesteps):
        asked = scheduler.scale_model_input(x, t)
        options = {noise: NOISE(i)} if noise else {}
        x = scheduler.step(toy(asked, float(t)), t, x, **options).prev_sample
    return x / float(scheduler.sigmas[-1] ** 2 + 1) ** 0.5 if scaled else x


def check(module, config, scheduler, steps: int, prediction: str, **options) -> None:
    scheduler.set_timesteps(steps)
    theirs = theirs_run(scheduler, START, **options)
    grid, network = sigma_grid(scheduler)
    assert_same(ours_run(module, config, grid, START, prediction, network=network), theirs)


# Every spacing, and every length on both sides of the published bound of 15 steps.
CASES = [
    ("linspace", 1),
    ("linspace", 2),
    ("leading", 5),
    ("linspace", 14),
    ("leading", 15),
    ("trailing", 7),
    ("trailing", 20),
]


@pytest.mark.parametrize("prediction", list(OURS))
@pytest.mark.parametrize(("spacing", "steps"), CASES)
@pytest.mark.parametrize("karras", [False, True])
@pytest.mark.parametrize(("module", "kind"), [(ddim, "Euler"), (heun, "Heun")])
def test_euler_and_heun(module, kind, steps, karras, spacing, prediction):
    scheduler = base(
        f"{kind}DiscreteScheduler",
        timestep_spacing=spacing,
        use_karras_sigmas=karras,
        prediction_type=prediction,
    )
    if karras and steps == 1:
        pytest.skip("diffusers divides by N - 1")
    check(module, module.Config(), scheduler, steps, prediction, scaled=True)


@pytest.mark.parametrize("prediction", list(OURS))
@pytest.mark.parametrize(("spacing", "steps"), CASES)
def test_euler_ancestral(monkeypatch, steps, spacing, prediction):
    steps_of_noise = count()
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_euler_ancestral_discrete.randn_tensor",
        lambda *_, **__: NOISE(next(steps_of_noise)),
    )
    scheduler = base(
        "EulerAncestralDiscreteScheduler", timestep_spacing=spacing, prediction_type=prediction
    )
    check(ddpm, ddpm.Config(), scheduler, steps, prediction, scaled=True)


@pytest.mark.parametrize("prediction", list(OURS))
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize(
    ("order", "solver"), [(1, "midpoint"), (2, "midpoint"), (2, "heun"), (3, "midpoint")]
)
def test_dpmpp(order, solver, lower, final, prediction):
    """diffusers' order 3 is the published one."""
    config = dpmpp.Config(order, solver, "published", lower)
    settings = {
        "solver_order": order,
        "solver_type": solver,
        "lower_order_final": lower,
        "final_sigmas_type": final,
        "prediction_type": prediction,
    }
    for spacing, steps in CASES:
        scheduler = base("DPMSolverMultistepScheduler", timestep_spacing=spacing, **settings)
        check(dpmpp, config, scheduler, steps, prediction)
    if final == "zero":  # with sigma_min it takes a last step of no length
        for sigmas in ("use_karras_sigmas", "use_lu_lambdas"):
            scheduler = base("DPMSolverMultistepScheduler", **{sigmas: True}, **settings)
            check(dpmpp, config, scheduler, 10, prediction)


@pytest.mark.parametrize("prediction", list(OURS))
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize("order", [1, 2])
def test_sde_dpmpp(order, final, prediction):
    for spacing, steps in CASES:
        scheduler = base(
            "DPMSolverMultistepScheduler",
            algorithm_type="sde-dpmsolver++",
            solver_order=order,
            final_sigmas_type=final,
            prediction_type=prediction,
            timestep_spacing=spacing,
        )
        config = sde_dpmpp.Config(order)
        check(sde_dpmpp, config, scheduler, steps, prediction, noise="variance_noise")


@pytest.mark.parametrize("prediction", list(OURS))
@pytest.mark.parametrize(
    ("final", "steps"), [("zero", 1), ("zero", 7), ("zero", 10), ("sigma_min", 10)]
)
def test_dpmpp_singlestep(final, steps, prediction):
    scheduler = base(
        "DPMSolverSinglestepScheduler", final_sigmas_type=final, prediction_type=prediction
    )
    check(dpmpp_singlestep, dpmpp_singlestep.Config(), scheduler, steps, prediction)


@pytest.mark.parametrize("prediction", list(OURS))
@pytest.mark.parametrize(
    # Without lower_order_final, or with bh1, diffusers makes NaN of a last step to sigma = 0.
    ("final", "lower", "variant"),
    [
        ("sigma_min", True, "bh1"),
        ("sigma_min", True, "bh2"),
        ("sigma_min", False, "bh1"),
        ("sigma_min", False, "bh2"),
        ("zero", True, "bh2"),
    ],
)
@pytest.mark.parametrize("corrector", [True, False])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc(order, corrector, variant, lower, final, prediction):
    config = unipc.Config(order, corrector, variant, lower)
    settings = {
        "solver_order": order,
        "solver_type": variant,
        "disable_corrector": [] if corrector else list(range(20)),
        "lower_order_final": lower,
        "final_sigmas_type": final,
        "prediction_type": prediction,
    }
    for spacing, steps in CASES:
        scheduler = base("UniPCMultistepScheduler", timestep_spacing=spacing, **settings)
        check(unipc, config, scheduler, steps, prediction)
    if final == "zero":
        scheduler = base("UniPCMultistepScheduler", use_karras_sigmas=True, **settings)
        check(unipc, config, scheduler, 10, prediction)


@pytest.mark.parametrize("prediction", list(OURS))
@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis(order, lower, prediction):
    for spacing, steps in CASES:
        scheduler = base(
            "DEISMultistepScheduler",
            solver_order=order,
            lower_order_final=lower,
            prediction_type=prediction,
            timestep_spacing=spacing,
        )
        check(deis, deis.Config(order, "log-rho", lower), scheduler, steps, prediction)


@pytest.mark.parametrize("steps", [3, 10, 50])
def test_ipndm(steps):
    """Its output is v on its own curve from alpha = 0 on: compared from the second time."""
    scheduler = diffusers.IPNDMScheduler()
    scheduler.set_timesteps(steps)
    x = START
    for t in scheduler.timesteps[1:]:
        x = scheduler.step(toy(x, float(t)), t, x).prev_sample
    times = scheduler.timesteps.tolist()[1:]
    bars = (1 - scheduler.betas.double() ** 2).tolist()[1:]
    t = tuple(float(len(times) - i) for i in range(len(times) + 1))
    network = Network(dict(zip(t, times, strict=False)))
    grid = Grid(t, tuple(bars))
    assert_same(ours_run(ipndm, ipndm.Config(), grid, START, "v_prediction", network=network), x)
