"""Guidance: what each setting must be equal to, what it costs, and what cannot work."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from models import Labelled, model_around
from pocketddpm.data.scaling import Scaling
from pocketddpm.diffusion.denoiser import Denoiser
from pocketddpm.diffusion.grid import Grid
from pocketddpm.diffusion.guidance import Guidance, as_guidance, dynamic_threshold, rescaled
from pocketddpm.diffusion.prediction import get_prediction
from pocketddpm.errors import ConfigError
from pocketddpm.samplers import ddim
from test_cli import TINY_NET, refused, run

NULL = 10
T, AB = 400.0, 0.4
LABELS = torch.tensor([3, 5, 10])


def points(*shape):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, *(shape or (1, 4, 4)), generator=generator, dtype=torch.float64)


def estimate(guidance=1.0, labels=LABELS, t=T, prediction="eps", **options):
    """Return (estimate, batch sizes of the network's calls, evaluations of an image)."""
    network = Labelled()
    how = as_guidance(guidance)
    denoiser = Denoiser(network, get_prediction(prediction), labels, how, null=NULL, **options)
    answer = denoiser(points(), t, AB)
    return answer, network.batches, denoiser.nfe


def same(one, other):
    assert_close(one.x0, other.x0, rtol=0, atol=0)
    assert_close(one.eps, other.eps, rtol=0, atol=0)


def nulls():
    return torch.full_like(LABELS, NULL)


# Identities --------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_scale_1_is_the_conditional_model_and_0_the_unconditional(prediction):
    x = points()
    for scale, labels in ((1.0, LABELS), (0.0, nulls())):
        answer, batches, nfe = estimate(scale, prediction=prediction)
        output = Labelled()(x, torch.full((3,), T), labels)
        assert_close(answer.x0, get_prediction(prediction).x0(output, x, AB**0.5, (1 - AB) ** 0.5))
        assert (batches, nfe) == ([3], 1)


def test_both_branches_are_one_call():
    answer, batches, nfe = estimate(2.5)
    assert (batches, nfe) == ([6], 2)
    with_label, without = estimate(1.0)[0].eps, estimate(0.0)[0].eps
    assert_close(answer.eps, without + 2.5 * (with_label - without))
    # The third image has no label to lead towards.
    assert_close(answer.eps[2], without[2])
    assert float((answer.eps - with_label)[:2].abs().max()) > 0.1


def test_the_interval_0_to_T_is_plain_guidance():
    plain, _, cost = estimate(3.0)
    whole, _, whole_cost = estimate(Guidance(3.0, interval=(0, 1000)))
    same(whole, plain)
    assert whole_cost == cost == 2


@pytest.mark.parametrize(("t", "guided"), [(199, 0), (200, 1), (400, 1), (600, 1), (600.5, 0)])
def test_outside_its_interval_guidance_costs_and_does_nothing(t, guided):
    answer, batches, nfe = estimate(Guidance(3.0, interval=(200, 600)), t=t)
    same(answer, estimate(3.0 if guided else 1.0, t=t)[0])
    assert (batches, nfe) == ([6 if guided else 3], 1 + guided)


def test_rescale_moves_the_deviation_towards_that_of_the_strong_branch():
    plain, strong = estimate(4.0)[0].eps, estimate(1.0)[0].eps
    same(estimate(Guidance(4.0, rescale=0.0))[0], estimate(4.0)[0])
    same(estimate(Guidance(1.0, rescale=0.7))[0], estimate(1.0)[0])
    dims = (1, 2, 3)
    assert float((plain.std(dims) / strong.std(dims) - 1).abs()[:2].min()) > 0.2
    whole = estimate(Guidance(4.0, rescale=1.0))[0].eps
    assert_close(whole.std(dims), strong.std(dims))
    factor = strong.std(dims, keepdim=True) / plain.std(dims, keepdim=True)
    half = estimate(Guidance(4.0, rescale=0.5))[0].eps
    assert_close(half, plain * (0.5 * factor + 0.5))
    # The deviation of the weak branch is not the measure, even where it is all there is.
    none = estimate(Guidance(0.0, rescale=1.0))[0].eps
    assert_close(none.std(dims), strong.std(dims))
    assert bool(
        torch.isfinite(rescaled(torch.zeros(2, 1, 3, 3), torch.ones(2, 1, 3, 3), 0.7)).all()
    )


def test_cfg_plus_plus_draws_with_one_estimate_and_renoises_with_the_other():
    conditional, unconditional = estimate(1.0)[0], estimate(0.0)[0]
    same(estimate(Guidance(0.0, cfg_plus_plus=True))[0], unconditional)
    whole, batches, nfe = estimate(Guidance(1.0, cfg_plus_plus=True))
    assert_close(whole.x0, conditional.x0)
    same(whole._replace(x0=unconditional.x0), unconditional)
    assert (batches, nfe) == ([6], 2)
    some = estimate(Guidance(0.6, cfg_plus_plus=True))[0]
    assert_close(some.x0, unconditional.x0 + 0.6 * (conditional.x0 - unconditional.x0))
    same(some._replace(x0=unconditional.x0), unconditional)


@pytest.mark.parametrize("ab_s", [0.5, 0.9, 1.0])
def test_a_cfg_plus_plus_step_is_a_guided_step_of_another_scale(ab_s):
    """arXiv 2406.08070: share lambda is scale lambda sigma_t / (sigma_t - sigma_s), for DDIM."""
    sigma_t, sigma_s = ((1 - ab) ** 0.5 / ab**0.5 for ab in (AB, ab_s))
    scale = 0.6 * sigma_t / (sigma_t - sigma_s)

    def step(guidance):
        how = as_guidance(guidance)
        denoiser = Denoiser(Labelled(), get_prediction("v"), LABELS, how, null=NULL)
        grid = Grid((T, 100.0), (AB, ab_s))
        (state,) = ddim.sample(denoiser, points(), grid, lambda i: points(), ddim.Config())
        return state.x

    assert_close(step(Guidance(0.6, cfg_plus_plus=True)), step(scale))
    assert scale > 0.6 or ab_s == 1
    assert float((step(scale) - step(0.6)).abs().max()) > 0.01 or ab_s == 1


def test_autoguidance_by_oneself_is_no_guidance():
    answer, batches, nfe = estimate(3.0, guide=Labelled())
    assert_close(answer.eps, estimate(1.0)[0].eps)
    assert (batches, nfe) == ([3], 2)


@pytest.mark.parametrize("labels", [LABELS, None])
def test_autoguidance_leads_away_from_the_weaker_network_told_the_same(labels):
    weak = Labelled(slope=0.2)
    answer, batches, nfe = estimate(3.0, labels, guide=weak)
    assert (batches, weak.batches, nfe) == ([3], [3], 2)
    told = nulls() if labels is None else labels
    one, other = (Labelled(slope)(points(), torch.full((3,), T), told) for slope in (0.3, 0.2))
    assert_close(answer.eps, other + 3 * (one - other))
    alone, batches, nfe = estimate(0.0, labels, guide=weak)
    assert_close(alone.eps, other)
    assert (batches, nfe) == ([], 1)


def test_a_negative_label_takes_the_place_of_no_label():
    same(estimate(Guidance(2.0, negative_label=NULL))[0], estimate(2.0)[0])
    answer, batches, nfe = estimate(Guidance(2.0, negative_label=7))
    assert (batches, nfe) == ([6], 2)
    wanted, unwanted = (estimate(1.0, y)[0].eps for y in (LABELS, torch.full_like(LABELS, 7)))
    assert_close(answer.eps, unwanted + 2 * (wanted - unwanted))


def test_clipping_acts_on_the_guided_estimate():
    answer, _, _ = estimate(4.0, clip=lambda x: x.clamp(-0.5, 0.5))
    assert_close(answer.x0, estimate(4.0)[0].x0.clamp(-0.5, 0.5))
    assert_close(AB**0.5 * answer.x0 + (1 - AB) ** 0.5 * answer.eps, points())


# Dynamic thresholding ----------------------------------------------------------------------------


def test_thresholding_is_the_published_formula_on_the_published_range():
    x = 3 * points(3, 8, 8)
    x[2] /= 100  # lies in the range
    s = torch.quantile(x.abs().flatten(1), 0.9, dim=1).clamp_min(1)[:, None, None, None]
    assert float(s[2]) == 1 < float(s[0])
    assert_close(dynamic_threshold(x, 0.9, -1.0, 1.0), torch.maximum(-s, torch.minimum(x, s)) / s)
    assert_close(dynamic_threshold(x, 0.9, -1.0, 1.0)[2], x[2])
    # Each image has its own s, whatever else is in the batch.
    assert_close(dynamic_threshold(x[:1], 0.9, -1.0, 1.0)[0], dynamic_threshold(x, 0.9, -1, 1)[0])


@pytest.mark.parametrize("mean", [None, torch.full((1, 4, 4), 0.2)])
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-0.5, 3.5)])
def test_thresholding_knows_the_models_range(low, high, mean):
    """The same images in other units come out the same."""
    scaling = Scaling(low, high, mean)
    how = Guidance(threshold=0.8)
    x = 2 * points()
    half = (high - low) / 2
    other = low + half * (x + 1) - (0 if mean is None else mean)
    clip = model_around(Labelled(), scaling=scaling).denoiser(guidance=how).clip
    plain = model_around(Labelled()).denoiser(guidance=how).clip
    assert clip is not None and plain is not None
    restored = (clip(other) + (0 if mean is None else mean) - low) / half - 1
    assert_close(restored, plain(x))
    assert_close(plain(x), dynamic_threshold(x, 0.8, -1.0, 1.0))
    assert float(plain(x).abs().max()) == 1
    assert float((plain(x) - x.clamp(-1, 1)).abs().max()) > 0.1


# Models ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "nfe"),
    [
        ({}, 8),
        ({"guidance": 2.0}, 16),
        ({"guidance": 0.0}, 8),
        ({"guidance": Guidance(2.0, interval=(0, 1000))}, 16),
        ({"guidance": Guidance(2.0, interval=(300, 700))}, 11),  # t = 625, 500, 375 are guided
        ({"guidance": Guidance(2.0, negative_label=3, rescale=0.7, threshold=0.9)}, 16),
        ({"guidance": Guidance(1.0, cfg_plus_plus=True)}, 16),
        ({"guidance": 2.0, "sampler": "heun"}, 30),
        ({"guidance": Guidance(2.0, interval=(300, 700)), "sampler": "heun"}, 21),
        ({"guidance": 3.0, "guide": 1}, 16),
        ({"guidance": Guidance(3.0, interval=(300, 700)), "guide": 1}, 11),
    ],
)
def test_nfe_is_what_was_asked_of_the_networks(options, nfe):
    network, weak = Labelled(), Labelled(0.2)
    model = model_around(network)
    if "guide" in options:
        options = {**options, "guide": model_around(weak)}
    labels = np.array([1, 2, 3, 4, 5])
    samples = model.sample(5, labels=labels, steps=8, batch_size=2, **options)
    assert samples.nfe == nfe
    assert sum(network.batches + weak.batches) == 5 * nfe
    images = model.sample(5, labels=labels, steps=8, **options).images
    assert np.array_equal(images, samples.images)
    assert not (samples.images == samples.images[0]).all()


def test_a_guide_need_not_know_of_labels():
    model = model_around(Labelled(), classes=())
    weak = model_around(Labelled(0.2), classes=())
    plain, guided = (model.sample(2, steps=4, guidance=w, guide=weak).images for w in (1.0, 3.0))
    assert np.array_equal(plain, model.sample(2, steps=4).images)
    assert not np.array_equal(plain, guided)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": float("nan")}, "guidance .* nan"),
        ({"interval": (600, 200)}, "LOW,HIGH .* 600,200"),
        ({"interval": (-1, 200)}, "LOW,HIGH .* -1,200"),
        ({"interval": (float("nan"), 200)}, "interval .* nan"),
        ({"rescale": 1.5}, r"rescale .*>= 0, <= 1.* 1\.5"),
        ({"scale": 7.5, "cfg_plus_plus": True}, r"CFG\+\+ .*0\.\.1.* 7.5"),
        ({"threshold": 0.0}, "threshold .* 0.0"),
        ({"threshold": 99.5}, "threshold .* 99.5"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Guidance(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance": Guidance(2.0, interval=(0, 1001))}, r"0\.\.1000.* 0,1001"),
        ({"guidance": Guidance(2.0, negative_label=11)}, r"0\.\.9.* 10 .* 11"),
        ({"guidance": Guidance(2.0, negative_label=-1)}, r"0\.\.9.* -1"),
        ({"guidance": Guidance(0.5, cfg_plus_plus=True), "sampler": "dpmpp"}, "--sampler ddim"),
        ({"guidance": Guidance(0.5, cfg_plus_plus=True), "sampler": "ddpm"}, "--sampler ddim"),
        ({"guidance": 2.0, "labels": None}, "guidance .*labels"),
        ({"sampler": "ddim-inversion"}, "ddim-inversion"),
    ],
)
def test_what_a_model_cannot_follow_is_refused(options, message):
    options = {"labels": np.array([3]), **options}
    with pytest.raises(ConfigError, match=message):
        model_around(Labelled()).sample(1, steps=4, **options)


@pytest.mark.parametrize(
    ("guide", "message"),
    [
        ({"shape": (1, 8, 8)}, r"image shape .*\(1, 8, 8\)"),
        ({"classes": ("a", "b")}, "classes"),
        ({"prediction": "v"}, r"prediction .*v, here x0"),
        ({"schedule": "linear"}, "schedule"),
        ({"scaling": Scaling(0.0, 1.0)}, "scaling"),
    ],
)
def test_a_guide_of_another_kind_is_refused(guide, message):
    with pytest.raises(ConfigError, match=message):
        model_around(Labelled()).denoiser(
            LABELS, guidance=2.0, guide=model_around(Labelled(), **guide)
        )


def test_an_unconditional_model_needs_a_guide_to_be_guided():
    model = model_around(Labelled(), classes=())
    with pytest.raises(ConfigError, match=r"guidance 2 .*--guide"):
        model.sample(1, steps=2, guidance=2.0)
    with pytest.raises(ConfigError, match="--negative-label"):
        model.sample(1, steps=2, guidance=Guidance(negative_label=0))
    with pytest.raises(ConfigError, match="--guide and --negative-label"):
        labelled = model_around(Labelled())
        labelled.denoiser(LABELS, guidance=Guidance(2.0, negative_label=1), guide=labelled)


# The command line --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("guidance") / "run"
    run("train", "digits", "--net", TINY_NET, "--steps", "4", "--batch-size", "16", "--out", out,
        "--device", "cpu", "--sample-every", "0", "--precision", "float32")  # fmt: skip
    return out


def drawn(trained, tmp_path, *args):
    out = tmp_path / "s.npz"
    run("sample", trained, "--n", "3", "--labels", "1,2,3", "--steps", "4", "--device", "cpu",
        "--out", out, "--overwrite", *args)  # fmt: skip
    with np.load(out) as arrays:
        return arrays["images"]


def test_every_option_reaches_the_samples(trained, tmp_path, capsys):
    plain = drawn(trained, tmp_path, "--guidance", "4")
    assert "8 evaluations each, guidance 4" in capsys.readouterr().out
    for args, nfe in (
        (["--guidance-interval", "400,800"], 6),  # of t = 1000, 750, 500, 250
        (["--guidance-rescale", "1"], 8),
        (["--negative-label", "7"], 8),
        (["--threshold", "0.99"], 8),
        (["--guide", trained / "last.safetensors"], 8),
        (["--cfg-plus-plus", "--sampler", "ddim", "--guidance", "1"], 8),
    ):
        guidance = [] if "--guidance" in args else ["--guidance", "4"]
        assert not np.array_equal(drawn(trained, tmp_path, *guidance, *args), plain), args
        assert f"{nfe} evaluations each" in capsys.readouterr().out, args


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--guidance-interval", "400"], "LOW,HIGH must be 2 numbers, got '400'"),
        (["--guidance-interval", "low,high"], "LOW,HIGH must be 2 numbers"),
        (["--guidance-interval", "0,2000"], "0..1000"),
        (["--guidance-rescale", "2"], ">= 0, <= 1"),
        (["--negative-label", "11"], "unknown label '11'"),
        (["--guide", "absent"], "no model at"),
        (["--threshold", "99.5"], "0.995"),
        (["--cfg-plus-plus"], "0.6 is about as strong"),
        (["--cfg-plus-plus", "--guidance", "0.6", "--sampler", "ddpm"], "use --sampler ddim"),
        (["--guidance", "1", "--guidance-interval", "0,9"], "--guidance-interval does nothing"),
        (["--guidance", "1", "--guidance-rescale", "0.7"], "give --guidance 2, say"),
        (["--guidance", "1", "--negative-label", "3"], "--negative-label does nothing"),
    ],
)
def test_bad_guidance_is_one_line(trained, args, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = args if "--guidance" in args else ["--guidance", "2", *args]
    out = ["--device", "cpu", "--out", "grid.png"]
    assert message in refused(capsys, "sample", str(trained), "--n", "1", *args, *out)
    assert not list(tmp_path.iterdir()), "something was written"


def test_a_guide_does_nothing_without_guidance(trained, capsys, tmp_path):
    args = ("--n", "1", "--guide", trained, "--device", "cpu", "--out", tmp_path / "s.png")
    assert "--guide does nothing without guidance" in refused(capsys, "sample", trained, *args)
