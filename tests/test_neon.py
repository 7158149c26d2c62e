"""`neon`: the step, what it does to a mixture whose recall is known, and going on."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import pocketddpm as pd
import pocketddpm.runs.neon
from pocketddpm.catalog import ALL
from pocketddpm.commands.main import main
from pocketddpm.config import (
    DataConfig,
    Experiment,
    NetworkConfig,
    ObjectiveConfig,
    OptimiserConfig,
    SamplingConfig,
    TrainingConfig,
)
from pocketddpm.errors import ConfigError, OutputError
from pocketddpm.metrics.precision_recall import neighbourhoods
from pocketddpm.models.checkpoint import load_checkpoint, save_checkpoint
from pocketddpm.models.samples import Samples
from pocketddpm.runs.neon import stepped_away, tuning
from test_processes import together

NET = {"widths": (8, 16), "head_width": 8, "groups": 4}
QUICK = {"n": 24, "images": 48, "device": "cpu"}
# Exact for two modes of all pixels equal, +-MIDDLE, with deviation exp(log_s) around them.
TWO_MODES = '''"""The posterior mean of a mixture of two Gaussians."""
from dataclasses import dataclass
import torch
from torch import nn
from pocketddpm.build import build_schedule
from pocketddpm.config import ScheduleConfig

CONDITIONAL = False
MIDDLE = 0.5

@dataclass(frozen=True)
class Config:
    s: float = 0.1

class Net(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.log_s = nn.Parameter(torch.tensor(s).log())
        table = build_schedule(ScheduleConfig("linear")).alpha_bar.float()
        self.register_buffer("alpha_bar", table, persistent=False)

    def forward(self, x_t, t, y=None):
        ab = self.alpha_bar[t.long()].view(-1, 1, 1, 1)
        a, b2, s2 = ab.sqrt(), 1 - ab, (2 * self.log_s).exp()
        v = ab * s2 + b2
        side = torch.tanh(a * MIDDLE * x_t.sum((1, 2, 3), keepdim=True) / v)
        return (a * s2 * x_t + b2 * MIDDLE * side) / v

def build(config, *, channels, out_channels, height, width, classes):
    return Net(config.s)
'''


@pytest.fixture(autouse=True)
def nothing_stays():
    yield
    for catalog in ALL:
        catalog.plugins.clear()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    out = tmp_path_factory.mktemp("neon") / "base"
    how = {"center": True, "steps": 2, "batch_size": 16, "device": "cpu", "sample_every": 0}
    pd.train("digits", net=NET, out=out, **how)
    return out


def test_the_step_goes_the_other_way():
    own, tuned = {"a": torch.tensor([1.0, 2.0])}, {"a": torch.tensor([0.5, 4.0])}
    assert stepped_away(own, tuned, 2.0)["a"].tolist() == [2.0, -2.0]
    assert stepped_away(own, tuned, 0.0)["a"].tolist() == [1.0, 2.0]
    whole = {"n": torch.tensor([3])}
    assert stepped_away(whole, {"n": torch.tensor([5])}, 1.0)["n"].tolist() == [3]


def test_the_model_is_its_base_stepped_away_from_the_tuned_run(base, tmp_path):
    out = tmp_path / "wider"
    model = pd.neon(base, w=1.5, out=out, **QUICK)
    own, tuned = (load_checkpoint(p / "last.safetensors") for p in (base, out / "tuned"))
    wanted = stepped_away(own.part("ema"), tuned.part("model"), 1.5)
    assert_close(dict(model.network.state_dict()), wanted, rtol=0, atol=0)
    assert any(not torch.equal(wanted[k], own.part("ema")[k]) for k in wanted)
    assert own.part("scaling").keys() == {"mean"}
    assert_close(tuned.part("scaling"), own.part("scaling"), rtol=0, atol=0)
    stepped = load_checkpoint(out / "last.safetensors")
    assert_close(stepped.part("scaling"), own.part("scaling"), rtol=0, atol=0)
    drawn = pd.load_images(str(out / "samples.npz"))
    assert (len(drawn), drawn.classes) == (24, pd.load(base).classes)
    assert tuned.meta["run"]["images_seen"] == 48
    assert load_checkpoint(out / "last.safetensors").meta["neon"]["w"] == 1.5


def test_info_says_what_it_was_made_of(base, tmp_path, capsys):
    out = tmp_path / "wider"
    pd.neon(base, w=1.5, out=out, **QUICK)
    capsys.readouterr()
    main(["info", str(out)])
    told = capsys.readouterr().out
    assert "w 1.5" in told
    assert "reproduce" not in told  # it has no steps of its own to repeat
    main(["info", str(out / "tuned")])
    assert f"reproduce {out / 'tuned'}" in capsys.readouterr().out


def test_the_tuning_begins_with_the_models_averaged_weights(base, tmp_path):
    model = pd.neon(base, out=tmp_path / "wider", lr=1e-9, **QUICK)
    wanted = load_checkpoint(base / "last.safetensors").part("ema")
    assert_close(dict(model.network.state_dict()), wanted, rtol=0, atol=1e-7)


def test_guidance_is_not_learned_again_from_guided_samples(tmp_path):
    model = pd.load("mnist").experiment
    assert model.objective.guidance > 1
    own = tuning(model, tmp_path / "own.npz", {"images": 64, "lr": 0.01, "seed": 5})
    assert own.objective == replace(model.objective, guidance=1.0, sigma_data=0.5)
    assert (own.optimiser.lr, own.training.images, own.training.seed) == (0.01, 64, 5)
    assert (own.data.flip, own.data.held_out, own.optimiser.ema_half_life) == (False, 0, 0)


def test_the_seed_is_that_of_the_samples(base, tmp_path):
    drawn = pd.load(base).sample(24, labels="all", seed=9).images
    pd.neon(base, seed=9, out=tmp_path / "nine", **QUICK)
    own = pd.load_images(str(tmp_path / "nine" / "samples.npz"))
    assert np.array_equal(own.images, drawn)
    assert (
        load_checkpoint(tmp_path / "nine/tuned/last.safetensors").meta["experiment"]["training"][
            "seed"
        ]
        == 9
    )


def test_another_w_only_steps_again(base, tmp_path):
    out = tmp_path / "wider"
    pd.neon(base, w=1.0, out=out, **QUICK)
    before = {p: (out / p).stat().st_mtime_ns for p in ("samples.npz", "tuned/last.safetensors")}
    model = pd.neon(base, w=0.0, out=out, **QUICK)
    assert before == {p: (out / p).stat().st_mtime_ns for p in before}
    own = pd.load(base).sample(2, steps=2, seed=1)
    assert np.array_equal(model.sample(2, steps=2, seed=1).images, own.images)


@pytest.mark.parametrize("point", ["samples", "tuned"])
def test_what_was_interrupted_goes_on_to_the_same_weights(base, tmp_path, monkeypatch, point):
    whole, part = tmp_path / "whole", tmp_path / "part"
    wanted = pd.neon(base, out=whole, **QUICK).network.state_dict()
    where = (Samples, "save") if point == "samples" else (pocketddpm.runs.neon, "stepped_away")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(*where, stop)
        pd.neon(base, out=part, **QUICK)
    assert not (part / "last.safetensors").exists()
    if point == "samples":  # nothing is there yet that other options could spoil
        pd.neon(base, out=part, seed=3, **QUICK)
        pd.neon(base, out=part, overwrite=True, **QUICK)
    assert_close(pd.neon(base, out=part, **QUICK).network.state_dict(), wanted, rtol=0, atol=0)


def test_a_folder_is_of_one_model_and_its_options(base, tmp_path):
    out = tmp_path / "wider"
    pd.neon(base, out=out, **QUICK)
    with pytest.raises(OutputError, match="--overwrite"):
        pd.neon(base, out=out, seed=1, **QUICK)
    pd.neon(base, out=out, seed=1, overwrite=True, **QUICK)
    assert json.loads((out / "neon.json").read_text())["seed"] == 1


def test_by_default_it_tunes_on_a_small_share_of_what_was_seen(base, tmp_path):
    stored = load_checkpoint(base / "last.safetensors")
    meta = {**stored.meta, "run": {**stored.meta["run"], "images_seen": 3000}}
    save_checkpoint(tmp_path / "long.safetensors", replace(stored, meta=meta))
    pd.neon(tmp_path / "long.safetensors", n=20, out=tmp_path / "wider", device="cpu")
    assert json.loads((tmp_path / "wider/neon.json").read_text())["images"] == 45


def test_what_was_measured_of_the_base_is_not_said_of_the_result(base, tmp_path):
    stored = load_checkpoint(base / "last.safetensors")
    run = {**stored.meta["run"], "best_loss": 0.5}
    meta = {**stored.meta, "run": run, "evaluation": {"frechet": 1.5}}
    save_checkpoint(tmp_path / "best.safetensors", replace(stored, meta=meta))
    pd.neon(tmp_path, out=tmp_path / "wider", **QUICK)
    found = load_checkpoint(tmp_path / "wider/last.safetensors").meta
    assert "evaluation" not in found and found["run"]["best_loss"] is None


def test_a_model_that_has_seen_nothing_needs_a_number_of_images(base, tmp_path):
    """As an imported one: without a step of tuning the result would be the model itself."""
    stored = load_checkpoint(base / "last.safetensors")
    meta = {**stored.meta, "run": {**stored.meta["run"], "images_seen": 0}}
    save_checkpoint(tmp_path / "imported.safetensors", replace(stored, meta=meta))
    with pytest.raises(ConfigError, match="--images"):
        pd.neon(tmp_path / "imported.safetensors", n=24, device="cpu", out=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_the_base_is_never_replaced(base):
    before = (base / "last.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="--out"):
        pd.neon(base, out=base, overwrite=True, **QUICK)
    assert (base / "last.safetensors").read_bytes() == before


def test_a_result_whose_samples_were_deleted_is_kept(base, tmp_path):
    out = tmp_path / "wider"
    pd.neon(base, out=out, **QUICK)
    (out / "samples.npz").unlink()
    with pytest.raises(OutputError, match="--overwrite"):
        pd.neon(base, out=out, seed=1, **QUICK)
    assert (out / "last.safetensors").exists()


def test_overwriting_leaves_nothing_of_another_run_to_load(base, tmp_path):
    for name in ("previous", "best"):
        (tmp_path / f"{name}.safetensors").write_bytes((base / "last.safetensors").read_bytes())
    pd.neon(base, out=tmp_path, overwrite=True, **QUICK)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["last.safetensors"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_processes_share_it(base, tmp_path):
    """The same samples, byte for byte, and the same weights up to the order of sums."""
    one, two = tmp_path / "one", tmp_path / "two"
    together(1, lambda rank: pd.neon(base, out=one, **QUICK), tmp_path)
    together(2, lambda rank: pd.neon(base, out=two, **QUICK), tmp_path)
    assert (two / "samples.npz").read_bytes() == (one / "samples.npz").read_bytes()
    found, wanted = (dict(pd.load(out).network.state_dict()) for out in (two, one))
    assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_a_distilled_model_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        main(["neon", "mnist-fast", "--out", str(tmp_path / "x")])
    assert error.value.code == 2
    assert "distill" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_bad_values_are_refused_before_anything_is_drawn(base, tmp_path):
    for options in ({"w": -1}, {"n": 5}, {"images": 0}, {"lr": 0}, {"steps": 5}, {"n": 2**26}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            pd.neon(base, out=tmp_path / "x", **options)
    assert not (tmp_path / "x").exists()


def test_a_mixture_that_few_steps_narrow_is_covered_again(tmp_path):
    """The network is exact; a sampler of 30 steps makes its modes a third as wide as they are."""
    plugin = tmp_path / "two_modes.py"
    plugin.write_text(TWO_MODES)
    pd.load_plugin(plugin)
    rng = np.random.default_rng(0)
    x = rng.choice([-0.5, 0.5], (1000, 1, 1, 1)) + 0.1 * rng.standard_normal((1000, 1, 8, 8))
    truth = ((x + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    Samples(truth, None, 0).save(tmp_path / "truth.npz")
    experiment = Experiment(
        preset="mixture",
        data=DataConfig(str(tmp_path / "truth.npz"), held_out=0),
        network=NetworkConfig("two-modes"),
        objective=ObjectiveConfig("x0", weighting="simple"),
        optimiser=OptimiserConfig("adam", lr=1e-12, ema_half_life=0),
        training=TrainingConfig(batch_size=50, steps=1),
        sampling=SamplingConfig("ddim", 30),
    )
    pd.train(experiment, out=tmp_path / "base", device="cpu", sample_every=0)

    def scores(images: np.ndarray) -> tuple[float, float]:
        """Recall of the truth, which is 0.65 of as many true images, and the modes' deviation."""
        drawn, real = (torch.from_numpy(i[:500]).double().flatten(1) for i in (images, truth))
        within = (drawn - drawn.mean(1, keepdim=True)).std().item() / 127.5
        return neighbourhoods(real, drawn).recall.double().mean().item(), within

    recall, deviation = scores(pd.load(tmp_path / "base").sample(500, seed=5).images)
    assert recall == 0
    assert 0.025 < deviation < 0.04
    tuned = {"n": 1500, "images": 4000, "lr": 0.02, "device": "cpu", "out": tmp_path / "neon"}
    half, whole = (
        scores(pd.neon(tmp_path / "base", w=w, **tuned).sample(500, seed=5).images)
        for w in (1.0, 2.0)
    )
    assert deviation < half[1] < whole[1]
    assert 0.08 < whole[1] < 0.12
    assert whole[0] > 0.4
