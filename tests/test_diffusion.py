"""`pocketddpm.diffusion`: its names, and `sample` on functions of any origin."""

import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

import pocketddpm as pd
from oracle import GAUSSIAN, MIXTURE, samplers
from pocketddpm.build import build_schedule
from pocketddpm.catalog import SAMPLERS
from pocketddpm.config import ScheduleConfig
from pocketddpm.diffusion.sampling import start_noise
from pocketddpm.errors import ConfigError

N = 64
LEVELS = build_schedule(ScheduleConfig("log-linear"))  # sigma 0.002 .. 80 at 1000 times
DRAWING = [name for name in SAMPLERS.names() if name != "ddim-inversion"]
TAKES = ("x, sigma", "x_t, t", "x_t, t, alpha_bar")
PREDICTS = ("x0", "eps", "v")


def as_function(oracle, takes, predicts):
    """Return an oracle as a function that is called with `takes` and returns `predicts`."""

    def f(x, level, alpha_bar=None):
        if takes == "x, sigma":
            ab = 1 / (1 + float(level[0]) ** 2)
        elif takes == "x_t, t":
            ab = float(torch.sigmoid(log_snr_at(level[:1].double())))
        else:
            ab = float(alpha_bar[0])
        a, b = ab**0.5, (1 - ab) ** 0.5
        x_t = (a * x if takes == "x, sigma" else x).double()
        x0, eps, _ = oracle(x_t, 0.0, ab)
        return {"x0": x0, "eps": eps, "v": a * eps - b * x0}[predicts]

    return f


def log_snr_at(t):
    """Return LEVELS' log-SNR at a time between its entries: it is linear in t."""
    first, last = LEVELS.log_snr[1], LEVELS.log_snr[-1]
    return first + (t - 1) / (LEVELS.T - 1) * (last - first)


def sampled(oracle=MIXTURE, takes="x, sigma", predicts="x0", n=N, **options):
    dims = oracle.mean.shape[1]
    if takes != "x, sigma":
        options = {"schedule": LEVELS, "spacing": "karras", **options}
    f = as_function(oracle, takes, predicts)
    return pd.diffusion.sample(f, shape=(n, 1, 1, dims), takes=takes, predicts=predicts, **options)


@pytest.fixture(scope="module")
def exact():
    """Where the probability flow takes the samples of seed 0."""
    start = start_noise(0, torch.arange(N), (1, 1, 2)).double()
    high, low = (1 / (1 + sigma**2) for sigma in (80.0, 0.002))
    return MIXTURE.flow(start, high, low) / low**0.5


def test_the_names_are_there_without_torch():
    program = """
import sys
import pocketddpm as pd
assert pd.diffusion.__all__ == dir(pd.diffusion) == sorted(pd.diffusion.__all__)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    for name in pd.diffusion.__all__:
        assert getattr(pd.diffusion, name).__doc__, name
    assert "diffusion" in pd.__all__
    with pytest.raises(AttributeError, match="samplers"):
        _ = pd.diffusion.samplers


# A closed form -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "module"), [pytest.param(n, m, id=n) for n, m in samplers(stochastic=False)]
)
def test_the_error_falls_with_the_samplers_order(name, module, exact):
    """The median over points: a few, near the border between two modes, converge late."""
    coarse, fine = (
        float((sampled(sampler=name, steps=n) - exact).abs().median()) for n in (32, 128)
    )
    assert coarse / fine > 0.8 * 4 ** module.order(module.Config())


@pytest.mark.parametrize("name", DRAWING)
@pytest.mark.parametrize("predicts", PREDICTS)
def test_every_sampler_takes_every_convention(name, predicts):
    """The three ways to call f are one path, and so are the three things it may return."""
    steps = 12
    expected = sampled(sampler=name, steps=steps)
    for takes in TAKES:
        found = sampled(takes=takes, predicts=predicts, sampler=name, steps=steps)
        assert found.dtype == torch.float32 and found.shape == (N, 1, 1, 2)
        # eps at sigma = 80 is x0 times 80: float32 costs two digits there.
        assert_close(found, expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize(("name", "steps"), [("ddpm", 400), ("sde-dpmpp", 50)])
def test_stochastic_samplers_have_the_law(name, steps):
    """Within five standard errors, and the samplers' own bias: of order 1 and 2."""
    x = sampled(GAUSSIAN, n=4000, sampler=name, steps=steps).flatten(1).double()
    cov = GAUSSIAN.cov[0]
    spread = (cov.diag() / len(x)).sqrt()
    assert ((x.mean(0) - GAUSSIAN.mean[0]).abs() < 5 * spread + 0.01).all()
    error = ((cov.diag()[:, None] * cov.diag() + cov.square()) / len(x)).sqrt()
    assert ((x.T.cov() - cov).abs() < 5 * error + 0.02).all()


# What f is called with ---------------------------------------------------------------------------


@pytest.mark.parametrize("takes", TAKES)
def test_what_f_is_called_with(takes):
    calls = []

    def f(x, *levels):
        assert not torch.is_grad_enabled()
        calls.append((x, *levels))
        return torch.zeros_like(x)

    schedule = None if takes == "x, sigma" else build_schedule(ScheduleConfig("cosine"))
    pd.diffusion.sample(
        f, shape=(3, 2, 5), takes=takes, predicts="x0", schedule=schedule, steps=4, sampler="ddim"
    )
    assert len(calls) == 4
    assert all(len(call) == 1 + takes.count(",") for call in calls)
    for x, *levels in calls:
        assert x.shape == (3, 2, 5) and x.dtype == torch.float32
        assert all(v.shape == (3,) and v.dtype == torch.float32 for v in levels)
        assert all((v == v[0]).all() for v in levels)
    first = [float(call[1][0]) for call in calls]
    if takes == "x, sigma":
        # The grid of Karras et al., rho = 7.
        ramp = torch.linspace(0, 1, 4, dtype=torch.float64)
        high, low = 80 ** (1 / 7), 0.002 ** (1 / 7)
        assert_close(torch.tensor(first).double(), (high + ramp * (low - high)) ** 7)
        # x has the deviation of x0 + sigma eps for images of deviation 1.
        assert_close(
            calls[0][0],
            start_noise(0, torch.arange(3), (2, 5)) * (1 + 80**2) ** 0.5,
        )
    else:
        assert first == [1000, 750, 500, 250]
    if takes == "x_t, t, alpha_bar":
        assert schedule is not None
        assert [float(call[2][0]) for call in calls] == pytest.approx(
            [float(schedule.alpha_bar[int(t)]) for t in first]
        )


def test_seeds_are_per_image():
    together = sampled(n=4, steps=5, sampler="ddpm", seed=3)
    for k in range(4):
        assert torch.equal(
            together[k : k + 1], sampled(n=1, steps=5, sampler="ddpm", seed=3, first=k)
        )
    assert not torch.equal(together, sampled(n=4, steps=5, sampler="ddpm", seed=4))


def test_clip_and_options_arrive():
    clipped = sampled(steps=6, clip=(-0.5, 0.5))
    assert float(clipped.abs().max()) <= 0.5 < float(sampled(steps=6).abs().max())
    first, second = (sampled(steps=6, options={"order": k}) for k in (1, 2))
    assert_close(first, sampled(steps=6, sampler="ddim"), rtol=0, atol=1e-4)
    assert not torch.allclose(first, second)


@pytest.mark.parametrize(
    ("options", "values"),
    [
        ({"predicts": "score"}, "'score'"),
        ({"takes": "x_t"}, "'x_t'"),
        ({"takes": "x_t, t"}, "x_t, t.*schedule"),
        ({"schedule": LEVELS}, "x, sigma.*schedule"),
        ({"shape": ()}, r"shape .*\(\)"),
        ({"shape": (0, 1)}, r"shape .*\(0, 1\)"),
        ({"clip": (1.0, -1.0)}, r"clip .*\(1.0, -1.0\)"),
        ({"sampler": "dpm"}, "'dpm'.*dpmpp"),
        ({"sampler": "ddim-inversion"}, "ddim-inversion"),
        ({"options": {"orders": 2}}, "'orders'.*order"),
        ({"steps": 0}, r"1\.\.1000.* 0$"),
        ({"spacing": "karas"}, "'karas'.*karras"),
        ({"sigma_range": (80.0, 0.002)}, "80 and 0.002"),
    ],
)
def test_what_does_not_fit_is_refused(options, values):
    options = {"shape": (2, 1), "predicts": "x0", **options}
    with pytest.raises(ConfigError, match=values):
        pd.diffusion.sample(lambda x, sigma: x, **options)


def test_an_answer_of_another_shape_and_eps_of_pure_noise_are_refused():
    with pytest.raises(ConfigError, match=r"v .*\[2, 3\].*\[2, 1\]"):
        pd.diffusion.sample(lambda x, sigma: x[:, :1], shape=(2, 3), predicts="v")
    flow = build_schedule(ScheduleConfig("flow", T=10))
    how = {"shape": (2, 3), "takes": "x_t, t", "schedule": flow, "steps": 5}
    with pytest.raises(ConfigError, match=r"^eps .*alpha_bar\[T\] > 0"):
        pd.diffusion.sample(lambda x, t: x, predicts="eps", **how)
    assert pd.diffusion.sample(lambda x, t: x, predicts="v", **how).isfinite().all()


# Networks of other libraries ---------------------------------------------------------------------


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("predicts", "theirs"), [("eps", "epsilon"), ("v", "v_prediction")])
def test_a_network_of_diffusers_gives_the_images_of_its_own_loop(predicts, theirs):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
    ).eval()
    scheduler = diffusers.DDIMScheduler(
        prediction_type=theirs, clip_sample=False, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(10)
    x = start_noise(5, torch.arange(3), (1, 8, 8))
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(unet(x, t).sample, t, x).prev_sample
    alpha_bar = torch.cat([torch.ones(1).double(), scheduler.alphas_cumprod.double()])
    ours = pd.diffusion.sample(
        lambda x_t, t: unet(x_t, t - 1).sample,  # diffusers counts from 0
        shape=(3, 1, 8, 8),
        takes="x_t, t",
        predicts=predicts,
        schedule=pd.diffusion.Schedule(alpha_bar),
        sampler="ddim",
        steps=10,
        seed=5,
    )
    assert_close(ours, x, rtol=0, atol=5e-5 * float(x.abs().max()))


def test_a_denoiser_of_k_diffusion_gives_the_images_of_its_own_loop():
    """D(x, sigma) with sigma as [n], in the loop of sample_heun over get_sigmas_karras."""

    def model(x, sigma):
        s = sigma.view(-1, 1, 1, 1)
        return (x / (1 + s**2) ** 0.5).sin() / (1 + 0.1 * s)

    steps, high, low = 9, 80.0, 0.002
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    sigmas = (high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    sigmas = torch.cat([sigmas, torch.zeros(1)])
    x = start_noise(0, torch.arange(2), (3, 4, 4)).double() * (1 + high**2) ** 0.5
    for sigma, after in pairwise(sigmas):
        d = (x - model(x, sigma.expand(2))) / sigma
        if after == 0:
            x = x + d * (after - sigma)
            continue
        x_2 = x + d * (after - sigma)
        d_2 = (x_2 - model(x_2, after.expand(2))) / after
        x = x + (d + d_2) / 2 * (after - sigma)
    ours = pd.diffusion.sample(
        model, shape=(2, 3, 4, 4), predicts="x0", sampler="heun", steps=steps
    )
    assert_close(ours.double(), x, rtol=0, atol=1e-4)
