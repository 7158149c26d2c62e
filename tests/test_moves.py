"""Runs that move: their images to another place, and they themselves to another folder."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image
from torch.testing import assert_close

from pocketddpm.errors import DataError, DDPMError, OutputError
from pocketddpm.models.checkpoint import load_checkpoint
from pocketddpm.presets import get_preset
from pocketddpm.runs.log import logged
from pocketddpm.runs.start import start

TINY = {
    "network": "unet",
    "net": {"widths": (4,), "head_width": 4, "groups": 2, "blocks": 1},
    "timesteps": 4,
    "batch_size": 4,
    "batches_per_epoch": 2,
    "decay": "none",
    "warmup": 0,
    "precision": "float32",
    "device": "cpu",
    "sample_every": 0,
}


def pictures(folder, seed=0):
    """Write 24 pictures in two classes."""
    draw = np.random.default_rng(seed)
    for k in range(24):
        path = folder / "ab"[k % 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
    return folder


def trained(out, steps, **options):
    preset = "folder" if "data" in options or "resume" in options else "digits"
    session = start(get_preset(preset), **(TINY if "resume" not in options else {"device": "cpu"})
                    | {"out": out, "steps": steps} | options)  # fmt: skip
    session.run()
    return session


def resumed(out, steps, **options):
    return trained(out, steps, **{"resume": str(out), "sample_every": 0} | options)


def same(one, other):
    tensors = [load_checkpoint(p / "last.safetensors").tensors for p in (one, other)]
    assert tensors[0].keys() == tensors[1].keys()
    for name, tensor in tensors[0].items():
        assert_close(tensors[1][name], tensor, rtol=0, atol=0, msg=name)
    rows = [[(r["step"], r["loss"]) for r in logged(p)] for p in (one, other)]
    assert rows[0] == rows[1]


@pytest.fixture
def whole(tmp_path):
    """Six steps on a folder of pictures, undisturbed."""
    trained(tmp_path / "whole", 6, data=str(pictures(tmp_path / "pictures")))
    return tmp_path / "whole"


def test_a_relative_path_is_the_same_from_elsewhere(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained(tmp_path / "run", 3, data="pictures")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    resumed(tmp_path / "run", 6)
    same(whole, tmp_path / "run")


def test_images_that_were_moved_are_known_by_their_bytes(whole, tmp_path):
    run, data = tmp_path / "run", tmp_path / "pictures"
    trained(run, 3, data=str(data))
    os.rename(data, tmp_path / "moved")
    with pytest.raises(DDPMError, match="--data"):
        resumed(run, 6)
    with pytest.raises(DataError, match="fingerprint"):
        resumed(run, 6, data=str(pictures(tmp_path / "others", seed=1)))
    resumed(run, 6, data=str(tmp_path / "moved"))
    same(whole, run)
    # From now on they are where they were found.
    assert load_checkpoint(run / "last.safetensors").meta["experiment"]["data"]["name"] == str(
        tmp_path / "moved"
    )
    resumed(run, 7)


def test_other_options_of_a_run_stay(whole):
    for option in ({"lr": 0.5}, {"subset": 8}, {"flip": True}):
        with pytest.raises(DDPMError, match="--data"):
            resumed(whole, 7, **option)


@pytest.mark.parametrize("steps", [3, 6])
def test_a_run_that_goes_on_in_another_folder_takes_its_history_along(whole, tmp_path, steps):
    """Also one that has nothing left to do; the old folder stays as it is."""
    old, new = tmp_path / "old", tmp_path / "new"
    trained(old, steps, data=str(tmp_path / "pictures"))
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    session = trained(new, 6, resume=str(old), sample_every=0)
    same(whole, new)
    assert session.log.final_loss() > 0
    for name in ("config.json", "data.png", "best.safetensors"):
        assert (new / name).is_file(), name
    assert {path: path.read_bytes() for path in old.rglob("*") if path.is_file()} == before
    trained(new, 7, resume="auto", sample_every=0)  # a run like any other


def test_the_folder_of_another_run_is_refused_or_emptied(whole, tmp_path):
    other = tmp_path / "other"
    trained(other, 9)
    with pytest.raises(OutputError, match="--overwrite"):
        trained(other, 7, resume=str(whole), sample_every=0)
    assert len(logged(other)) == 9
    trained(other, 7, resume=str(whole), sample_every=0, overwrite=True)
    assert len(logged(other)) == 7
    assert [r["loss"] for r in logged(other)][:6] == [r["loss"] for r in logged(whole)]
    assert (
        not (other / "previous.safetensors").exists()
        or load_checkpoint(other / "previous.safetensors").meta["data"]
        == load_checkpoint(whole / "last.safetensors").meta["data"]
    )


def test_files_beside_a_lone_checkpoint_are_not_taken(whole, tmp_path):
    folder = tmp_path / "downloads"
    folder.mkdir()
    shutil.copy(whole / "last.safetensors", folder / "model.safetensors")
    shutil.copy(whole / "log.csv", folder / "log.csv")
    trained(tmp_path / "run", 7, resume=str(folder / "model.safetensors"), sample_every=0)
    assert not logged(tmp_path / "run")  # which begins with step 7, and is no longer whole
    assert (folder / "log.csv").read_bytes() == (whole / "log.csv").read_bytes()
