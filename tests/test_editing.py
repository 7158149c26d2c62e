"""Editing by sampling: round trips, identities, and the truth where it is known."""

import math
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from models import Labelled, model_around, model_of
from oracle import GAUSSIAN, MIXTURE, Mixture, points
from pocketddpm.diffusion.guidance import Guidance
from pocketddpm.diffusion.process import posterior, step_beta
from pocketddpm.errors import ConfigError
from pocketddpm.models.editing import (
    Settings,
    decode,
    encode,
    img2img,
    inpaint,
    interpolate,
    resampling_path,
    slerp,
)
from pocketddpm.noise import Role, normal
from test_cli import TINY_NET, refused, run

LEVEL = 12 / 255  # of the oracle models' images, which hold -6..6


def to_bytes(x):
    """Return images [N,1,1,D] of points [N,D] of an oracle."""
    return ((x + 6) / LEVEL).round().clamp(0, 255).to(torch.uint8).numpy()[:, None, None]


def to_points(images):
    return torch.from_numpy(images).double().flatten(1) * LEVEL - 6


def data(oracle, count, seed=0):
    """Return points [N,D] drawn from an oracle's components in turn."""
    which = torch.arange(count) % len(oracle.weight)
    root = torch.linalg.cholesky(oracle.cov)[which]
    z = points(count, oracle.mean.shape[1], seed).flatten(1)
    return oracle.mean[which] + (root @ z[..., None])[..., 0]


# Encode and decode -------------------------------------------------------------------------------


def test_encoding_tends_to_the_probability_flow():
    model = model_of(GAUSSIAN, 3)
    images = to_bytes(data(GAUSSIAN, 50))
    x0 = to_points(images)[:, None, None]
    exact = GAUSSIAN.flow(x0, 1.0, float(model.schedule.alpha_bar[-1]))
    errors = []
    for steps in (20, 80, 320):
        noise = encode(model, images, settings=Settings(steps=steps)).double()
        errors.append(float((noise - exact).square().mean().sqrt()))
    # Of first order: a quarter of the error for four times the steps.
    assert all(one / other > 2.5 for one, other in pairwise(errors)), errors
    assert errors[-1] < 0.03


def test_decoding_what_was_encoded_returns_the_image():
    model = model_of(MIXTURE, 2)
    images = to_bytes(data(MIXTURE, 60))
    errors = []
    for steps in (10, 40, 160):
        settings = Settings(steps=steps)
        decoded = decode(model, encode(model, images, settings=settings), settings=settings)
        assert decoded.nfe == steps
        errors.append(float(np.abs(decoded.images.astype(float) - images).mean()))
    assert all(one / other > 2 for one, other in pairwise(errors)), errors
    assert errors[0] > 2 > 0.5 > errors[-1]  # levels of 255


def test_decoding_by_another_sampler_is_as_good():
    model = model_of(MIXTURE, 2)
    images = to_bytes(data(MIXTURE, 60))
    noise = encode(model, images, settings=Settings(steps=640))
    decoded = decode(model, noise, settings=Settings(sampler="dpmpp", steps=50))
    assert float(np.abs(decoded.images.astype(float) - images).mean()) < 2


# Interpolation -----------------------------------------------------------------------------------


def test_slerp_walks_the_great_circle_evenly():
    one = torch.tensor([[3.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 2.0, 2.0]])
    other = torch.tensor([[0.0, 3.0, 0.0], [math.cos(3), math.sin(3), 0.0], [2.0, 4.0, 4.0]])
    path = slerp(one, other, torch.linspace(0, 1, 4))
    assert_close(path[:, 0], one, rtol=0, atol=0)
    assert_close(path[:, 3], other, rtol=0, atol=0)
    angle = torch.tensor([0, 30, 60, 90]).deg2rad()
    expected = 3 * torch.stack([angle.cos(), angle.sin(), torch.zeros(4)], 1)
    assert_close(path[0], expected, rtol=1e-6, atol=1e-6)
    # Nearly opposite: a detour over the circle, where the straight line would pass the origin.
    assert_close(path[1].norm(dim=1), torch.ones(4), rtol=1e-4, atol=0)
    assert_close(path[2, 1], one[2] * 4 / 3)  # parallel: the straight line


def test_interpolation_begins_and_ends_with_the_reconstructions():
    model = model_of(MIXTURE, 2)
    one, other = to_bytes(data(MIXTURE, 3)), to_bytes(data(MIXTURE, 3, seed=1))
    settings = Settings(steps=20)
    frames = interpolate(model, one, other, frames=5, settings=settings)
    assert frames.nfe == 20
    rows = frames.images.reshape(3, 5, 1, 1, 2)
    for images, ends in ((one, rows[:, 0]), (other, rows[:, -1])):
        again = decode(model, encode(model, images, settings=settings), settings=settings).images
        assert np.array_equal(ends, again)
    between = slerp(*(encode(model, i, settings=settings) for i in (one, other)), torch.ones(1) / 4)
    assert np.array_equal(rows[:, 1], decode(model, between[:, 0], settings=settings).images)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_interpolation_at_a_time_shares_the_noise_of_a_pair(sampler):
    """arXiv 2006.11239, section 4.3: with one noise for all frames, only the blend moves."""
    model = model_of(MIXTURE, 2)
    one, other = to_bytes(data(MIXTURE, 3)), to_bytes(data(MIXTURE, 3, seed=1))
    settings = Settings(sampler=sampler, steps=50, seed=3)

    def rows(start, end):
        samples = interpolate(model, start, end, frames=3, t=400, settings=settings)
        assert samples.nfe == 20
        return samples.images.reshape(3, 3, 1, 1, 2)

    path, still = rows(one, other), rows(one, one)
    assert np.array_equal(still[:, 0], still[:, 1])
    assert np.array_equal(path[:, 0], still[:, 0])
    assert not np.array_equal(path[:, 0], one)
    assert not np.array_equal(path[:, 1], path[:, 0])
    # Half way the blend is that of the images; the noise is that of the pair.
    x0 = (to_points(one) + to_points(other))[:, None, None] / 2
    eps = normal(3, Role.EDIT, torch.arange(3), (1, 1, 2)).double()
    ab = float(model.schedule.alpha_bar[400])
    if sampler == "ddim":
        exact = MIXTURE.flow(ab**0.5 * x0 + (1 - ab) ** 0.5 * eps, ab, 0.99995).flatten(1)
        assert float((to_points(path[:, 1]) - exact).abs().mean()) < 0.1


# Image to image ----------------------------------------------------------------------------------


def test_strength_1_is_plain_sampling_and_0_the_input():
    model = model_of(MIXTURE, 2)
    images = to_bytes(data(MIXTURE, 5))
    for sampler in ("ddim", "ddpm", "heun"):
        settings = Settings(sampler=sampler, steps=10, seed=4, first=2)
        plain = model.sample(5, sampler=sampler, steps=10, seed=4, first=2)
        samples = img2img(model, images, strength=1, settings=settings)
        assert np.array_equal(samples.images, plain.images)
        assert samples.nfe == plain.nfe
        same = img2img(model, images, strength=0, settings=settings)
        assert np.array_equal(same.images, images)
        assert same.nfe == 0


def test_strength_sets_how_far_up_and_at_what_cost():
    model = model_of(MIXTURE, 2)
    images = to_bytes(data(MIXTURE, 40))
    moved, nfe, times = [], [], []
    seen = []

    def watch(which, state):
        assert which == slice(0, len(images))
        seen.append(state)

    for strength in (0.05, 0.3, 0.6, 0.9):
        seen.clear()
        settings = Settings(steps=50)
        samples = img2img(model, images, strength=strength, settings=settings, watch=watch)
        moved.append(float(np.abs(samples.images.astype(float) - images).mean()))
        nfe.append(samples.nfe)
        times.append(len(seen))
        assert seen[-1].t == 0
        assert np.array_equal(model.scaling.to_uint8(seen[-1].x).numpy(), samples.images)
    assert nfe == times == [3, 15, 30, 45]
    assert moved == sorted(moved)


def test_image_to_image_leaves_the_distribution_as_it_is():
    """Whatever the strength: noise and exact denoising are inverse to each other in law."""
    model = model_of(GAUSSIAN, 3)
    n = 4000
    images = to_bytes(data(GAUSSIAN, n))
    samples = img2img(model, images, strength=0.5, settings=Settings(sampler="ddim", steps=200))
    x = to_points(samples.images)
    cov = GAUSSIAN.cov[0]
    assert_within_error(x, GAUSSIAN.mean[0], cov, n, slack=0.01)
    assert float((x - to_points(images)).abs().mean()) > 0.1


def assert_within_error(x, mean, cov, n, slack=0.0):
    """Hold points [N,D] to a mean and covariance within four standard errors (plus slack)."""
    diagonal = cov.diag()
    mean_error = (diagonal / n).sqrt()
    cov_error = ((diagonal[:, None] * diagonal + cov**2) / n).sqrt()
    assert bool(((x.mean(0) - mean).abs() < 4 * mean_error + slack).all()), x.mean(0) - mean
    off = torch.cov(x.T) - cov
    assert bool((off.abs() < 4 * cov_error + slack).all()), off


# Inpainting --------------------------------------------------------------------------------------

KNOWN = np.array([[False, True, True]])
CORRELATED = Mixture(
    weight=torch.ones(1, dtype=torch.float64),
    mean=torch.tensor([[0.7, -0.4, 0.1]], dtype=torch.float64),
    cov=torch.tensor([[[0.5, 0.3, 0.1], [0.3, 0.6, 0.2], [0.1, 0.2, 0.4]]], dtype=torch.float64),
)


def conditional(oracle, known):
    """Return mean and covariance of all dimensions but the first, given the first."""
    mean, cov = oracle.mean[0], oracle.cov[0]
    slope = cov[1:, 0] / cov[0, 0]
    return mean[1:] + slope * (known - mean[0]), cov[1:, 1:] - slope[:, None] * cov[0, 1:]


def test_the_known_part_is_kept_exactly():
    model = model_of(MIXTURE, 2)
    images = np.random.default_rng(0).integers(0, 256, (6, 1, 1, 2), dtype=np.uint8)
    mask = np.array([[True, False], [False, True], [True, True], [False, False]])
    mask = mask[[0, 1, 2, 3, 0, 1], None]
    painted = inpaint(
        model, images, mask, jump_length=2, jump_count=2, settings=Settings(steps=10)
    ).images
    assert np.array_equal(painted[~mask[:, None]], images[~mask[:, None]])
    assert np.array_equal(painted[3], images[3])
    assert (painted[mask[:, None]] != images[mask[:, None]]).mean() > 0.8


def test_painting_everything_once_is_ancestral_sampling():
    model = model_of(MIXTURE, 2)
    images = to_bytes(data(MIXTURE, 5))
    mask = np.ones((1, 2), np.bool_)
    settings = Settings(steps=20, seed=2, first=3)
    for sampler in (None, "ddpm", "ddim"):
        named = Settings(sampler=sampler, steps=20, seed=2, first=3)
        painted = inpaint(model, images, mask, jump_count=1, settings=named)
        plain = model.sample(5, sampler=sampler or "ddpm", steps=20, seed=2, first=3)
        assert np.array_equal(painted.images, plain.images)
        assert painted.nfe == 20
    again = inpaint(model, images, mask, jump_length=5, jump_count=2, settings=settings)
    assert not np.array_equal(again.images, plain.images)
    assert again.nfe == 20 + 15


def exact_moments(model, oracle, known, path, steps):
    """Return mean and covariance that RePaint's steps give a Gaussian, step by step."""
    grid = model.plan(steps=steps).grid
    mean, cov = oracle.mean[0], oracle.cov[0]
    eye = torch.eye(3, dtype=torch.float64)
    steps_down = []
    for _, _, ab_t, _, ab_s in grid:
        # x0_hat = mean + gain (x - a mean), then the posterior's mean and variance.
        gain = ab_t**0.5 * cov @ torch.linalg.inv(ab_t * cov + (1 - ab_t) * eye)
        q = posterior(ab_t, ab_s)
        slope = q.x0_weight * gain + q.x_t_weight * eye
        shift = q.x0_weight * (mean - ab_t**0.5 * gain @ mean)
        steps_down.append((slope, shift, q.variance * eye))
    m, c = torch.zeros(3, dtype=torch.float64), eye
    for i, j in pairwise(path):
        ab_i, ab_j = grid.alpha_bar[i], grid.alpha_bar[j]
        if j < i:
            beta = step_beta(ab_j, ab_i)
            m, c = (1 - beta) ** 0.5 * m, (1 - beta) * c + beta * eye
            continue
        slope, shift, variance = steps_down[i]
        m, c = slope @ m + shift, slope @ c @ slope.T + variance
        m[0], c[0], c[:, 0] = ab_j**0.5 * known, 0, 0
        c[0, 0] = 1 - ab_j
    return m[1:], c[1:, 1:]


def test_inpainting_follows_repaint_and_reaches_the_conditional():
    model = model_of(CORRELATED, 3)
    images = to_bytes(torch.tensor([[1.5, 0.0, 0.0]]).expand(4000, 3))
    known = float(to_points(images)[0, 0])
    seen = []

    def watch(which, state):
        seen.append(state)

    for steps, length, count in ((20, 5, 3), (30, 1, 4)):
        seen.clear()
        painted = inpaint(
            model,
            images,
            KNOWN,
            jump_length=length,
            jump_count=count,
            settings=Settings(steps=steps),
            watch=watch,
        )
        assert (painted.images[..., 0] == images[..., 0]).all()
        # On the way the known part is as noisy as the rest.
        for state in seen[:: len(seen) // 5]:
            ab = float(model.schedule.alpha_bar[int(state.t)])
            part = state.x.double()[:, :, 0, 0] - ab**0.5 * known
            variance = torch.tensor([[1 - ab]], dtype=torch.float64)
            assert_within_error(part, torch.zeros(1), variance, 4000, slack=1e-6)
        path = resampling_path(steps, length, count)
        mean, cov = exact_moments(model, CORRELATED, known, path, steps)
        assert_within_error(to_points(painted.images)[:, 1:], mean, cov, 4000, slack=LEVEL**2)

    # The steps themselves tend to the truth: repetition brings the mean, small steps the spread.
    mean, cov = conditional(CORRELATED, known)
    off = []
    for steps, count in ((50, 1), (50, 20), (200, 20), (400, 40)):
        found = exact_moments(model, CORRELATED, known, resampling_path(steps, 10, count), steps)
        off.append([float((a - b).abs().max()) for a, b in zip(found, (mean, cov), strict=True)])
    assert off[0][0] > 3 * off[1][0] > 6 * off[2][0] > 9 * off[3][0], off
    assert off[1][1] > 1.5 * off[2][1] > 1.5 * off[3][1], off
    assert max(off[3]) < 0.035


def test_inpainting_draws_from_the_conditional_within_standard_error():
    model = model_of(CORRELATED, 3)
    n = 400
    images = to_bytes(torch.tensor([[1.5, 0.0, 0.0]]).expand(n, 3))
    mean, cov = conditional(CORRELATED, float(to_points(images)[0, 0]))
    settings = Settings(steps=100)
    painted = inpaint(model, images, KNOWN, jump_length=10, jump_count=20, settings=settings)
    assert_within_error(to_points(painted.images)[:, 1:], mean, cov, n)
    # Without repetition the new part does not know enough of the known one.
    once = inpaint(model, images, KNOWN, jump_count=1, settings=settings)
    with pytest.raises(AssertionError):
        assert_within_error(to_points(once.images)[:, 1:], mean, cov, n)


def test_resampling_paths():
    assert resampling_path(3, 10, 1) == [0, 1, 2, 3]
    assert resampling_path(5, 2, 2) == [0, 1, 2, 0, 1, 2, 3, 4, 2, 3, 4, 5]
    assert resampling_path(3, 1, 2) == [0, 1, 0, 1, 2, 1, 2, 3]
    path = resampling_path(50, 10, 10)
    assert sum(j > i for i, j in pairwise(path)) == 50 + 4 * 10 * 9


@pytest.mark.parity
@pytest.mark.parametrize(("steps", "length", "count"), [(250, 10, 10), (50, 7, 3), (20, 1, 5)])
def test_resampling_paths_are_the_published_ones(steps, length, count):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.RePaintScheduler(num_train_timesteps=steps)
    scheduler.set_timesteps(steps, jump_length=length, jump_n_sample=count)
    # Theirs counts down to 0, the noisiest image but one, and climbs back step by step.
    theirs = [steps - 1 - int(t) for t in scheduler.timesteps]
    rises = [j for i, j in pairwise(theirs) if j > i]
    ours = resampling_path(steps, length, count)
    assert [j for i, j in pairwise(ours[:-1]) if j > i] == rises
    assert len(theirs) - len(ours) + 1 == (length - 1) * sum(j < i for i, j in pairwise(ours))


# Settings ----------------------------------------------------------------------------------------


def test_a_set_can_be_edited_part_by_part():
    model = model_of(MIXTURE, 2)
    images, others = to_bytes(data(MIXTURE, 6)), to_bytes(data(MIXTURE, 6, seed=1))
    mask = np.array([[True, False]])

    def all_edits(part, first):
        how = Settings(sampler="ddpm", steps=10, seed=1, first=first)
        few = {"jump_length": 3, "jump_count": 2}
        return [
            img2img(model, images[part], settings=how).images,
            inpaint(model, images[part], mask, **few, settings=how).images,
            interpolate(
                model, images[part], others[part], frames=2, t=500, settings=how
            ).images.reshape(-1, 2, 1, 1, 2),
        ]

    whole, part = all_edits(slice(None), 0), all_edits(slice(2, 5), 2)
    for one, other in zip(whole, part, strict=True):
        assert np.array_equal(one[2:5], other)
        assert not np.array_equal(one[1:4], other)


def test_labels_and_guidance_reach_the_network():
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 4, 4), dtype=np.uint8)
    labels = np.array([1, 2, 3])
    network = Labelled()
    model = model_around(network, guidance=2.0)  # the experiment's own habit

    def cost(**options):
        network.batches.clear()
        samples = img2img(model, images, strength=0.5, **options)
        assert sum(network.batches) == 3 * samples.nfe
        return samples

    plain = cost(settings=Settings(steps=10))
    assert plain.nfe == 5  # without labels there is nothing to be guided by
    guided = cost(labels=labels, settings=Settings(steps=10))
    assert guided.nfe == 10
    interval = Settings(steps=10, guidance=Guidance(2.0, interval=(0, 200)))
    some = cost(labels=labels, settings=interval)
    assert some.nfe == 7
    auto = Settings(steps=10, guidance=2.0, guide=model_around(Labelled(0.2)))
    results = [s.images for s in (plain, guided, some)]
    results.append(img2img(model, images, labels=labels, settings=auto).images)
    assert len({r.tobytes() for r in results}) == 4
    for edit in (interpolate, inpaint):
        other = np.ones((4, 4), np.bool_) if edit is inpaint else images[::-1].copy()
        how = Settings(steps=12, guidance=1.0)
        assert not np.array_equal(
            edit(model, images, other, labels=labels, settings=how).images,
            edit(model, images, other, settings=how).images,
        )


def some_images(n=2):
    return np.zeros((n, 1, 4, 4), np.uint8)


MASK = np.ones((4, 4), np.bool_)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: img2img(m, some_images(), strength=1.5), r">= 0, <= 1.* 1\.5"),
        (lambda m: img2img(m, some_images().astype(np.float32)), "uint8.*float32"),
        (lambda m: img2img(m, np.zeros((2, 1, 5, 4), np.uint8), strength=0), r"\[N, 1, 4, 4\]"),
        (lambda m: img2img(m, np.zeros((2, 1, 5, 4), np.uint8), strength=1), r"\[N, 1, 4, 4\]"),
        (lambda m: img2img(m, some_images(), labels=np.array([1])), "1 labels.*2 images"),
        (lambda m: inpaint(m, some_images(), MASK[:3]), r"bool \[4, 4\].*\[3, 4\]"),
        (lambda m: inpaint(m, some_images(), MASK.astype(np.uint8)), "bool.*uint8"),
        (lambda m: inpaint(m, some_images(), np.stack([MASK] * 3)), r"2 images.*\[3, 4, 4\]"),
        (lambda m: inpaint(m, some_images(), MASK, jump_length=0), "1, got 0"),
        (
            lambda m: inpaint(m, some_images(), MASK, jump_length=10, settings=Settings(steps=10)),
            "10.*10.*--jump-length",
        ),
        (lambda m: interpolate(m, some_images(), some_images(3)), "2 and 3"),
        (lambda m: interpolate(m, some_images(), some_images(), frames=1), "--frames.*2.*1"),
        (lambda m: interpolate(m, some_images(), some_images(), t=1001), "1001|1000"),
        (
            lambda m: decode(m, torch.zeros(2, 1, 4, 4), settings=Settings(sampler="ddpm")),
            "ddpm.*--sampler ddim",
        ),
        (
            lambda m: decode(m, torch.zeros(2, 1, 4, 4), settings=Settings(options={"eta": 1.0})),
            "options",
        ),
        (
            lambda m: img2img(m, some_images(), settings=Settings(sampler="ddim-inversion")),
            "ddim-inversion",
        ),
        (
            lambda m: inpaint(
                m,
                some_images(),
                MASK,
                labels=np.array([1, 2]),
                settings=Settings(guidance=Guidance(0.5, cfg_plus_plus=True)),
            ),
            "--sampler ddim",
        ),
    ],
)
def test_what_cannot_be_edited_is_refused(edit, message):
    with pytest.raises(ConfigError, match=message):
        edit(model_around(Labelled()))


def test_an_unconditional_model_takes_no_labels():
    with pytest.raises(ConfigError, match="labels"):
        img2img(model_around(Labelled(), classes=()), some_images(), labels=np.array([0, 0]))


# The command line --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("editing") / "run"
    run("train", "digits", "--net", TINY_NET, "--steps", "4", "--batch-size", "16", "--out", out,
        "--device", "cpu", "--sample-every", "0", "--precision", "float32")  # fmt: skip
    return out


def size(columns, rows):
    """The size of a grid of 8x8 images, eight times enlarged."""
    return columns * 80 + 16, rows * 80 + 16


def panel(path, row, column):
    """Return one image of a grid of 8x8 images, as bytes [8,8]."""
    top, left = 16 + 80 * row, 16 + 80 * column
    return np.array(Image.open(path))[top : top + 64 : 8, left : left + 64 : 8]


def test_edit_help_needs_no_torch():
    code = (
        "import sys\n"
        "from pocketddpm.commands.main import main\n"
        "try:\n    main(['edit', '--help'])\n"
        "except SystemExit as stop:\n    assert stop.code == 0\n"
        "assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "interpolate" in done.stdout


def test_edit_interpolate(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("edit", "interpolate", trained, "--images", "digits", "--index", "0,5,7", "--frames", "3",
        "--steps", "4", "--device", "cpu", "--gif", "morph.gif")  # fmt: skip
    printed = capsys.readouterr().out
    assert "4 evaluations" in printed
    assert "wrote edit-interpolate.png, morph.gif" in printed
    out = tmp_path / "edit-interpolate.png"
    assert Image.open(out).size == size(3 + 2, 2)
    # The second row goes on where the first ends.
    assert np.array_equal(panel(out, 0, 4), panel(out, 1, 0))
    assert Image.open(tmp_path / "morph.gif").n_frames == 5
    run("edit", "interpolate", trained, "--images", "digits", "--index", "0,5,7", "--frames", "3",
        "--steps", "4", "--device", "cpu", "--strength", "0.5", "--out", "other.png")  # fmt: skip
    assert "2 evaluations each" in capsys.readouterr().out
    assert not np.array_equal(panel(out, 0, 2), panel(tmp_path / "other.png", 0, 2))


def test_edit_img2img_of_files(trained, tmp_path, capsys):
    colour = np.zeros((24, 16, 3), np.uint8)
    colour[8:16] = (255, 255, 255)
    Image.fromarray(colour).save(tmp_path / "a.png")
    Image.fromarray(colour[4:20, :, 0]).save(tmp_path / "b.jpg")
    out, gif = tmp_path / "out.png", tmp_path / "out.gif"
    run("edit", "img2img", trained, "--images", tmp_path / "a.png", tmp_path / "b.jpg",
        "--labels", "3", "--guidance", "2", "--steps", "8", "--device", "cpu", "--out", out,
        "--gif", gif)  # fmt: skip
    assert "8 evaluations" in capsys.readouterr().out
    assert Image.open(out).size == size(2, 2)
    assert Image.open(gif).n_frames == 4
    before = panel(out, 0, 0)
    assert before[4].min() > 200 and before[1].max() < 50  # the middle of the picture, halved
    assert not np.array_equal(panel(out, 1, 0), before)
    run("edit", "img2img", trained, "--images", tmp_path / "a.png", "--strength", "0", "--device",
        "cpu", "--out", out, "--gif", gif, "--overwrite")  # fmt: skip
    assert np.array_equal(panel(out, 1, 0), before)


def test_edit_inpaint(trained, tmp_path, capsys):
    out = tmp_path / "out.png"
    args = ["--images", "digits", "--split", "test", "--index", "3,4", "--steps", "6", "--device",
            "cpu", "--jump-length", "2", "--jump-count", "2"]  # fmt: skip
    run("edit", "inpaint", trained, *args, "--box", "4,2,8,7", "--out", out)
    assert "10 evaluations" in capsys.readouterr().out
    assert Image.open(out).size == size(2, 3)
    mask = np.zeros((8, 8), np.bool_)
    mask[4:8, 2:7] = True
    for column in range(2):
        before, hidden, after = (panel(out, row, column) for row in range(3))
        assert (hidden[mask] == 255).all()
        assert np.array_equal(hidden[~mask], before[~mask])
        assert np.array_equal(after[~mask], before[~mask])
        assert not np.array_equal(after[mask], before[mask])
    Image.fromarray(mask).resize((16, 16)).save(tmp_path / "mask.png")
    other, gif = tmp_path / "other.png", tmp_path / "out.gif"
    run("edit", "inpaint", trained, *args, "--mask", tmp_path / "mask.png", "--out", other, "--gif",
        gif)  # fmt: skip
    assert np.array_equal(np.array(Image.open(out)), np.array(Image.open(other)))
    assert Image.open(gif).n_frames == 10


@pytest.mark.parametrize(
    ("args", "values"),
    [
        (["inpaint"], ["--mask", "--box"]),
        (["inpaint", "--box", "0,0,4,4", "--mask", "m.png"], ["--mask", "--box"]),
        (["inpaint", "--box", "0,0,4"], ["TOP,LEFT,BOTTOM,RIGHT", "4", "'0,0,4'"]),
        (["inpaint", "--box", "0,0,4.5,4"], ["'0,0,4.5,4'"]),
        (["inpaint", "--box", "0,0,9,4"], ["--box 0,0,9,4", "8x8"]),
        (["inpaint", "--box", "4,0,4,4"], ["--box 4,0,4,4", "8x8"]),
        (["inpaint", "--mask", "absent.png"], ["absent.png"]),
        (["inpaint", "--box", "0,0,4,4", "--strength", "0.5"], ["--strength", "inpaint"]),
        (
            ["inpaint", "--box", "0,0,4,4", "--steps", "5", "--jump-length", "10"],
            ["--jump-length", "5 steps"],
        ),
        (["img2img", "--box", "0,0,4,4"], ["--box", "img2img"]),
        (["img2img", "--strength", "2"], ["strength", ">= 0, <= 1", "2"]),
        (["img2img", "--index", "0,1500"], ["--index", "1500", "'0,1500'"]),
        (["img2img", "--index", "0,-1"], ["--index", "'0,-1'"]),
        (["img2img", "--index", "0,x"], ["'0,x'"]),
        (["img2img", "--labels", "11"], ["'11'"]),
        (["img2img", "--steps", "1001"], ["steps", "1000"]),
        (["img2img", "--sampler", "dimm"], ["'dimm'", "ddim"]),
        (["img2img", "--out", "out.jpg"], ["out.jpg", ".png"]),
        (["img2img", "--gif", "out.png"], ["out.png", ".gif"]),
        (["interpolate", "--index", "3"], ["2 images", "--images"]),
        (["interpolate", "--frames", "1"], ["--frames", "1"]),
        (["interpolate", "--sampler", "ddpm"], ["ddpm", "--sampler ddim"]),
        (["img2img", "--images", "absent"], ["'absent'"]),
        (["img2img", "--images", "a.png", "b.png"], ["a.png, b.png"]),
    ],
)
def test_bad_edits_are_one_line(trained, args, values, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = [] if "--images" in args else ["--images", "digits"]
    what, *rest = args
    message = refused(capsys, "edit", what, trained, *rest, *images, "--device", "cpu")
    assert all(value in message for value in values), message
    assert not list(tmp_path.iterdir()), "something was written"


def test_images_of_another_kind_are_refused(trained, tmp_path, capsys):
    rng = np.random.default_rng(0)
    folder = tmp_path / "colour"
    folder.mkdir()
    for k in range(2):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / f"{k}.png")
    args = ("--index", "0,1", "--device", "cpu", "--out", tmp_path / "out.png")
    message = refused(capsys, "edit", "img2img", trained, "--images", folder, *args)
    assert "colour" in message and "3" in message
    (tmp_path / "broken.png").write_text("no image")
    message = refused(
        capsys, "edit", "img2img", trained, "--images", tmp_path / "broken.png", *args
    )
    assert "broken.png" in message
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "black.png")
    message = refused(capsys, "edit", "inpaint", trained, "--images", tmp_path / "black.png",
                      "--mask", tmp_path / "black.png", *args)  # fmt: skip
    assert "black.png" in message


def test_an_edit_in_the_way_is_refused(trained, tmp_path, capsys):
    out = tmp_path / "mine.png"
    out.write_text("mine")
    args = ("--images", "digits", "--steps", "2", "--device", "cpu", "--out", out)
    assert "--overwrite" in refused(capsys, "edit", "img2img", trained, *args)
    assert out.read_text() == "mine"
    run("edit", "img2img", trained, *args, "--overwrite")
    assert Image.open(out).size == size(4, 2)
