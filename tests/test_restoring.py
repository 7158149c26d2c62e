"""Restoring: operators and their adjoints, the methods against posteriors known in closed form."""

import re
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import pocketddpm as pd
from models import Labelled, model_around, model_of
from oracle import GAUSSIAN, MIXTURE, points
from pocketddpm.build import build_schedule
from pocketddpm.catalog import SAMPLERS, TABLES
from pocketddpm.config import ScheduleConfig
from pocketddpm.data.scaling import Scaling
from pocketddpm.diffusion.conditioning import METHODS, Measurement, build_method
from pocketddpm.diffusion.grid import make_grid
from pocketddpm.diffusion.guidance import Guidance
from pocketddpm.diffusion.operators import (
    TASKS,
    Linear,
    build_operator,
    conjugate_gradients,
)
from pocketddpm.diffusion.process import posterior
from pocketddpm.errors import ConfigError
from pocketddpm.models.editing import Settings
from pocketddpm.models.restoration import Restored, measure, read_measured, restore
from test_cli import TINY_NET, refused, run
from test_editing import LEVEL, assert_within_error, size, to_points

COSINE = build_schedule(ScheduleConfig("cosine"))
DDPM = SAMPLERS.load("ddpm")


def matrix(rows):
    """Return points [B,1,1,D] -> [B,K] as an operator that has A and A_adjoint alone."""
    a = torch.tensor(rows, dtype=torch.float64)

    class Physics:
        @staticmethod
        def A(x):
            return (x.flatten(1)[:, None] * a.to(x)).sum(-1)

        @staticmethod
        def A_adjoint(y):
            return (y[:, :, None] * a.to(y)).sum(1)[:, None, None]

    return Physics, a


def linear(rows):
    physics, a = matrix(rows)
    eye = torch.eye(len(a), dtype=torch.float64)

    def inverse(y, c):
        return y @ torch.linalg.inv(a @ a.T + c * eye).to(y)

    return Linear(physics.A, physics.A_adjoint, inverse), a


# Operators ---------------------------------------------------------------------------------------

SHAPES = [(1, 7, 9), (3, 8, 12), (3, 5, 4), (1, 1, 3), (2, 6, 6)]


def operators():
    """Yield every task for every shape that it takes, with what it is told."""
    for shape in SHAPES:
        missing = torch.zeros(shape[1:], dtype=torch.bool)
        missing[0, :2] = True
        for task in TASKS:
            for told in ({}, {"factor": 2.0}, {"factor": 3}, {"missing": missing}):
                try:
                    yield shape, build_operator(task, shape, seed=3, **told), (task, told)
                except ConfigError:
                    continue
        yield shape, Linear(lambda x: x[:, :, ::2], _every_other(shape)), ("own", {})


def _every_other(shape):
    def adjoint(y):
        x = y.new_zeros(len(y), *shape)
        x[:, :, ::2] = y
        return x

    return adjoint


def test_every_operator_has_its_adjoint_its_gradient_and_its_inverse():
    generator = torch.Generator().manual_seed(0)

    def some(*shape):
        return torch.randn(2, *shape, generator=generator, dtype=torch.float64)

    walked = set()
    for shape, operator, (task, _) in operators():
        x = some(*shape).requires_grad_()
        y = operator(x)
        u = some(*y.shape[1:])
        (back,) = torch.autograd.grad((y * u).sum(), x)
        x = x.detach()
        assert_close((operator(x) * u).sum(), (x * operator.adjoint(u)).sum())
        assert_close(operator.adjoint(u), back)
        assert operator.adjoint(u).dtype == u.dtype and y.dtype == x.dtype
        assert_close(operator(2 * x - back), 2 * operator(x) - operator(back))
        for c in (0.01, 0.3):
            solved = operator.solve(u, c)
            assert_close(operator(operator.adjoint(solved)) + c * solved, u, rtol=1e-6, atol=1e-8)
        if task != "blur":  # A (A^+ y) = y
            assert_close(operator(operator.adjoint(operator.solve(u, 0.0))), u)
        # Each image by itself.
        assert_close(operator(x[1:]), operator(x)[1:])
        assert operator(x.float()).dtype == torch.float32
        walked.add(task)
    assert walked == {*TASKS, "own"}


def test_what_is_random_is_a_function_of_the_seed():
    for task in ("mask", "compressed-sensing"):
        x = points(2, 48).view(2, 3, 4, 4)
        one, same, other = (build_operator(task, (3, 4, 4), seed=s)(x) for s in (1, 1, 2))
        assert torch.equal(one, same) and not torch.equal(one, other)
        assert one[0].numel() == 12  # one in four
        everything = build_operator(task, (3, 4, 4), factor=1)
        assert_close(everything.adjoint(everything(x)), x)


def test_a_blur_keeps_the_mean_and_a_pooling_takes_it():
    x = points(2, 64).view(2, 1, 8, 8)
    blurred = build_operator("blur", (1, 8, 8), factor=1.0)(x)
    assert_close(blurred.mean((2, 3)), x.mean((2, 3)))
    # Of a Gaussian's own kernel: a point becomes exp(-d^2 / 2) around it, also beyond the edge.
    point = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    point[0, 0, 0, 0] = 1
    spread = build_operator("blur", (1, 8, 8), factor=1.0)(point)[0, 0]
    assert_close(spread[0, 7] / spread[0, 0], torch.tensor(-0.5).double().exp())
    assert_close(spread[2, 1] / spread[0, 0], torch.tensor(-2.5).double().exp())
    pooled = build_operator("super-resolution", (1, 8, 8), factor=2)(x)
    assert_close(pooled[0, 0, 1, 2], x[0, 0, 2:4, 4:6].mean())


def test_conjugate_gradients_end_where_they_should():
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    spd = root @ root.T + 0.1 * torch.eye(6, dtype=torch.float64)
    b = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    b[2] = 0
    assert_close(conjugate_gradients(lambda u: u @ spd, b, 6), torch.linalg.solve(spd, b.T).T)
    more = conjugate_gradients(lambda u: u @ spd, b, 40)
    assert more.isfinite().all() and (more[2] == 0).all()
    # Not positive: it stays where that shows, and nothing is infinite.
    assert (conjugate_gradients(lambda u: -u, b, 5) == 0).all()


# The posterior, in closed form -------------------------------------------------------------------


def truth(oracle, a, sigma, y, k=0):
    """Return mean and covariance of component k given y [K]."""
    mean, cov = oracle.mean[k], oracle.cov[k]
    inside = a @ cov @ a.T + sigma**2 * torch.eye(len(a), dtype=torch.float64)
    gain = cov @ a.T @ torch.linalg.inv(inside)
    return mean + gain @ (y - a @ mean), cov - gain @ a @ cov


def weights(oracle, a, sigma, y):
    """Return the weight of each component given y [K]."""
    logs = []
    for weight, mean, cov in zip(oracle.weight, oracle.mean, oracle.cov, strict=True):
        inside = a @ cov @ a.T + sigma**2 * torch.eye(len(a), dtype=torch.float64)
        density = torch.distributions.MultivariateNormal(a @ mean, inside)
        logs.append(weight.log() + density.log_prob(y))
    return torch.stack(logs).softmax(0)


def conditioned(name, oracle, operator, y, sigma, grid, **options):
    """Return the denoiser of an oracle that knows y [K]."""

    def denoise(x, t, alpha_bar):
        known = Measurement(y.expand(len(x), -1), operator, sigma)
        return method.condition(oracle, known, grid, lambda x0: x0)(x, t, alpha_bar)

    method = build_method(name, options)
    return denoise


ROWS = [[1.0, 0.5, 0.0], [0.0, 0.3, -1.0]]
Y, SIGMA = torch.tensor([1.3, -0.6], dtype=torch.float64), 0.3


def test_mmps_is_exact_for_a_gaussian():
    """E[x0 | x_t, y] at any time, to the last digits: no sampling, no error of steps."""
    operator, a = linear(ROWS)
    x_t = 1.5 * points(5, 3)
    mean, cov, eye = GAUSSIAN.mean[0], GAUSSIAN.cov[0], torch.eye(3, dtype=torch.float64)
    for alpha_bar in (1e-4, 0.1, 0.5, 0.9, 0.9999):
        noise = (1 - alpha_bar) / alpha_bar
        precision = cov.inverse() + eye / noise + a.T @ a / SIGMA**2
        seen = x_t.flatten(1) / alpha_bar**0.5 / noise
        told = mean @ cov.inverse() + Y @ a / SIGMA**2
        expected = (seen + told) @ precision.inverse()
        grid = make_grid(COSINE, 10)
        known = conditioned("mmps", GAUSSIAN, operator, Y, SIGMA, grid, iterations=2)
        found = known(x_t, 0.0, alpha_bar)
        assert_close(found.x0.flatten(1), expected, rtol=1e-7, atol=1e-7)
        a_t, b_t = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
        assert_close(a_t * found.x0 + b_t * found.eps, x_t)
        # Two numbers need two iterations.
        one = conditioned("mmps", GAUSSIAN, operator, Y, SIGMA, grid, iterations=1)
        assert (
            alpha_bar > 0.99
            or float((one(x_t, 0.0, alpha_bar).x0.flatten(1) - expected).abs().max()) > 1e-5
        )


def test_diffpir_is_the_nearest_that_explains_the_measurement():
    operator, a = linear(ROWS)
    x_t, grid, eye = points(4, 3), make_grid(COSINE, 10), torch.eye(3, dtype=torch.float64)
    for alpha_bar, weight in ((0.01, 7.0), (0.7, 2.0)):
        x0 = GAUSSIAN(x_t, 0.0, alpha_bar).x0.flatten(1)
        pull = weight * alpha_bar / (1 - alpha_bar)
        normal = a.T @ a / SIGMA**2 + pull * eye
        expected = torch.linalg.solve(normal, (Y @ a / SIGMA**2 + pull * x0).T).T
        known = conditioned("diffpir", GAUSSIAN, operator, Y, SIGMA, grid, weight=weight)
        assert_close(known(x_t, 0.0, alpha_bar).x0.flatten(1), expected)


def test_dps_with_ddpm_is_algorithm_1():
    operator, _ = linear(ROWS)
    grid, step = make_grid(COSINE, 12), 0.4
    known = conditioned("dps", MIXTURE3, operator, Y, SIGMA, grid, step=step)
    x = start = points(6, 3)
    noises = [points(6, 3, seed=i + 1) for i in range(12)]
    for i, t, ab_t, _, ab_s in grid:
        x = x.detach().requires_grad_()
        x0 = MIXTURE3(x, t, ab_t).x0
        (slope,) = torch.autograd.grad((Y - operator(x0)).norm(dim=1).sum(), x)
        q = posterior(ab_t, ab_s)
        x = q.x0_weight * x0 + q.x_t_weight * x + q.variance**0.5 * noises[i] - step * slope
    *_, state = DDPM.sample(known, start, grid, noises.__getitem__, DDPM.Config())
    assert_close(state.x, x.detach())
    assert not state.x.requires_grad


MIXTURE3 = type(MIXTURE)(
    weight=torch.tensor([0.6, 0.4], dtype=torch.float64),
    mean=torch.tensor([[0.7, -0.4, 0.1], [-0.6, 0.5, 0.8]], dtype=torch.float64),
    cov=torch.stack([GAUSSIAN.cov[0], 0.5 * GAUSSIAN.cov[0]]),
)


def chain(denoise, grid):
    """Return mean and covariance that ddpm's steps reach with an affine denoiser, exactly."""
    eye = torch.eye(3, dtype=torch.float64)
    mean, cov = torch.zeros(3, dtype=torch.float64), eye
    probes = torch.cat([torch.zeros(1, 3, dtype=torch.float64), eye])[:, None, None]
    for _, t, ab_t, _, ab_s in grid:
        shift, *columns = denoise(probes, t, ab_t).x0.flatten(1)
        slope = torch.stack(columns, 1) - shift[:, None]
        q = posterior(ab_t, ab_s)
        step = q.x0_weight * slope + q.x_t_weight * eye
        mean = step @ mean + q.x0_weight * shift
        cov = step @ cov @ step.T + q.variance * eye
    return mean, cov


def errors(name, steps, **options):
    """Return how far the samples' mean and covariance are from the truth after so many steps."""
    operator, a = linear(ROWS)
    grid = make_grid(COSINE, steps)
    found = chain(conditioned(name, GAUSSIAN, operator, Y, SIGMA, grid, **options), grid)
    exact = truth(GAUSSIAN, a, SIGMA, Y)
    return [float((f - e).abs().max()) for f, e in zip(found, exact, strict=True)]


def test_the_error_of_mmps_falls_with_the_steps():
    found = [errors("mmps", steps, iterations=2) for steps in (25, 50, 100, 200)]
    for (mean, cov), (other_mean, other_cov) in pairwise(found):
        assert max(mean, other_mean) < 1e-8  # ddpm's steps keep a Gaussian's mean exactly
        assert 1.5 < cov / other_cov < 2.2, found  # and its covariance at first order
    assert found[-1][1] < 0.007


def test_the_bias_of_diffpir_stays():
    """It takes all pixels for equally uncertain: with ddpm the mean stays off."""
    few, many = (errors("diffpir", steps, weight=1.0) for steps in (50, 200))
    assert 0.9 < few[0] / many[0] < 1.2
    assert 0.035 < many[0] < 0.055, many


def drawn(name, oracle, rows, y, sigma, n, *, steps, **options):
    """Return n restored points [N,D] through the model's own door."""
    dim = oracle.mean.shape[1]
    operator, a = linear(rows)
    restored = restore(
        model_of(oracle, dim),
        y.float().expand(n // 500, -1),
        operator,
        sigma=sigma,
        method=name,
        options=options,
        samples=500,
        settings=Settings(steps=steps),
    )
    return to_points(restored.images), a


def test_mmps_draws_from_a_gaussians_posterior_within_standard_error():
    x, a = drawn("mmps", GAUSSIAN, ROWS, Y, SIGMA, 2000, steps=150, iterations=2)
    mean, cov = truth(GAUSSIAN, a, SIGMA, Y)
    assert_within_error(x, mean, cov, 2000, slack=LEVEL**2)
    # The prior is another one, and so the measurement has been used.
    with pytest.raises(AssertionError):
        assert_within_error(x, GAUSSIAN.mean[0], GAUSSIAN.cov[0], 2000, slack=LEVEL**2)


def test_the_bias_of_dps():
    """Off by half a deviation, and too narrow: both sides are held, as docs/restore.md says."""
    x, a = drawn("dps", GAUSSIAN, ROWS, Y, SIGMA, 2000, steps=150, step=0.1)
    mean, cov = truth(GAUSSIAN, a, SIGMA, Y)
    off = float(((x.mean(0) - mean) / cov.diag().sqrt()).abs().max())
    narrow = torch.cov(x.T).diag() / cov.diag()
    print(off, narrow)
    assert 0.45 < off < 0.8, off
    assert 0.08 < float(narrow.min()) < 0.25 and float(narrow.max()) < 0.9, narrow


@pytest.mark.parametrize(
    ("name", "options", "low", "high"),
    [
        ("mmps", {}, 0.1, 0.2),
        ("dps", {"step": 0.1}, 0.04, 0.16),
        ("diffpir", {"weight": 1.0}, 0.08, 0.22),
    ],
)
def test_the_modes_of_a_mixture(name, options, low, high):
    """None has the weights right; how far off they are is held from both sides."""
    rows, y, sigma = [[1.0, 0.0]], torch.tensor([0.2], dtype=torch.float64), 0.5
    exact = weights(MIXTURE, torch.tensor(rows).double(), sigma, y)
    x, a = drawn(name, MIXTURE, rows, y, sigma, 1000, steps=80, **options)
    density = []
    for k, weight in enumerate(exact):
        normal = torch.distributions.MultivariateNormal(*truth(MIXTURE, a, sigma, y, k))
        density.append(weight.log() + normal.log_prob(x))
    share = torch.stack(density).softmax(0).mean(1)
    print(name, exact, share)
    assert low < float((share - exact).abs().max()) < high, share


@pytest.mark.parametrize(("name", "options"), [("mmps", {"iterations": 2}), ("diffpir", {})])
def test_without_noise_the_measurement_is_met(name, options):
    operator, _ = linear(ROWS)
    grid, distances = make_grid(COSINE, 50), []
    for sigma in (0.1, 0.01, 0.001):
        known = conditioned(name, MIXTURE3, operator, Y, sigma, grid, **options)
        noises = [points(40, 3, seed=i) for i in range(51)]
        *_, state = DDPM.sample(known, noises[50], grid, noises.__getitem__, DDPM.Config())
        distances.append(float((operator(state.x) - Y).norm(dim=1).mean()))
    assert all(one > 5 * other for one, other in pairwise(distances)), distances
    assert distances[-1] < 0.003
    if name == "diffpir":
        known = conditioned(name, MIXTURE3, operator, Y, 0.0, grid)
        *_, state = DDPM.sample(known, points(40, 3), grid, lambda i: noises[i], DDPM.Config())
        assert_close(operator(state.x), Y.expand(40, -1), rtol=0, atol=1e-9)


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp", "heun", "sde-dpmpp", "unipc"])
def test_other_samplers_reach_the_same_posterior(sampler):
    """What a method returns is a denoiser: the flow of the posterior ends in its law."""
    operator, a = linear(ROWS)
    module = SAMPLERS.load(sampler)
    grid = make_grid(COSINE, 60, "log-snr")
    known = conditioned("mmps", GAUSSIAN, operator, Y, SIGMA, grid, iterations=2)
    noises = [points(1000, 3, seed=i) for i in range(61)]
    *_, state = module.sample(known, noises[60], grid, noises.__getitem__, module.Config())
    mean, cov = truth(GAUSSIAN, a, SIGMA, Y)
    assert_within_error(state.x.flatten(1), mean, cov, 1000, slack=0.02)


# Somebody else's operators -----------------------------------------------------------------------


@pytest.mark.parity
def test_operators_and_steps_of_deepinv():
    dinv = pytest.importorskip("deepinv")
    shape = (3, 8, 8)
    x = points(2, 192).view(2, *shape).float()
    for physics in (
        dinv.physics.Decolorize(),
        dinv.physics.Downsampling(img_size=shape, filter="gaussian", factor=2, padding="circular"),
        dinv.physics.Inpainting(img_size=shape, mask=0.5),
    ):
        operator = build_operator(physics, shape)
        assert_close(operator(x), physics.A(x))
        if isinstance(physics, dinv.physics.Inpainting):
            # DiffPIR's middle is the proximal step of deepinv's data term.
            y, rho = 0.5 * physics.A(x), 0.3
            moved = x + operator.adjoint(operator.solve(y - operator(x), rho))
            theirs = dinv.optim.data_fidelity.L2().prox(x, y, physics, gamma=1 / rho)
            assert_close(moved, theirs, rtol=1e-4, atol=1e-5)
        restored = pd.edit("restore", tiny(), some_images(), task=physics, steps=2, samples=1)
        assert restored.images.shape == (2, *shape)


# Through a model ---------------------------------------------------------------------------------

EIGHT = (3, 8, 8)


def tiny(**options):
    return model_around(Labelled(), EIGHT, **options)


def some_images(n=2, shape=EIGHT):
    return np.random.default_rng(0).integers(0, 256, (n, *shape), dtype=np.uint8)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("task", TASKS)
def test_every_method_restores_from_every_task(task, method):
    model, images = tiny(), some_images()
    with torch.enable_grad():
        restored = pd.edit(
            "restore", model, images, task=task, method=method, steps=4, samples=3, seed=7
        )
        assert torch.is_grad_enabled()
    assert isinstance(restored, Restored)
    assert restored.images.shape == (6, *EIGHT) and restored.rows().shape == (2, 3, *EIGHT)
    assert (restored.nfe, restored.labels) == (4, None)
    assert restored.gradients == 4 * build_method(method).gradients
    assert sum(model.network.batches) == 4 * 6
    assert restored.truth is images and restored.measured.shape == images.shape
    assert restored.distance.shape == (6,) and restored.expected.shape == (2,)
    assert np.isfinite(restored.distance).all()
    assert len({image.tobytes() for image in restored.images}) == 6
    again = pd.edit("restore", model, images, task=task, method=method, steps=4, samples=3, seed=7)
    assert np.array_equal(again.images, restored.images)


def test_a_sample_depends_on_seed_image_and_number_alone():
    model, images = tiny(), some_images(4)
    operator = build_operator("super-resolution", EIGHT, factor=2)

    def drawn_from(part, first, samples, seed=1):
        y = measure(model, images[part], operator, 0.1, seed=seed, first=first)
        how = {
            "sigma": 0.1,
            "samples": samples,
            "settings": Settings(seed=seed, first=first, steps=3),
        }
        return y, restore(model, y, operator, **how).rows()

    y, whole = drawn_from(slice(None), 0, 3)
    part_y, part = drawn_from(slice(1, 3), 1, 2)
    assert torch.equal(part_y, y[1:3])
    assert np.array_equal(part, whole[1:3, :2])
    other_y, other = drawn_from(slice(None), 0, 3, seed=2)
    assert not torch.equal(other_y, y) and not np.array_equal(other, whole)
    noise = measure(model, images, operator, 1.0) - measure(model, images, operator, 0.0)
    assert 0.8 < float(noise.std()) < 1.2


def test_labels_and_guidance_are_those_of_every_edit():
    model, images = tiny(guidance=2.0), some_images()
    how = {"task": "noise", "steps": 3, "samples": 2, "method": "diffpir"}
    plain = pd.edit("restore", model, images, **how)
    assert (plain.nfe, plain.labels) == (3, None)
    told = pd.edit("restore", model, images, labels=[3, 5], **how)
    assert told.nfe == 6 and told.labels.tolist() == [3, 3, 5, 5]
    assert not np.array_equal(plain.images, told.images)
    # A data set's own labels would give the answer away: they are not taken unless they are given.
    digits = model_around(Labelled(), (1, 8, 8))
    assert pd.edit("restore", digits, "digits", index=(3, 4), **how).labels is None


def test_a_mean_image_changes_nothing_but_the_units():
    mean = torch.linspace(-0.3, 0.3, 64).view(1, 8, 8)
    model = model_around(Labelled(), (1, 8, 8), scaling=Scaling(-1.0, 1.0, mean))
    images = some_images(2, (1, 8, 8))
    operator = build_operator("super-resolution", (1, 8, 8), factor=2)
    y = measure(model, images, operator, 0.0)
    small = np.rint(images.reshape(2, 1, 4, 2, 4, 2).mean((3, 5))).astype(np.uint8)
    read = read_measured(model, small, (0,), "train", operator)
    assert_close(read, y, rtol=0, atol=1.01 / 255)


def test_measurements_can_be_given():
    model, images = tiny(), some_images()
    how = {"steps": 3, "samples": 2, "measured": True}
    grey = some_images(2, (1, 8, 8))
    for task, given, more in (
        ("grey", grey, {}),
        ("super-resolution", some_images(2, (3, 2, 2)), {}),
        ("super-resolution", some_images(2, (3, 4, 4)), {"factor": 2}),
        ("blur", images, {}),
        ("mask", images, {"mask": (0, 0, 4, 8)}),
    ):
        restored = pd.edit("restore", model, given, task=task, **more, **how)
        assert restored.truth is None and restored.psnr() == {}
        assert "PSNR" not in restored.text()
        if task == "mask":
            assert (restored.measured[:, :, 4:] == images[:, :, 4:]).all()
    # What is measured here is what is measured elsewhere.
    simulated = pd.edit("restore", model, images, task="mask", mask=(0, 0, 4, 8), noise=0.0,
                        steps=3, samples=2, method="diffpir")  # fmt: skip
    given = pd.edit("restore", model, images, task="mask", mask=(0, 0, 4, 8), noise=0.0,
                    method="diffpir", **how)  # fmt: skip
    assert np.array_equal(simulated.images, given.images)
    assert np.abs(given.images[:, :, 4:].astype(int) - np.repeat(images, 2, 0)[:, :, 4:]).max() <= 1


def test_the_numbers_that_are_reported():
    model, images = tiny(), some_images(3)
    restored = pd.edit("restore", model, images, task="noise", noise=0.5, steps=3, samples=4)
    rows = restored.images.reshape(3, 4, *EIGHT).astype(float)
    assert np.array_equal(restored.mean(), np.rint(rows.mean(1)).astype(np.uint8))
    assert_close(torch.tensor(restored.spread()), torch.tensor(rows).std(1, correction=0))
    error = ((restored.mean().astype(float) - images) ** 2).mean((1, 2, 3))
    assert restored.psnr()["their mean"] == pytest.approx((10 * np.log10(255**2 / error)).mean())
    assert set(restored.psnr()) == {"measurement", "samples", "their mean"}
    y = measure(model, images, build_operator("noise", EIGHT), 0.5)
    x = model.scaling.to_model(torch.from_numpy(restored.images))
    ratio = (x - y.repeat_interleave(4, 0)).flatten(1).norm(dim=1) / y.flatten(1).norm(
        dim=1
    ).repeat_interleave(4)
    assert_close(torch.tensor(restored.distance), ratio.double(), rtol=1e-5, atol=0)
    assert_close(
        torch.tensor(restored.expected), 0.5 * 192**0.5 / y.flatten(1).norm(dim=1).double()
    )
    one = pd.edit("restore", model, images, task="noise", steps=3, samples=1)
    assert set(one.psnr()) == {"measurement", "samples"}
    exact = Restored(images, None, 1, each=1, truth=images, measured=images)
    assert exact.psnr()["samples"] == float("inf")


# What is refused ---------------------------------------------------------------------------------


@dataclass  # its repr names tests alike in every process
class Wrong:
    """An operator whose A_adjoint is twice the adjoint."""

    A = staticmethod(lambda x: x[:, :, ::2])
    A_adjoint = staticmethod(lambda y: 2 * _every_other(EIGHT)(y))


@dataclass  # its repr names tests alike in every process
class Small:
    """An operator whose A_adjoint has another shape."""

    A = staticmethod(lambda x: x[:, :, ::2])
    A_adjoint = staticmethod(lambda y: y)


@dataclass  # its repr names tests alike in every process
class Forward:
    """An operator without an adjoint."""

    A = staticmethod(lambda x: x)


@pytest.mark.parametrize(
    ("asked", "values"),
    [
        ({"task": None}, ["--task", *TASKS]),
        ({"task": "superresolution"}, ["'superresolution'", "super-resolution"]),
        ({"task": Forward()}, ["A_adjoint", "Forward"]),
        ({"task": 3}, ["A_adjoint", "3"]),
        ({"task": Wrong()}, ["A_adjoint", "adjoint of its A"]),
        ({"task": Small()}, ["[1, 3, 4, 8]", "[1, 3, 8, 8]"]),
        ({"task": Forward(), "factor": 2}, ["--factor", "2"]),
        ({"factor": 3}, ["--factor 3", "8x8", "2 or 4 or 8"]),
        ({"factor": 2.5}, ["--factor", "2.5"]),
        ({"factor": 1}, ["--factor", ">= 2", "1"]),
        ({"task": "blur", "factor": 0}, ["--factor", "> 0", "0"]),
        ({"task": "mask", "factor": 0.5}, ["--factor", ">= 1", "0.5"]),
        ({"task": "grey", "factor": 2}, ["--factor", "grey", "2"]),
        ({"task": "noise", "factor": 2}, ["--factor", "noise", "2"]),
        ({"mask": (0, 0, 4, 4)}, ["--mask", "--box", "super-resolution"]),
        ({"task": "mask", "mask": (0, 0, 8, 8)}, ["--mask", "--box"]),
        ({"task": "mask", "mask": (0, 0, 4, 4), "factor": 2}, ["--factor", "2"]),
        ({"task": "mask", "mask": np.ones((2, 8, 8), np.bool_)}, ["[8, 8]", "[2, 8, 8]"]),
        ({"task": "mask", "mask": np.ones((4, 8), np.bool_)}, ["[8, 8]", "[4, 8]"]),
        ({"noise": -0.1}, ["--noise", ">= 0", "-0.1"]),
        ({"noise": 0}, ["mmps", "--noise", "--method diffpir"]),
        ({"noise": 0, "method": "diffpir", "task": "blur"}, ["--noise"]),
        ({"method": "ddrm"}, ["'ddrm'", *METHODS]),
        ({"method_options": {"step": 2}}, ["mmps", "'step'", "iterations"]),
        ({"method_options": {"iterations": 0}}, ["iterations", ">= 1", "0"]),
        ({"method": "dps", "method_options": {"step": 0}}, ["step", "> 0", "0"]),
        ({"method": "diffpir", "method_options": {"weight": -1}}, ["weight", "> 0", "-1"]),
        ({"samples": 0}, ["--samples", ">= 1", "0"]),
        ({"samples": 1001}, ["--samples", "<= 1000", "1001"]),
        ({"strength": 0.5}, ["--strength", "restore"]),
        ({"steps": 0}, ["steps", "0"]),
        ({"sampler": "ddim-inversion"}, ["ddim-inversion"]),
        ({"labels": [1], "guidance": Guidance(0.5, cfg_plus_plus=True)}, ["CFG++", "ddim"]),
        (
            {"labels": [1], "sampler": "ddim", "guidance": Guidance(0.5, cfg_plus_plus=True)},
            ["CFG++"],
        ),
        ({"images": np.zeros((2, 3, 9, 8), np.uint8)}, ["[N, 3, 8, 8]", "[2, 3, 9, 8]"]),
        ({"measured": True}, ["[N, 3, 2, 2]", "[2, 3, 8, 8]"]),
        ({"measured": True, "task": "compressed-sensing"}, ["--measured", "48"]),
        *(
            ({"what": what, "task": None, **{name: value}}, [f"--{name.replace('_', '-')}", what])
            for what, (name, value) in zip(
                [
                    "img2img",
                    "interpolate",
                    "img2img",
                    "img2img",
                    "interpolate",
                    "img2img",
                    "img2img",
                ],
                [
                    *{"task": "blur", "factor": 2, "noise": 0.1, "method": "dps"}.items(),
                    *{"method_options": {}, "samples": 2, "measured": True}.items(),
                ],
                strict=True,
            )
        ),
    ],
    ids=str,
)
def test_what_cannot_be_restored_is_refused(asked, values, tmp_path):
    model = tiny()
    asked = {"what": "restore", "images": some_images(), "task": "super-resolution", **asked}
    with pytest.raises(ConfigError) as caught:
        pd.edit(model=model, out=tmp_path / "x.png", **asked)
    assert all(value in str(caught.value) for value in values), caught.value
    assert "\n" not in str(caught.value)
    assert model.network.batches == [] and not list(tmp_path.iterdir())


def test_a_distilled_model_and_a_foreign_measurement_are_refused():
    fast = pd.load("mnist-fast")
    with pytest.raises(ConfigError, match="distilled"):
        pd.edit("restore", fast, np.zeros((1, 1, 28, 28), np.uint8), task="blur", labels=[1])
    operator = build_operator("grey", EIGHT)
    with pytest.raises(ConfigError, match=re.escape("[2, 3, 8, 8]")):
        restore(tiny(), torch.zeros(2, 3, 8, 8), operator, sigma=0.1)
    with pytest.raises(ConfigError, match="already"):
        pd.edit("restore", model_around(Labelled()), np.zeros((1, 1, 4, 4), np.uint8), task="grey")


def test_pure_noise_knows_nothing():
    """Zero terminal SNR: at alpha_bar = 0 the plain estimate is taken, and nothing is infinite."""
    operator, _ = linear(ROWS)
    grid = make_grid(COSINE, 5)
    for name in METHODS:
        known = conditioned(name, GAUSSIAN, operator, Y, SIGMA, grid)
        found = known(points(3, 3), 1000.0, 0.0)
        assert found.x0.isfinite().all() and found.eps.isfinite().all()
        if name != "dps":
            assert_close(found.x0, GAUSSIAN(points(3, 3), 1000.0, 0.0).x0)


# The command line --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("restoring") / "run"
    run("train", "digits", "--net", TINY_NET, "--steps", "4", "--batch-size", "16", "--out", out,
        "--device", "cpu", "--sample-every", "0", "--precision", "float32")  # fmt: skip
    return out


def test_restore_on_the_command_line(trained, tmp_path, capsys):
    out, gif = tmp_path / "out.png", tmp_path / "out.gif"
    run("edit", "restore", trained, "--images", "digits", "--index", "0,5", "--task",
        "super-resolution", "--factor", "2", "--steps", "4", "--samples", "2", "--noise", "0.1",
        "--method-options", "iterations=1", "--device", "cpu", "--out", out,
        "--gif", gif)  # fmt: skip
    said = capsys.readouterr().out
    assert "4 evaluations and 8 gradients" in said and "PSNR" in said
    assert f"wrote {out}, {gif}" in said
    # Truth, measurement, two samples, mean, spread: six rows, with their names at the left.
    width, height = Image.open(out).size
    assert width > size(2, 6)[0] and height == size(2, 6)[1]
    assert Image.open(gif).n_frames == 4
    # A small picture of one's own.
    small = tmp_path / "small.png"
    Image.fromarray(some_images(1, (1, 4, 4))[0, 0]).save(small)
    run("edit", "restore", trained, "--images", small, "--task", "super-resolution", "--factor",
        "2", "--measured", "--steps", "2", "--samples", "1", "--device", "cpu", "--out", out,
        "--overwrite")  # fmt: skip
    said = capsys.readouterr().out
    assert "PSNR" not in said and "noise alone" in said
    assert Image.open(out).size[1] == size(1, 2)[1]


@pytest.mark.parametrize(
    ("args", "values"),
    [
        (["restore"], ["--task"]),
        (["restore", "--task", "blurr"], ["blurr", "blur"]),
        (["restore", "--task", "blur", "--factor", "big"], ["--factor", "'big'"]),
        (["restore", "--task", "blur", "--method", "dsp"], ["dsp", "dps"]),
        (["restore", "--task", "blur", "--method-options", "x=1"], ["'x'", "iterations"]),
        (["restore", "--task", "blur", "--noise", "much"], ["--noise", "'much'"]),
        (["restore", "--task", "super-resolution", "--factor", "3"], ["3", "8x8"]),
        (["img2img", "--task", "blur"], ["--task", "img2img"]),
    ],
)
def test_bad_restorations_are_one_line(trained, args, values, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    what, *rest = args
    message = refused(capsys, "edit", what, trained, *rest, "--images", "digits", "--device", "cpu")
    assert all(value in message for value in values), message
    assert not list(tmp_path.iterdir()), "something was written"


def test_tasks_and_methods_are_listed(capsys):
    run("list", "restore-tasks")
    said = capsys.readouterr().out
    assert all(task in said for task in TASKS) and "--factor" in said
    run("list", "restore-methods")
    said = capsys.readouterr().out
    assert all(method in said for method in METHODS)
    assert TABLES["restore-tasks"].names() == list(TASKS)
    assert TABLES["restore-methods"].names() == list(METHODS)
