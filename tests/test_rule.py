"""The rule of sizes: one recipe for every image set, chosen from what is there; sigma_data."""

import json
import math
import re
from dataclasses import replace
from itertools import product

import numpy as np
import PIL.Image
import pytest
import torch

import pocketddpm as pd
from conftest import TINY
from pocketddpm.build import build_network, build_schedule
from pocketddpm.commands.main import VERBS
from pocketddpm.commands.parser import help_text
from pocketddpm.config import DataConfig, Experiment, ObjectiveConfig, experiment_options
from pocketddpm.convert.onnx import facts
from pocketddpm.data.scaling import Scaling
from pocketddpm.diffusion.build import build_objective
from pocketddpm.errors import ConfigError
from pocketddpm.models.checkpoint import load_checkpoint
from pocketddpm.models.limits import _Unfilled
from pocketddpm.models.model import load
from pocketddpm.presets import CHOSEN, PRESETS, Found, follows_rule, get_preset, sized
from pocketddpm.runs.start import distillation, start
from test_sizes import SIZES

RULED = [name for name in PRESETS if follows_rule(name)]
SMALL = {"widths": (8, 8), "blocks": (1, 1), "head_width": 8}
BUILT = [(7, 7), (30, 30), (65, 40), (100, 60), (1, 1), (5, 400)]  # others take a second each
BRIEF = {"steps": 2, "batch_size": 4, "device": "cpu", "sample_every": 0, "optimiser": "adamw"}


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Twelve colour images of 9x7 pixels in two classes, in the current folder."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for k in range(12):
        path = tmp_path / "photos" / "ab"[k % 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(random.integers(90, 220, (9, 7, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


# The rule ----------------------------------------------------------------------------------------


def choices():
    sizes = [*SIZES, (100, 60), (96, 96), (128, 128), (5, 400), (1, 1)]
    return [Found(*size, images) for size, images in product(sizes, (1, 200, 10**6))]


def test_every_image_set_gets_a_network_that_takes_it():
    """Built without memory; attention sees at most 300 places, whatever the size."""
    for found in choices():
        experiment = sized(get_preset("folder"), found)
        assert experiment.network.name == "lean"
        sizes = experiment.network.sizes
        factor = sizes["patch"] * 2 ** (len(sizes["widths"]) - 1)
        assert math.ceil(found.height / factor) * math.ceil(found.width / factor) <= 300, found
        if found.images != 200 or found[:2] not in BUILT:
            continue
        for channels, classes in ((1, 0), (3, 10)):
            shape = (channels, found.height, found.width)
            with torch.device("meta"), _Unfilled():
                net = build_network(experiment, shape, classes)
                x = torch.empty(2, *shape)
                assert net(x, torch.empty(2)).shape == x.shape
            assert sum(p.numel() for p in net.parameters()) < 8e6


def test_help_says_of_every_option_that_the_rule_sets_how():
    recipe, changed = get_preset("folder"), set()
    for found in choices():
        made = sized(recipe, found)
        for option, place in experiment_options().items():
            before, after = (
                getattr(getattr(e, place.part), place.field.name) for e in (recipe, made)
            )
            changed |= {option} if before != after else set()
    assert changed == set(CHOSEN)
    for preset in RULED:
        shown = help_text("train", VERBS["train"], [preset], everything=True)
        said = " ".join(shown.split())
        for option, how in CHOSEN.items():
            row = re.findall(rf"--{option.replace('_', '-')} [A-Z].*?(?= --[a-z])", said)[0]
            assert f"(default: {how})" in row


def test_the_rule_changes_sizes_only():
    for found in choices():
        recipe = get_preset("celeba")
        made = sized(recipe, found)
        parts = ("preset", "data", "schedule", "objective", "optimiser", "evaluation", "sampling")
        for part in parts:
            assert getattr(made, part) == getattr(recipe, part)
        assert made.objective.prediction == "edm"
        json.dumps(made.to_dict())


def test_the_finest_level_stays_small_and_batches_grow_with_the_set():
    for side in range(7, 129):
        made = sized(get_preset("folder"), Found(side, side, 999))
        assert 7 <= math.ceil(side / made.network.sizes["patch"]) <= 32
        assert made.training.batch_size == 64
    many = sized(get_preset("folder"), Found(32, 32, 10**6))
    assert many.training.batch_size == 128


def test_names_that_follow_the_rule():
    assert {"folder", "cifar10", "celeba", "hf"} == set(RULED)
    assert follows_rule("somebodys-set")
    assert get_preset("hf:org/set").data.name == "hf:org/set"
    for name in RULED:
        assert get_preset(name).preset == name
    with pytest.raises(ConfigError, match=r"celebb.*celeba"):
        get_preset("celebb")


# A run -------------------------------------------------------------------------------------------


def test_a_run_stores_what_was_chosen_and_resumes_with_it(photos):
    run = start("folder", data="photos", **BRIEF)
    run.run()
    stored = load("runs/folder").experiment
    assert stored == run.experiment
    assert stored.network == sized(get_preset("folder"), Found(9, 7, 12)).network
    model = pd.train("folder", resume="runs/folder", steps=4, device="cpu", sample_every=0)
    assert model.meta["run"]["step"] == 4
    assert replace(model.experiment, training=stored.training) == stored


def test_options_win_over_the_rule(photos):
    run = start("folder", data="photos", net={"patch": 2}, p_mean=0.25, **BRIEF)
    assert run.experiment.training.batch_size == 4
    chosen = sized(get_preset("folder"), Found(9, 7, 12)).network.sizes
    assert run.experiment.network.sizes == {**chosen, "patch": 2}
    assert run.experiment.objective.p_mean == 0.25
    run.close()
    run = start("folder", data="photos", network="unet", out="runs/u", **BRIEF)
    assert (run.experiment.network.name, run.experiment.network.sizes) == ("unet", {})
    run.close()


def test_a_set_of_the_hub_on_disk_follows_the_rule_and_is_found_from_elsewhere(photos):
    run = start("hf:photos", **BRIEF)
    assert run.experiment.data.name == f"hf:{photos}"
    assert run.experiment.preset == "hf"
    assert run.experiment.network.sizes["patch"] == 1
    run.close()


def test_an_experiment_of_ones_own_is_taken_as_it_is(photos):
    own = replace(get_preset("folder"), data=DataConfig("photos"))
    run = start(own, **BRIEF)
    assert run.experiment.network == own.network
    run.close()


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_learns_from_64_images_in_batches_of_4(name, tmp_path, capsys):
    """An epoch of a fixed length becomes the set where it is longer; another network, as a cost."""
    for k in range(80):
        path = tmp_path / "set" / "ab"[k % 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("L", (9, 9), 3 * k).save(path)
    small = {} if name.startswith("small") else {"network": "unet", "net": TINY.sizes}
    few = {
        "subset": 64,
        "batch_size": 4,
        "image_size": (16, 16),
        "hold_out": 0,
        "steps": 1,
        **small,
    }
    brief = {"device": "cpu", "sample_every": 0, "out": tmp_path / "run"}
    run = start(name, data=str(tmp_path / "set"), **few, **brief)
    assert run.trainer.loader.epoch_images == 64
    run.run()
    told = capsys.readouterr().err
    longer = get_preset(name).training.batches_per_epoch
    assert ("124" in told) == (longer == 31)
    assert run.trainer.images_seen == 4


def test_runs_of_folder_from_before_resume_exactly(photos):
    """They hold their own configuration, of the plain U-Net with sigma_data 0.5."""
    before = replace(get_preset("unet-folder"), preset="folder", network=TINY)
    before = replace(before, objective=ObjectiveConfig(sigma_data=0.5))
    budget = BRIEF | {"data": "photos", "decay": "none"}
    start(before, out="whole", **{**budget, "steps": 4}).run()
    start(before, out="parts", **budget).run()
    pd.train("folder", resume="parts", steps=4, device="cpu", sample_every=0)
    whole, parts = (
        load_checkpoint(photos.parent / o / "last.safetensors") for o in ("whole", "parts")
    )
    assert parts.meta["experiment"]["network"]["name"] == "unet"
    assert all(torch.equal(whole.tensors[k], v) for k, v in parts.tensors.items())


# sigma_data --------------------------------------------------------------------------------------


def tiny_edm(**objective) -> Experiment:
    return replace(
        get_preset("digits"),
        network=replace(get_preset("mnist").network, sizes=SMALL),
        schedule=get_preset("mnist").schedule,
        objective=ObjectiveConfig("edm", weighting="edm", times="log-normal", **objective),
    )


@pytest.mark.parametrize("center", [False, True])
def test_sigma_data_is_the_root_mean_square_of_what_the_network_sees(tmp_path, center):
    data = DataConfig("digits", center=center)
    run = start(replace(tiny_edm(), data=data), out=tmp_path / "run", **BRIEF)
    values = np.asarray(run.images.images, np.float64) / 127.5 - 1
    values -= values.mean(0) if center else 0
    expected = np.sqrt(np.square(values).mean())
    assert run.experiment.objective.sigma_data == pytest.approx(expected, rel=2e-3)
    assert run.meta["experiment"]["objective"]["sigma_data"] == run.experiment.objective.sigma_data
    run.close()


def test_a_measured_network_sees_inputs_and_targets_of_one_size(tmp_path):
    """What sigma_data is for: E[(c_in x)^2] = 1, and a target whose mean square is 1 too."""
    run = start(replace(tiny_edm(), data=DataConfig("digits")), out=tmp_path / "run", **BRIEF)
    x0 = run.trainer.scaling.to_model(torch.from_numpy(run.images.images[:]))
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    for sigma in (0.05, 0.5, 5.0):
        a, b = 1 / math.hypot(1, sigma), sigma / math.hypot(1, sigma)
        prediction = run.trainer.objective.prediction
        target = prediction.target(x0, eps, a, b)
        seen = (a * x0 + b * eps) / math.hypot(b, a * run.experiment.objective.deviation)
        assert float(seen.square().mean()) == pytest.approx(1, abs=0.02)
        assert float(target.square().mean()) == pytest.approx(1, abs=0.02)
    run.close()


def test_sigma_data_of_many_images_and_of_equal_ones():
    images = np.random.default_rng(0).integers(0, 256, (9000, 1, 2, 2), dtype=np.uint8)
    whole = np.sqrt(np.square(images / 127.5 - 1).mean())
    assert Scaling().root_mean_square(images) == pytest.approx(whole, rel=0.02)
    same = np.full((5, 3, 4, 4), 77, np.uint8)
    centered = Scaling().centered(same, torch.device("cpu"))
    assert centered.root_mean_square(same) == pytest.approx(2 / 255)


def test_a_given_sigma_data_stays_and_one_without_use_is_not_measured(tmp_path):
    for options, expected in (
        ({"sigma_data": 0.75}, 0.75),
        ({"prediction": "v", "weighting": "simple"}, None),
    ):
        run = start(tiny_edm(), out=tmp_path / str(expected), **options, **BRIEF)
        assert run.experiment.objective.sigma_data == expected
        run.close()
    for name in ("mnist", "fashion-mnist"):
        assert get_preset(name).objective.sigma_data == 0.5


def test_without_a_measurement_it_is_edms():
    schedule = build_schedule(get_preset("mnist").schedule)
    objective = [
        build_objective(ObjectiveConfig("edm", weighting="edm", sigma_data=s), schedule, None)
        for s in (None, 0.5)
    ]
    assert torch.equal(objective[0].weights, objective[1].weights)


def test_models_made_from_a_model_keep_its_sigma_data(tmp_path, monkeypatch):
    """Fine-tuning and distillation: the weights count on it; exports say it."""
    monkeypatch.chdir(tmp_path)
    start(tiny_edm(sigma_data=0.375), out="teacher", **BRIEF).run()
    model = load("teacher")
    assert facts(model)["sigma_data"] == 0.375
    tuned = start(tiny_edm(), begin_with="teacher", out="tuned", **BRIEF)
    assert tuned.experiment.objective.sigma_data == 0.375
    tuned.close()
    other = start(tiny_edm(), begin_with="teacher", sigma_data=0.25, out="other", **BRIEF)
    assert other.experiment.objective.sigma_data == 0.25
    other.close()
    distilled = distillation("teacher", steps=1, device="cpu", out="distilled")
    assert distilled.experiment.objective.sigma_data == 0.375
    distilled.close()


def test_a_run_that_begins_with_a_model_takes_its_network(photos):
    small = {"net": SMALL, "data": "photos"}
    start("folder", out="first", **small, **BRIEF).run()
    second = start("folder", begin_with="first", data="photos", out="second", **BRIEF)
    first = load("first").experiment
    assert second.experiment.network == first.network
    assert second.experiment.objective.sigma_data == first.objective.sigma_data
    second.close()
