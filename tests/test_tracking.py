"""What TensorBoard and trackio are told: the numbers of the run's own log, a resumed run's too."""

import csv
import sys

import pytest

import pocketddpm as pd
from pocketddpm.errors import ConfigError
from pocketddpm.runs.tracking import PROJECT, TRACKERS

NAMES = ("loss", "grad_norm", "lr")


def train(out, steps, **options):
    return pd.train(
        "digits", steps=steps, batch_size=8, sample_every=0, device="cpu", out=out,
        net="widths=8/16,head_width=8,groups=4", **options,
    )  # fmt: skip


def in_tensorboard(out):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(out / "tensorboard")).Reload()
    return {name: [(e.step, e.value) for e in found.Scalars(name)] for name in NAMES}


def in_trackio(out):
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    (run,) = (run for run in trackio.Api().runs(PROJECT) if run.name == out.name)
    assert run.config["preset"] == "digits"
    rows = SQLiteStorage.get_logs(PROJECT, run.name, run_id=run.id)
    return {name: [(row["step"], row[name]) for row in rows] for name in NAMES}


READ = {"tensorboard": in_tensorboard, "trackio": in_trackio}


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_has_the_numbers_of_the_log(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # it is read at the import
    pytest.importorskip(name)
    out = tmp_path / f"tracked-by-{name}"
    train(out, 3, **{name: True})
    train(out, 5, resume="auto", **{name: True})
    with open(out / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5]
    for column, points in READ[name](out).items():
        assert [seen for seen, _ in points] == [int(row["images_seen"]) for row in rows]
        wanted = [float(row[column]) for row in rows]
        assert [value for _, value in points] == pytest.approx(wanted, rel=1e-6)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_lost(
    name, tmp_path, monkeypatch
):
    (tmp_path / "last.safetensors").write_bytes(b"hours of work")
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf"--{name}.*pocketddpm\[{name}\]"):
        train(tmp_path, 1, overwrite=True, **{name: True})
    assert (tmp_path / "last.safetensors").read_bytes() == b"hours of work"
