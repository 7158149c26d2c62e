"""What every sampler of the catalogue promises, and the identities between them."""

import math
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from oracle import MIXTURE, configurations, log_snr_grid, no_noise, points, run, samplers
from pocketddpm.build import build_schedule
from pocketddpm.catalog import SAMPLERS
from pocketddpm.config import ScheduleConfig
from pocketddpm.diffusion.build import build_sampler
from pocketddpm.diffusion.denoiser import Denoiser, DenoiserOutput
from pocketddpm.diffusion.grid import SPACINGS, Grid, make_grid
from pocketddpm.diffusion.prediction import get_prediction
from pocketddpm.diffusion.sampling import step_noise
from pocketddpm.errors import ConfigError
from pocketddpm.samplers import (
    _multistep,
    ddim,
    ddim_inversion,
    ddpm,
    deis,
    dpmpp,
    dpmpp_singlestep,
    euler,
    euler_ancestral,
    heun,
    ipndm,
    sde_dpmpp,
    unipc,
)

COSINE = build_schedule(ScheduleConfig("cosine", T=20))
LONG = build_schedule(ScheduleConfig("linear"))
ZERO = build_schedule(ScheduleConfig("linear", T=20, zero_terminal=True))

EVERY = [
    pytest.param(module, config, id=f"{name}-{config}")
    for name, module in samplers()
    for config in configurations(module)
]
CHURN = pytest.param(heun, heun.Config(s_churn=10.0), id="heun-churn")
DEFAULTS = [pytest.param(module, module.Config(), id=name) for name, module in samplers()]
DEFAULTS += [CHURN, pytest.param(ddim, ddim.Config(eta=1.0), id="ddim-eta")]


@pytest.fixture(autouse=True)
def one_thread():
    """Tensors of this size only lose by threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Counting:
    """The mixture's denoiser, with a list of the times that it was asked at."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, x_t: Tensor, t: float, alpha_bar: float) -> DenoiserOutput:
        self.times.append(t)
        return MIXTURE(x_t, t, alpha_bar)


def draws(count: int, first: int = 0, seed: int = 0, dtype: torch.dtype = torch.float64):
    """Return the real noise source, in the images' dtype as samplers may expect."""
    source = step_noise(seed, torch.arange(first, first + count), (1, 1, 2))
    return lambda step: source(step).to(dtype)


def last(module, config, grid, x, denoise=MIXTURE, noise=None) -> Tensor:
    return run(module, config, denoise, x, grid, noise or draws(len(x), dtype=x.dtype))


def calls(module, steps: int, config) -> int:
    """Return the calls of the denoiser that a sampler declares: one a step, if it does not say."""
    return module.nfe(steps, config) if hasattr(module, "nfe") else steps


# Conformance -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("module", "config"), EVERY)
def test_states_and_declared_calls(module, config):
    """N states, numbered, at the grid's times, finite; the calls are as many as declared."""
    for steps in (1, 2, 3, COSINE.T):
        grid = make_grid(COSINE, steps)
        denoise = Counting()
        states = list(module.sample(denoise, points(3, 2), grid, draws(3), config))
        assert [s.i for s in states] == list(range(1, steps + 1))
        assert [s.t for s in states] == list(grid.t[1:])
        assert states[-1].nfe == len(denoise.times) == calls(module, steps, config)
        assert all(a.nfe < b.nfe for a, b in pairwise(states))
        assert set(denoise.times) <= set(grid.t[:-1])
        assert all(s.x.isfinite().all() and s.x0.isfinite().all() for s in states)
        # At the clean image nothing but the last estimate is left; iPNDM extrapolates to the end.
        if module is not ipndm:
            assert_close(states[-1].x, states[-1].x0, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("module", "config"), [p for p in DEFAULTS if p is not CHURN])
def test_one_step_is_the_denoiser(module, config):
    """One step to the clean image can only go to x0_hat (of a higher level, with churn)."""
    x, grid = points(4, 2), make_grid(COSINE, 1)
    expected = MIXTURE(x, grid.t[0], grid.alpha_bar[0]).x0
    assert_close(last(module, config, grid, x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(("module", "config"), DEFAULTS)
def test_every_spacing(module, config, spacing):
    """A run of 10 steps over a real schedule, in float32, ends near the data."""
    x = points(8, 2).float()
    noise = draws(8, dtype=torch.float32)
    states = list(module.sample(MIXTURE, x, make_grid(LONG, 10, spacing), noise, config))
    assert len(states) == 10 and states[-1].t == 0
    # The mixture lies within 3 standard deviations of its means.
    assert states[-1].x.isfinite().all() and states[-1].x.abs().max() < 3


@pytest.mark.parametrize(("module", "config"), EVERY)
def test_grid_that_ends_before_the_clean_image(module, config):
    grid = make_grid(COSINE, 6)
    short = Grid(grid.t[:-1], grid.alpha_bar[:-1])
    *_, state = module.sample(MIXTURE, points(4, 2), short, draws(4), config)
    assert state.t == grid.t[-2] > 0
    assert state.x.isfinite().all()
    assert not torch.allclose(state.x, state.x0)


@pytest.mark.parametrize(("module", "config"), DEFAULTS)
def test_same_seed_same_images_whatever_the_batch(module, config):
    grid, x = make_grid(COSINE, 7), points(8, 2)
    batch = last(module, config, grid, x, noise=draws(8))
    assert torch.equal(batch, last(module, config, grid, x, noise=draws(8)))
    single = torch.cat(
        [last(module, config, grid, x[k : k + 1], noise=draws(1, first=k)) for k in range(8)]
    )
    assert torch.equal(batch, single)


@pytest.mark.parametrize(("module", "config"), EVERY)
def test_dtype_is_kept_and_input_left_alone(module, config):
    """Coefficients are Python floats: float64 inside, nothing promoted."""
    grid = make_grid(COSINE, 5)
    for dtype in (torch.float32, torch.float64):
        x = points(3, 2).to(dtype)
        before = x.clone()
        for state in module.sample(MIXTURE, x, grid, draws(3, dtype=dtype), config):
            assert state.x.dtype == state.x0.dtype == dtype
            assert state.x.device == x.device and state.x.shape == x.shape
        assert torch.equal(x, before)


@pytest.mark.parametrize(("module", "config"), DEFAULTS)
def test_earlier_states_are_left_alone(module, config):
    """Whoever keeps the states for a strip or a GIF must not see them change."""
    kept, copies = [], []
    for state in module.sample(MIXTURE, points(3, 2), make_grid(COSINE, 6), draws(3), config):
        kept.append(state)
        copies.append((state.x.clone(), state.x0.clone()))
    for state, (x, x0) in zip(kept, copies, strict=True):
        assert torch.equal(state.x, x) and torch.equal(state.x0, x0)


@pytest.mark.parametrize(
    ("module", "config"),
    [*DEFAULTS, pytest.param(ddim_inversion, ddim_inversion.Config(), id="ddim-inversion")],
)
def test_grad_mode_of_the_caller(module, config):
    """A generator suspended midway leaves it on, and its results need no gradient."""
    grid = make_grid(COSINE, 4)
    states = module.sample(MIXTURE, points(2, 2).requires_grad_(), grid, draws(2), config)
    for _ in range(2):
        assert torch.is_grad_enabled()
        assert not next(states).x.requires_grad
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(("module", "config"), EVERY)
def test_stochastic_means_stochastic(module, config):
    """A deterministic one asks for no noise; a stochastic one for new noise at each step."""
    grid, x = make_grid(COSINE, 6), points(3, 2)
    if not module.STOCHASTIC:
        last(module, config, grid, x, noise=no_noise)
        return
    asked = []

    def noise(step: int) -> Tensor:
        asked.append(step)
        return draws(3)(step)

    first = last(module, config, grid, x, noise=noise)
    assert asked == list(range(5))  # the step that ends at the clean image adds none
    assert not torch.allclose(first, last(module, config, grid, x, noise=draws(3, seed=1)))


@pytest.mark.parametrize(("module", "config"), EVERY)
def test_zero_terminal_snr(module, config):
    """Where sigma is infinite a sampler works, or says that it cannot and what can."""
    x = points(4, 2)
    if module is heun:
        with pytest.raises(ConfigError, match=r"t = 20,.* ddim "):
            last(module, config, make_grid(ZERO, 5), x)
        return
    for steps in (1, 2, 5):
        assert last(module, config, make_grid(ZERO, steps), x).isfinite().all()
    # The same run from a hair above zero SNR.
    grid = make_grid(ZERO, ZERO.T)
    near = Grid(grid.t, (1e-14, *grid.alpha_bar[1:]))
    assert_close(last(module, config, grid, x), last(module, config, near, x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("module", "config"), DEFAULTS)
def test_cosine_schedule_in_float32(module, config):
    """alpha_bar[T] is 2e-9: nothing may overflow, and float64 gives nearly the same."""
    schedule = build_schedule(ScheduleConfig("cosine"))
    x = points(8, 2)
    assert last(module, config, make_grid(schedule, 20), x.float()).isfinite().all()
    # Even in sigma^(1/7): an even spacing makes Heun's first steps, from sigma = 2e4, a lottery.
    grid = make_grid(schedule, 20, "karras")
    single, double = last(module, config, grid, x.float()), last(module, config, grid, x)
    assert_close(single.double(), double, rtol=0, atol=0.005)


@pytest.mark.parametrize("name", ["dpmpp", "unipc", "deis", "ipndm", "sde-dpmpp"])
def test_wrong_order_is_refused(name):
    for order in (0, 9):
        with pytest.raises(ConfigError, match=rf"order .*>= 1, <= \d.* {order}"):
            build_sampler(name, {"order": order})


def test_wrong_churn_is_refused():
    with pytest.raises(ConfigError, match=r"s_churn .*-1\.0"):
        build_sampler("heun", {"s_churn": -1.0})


def test_real_denoiser_with_v_prediction():
    """Samplers meet the real `Denoiser`, channels, clipping and all."""
    network = _Smooth()
    for _, module in samplers():
        denoiser = Denoiser(network, get_prediction("v"), clip=lambda x0: x0.clamp(-1, 1))
        x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
        noise = step_noise(0, torch.arange(2), (3, 4, 5))
        for state in module.sample(denoiser, x, make_grid(LONG, 6), noise, module.Config()):
            assert state.x.shape == x.shape and state.x.dtype == x.dtype
            assert state.x0.abs().max() <= 1 and state.x.isfinite().all()


class _Smooth(torch.nn.Module):
    def forward(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        return torch.sin(2 * x + 0.001 * t.view(-1, 1, 1, 1))


# Identities --------------------------------------------------------------------------------------

DDIM = ddim.Config()


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(
    ("module", "config"),
    [
        (dpmpp, dpmpp.Config(order=1)),
        (deis, deis.Config(order=1)),
        (ipndm, ipndm.Config(order=1)),
        (unipc, unipc.Config(order=1, corrector=False)),
    ],
)
def test_first_order_is_ddim(module, config, spacing):
    grid, x = make_grid(LONG, 12, spacing), points(6, 2)
    assert_close(
        last(module, config, grid, x, noise=no_noise),
        last(ddim, DDIM, grid, x, noise=no_noise),
        rtol=1e-9,
        atol=1e-9,
    )


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(
    ("module", "config"),
    [
        (ddim, ddim.Config(eta=1.0)),
        (sde_dpmpp, sde_dpmpp.Config(order=1)),
    ],
)
def test_full_noise_is_ancestral_sampling(module, config, spacing):
    grid, x = make_grid(LONG, 12, spacing), points(6, 2)
    ancestral = last(ddpm, ddpm.Config("beta-tilde"), grid, x)
    assert_close(last(module, config, grid, x), ancestral, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "original"), [(euler, ddim), (euler_ancestral, ddpm)])
def test_other_names(name, original):
    """They draw the original's images, and keep the refusal of an infinite sigma."""
    grid, x = make_grid(LONG, 12), points(6, 2)
    assert torch.equal(
        last(name, name.Config(), grid, x), last(original, original.Config(), grid, x)
    )
    assert name.STOCHASTIC == original.STOCHASTIC
    with pytest.raises(ConfigError, match=r"t = 20,.* ddim "):
        last(name, name.Config(), make_grid(ZERO, 5), x)


def test_the_page_names_every_sampler_and_those_that_refuse_zero_snr():
    page = (Path(__file__).parents[1] / "docs" / "samplers.md").read_text(encoding="utf-8")
    assert [name for name in SAMPLERS.names() if f"`{name}`" not in page] == []
    refusing = set()
    for name, module in ((name, SAMPLERS.load(name)) for name in SAMPLERS.names()):
        if module is ddim_inversion:
            continue  # it starts from images
        try:
            last(module, module.Config(), make_grid(ZERO, 2), points(2, 2))
        except ConfigError:
            refusing.add(name)
    (said,) = re.findall(r"Zero terminal SNR is refused by ([^;]+?), which", page)
    assert set(re.findall(r"`([a-z-]+)`", said)) == refusing


@pytest.mark.parametrize("order", [2, 3])
def test_predictor_of_unipc_is_dpmpp(order):
    """Both are exponential Adams-Bashforth; bh2's 1/2 is the midpoint rule."""
    grid, x = log_snr_grid(12), points(6, 2)
    predicted = unipc.Config(order=order, corrector=False, lower_order_final=False)
    expected = dpmpp.Config(order=order, lower_order_final=False)
    assert_close(
        last(unipc, predicted, grid, x), last(dpmpp, expected, grid, x), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("variance", ["beta", "beta-tilde"])
def test_all_steps_are_the_original_algorithm(variance):
    """Algorithm 2 of arXiv 2006.11239, written with its own symbols and eps."""
    T = COSINE.T
    beta, alpha_bar = COSINE.beta.tolist(), COSINE.alpha_bar.tolist()
    noise = draws(5)
    x = points(5, 2)
    result = last(ddpm, ddpm.Config(variance), make_grid(COSINE, T), x, noise=noise)
    for t in range(T, 0, -1):
        b, ab, before = beta[t - 1], alpha_bar[t], alpha_bar[t - 1]
        eps = MIXTURE(x, t, ab).eps
        z = noise(T - t) if t > 1 else torch.zeros_like(x)
        sigma_squared = b if variance == "beta" else (1 - before) / (1 - ab) * b
        x = (x - b / math.sqrt(1 - ab) * eps) / math.sqrt(1 - b) + math.sqrt(sigma_squared) * z
    assert_close(result, x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("eta", [0.3, 0.7])
def test_ddim_with_eta_by_hand(eta):
    """Eqs. 12 and 16 of arXiv 2010.02502, for one step of two."""
    grid, x, noise = make_grid(LONG, 2), points(5, 2), draws(5)
    first, _ = ddim.sample(MIXTURE, x, grid, noise, ddim.Config(eta))
    ab, before = grid.alpha_bar[:2]
    std = eta * math.sqrt((1 - before) / (1 - ab)) * math.sqrt(1 - ab / before)
    x0, eps, _ = MIXTURE(x, grid.t[0], ab)
    expected = math.sqrt(before) * x0 + math.sqrt(1 - before - std**2) * eps + std * noise(0)
    assert_close(first.x, expected, rtol=1e-9, atol=1e-9)


def test_singlestep_by_hand():
    """Algorithm 1 of arXiv 2211.01095 over the first two of three intervals."""
    grid, x = log_snr_grid(3, -2.0, 1.0), points(5, 2)
    grid = Grid(grid.t, (grid.alpha_bar[0], 0.1, *grid.alpha_bar[2:]))  # r is not 1/2
    _, second, _ = dpmpp_singlestep.sample(MIXTURE, x, grid, no_noise, dpmpp_singlestep.Config())
    a, b = ([f(ab) for ab in grid.alpha_bar] for f in (math.sqrt, lambda ab: math.sqrt(1 - ab)))
    lam = [math.log(p / q) for p, q in zip(a, b, strict=True)]
    h = lam[2] - lam[0]
    r = (lam[1] - lam[0]) / h
    m = MIXTURE(x, 0.0, grid.alpha_bar[0]).x0
    u = b[1] / b[0] * x - a[1] * (math.exp(-r * h) - 1) * m
    between = MIXTURE(u, 0.0, grid.alpha_bar[1]).x0
    mean = (1 - 1 / (2 * r)) * m + 1 / (2 * r) * between
    expected = b[2] / b[0] * x - a[2] * (math.exp(-h) - 1) * mean
    assert_close(second.x, expected, rtol=1e-9, atol=1e-9)


def test_heun_by_hand():
    """EDM's algorithm 2 for one step of two, with dx/dsigma = (x - x0) / sigma."""
    grid, x = make_grid(LONG, 2), points(5, 2)
    (first, *_), sigma = (
        list(heun.sample(MIXTURE, x, grid, no_noise, heun.Config())),
        [math.sqrt((1 - ab) / ab) for ab in grid.alpha_bar[:2]],
    )

    def slope(y: Tensor, which: int) -> Tensor:
        scale = 1 / math.sqrt(1 + sigma[which] ** 2)
        return (y - MIXTURE(y * scale, 0.0, grid.alpha_bar[which]).x0) / sigma[which]

    y = x * math.sqrt(1 + sigma[0] ** 2)
    euler_end = y + (sigma[1] - sigma[0]) * slope(y, 0)
    end = y + (sigma[1] - sigma[0]) * (slope(y, 0) + slope(euler_end, 1)) / 2
    assert_close(first.x, end / math.sqrt(1 + sigma[1] ** 2), rtol=1e-9, atol=1e-9)


def test_churn_is_confined_to_its_range_of_sigma():
    """Outside s_min..s_max Heun is deterministic; inside it asks between the grid's times."""
    grid, x = make_grid(LONG, 8), points(3, 2)
    quiet = heun.Config(s_churn=10.0, s_min=1e6)
    assert torch.equal(
        last(heun, quiet, grid, x, noise=no_noise),
        last(heun, heun.Config(), grid, x, noise=no_noise),
    )
    denoise = Counting()
    last(heun, heun.Config(s_churn=2.0, s_max=1.0), grid, x, denoise=denoise)
    between = [t for t in denoise.times if t not in grid.t]
    assert len(between) == sum((1 - ab) / ab <= 1 for ab in grid.alpha_bar[:-1]) > 0
    assert all(LONG.T > t > 0 for t in between)


def test_churn_is_capped():
    """gamma = min(s_churn / N, sqrt(2) - 1) (arXiv 2206.00364, algorithm 2): one step by hand."""
    x, noise = points(3, 2), draws(3)
    whole = make_grid(LONG, 8)
    grid = Grid(whole.t[:2], whole.alpha_bar[:2])  # a single step, which is Euler's
    high, low = (math.sqrt((1 - ab) / ab) for ab in grid.alpha_bar)
    capped = last(heun, heun.Config(s_churn=0.7), grid, x, noise=noise)  # 0.7 > sqrt(2) - 1
    raised = math.sqrt(2) * high  # so that the noise added has the variance of high itself
    y = x * math.sqrt(1 + high**2) + high * noise(0)
    x0 = MIXTURE(y / math.sqrt(1 + raised**2), 0.0, 1 / (1 + raised**2)).x0
    end = (y + (low - raised) * (y - x0) / raised) / math.sqrt(1 + low**2)
    assert_close(capped, end, rtol=1e-9, atol=1e-9)
    assert torch.equal(capped, last(heun, heun.Config(s_churn=50.0), grid, x, noise=noise))
    mild = last(heun, heun.Config(s_churn=0.3), grid, x, noise=noise)
    assert not torch.allclose(capped, mild)


def test_churn_scales_its_noise():
    grid, x, noise = make_grid(LONG, 8), points(3, 2), draws(3)
    double = last(heun, heun.Config(s_churn=3.0, s_noise=2.0), grid, x, noise=noise)
    plain = heun.Config(s_churn=3.0)
    assert_close(double, last(heun, plain, grid, x, noise=lambda i: 2 * noise(i)))
    assert not torch.allclose(double, last(heun, plain, grid, x, noise=noise))


def test_adams_weights():
    """The shares are those of every textbook, with no exponential and equal steps."""
    table = {2: [3, -1], 3: [23, -16, 5], 4: [55, -59, 37, -9]}
    for order, weights in table.items():
        shares = _multistep.exponential_shares(0.0, range(0, -order, -1))
        assert_close(shares, [w / sum(weights) for w in weights], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("z", [-30.0, -1.5, -0.999, -1e-3, 0.0, 1e-3, 0.999, 1.5, 12.0])
def test_moments_are_weighted_means(z):
    """Gauss-Legendre quadrature of r^k exp(z (1 - r)), on both sides of phi's switch."""
    nodes, weights = np.polynomial.legendre.leggauss(60)
    r = (nodes + 1) / 2
    density = weights * np.exp(z * (1 - r))
    expected = [float((density * r**k).sum() / density.sum()) for k in range(4)]
    assert_close(_multistep.moments(z, 4), expected, rtol=1e-10, atol=1e-12)


# Inversion ---------------------------------------------------------------------------------------


def test_inversion_walks_the_grid_upwards():
    grid, x = make_grid(COSINE, 5), points(3, 2)
    denoise = Counting()
    states = list(ddim_inversion.sample(denoise, x, grid, no_noise, ddim_inversion.Config()))
    assert [s.t for s in states] == list(grid.t[-2::-1])
    assert [s.i for s in states] == [s.nfe for s in states] == [1, 2, 3, 4, 5]
    assert len(denoise.times) == 5
    # At t = 0 there is no eps to ask for: the next time is asked instead.
    assert denoise.times == [grid.t[-2], *grid.t[-2:0:-1]]
    assert all(s.x.isfinite().all() for s in states)


def test_encode_then_decode_on_a_schedule_s_grid():
    """The error falls as the steps grow, from clean image to noise and back."""
    images = MIXTURE.flow(points(16, 2), 1e-5, 0.99)
    errors = []
    for steps in (10, 40, 160, 640):
        grid = make_grid(LONG, steps)
        noise = last(ddim_inversion, ddim_inversion.Config(), grid, images, noise=no_noise)
        back = last(ddim, DDIM, grid, noise, noise=no_noise)
        errors.append(float((back - images).square().mean().sqrt()))
    assert all(a > 2 * b for a, b in pairwise(errors))
    assert errors[-1] < 0.02


def test_only_inversion_starts_from_images():
    names = [n for n in SAMPLERS.names() if getattr(SAMPLERS.load(n), "INVERSE", False)]
    assert names == ["ddim-inversion"]
