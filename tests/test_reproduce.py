"""`reproduce` and `info`: a run says all that is needed to make it again, and is made again."""

import shutil
from dataclasses import asdict

import pytest

from pocketddpm.commands.main import main
from pocketddpm.runs.log import logged
from pocketddpm.runs.reproduce import first_plan, verdict
from pocketddpm.training.plan import Plan


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("reproduce") / "run"
    options = ["--net", "widths=8/16,head_width=8,groups=4", "--batch-size", "16"]
    options += ["--device", "cpu", "--sample-every", "0", "--precision", "float32"]
    main(["train", "digits", *options, "--steps", "6", "--out", str(out)])
    return out


def reproduce(run, *options):
    with pytest.raises(SystemExit) as stop:
        main(["reproduce", str(run), "--device", "cpu", *options])
    return stop.value.code


def test_a_run_comes_back_bit_for_bit(run, capsys):
    before = sorted((p.name, p.read_bytes()) for p in run.iterdir() if p.is_file())
    assert reproduce(run) == 0
    said = capsys.readouterr().out
    assert not any(mark in said for mark in ("->", "differs"))
    assert " 6 losses " in said
    assert sorted((p.name, p.read_bytes()) for p in run.iterdir() if p.is_file()) == before


def test_another_loss_is_noticed(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "copy")
    lines = (copy / "log.csv").read_text().splitlines()
    cells = lines[4].split(",")
    cells[3] = str(float(cells[3]) * 1.01)
    lines[4] = ",".join(cells)
    (copy / "log.csv").write_text("\n".join(lines) + "\n")
    assert reproduce(copy) == 1
    assert "step 4 " in capsys.readouterr().out
    assert reproduce(copy, "--steps", "3") == 0
    (copy / "log.csv").unlink()
    assert reproduce(copy) == 2
    assert "log.csv" in capsys.readouterr().err
    assert reproduce(run, "--steps", "0") == 2
    error = capsys.readouterr().err
    assert all(value in error for value in ("steps", ">= 1", "0"))


def test_verdicts(run):
    rows = logged(run)
    same = [(row["loss"], row["lr"]) for row in rows]
    agrees, text = verdict(rows, same)
    assert agrees and "6" in text and "e-" not in text
    agrees, text = verdict(rows, [(loss * (1 + 1e-6), lr) for loss, lr in same])
    assert agrees and "6" in text and "1e-06" in text
    assert verdict(rows, [(loss, lr * 2) for loss, lr in same])[0] is False
    assert verdict(rows, same[:3])[0] is False
    nan = float("nan")
    assert verdict(rows, [(nan, lr) for _, lr in same])[0] is False
    assert verdict([{**rows[0], "loss": nan}], [(nan, rows[0]["lr"])])[0] is True


def test_the_plan_before_an_event():
    plan = Plan(1600)
    assert first_plan(asdict(plan)) == plan
    assert first_plan(asdict(plan.moved(496, 1200))) == plan


def test_info_says_what_a_rerun_needs(run, capsys):
    main(["info", str(run)])
    said = capsys.readouterr().out
    for needed in ("fingerprint", "seed 0", "batch_size 16", "widths 8/16", "steps 6", "96 images",
                   "torch 2.", "numpy", "python 3.", "threads", "processes 1", "(0 skipped)",
                   f"pocketddpm reproduce {run}"):  # fmt: skip
        assert needed in said, needed
