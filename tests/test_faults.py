"""Runs that are killed, starved and hindered: nothing is lost, nothing is half-written.

The short campaign runs in `make test`; the long one, marked torture, in `make torture`.
docs/reliability.md has its counts.
"""

import os
import shutil
import signal
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import Mock

import pytest

import pocketddpm.models.checkpoint
import pocketddpm.runs.folder
from campaign import (
    REGIONS,
    ROOT,
    as_refused,
    at_line,
    die,
    differences,
    disks_are_allowed,
    killed_again_and_again,
    state_of,
    tiny_train,
    trained,
    undisturbed,
    with_disk,
)
from pocketddpm.errors import CheckpointError
from pocketddpm.models.checkpoint import load_checkpoint, newest_checkpoint

PLAIN = {"sample_every": 0}
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The undisturbed run."""
    return undisturbed(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The same without pictures, which is quicker."""
    return undisturbed(tmp_path_factory.mktemp("plain"), **PLAIN)


@pytest.fixture
def tmp_path(tmp_path):
    """In memory where there is such a place: a shared disk makes every fsync a wait."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with TemporaryDirectory(dir=memory, prefix="pocketddpm-") as folder:
        yield Path(folder)


# Kills -------------------------------------------------------------------------------------------


def test_regions_name_modules_that_are_there():
    """A module that was renamed would no longer be hit where it should."""
    modules = [str(p.relative_to(ROOT)) for p in Path(ROOT).rglob("*.py")]
    for region, names in REGIONS.items():
        for name in names:
            assert any(module.startswith(name) for module in modules), (region, name)


def test_a_killed_run_ends_as_if_it_had_not_been(whole, tmp_path, record_property):
    counts = killed_again_and_again(tmp_path, whole, each=1, seed=1)
    record_property("kills", counts)


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(4))
def test_hundreds_of_kills(whole, tmp_path, record_property, seed):
    counts = killed_again_and_again(tmp_path, whole, each=15, seed=100 + seed)
    record_property("kills", counts)


@pytest.mark.torture
@pytest.mark.parametrize(
    "options",
    [
        {"accumulate": 2},
        {"precision": "bf16"},
        {"precision": "fp16"},
        {"times": "importance", "variance": "learned", "loss": "hybrid", "progressive": "yes"},
        {"optimiser": "muon", "guidance": 1.5, "flip": "yes"},
        {"evaluate_every": 3, "evaluate_n": 20, "best_by": "evaluation"},
    ],
    ids=["accumulate", "bf16", "fp16", "importance", "muon", "evaluation"],
)
def test_kills_on_every_path(tmp_path, record_property, options):
    whole = undisturbed(tmp_path / "whole", **options)
    counts = killed_again_and_again(tmp_path, whole, each=6, seed=7, **options)
    record_property("kills", counts)


def test_half_a_checkpoint_is_removed_by_the_next_run(plain, tmp_path):
    """The kernel kills the run inside the library's write: no file may grow beyond a limit."""
    import resource

    out = tmp_path / "run"
    line = plain.lines["loop"] // 2
    assert trained(out, lambda: at_line(line, "loop", die), **PLAIN).wait().status is None

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (48 << 10, 48 << 10))

    before = {path.name for path in out.iterdir()}
    assert trained(out, limited, **PLAIN).wait().status is None
    assert {path.name for path in out.iterdir()} > before, "the test cannot fail"
    assert trained(out, **PLAIN).wait().status == 0
    assert differences(state_of(out), plain.state) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_save_and_say_how_to_go_on(plain, tmp_path, number):
    out = tmp_path / "run"
    # The instant is a line of the loop, so that the signal never comes too early or too late.
    line = plain.lines["loop"] // 2
    before = lambda: at_line(line, "loop", lambda: os.kill(os.getpid(), number))  # noqa: E731
    ended = trained(out, before, **PLAIN).wait()
    assert ended.status == 128 + number
    assert f"pocketddpm train digits --resume {out}" in ended.said
    assert 0 < newest_checkpoint(out).meta["run"]["step"] < 16
    assert trained(out, **PLAIN).wait().status == 0
    # A checkpoint more was written, so that the one before the last may be another.
    wrong = differences(state_of(out), plain.state)
    assert [name for name in wrong if not name.startswith("previous")] == []


@pytest.mark.torture
def test_signals_at_random_instants(plain, tmp_path, record_property):
    import random

    draw, counts = random.Random(3), Counter()
    for k in range(60):
        out = tmp_path / f"run-{k}"
        number = draw.choice([signal.SIGINT, signal.SIGTERM])
        kind = list(REGIONS)[k % len(REGIONS)]
        line = 1 + draw.randrange(plain.lines[kind])
        send = lambda number=number: os.kill(os.getpid(), number)  # noqa: E731
        ended = trained(out, lambda n=line, k=kind, s=send: at_line(n, k, s), **PLAIN).wait()
        # Before and after the loop, SIGTERM ends the process at once.
        at_once = {None} if number == signal.SIGTERM else set()
        assert ended.status in {128 + number} | at_once, ended
        counts[f"{signal.Signals(number).name} {kind}"] += 1
        assert trained(out, **PLAIN).wait().status == 0
        wrong = differences(state_of(out), plain.state)
        assert [name for name in wrong if not name.startswith("previous")] == []
    record_property("signals", dict(counts))


# Disks -------------------------------------------------------------------------------------------


def full_disk(tmp_path, run, size, **options):
    """Train on a disk of `size` bytes; give it room, and train on. Returns the refusal."""
    told = tmp_path / f"told-{size}"

    def task(disk):
        out = disk.at / "run"
        told.write_text(as_refused(tiny_train(out, **options)))
        for name in ("last", "previous"):
            path = out / f"{name}.safetensors"
            if path.exists():
                load_checkpoint(path)
        disk.grow()
        tiny_train(out, **options).run()
        wrong = differences(state_of(out), run.state)
        assert wrong == [], wrong

    ended = with_disk(tmp_path, size, task)
    assert ended.status == 0, ended.said
    return told.read_text()


def test_a_full_disk_ends_in_one_line_and_loses_nothing(plain, tmp_path, record_property):
    if not disks_are_allowed():
        pytest.skip("needs leave to mount a small disk")
    told = [full_disk(tmp_path, plain, size, **PLAIN) for size in (48 << 10, 120 << 10, 200 << 10)]
    assert all("cannot write" in line for line in told), told
    record_property("full disks", len(told))


@pytest.mark.torture
def test_a_full_disk_at_every_size(whole, tmp_path, record_property):
    if not disks_are_allowed():
        pytest.skip("needs leave to mount a small disk")
    told = [full_disk(tmp_path, whole, size << 10) for size in range(8, 560, 4)]
    refused = sum("cannot write" in line for line in told)
    assert refused + told.count("") == len(told), told
    assert told.count("") >= 1
    record_property("full disks", refused)


def test_a_disk_that_turns_read_only(plain, tmp_path):
    if not disks_are_allowed():
        pytest.skip("needs leave to mount a small disk")

    def task(disk):
        # A disk is not made read-only while a file on it, the lock, is open for writing.
        pocketddpm.runs.folder.FileLock = lambda *a, **k: Mock()
        out = disk.at / "run"
        disk.read_only()
        assert "Read-only file system" in as_refused(tiny_train(out, **PLAIN)) or not out.exists()
        disk.grow()
        # In the midst of the loop, where nothing is open.
        at_line(plain.lines["loop"] // 2, "loop", disk.read_only)
        assert "Read-only file system" in as_refused(tiny_train(out, **PLAIN))
        # Resuming is refused as well, before any work.
        assert "Read-only file system" in as_refused(tiny_train(out, **PLAIN))
        disk.grow()
        tiny_train(out, **PLAIN).run()
        assert differences(state_of(out), plain.state) == []

    ended = with_disk(tmp_path, 64 << 20, task)
    assert ended.status == 0, ended.said


# Damage ------------------------------------------------------------------------------------------


def damaged_everywhere(plain, tmp_path, step, bits):
    """Cut and flip a real checkpoint; each time the one before must be taken, and the cause named.

    step: bytes between cuts. bits: how many are flipped, one at a time. Returns the counts.
    """
    import random

    out = shutil.copytree(plain.folder, tmp_path / "run")
    last = out / "last.safetensors"
    content = last.read_bytes()
    cuts = [content[:n] for n in range(0, len(content), step)]
    draw = random.Random(0)
    flips = []
    for _ in range(bits):
        changed = bytearray(content)
        changed[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        flips.append(bytes(changed))
    for damaged in [*cuts, *flips]:
        last.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"last\.safetensors"):
            load_checkpoint(last)
    return {"cuts": len(cuts), "flipped bits": len(flips)}


def test_damage_is_noticed(plain, tmp_path, capsys, record_property):
    counts = damaged_everywhere(plain, tmp_path, 8 << 10, 20)
    record_property("damaged checkpoints", counts)
    out = tmp_path / "run"
    assert newest_checkpoint(out).meta["run"]["step"] == 12
    assert "skipped: " in capsys.readouterr().err


@pytest.mark.torture
def test_damage_at_every_kilobyte(plain, tmp_path, record_property):
    record_property("damaged checkpoints", damaged_everywhere(plain, tmp_path, 1024, 2000))


def test_a_damaged_checkpoint_never_becomes_the_one_before(plain, tmp_path):
    """Killed in the first save after resuming from `previous`: a whole one must still be there."""
    out = shutil.copytree(plain.folder, tmp_path / "run")
    last = out / "last.safetensors"
    last.write_bytes(last.read_bytes()[:-50])

    def killed_in_the_save():
        pocketddpm.models.checkpoint.save_checkpoint = lambda path, checkpoint: die()

    assert trained(out, killed_in_the_save, **PLAIN).wait().status is None
    assert newest_checkpoint(out).meta["run"]["step"] == 12
    assert trained(out, **PLAIN).wait().status == 0
    (out / "last.damaged").unlink()
    assert differences(state_of(out), plain.state) == []


def test_half_a_log_is_mended(plain, tmp_path, capsys):
    """Half a row after the checkpoint is dropped; rows that are missing before it are said."""
    out = tmp_path / "run"
    line = plain.lines["loop"] * 15 // 16
    assert trained(out, lambda: at_line(line, "loop", die), **PLAIN).wait().status is None
    assert newest_checkpoint(out).meta["run"]["step"] == 12
    with open(out / "log.csv", "a") as file:
        file.write("15,120,3.0,0.")
    ended = trained(out, **PLAIN).wait()
    assert ended.status == 0
    assert differences(state_of(out), plain.state) == []
    (out / "log.csv").write_text("rubbish\x00\n1,2")
    ended = trained(out, steps=17, **PLAIN).wait()
    assert "holds 0 of the 16 steps before the checkpoint" in ended.said


# Clocks and neighbours ---------------------------------------------------------------------------


def test_the_clock_does_not_matter(plain, tmp_path, monkeypatch):
    """The wall clock jumps about by days; nothing but the readings of it changes."""
    out = tmp_path / "run"

    def jumping():
        import random

        real, draw = time.time, random.Random(0)
        time.time = lambda: real() + draw.uniform(-1e6, 1e6)

    line = plain.lines["loop"] // 2
    killed = trained(out, lambda: (jumping(), at_line(line, "loop", die)), **PLAIN).wait()
    assert killed.status is None
    # Files from the future, as after a clock that was put right.
    for path in out.rglob("*"):
        os.utime(path, (2e9, 2e9))
    assert trained(out, jumping, **PLAIN).wait().status == 0
    assert differences(state_of(out), plain.state) == []


def test_the_second_of_two_runs_is_refused(plain, tmp_path):
    out = tmp_path / "run"
    first = trained(out, steps=100_000, **PLAIN)
    while not (out / "last.safetensors").exists():
        time.sleep(0.01)
    for options in ({}, {"resume": None, "overwrite": True}):
        second = trained(out, **options, **PLAIN).wait()
        assert second.status == 2
        assert f"process {first.pid}" in second.line
    first.kill()
    assert first.wait().status is None
    # The lock went with its holder.
    assert trained(out, steps=None, images=8 * 16).wait().status in (0, 2)
    assert trained(out, resume=None, overwrite=True, **PLAIN).wait().status == 0
    assert differences(state_of(out), plain.state) == []


def test_a_run_that_ended_before_its_first_checkpoint_starts_again(plain, tmp_path):
    out = tmp_path / "run"
    assert trained(out, lambda: at_line(10, "sample", die), **PLAIN).wait().status is None
    assert (out / "config.json").exists()
    assert not (out / "last.safetensors").exists()
    refused = trained(out, resume=None, **PLAIN).wait()
    assert (refused.status, "--overwrite" in refused.line) == (2, True)
    (out / "notes.txt").write_text("mine")
    assert "--overwrite" in trained(out, **PLAIN).wait().line
    (out / "notes.txt").unlink()
    assert trained(out, **PLAIN).wait().status == 0
    assert differences(state_of(out), plain.state) == []


def test_another_runs_folder_is_not_resumed_into(tmp_path):
    for name in ("one", "two"):
        assert trained(tmp_path / name, steps=1, **PLAIN).wait().status == 0
    before = (tmp_path / "two" / "last.safetensors").read_bytes()
    ended = trained(tmp_path / "two", resume=str(tmp_path / "one"), steps=2, **PLAIN).wait()
    assert (ended.status, "--overwrite" in ended.line) == (2, True)
    assert (tmp_path / "two" / "last.safetensors").read_bytes() == before
