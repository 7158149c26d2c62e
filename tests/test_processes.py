"""Several processes (gloo, forked): the same losses, the same images, ending and stopping together.

torchrun itself is tried once in test_train.py, and when a process dies in `make torture`.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from campaign import Child, state_of, tiny_train, warm
from pocketddpm.models.checkpoint import load_checkpoint
from pocketddpm.runs.log import logged

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
PLAIN = {"sample_every": 0}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def started(count, task, folder):
    """Fork `count` processes as torchrun would; each does task(rank)."""
    warm()
    port = str(free_port())
    children = []
    for rank in range(count):
        environment = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }

        task_of_rank = partial(task, rank)
        children.append(Child(task_of_rank, folder / f"errors-{rank}", environment).start())
    return children


def together(count, task, folder):
    """Do task(rank) in so many processes; all must succeed."""
    for ended in [child.wait() for child in started(count, task, folder)]:
        assert ended.status == 0, ended.said


def losses(out):
    return torch.tensor([row["loss"] for row in logged(out)])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same run in 1, 2 and 4 processes."""
    folder = tmp_path_factory.mktemp("processes")
    for count in (1, 2, 4):
        together(count, lambda rank, n=count: tiny_train(folder / str(n), **PLAIN).run(), folder)
    return folder


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_one_batch(runs, count):
    """The same losses and weights, up to the order of sums."""
    assert_close(losses(runs / str(count)), losses(runs / "1"), rtol=1e-4, atol=1e-6)
    one, many = (load_checkpoint(runs / n / "last.safetensors") for n in ("1", str(count)))
    assert many.tensors.keys() == one.tensors.keys()  # DDP's prefix is in none of them
    for name, tensor in one.part("ema").items():
        assert_close(many.part("ema")[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


def test_a_run_goes_on_with_other_processes(runs, tmp_path):
    """Saved by 2, resumed by 4, finished by 1."""
    out = tmp_path / "run"
    for count, images in ((2, 40), (4, 88), (1, 128)):
        # The budget stays; the way there is cut short by a stop between steps.
        def part(rank, images=images):
            stop_at(images)
            tiny_train(out, **PLAIN).run()

        for ended in [c.wait() for c in started(count, part, tmp_path)]:
            assert ended.status in (0, 143), ended.said
        assert load_checkpoint(out / "last.safetensors").meta["run"]["images_seen"] == images
    assert_close(losses(out), losses(runs / "1"), rtol=1e-4, atol=1e-6)


def stop_at(images):
    """Ask this process's run to stop when it has seen so many images."""
    from pocketddpm.runs.signals import Stop

    def after(self, step, *, last=False):
        self.signal = signal.SIGTERM if step * 8 >= images and images < 128 else None
        return self.signal is not None

    Stop.after = after


def test_two_processes_resume_exactly(runs, tmp_path):
    out = tmp_path / "run"

    def first(rank):
        stop_at(64)
        tiny_train(out, **PLAIN).run()

    for ended in [c.wait() for c in started(2, first, tmp_path)]:
        assert ended.status == 143, ended.said
    together(2, lambda rank: tiny_train(out, **PLAIN).run(), tmp_path)
    assert state_of(out)["log.csv"] == state_of(runs / "2")["log.csv"]
    one, two = (load_checkpoint(p / "last.safetensors").tensors for p in (out, runs / "2"))
    for name, tensor in two.items():
        assert_close(one[name], tensor, rtol=0, atol=0, msg=name)


def test_a_signal_to_one_stops_all_at_the_same_step(tmp_path):
    out = tmp_path / "run"
    children = started(2, lambda rank: tiny_train(out, steps=5000, **PLAIN).run(), tmp_path)
    while not (out / "previous.safetensors").exists():
        time.sleep(0.01)
    children[1].kill(signal.SIGTERM)
    ended = [child.wait() for child in children]
    assert [e.status for e in ended] == [143, 143], [e.said for e in ended]
    assert load_checkpoint(out / "last.safetensors").meta["run"]["step"] % 10 == 0


def test_a_signal_in_the_last_steps_stops_all_as_well(tmp_path):
    """After the last time at which they ask each other by the number of the step."""
    from pocketddpm.runs.signals import Stop

    out = tmp_path / "run"

    def task(rank):
        after = Stop.after

        def signalled(self, step, *, last=False):
            if (rank, step) == (1, 12):
                os.kill(os.getpid(), signal.SIGTERM)
            return after(self, step, last=last)

        Stop.after = signalled
        tiny_train(out, steps=15, **PLAIN).run()

    ended = [child.wait() for child in started(2, task, tmp_path)]
    assert [e.status for e in ended] == [143, 143], [e.said for e in ended]
    assert load_checkpoint(out / "last.safetensors").meta["run"]["step"] == 15


def test_one_that_dies_ends_the_others_with_a_message(tmp_path):
    out = tmp_path / "run"
    children = started(2, lambda rank: tiny_train(out, steps=5000, **PLAIN).run(), tmp_path)
    while not (out / "previous.safetensors").exists():
        time.sleep(0.01)
    children[1].kill()
    ended = children[0].wait(120)
    assert ended.status == 2, ended.said
    assert "process 0 of 2: " in ended.line
    assert f"pocketddpm train digits --resume {out}" in ended.line
    children[1].wait()
    step = load_checkpoint(out / "last.safetensors").meta["run"]["step"]
    together(2, lambda rank: tiny_train(out, steps=step + 4, **PLAIN).run(), tmp_path)
    assert load_checkpoint(out / "last.safetensors").meta["run"]["step"] == step + 4


def test_processes_that_see_other_files_are_refused(tmp_path):
    tiny_train(tmp_path / "0", steps=4, **PLAIN).run()
    apart = lambda rank: tiny_train(tmp_path / str(rank), steps=8, **PLAIN).run()  # noqa: E731
    for ended in [child.wait() for child in started(2, apart, tmp_path)]:
        assert ended.status == 2
        assert "steps 4, 0" in ended.line


@pytest.mark.parametrize("count", [2, 3])
def test_samples_do_not_depend_on_the_number_of_processes(runs, tmp_path, count):
    from pocketddpm.commands.sample import Sample

    def draw(rank, out):
        Sample(str(runs / "1"), n=23, steps=3, batch_size=5, out=out, device="cpu").run()

    together(1, lambda rank: draw(rank, tmp_path / "one.npz"), tmp_path)
    together(count, lambda rank: draw(rank, tmp_path / "many.npz"), tmp_path)
    with np.load(tmp_path / "one.npz") as one, np.load(tmp_path / "many.npz") as many:
        np.testing.assert_array_equal(one["images"], many["images"])
        np.testing.assert_array_equal(one["labels"], many["labels"])


def test_scores_do_not_depend_on_the_number_of_processes(runs, quick_scores, tmp_path):
    import json

    from pocketddpm.commands.evaluate import Evaluate

    def score(rank, out):
        Evaluate(subject=str(runs / "1"), n=40, steps=2, batch_size=7, out=out, device="cpu").run()

    together(1, lambda rank: score(rank, tmp_path / "one"), tmp_path)
    together(2, lambda rank: score(rank, tmp_path / "two"), tmp_path)
    one, two = (json.loads((tmp_path / n / "report.json").read_text()) for n in ("one", "two"))
    assert one == two


def test_pictures_of_the_way_are_drawn_by_one_process(runs, tmp_path):
    from pocketddpm.commands.sample import Sample

    def draw(rank):
        Sample(str(runs / "1"), n=4, steps=2, gif=tmp_path / "x.gif", device="cpu").run()

    for ended in [child.wait() for child in started(2, draw, tmp_path)]:
        assert (ended.status, "torchrun" in ended.line) == (2, True)


@pytest.mark.torture
def test_torchrun_ends_all_when_one_dies(tmp_path):
    out = tmp_path / "run"
    options = ["train", "digits", "--net", "widths=4,head_width=4,groups=2,blocks=1"]
    options += ["--batch-size", "8", "--steps", "100000", "--checkpoint-every", "10"]
    options += ["--timesteps", "4", "--batches-per-epoch", "5", "--precision", "float32"]
    options += ["--sample-every", "0", "--device", "cpu", "--out", str(out)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    process = subprocess.Popen(
        [*torchrun, "--standalone", "-m", "pocketddpm", *options],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    while not (out / "previous.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.1)
    workers = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True
    ).stdout.split()
    os.kill(int(workers[-1]), signal.SIGKILL)
    said = process.communicate(timeout=120)[1]
    assert process.returncode != 0
    assert "another process has ended" in said or "SIGKILL" in said or "Signal 9" in said
    step = load_checkpoint(out / "last.safetensors").meta["run"]["step"]
    assert step >= 10
    together(2, lambda rank: tiny_train(out, steps=step + 4, **PLAIN).run(), tmp_path)
    assert load_checkpoint(out / "last.safetensors").meta["run"]["step"] == step + 4
