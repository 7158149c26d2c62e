"""Runs that begin with a model of other classes, of none, or of other sizes."""

from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch
from torch.testing import assert_close

import pocketddpm as pd
from pocketddpm.config import NetworkConfig
from pocketddpm.errors import CheckpointError
from pocketddpm.presets import get_preset
from pocketddpm.runs.fine_tuning import TABLES, with_classes
from pocketddpm.runs.start import start

THEIRS = ("cat", "dog", "owl")
SMALL = {"widths": (8, 8), "blocks": (1, 1), "head_width": 8}
BRIEF = {"steps": 1, "batch_size": 4, "device": "cpu", "sample_every": 0, "optimiser": "adamw"}


def table(rows: int) -> torch.Tensor:
    return torch.arange(1.0, 2 * rows + 1).view(rows, 2)


@pytest.mark.parametrize("null", [True, False])
@pytest.mark.parametrize(
    ("ours", "rows"),
    [
        (("cat", "dog", "owl"), (0, 1, 2)),
        (("owl", "cat"), (2, 0)),  # another order
        (("ant", "dog"), (None, 1)),
        (("x", "y", "z"), (None, None, None)),  # as many, of other names
    ],
)
@pytest.mark.parametrize("name", TABLES)
def test_classes_keep_their_rows_by_name(name, ours, rows, null):
    known = table(3 + null)
    weights = {name: known, "rest": torch.ones(1)}
    own = {name: torch.full((len(ours) + null, 2), 9.0), "rest": torch.zeros(1)}
    made, said = with_classes(weights, THEIRS, own, ours)
    none = known[-1] if null else torch.zeros(2)
    wanted = [none if k is None else known[k] for k in rows] + [none] * null
    assert_close(made[name], torch.stack(wanted), rtol=0, atol=0)
    assert_close(made["rest"], torch.ones(1), rtol=0, atol=0)
    assert bool(said) == (ours != THEIRS)
    if said:
        assert f"{sum(k is not None for k in rows)} of {len(ours)} classes" in said


def test_labels_of_one_side_only():
    name = TABLES[0]
    made, said = with_classes({name: table(4)}, THEIRS, {}, ())
    assert made == {} and said
    made, said = with_classes({}, (), {name: table(3)}, ("a", "b"))
    assert_close(made[name], torch.zeros(3, 2), rtol=0, atol=0)
    assert said


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A run of grey 8x8 digits, 0 to 9, in the current folder."""
    monkeypatch.chdir(tmp_path)
    tiny = replace(get_preset("digits"), network=NetworkConfig("lean", SMALL))
    start(tiny, out="first", **BRIEF).run()
    return pd.load("first")


def images(folder, classes, size=(8, 8), mode="L"):
    random = np.random.default_rng(0)
    shape = (*size[::-1], 3) if mode == "RGB" else size[::-1]
    for k in range(12):
        path = folder / classes[k % len(classes)] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(path)


@pytest.mark.parametrize("size", [(8, 8), (12, 9)])
@pytest.mark.parametrize("classes", [("3", "7", "new"), (".",)], ids=["labelled", "unlabelled"])
def test_a_folder_begins_with_a_model_of_other_classes(classes, size, trained, tmp_path, capfd):
    images(tmp_path / "mine", classes, size)
    tuned = start("folder", data="mine", begin_with="first", lr=1e-12, out="tuned", **BRIEF)
    tuned.run()
    said = capfd.readouterr().err
    before, after = trained.network.state_dict(), pd.load("tuned").network.state_dict()
    for name, value in after.items():
        if name != TABLES[0]:
            assert_close(value, before[name], rtol=0, atol=1e-5)
    assert (TABLES[0] in after) == (len(classes) > 1)
    if len(classes) > 1:
        assert_close(after[TABLES[0]], before[TABLES[0]][[3, 7, 10, 10]], rtol=0, atol=1e-5)
        assert "2 of 3 classes" in said
    assert pd.load("tuned").sample(2, steps=2).images.shape == (2, 1, *size[::-1])


def test_other_colours_are_refused(trained, tmp_path):
    images(tmp_path / "mine", ("a", "b"), mode="RGB")
    with pytest.raises(CheckpointError, match=r"conv_in.weight is \(8, 4, 3, 3\).*\(8, 12, 3, 3\)"):
        start("folder", data="mine", begin_with="first", out="tuned", **BRIEF)
