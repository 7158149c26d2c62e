"""The public API: train, load, sample, evaluate; labels in every form; the example."""

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import pocketddpm as pd
from models import Labelled, model_around
from pocketddpm.errors import ConfigError

ROOT = Path(__file__).parent.parent
NET = "widths=8/16,head_width=8,groups=4"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("api") / "run"
    return out, pd.train("digits", steps=4, batch_size=8, net=NET, sample_every=0, out=str(out))


def test_train_gives_the_model_that_load_gives(trained):
    out, model = trained
    assert isinstance(model, pd.Model)
    again = pd.load(out).sample(labels=[3], steps=2)
    assert np.array_equal(model.sample(labels=[3], steps=2).images, again.images)


def test_samples_save(trained, tmp_path):
    samples = trained[1].sample(labels="1,2,3", steps=1)
    samples.save(str(tmp_path / "x.png"))
    assert (tmp_path / "x.png").exists()


def test_evaluate_takes_a_path_or_a_model(trained, quick_scores):
    out, model = trained
    settings = {"n": 20, "steps": 1, "seed": 3}
    one, two = pd.evaluate(out, **settings), pd.evaluate(model, **settings)
    assert [(r.key, r.value.value) for r in one.rows] == [(r.key, r.value.value) for r in two.rows]
    assert one.facts["checkpoint"] and two.facts["checkpoint"] is None


def test_unknown_options_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"minuts.*minutes"):
        pd.train("digits", minuts=1, out=tmp_path / "x")
    with pytest.raises(ConfigError, match=r"stepz.*steps"):
        pd.evaluate("x", stepz=1)
    with pytest.raises(ConfigError, match=r"mnits.*mnist"):
        pd.train("mnits", out=tmp_path / "x")


@pytest.mark.parametrize(
    ("labels", "n", "numbers"),
    [
        ([3], None, [3]),
        (3, None, [3]),
        ([3, 7], None, [3, 7]),
        ([3, 7], 5, [3, 7, 3, 7, 3]),
        (("3", "7"), None, [3, 7]),
        ("3,7", None, [3, 7]),
        ("3, 7", 3, [3, 7, 3]),
        (np.array([1, 2], np.int32), None, [1, 2]),
        (10, 2, [10, 10]),
        (None, 2, None),
    ],
    ids=str,
)
def test_labels_in_every_form(labels, n, numbers):
    samples = model_around(Labelled()).sample(n, labels=labels, steps=1)
    assert (samples.labels is None) == (numbers is None)
    if numbers is not None:
        assert samples.labels is not None
        assert samples.labels.tolist() == numbers
        assert len(samples.images) == len(numbers)


@pytest.mark.parametrize("labels", [[11], [-1], [1.5], [], [[1]], ["x"], "x", [True]], ids=str)
def test_labels_that_there_are_not(labels):
    with pytest.raises(ConfigError, match="label"):
        model_around(Labelled()).sample(labels=labels, steps=1)


def test_positions_are_not_mistaken_for_names():
    """A model of the classes 0, 1 and 7: number 7 is out of range, the name '7' is not."""
    model = model_around(Labelled(null=3), classes=("0", "1", "7"))
    with pytest.raises(ConfigError, match=r"lie in 0\.\.2 \(0, 1, 7\)"):
        model.sample(labels=[7], steps=1)
    samples = model.sample(labels=["7"], steps=1)
    assert samples.labels is not None and samples.labels.tolist() == [2]


def test_unconditional_models_refuse_labels():
    with pytest.raises(ConfigError, match="without labels"):
        model_around(Labelled(), classes=()).sample(labels=[3], steps=1)
    assert model_around(Labelled(), classes=()).sample(labels="all", steps=1).labels is None


def test_the_example_trains_and_draws_and_is_sixty_lines(tmp_path, monkeypatch):
    path = ROOT / "examples" / "mnist_in_60_lines.py"
    text = path.read_text()
    assert len(text.split('"""', 2)[2].strip().splitlines()) <= 60
    places = re.findall(r"^(?:from|import) (pocketddpm[\w.]*)", text, re.MULTILINE)
    assert places == ["pocketddpm", "pocketddpm.diffusion", "pocketddpm.networks"]
    assert "pd.train" not in text
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(path), "digits", "2"])
    with torch.random.fork_rng():
        runpy.run_path(str(path), run_name="__main__")
    assert (tmp_path / "samples.png").exists()
