"""Breaking runs on purpose: children forked from a warm process, so that a fault costs no import.

A child trains a tiny network exactly as `pocketddpm train ... --resume auto` does, and is killed or
hindered at an instant that the test chooses: a moment in time, or a line of our own code.
"""

import ctypes
import json
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib.backends.backend_agg
import PIL.PngImagePlugin
import torch
from tqdm import tqdm

import pocketddpm
from pocketddpm.commands.train import Train
from pocketddpm.errors import DDPMError
from pocketddpm.models.checkpoint import load_checkpoint
from pocketddpm.runs import evaluation as validation
from pocketddpm.runs import log as run_log
from pocketddpm.runs.log import read_log
from pocketddpm.runs.run import Session

__all__ = ["PIL", "Session", "matplotlib"]  # imported here so that no child has to

POLL = 0.002  # seconds between two looks at a child
LOGS = {"log.csv": run_log.COLUMNS, "evaluation.csv": validation.COLUMNS}
ROOT = str(Path(pocketddpm.__file__).parent)
STEPS, CHECKPOINT_EVERY, SAMPLE_EVERY = 16, 4, 10
# Where a run can be interrupted: how the modules begin in which each region's code lies.
REGIONS = {
    "loop": (
        *("training/", "diffusion/objective.py", "noise.py", "diffusion/times.py"),
        *("diffusion/prediction.py", "diffusion/weighting.py"),
        *("data/batches.py", "networks/", "runs/signals.py"),
    ),
    "save": ("models/checkpoint.py", "output.py", "runs/folder.py"),
    "log": ("runs/log.py",),
    "sample": (
        *("diffusion/sampling.py", "samplers/", "pictures.py", "runs/previews.py"),
        *("models/model.py", "diffusion/denoiser.py"),
    ),
    "session": ("runs/run.py",),
    "start": ("",),  # all the rest: configuration, data, what is built once
}


def tiny_train(out: Path, **options: Any) -> Train:
    """Return the command that trains 16 steps of 8 digits, with everything that a run does."""
    defaults: dict[str, Any] = {
        "preset": "digits",
        "net": "widths=4,head_width=4,groups=2,blocks=1",
        "timesteps": 4,
        "batch_size": 8,
        "batches_per_epoch": 5,
        "steps": STEPS,
        "precision": "float32",
        "device": "cpu",
        "checkpoint_every": CHECKPOINT_EVERY,
        "sample_every": SAMPLE_EVERY,
        "resume": "auto",
    }
    return Train(out=out, **(defaults | options))


# Children ----------------------------------------------------------------------------------------


@dataclass
class Ended:
    """How a child ended: its exit status (None: by a signal), and what it wrote to stderr."""

    status: int | None
    said: str
    seconds: float

    @property
    def line(self) -> str:
        """The one line that the command line would have shown."""
        return next((x for x in self.said.splitlines() if x.startswith("pocketddpm: ")), "")


@dataclass
class Child:
    """A forked child that does `task`."""

    task: Callable[[], Any]
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def start(self) -> "Child":
        """Fork."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.errors = self.folder / f"stderr-{time.monotonic_ns()}"
        self.began = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            self._live()
        return self

    def _live(self) -> None:
        status = 70
        try:
            handle = os.open(self.errors, os.O_WRONLY | os.O_CREAT)
            os.dup2(handle, 2)
            sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
            # tqdm's own lock is shared with the parent, and dies with whom is killed holding it.
            tqdm.set_lock(threading.RLock())
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.environ.update(self.environment)
            self.task()
            status = 0
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
        except DDPMError as error:
            print(f"pocketddpm: {error}", file=sys.stderr)
            status = 2
        except KeyboardInterrupt:  # as the command line does, before the run has begun
            status = 130
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(Exception):
                sys.stderr.flush()
            os._exit(status)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal, unless the child has ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self, timeout: float = 300) -> Ended:
        """Wait for the end; a child that takes too long is killed, and the test fails.

        timeout: in seconds that this process is awake; the two may be paused together.
        """
        for _ in range(int(timeout / POLL)):
            pid, code = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                break
            time.sleep(POLL)
        else:
            self.kill()
            os.waitpid(self.pid, 0)
            raise AssertionError(f"a child hung:\n{self.errors.read_text()}")
        said = self.errors.read_text(errors="replace")
        self.errors.unlink()
        status = os.WEXITSTATUS(code) if os.WIFEXITED(code) else None
        assert status != 70, said
        return Ended(status, said, time.monotonic() - self.began)


@cache
def warm() -> None:
    """Do once, for all children, what a process does only the first time."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        tiny_train(Path(folder) / "run", steps=1).run()


def trained(out: Path, before: Callable[[], Any] | None = None, **options: Any) -> Child:
    """Start a child that trains into `out`; before() is called in it first."""
    warm()

    def task() -> None:
        if before is not None:
            before()
        tiny_train(out, **options).run()

    return Child(task, out.parent / "errors").start()


# Instants ----------------------------------------------------------------------------------------


def _region(code: Any) -> str | None:
    name = code.co_filename
    if name.startswith(ROOT):
        for region, files in REGIONS.items():
            if name[len(ROOT) + 1 :].startswith(files):
                return region
    return None


def at_line(number: int, region: str, act: Callable[[], Any]) -> None:
    """From now on, call act() before the `number`-th line (1, 2, ..) of a region runs."""
    count = 0

    def tracer(frame: Any, event: str, argument: Any) -> Any:
        return lines if _region(frame.f_code) == region else None

    def lines(frame: Any, event: str, argument: Any) -> Any:
        nonlocal count
        if event == "line":
            count += 1
            if count == number:
                sys.settrace(None)
                act()
        return lines

    sys.settrace(tracer)


def count_lines() -> dict[str, int]:
    """From now on, count the lines that run in each region; returns the counts, still growing."""
    counts = dict.fromkeys(REGIONS, 0)

    def tracer(frame: Any, event: str, argument: Any) -> Any:
        region = _region(frame.f_code)
        if region is None:
            return None

        def lines(frame: Any, event: str, argument: Any) -> Any:
            counts[region] += event == "line"
            return lines

        return lines

    sys.settrace(tracer)
    return counts


def die() -> None:
    """End this process as a power cut would: nothing is flushed or cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)


# What a run leaves -------------------------------------------------------------------------------


def state_of(out: Path) -> dict[str, Any]:
    """Return everything in a run folder but the clock's readings: tensors, numbers, bytes."""
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if path.is_dir() or name.startswith(".lock"):
            continue
        if path.suffix == ".safetensors":
            checkpoint = load_checkpoint(path)
            for key, tensor in checkpoint.tensors.items():
                found[f"{name} {key}"] = tensor.numpy().tobytes()
            meta = dict(checkpoint.meta)
            for part in {"run", "evaluation"} & meta.keys():
                meta[part] = {**meta[part], "seconds": 0}
            found[f"{name} meta"] = repr(meta)
        elif name in LOGS:
            columns, rows = LOGS[name], read_log(path, LOGS[name], sys.maxsize)
            found[name] = [tuple(row[c] for c in columns if c != "seconds") for row in rows]
        else:
            found[name] = path.read_bytes()
    return found


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Return the names of what two runs do not share, bit for bit."""
    return sorted(k for k in a.keys() | b.keys() if a.get(k) != b.get(k))


@dataclass
class Undisturbed:
    """A run without faults: its folder, state, duration, and how many lines each region ran."""

    folder: Path
    state: dict[str, Any]
    seconds: float
    lines: dict[str, int]


def undisturbed(folder: Path, **options: Any) -> Undisturbed:
    """Train without faults, once plainly and once counting lines."""
    plain = trained(folder / "plain", **options).wait()
    assert plain.status == 0, plain.said
    counts = folder / "counts"

    def count() -> None:
        counted = count_lines()
        tiny_train(folder / "counted", **options).run()
        sys.settrace(None)
        counts.write_text(json.dumps(counted))

    done = Child(count, folder / "errors").start().wait()
    assert done.status == 0, done.said
    state = state_of(folder / "plain")
    assert not differences(state_of(folder / "counted"), state)
    return Undisturbed(folder / "plain", state, plain.seconds, json.loads(counts.read_text()))


def killed_again_and_again(
    folder: Path, whole: Undisturbed, each: int, seed: int, most: int = 10, **options: Any
) -> dict[str, int]:
    """Kill runs at random instants, resuming each time; every run must end as the undisturbed one.

    each: how many kills of each kind, over all runs. most: kills of one run before it is let
    through. Returns how many kills there were of each kind, and of runs.
    """
    draw = random.Random(seed)
    kinds = ["time", *REGIONS]
    counts = dict.fromkeys([*kinds, "runs"], 0)
    while missing(counts, kinds, each):
        out = folder / f"run-{counts['runs']}"
        for attempt in range(most + 1):
            wanted = missing(counts, kinds, each)
            kind = draw.choice(wanted) if wanted and attempt < most else None
            if kind is None:
                child = trained(out, **options)
            elif kind == "time":
                child = trained(out, **options)
                time.sleep(draw.uniform(0, whole.seconds))
                child.kill()
            else:
                # An instant of an even chance among all that the region runs.
                line = 1 + draw.randrange(whole.lines[kind])
                child = trained(out, lambda n=line, k=kind: at_line(n, k, die), **options)
            ended = child.wait()
            if ended.status is None:
                assert kind is not None, ended.said
                counts[kind] += 1
                continue
            # It was let through, or had less to do than a whole run, and ended before the instant.
            assert ended.status == 0, ended.said
            break
        counts["runs"] += 1
        wrong = differences(state_of(out), whole.state)
        assert not wrong, (wrong, out, counts)
    return counts


def missing(counts: dict[str, int], kinds: list[str], each: int) -> list[str]:
    """Return the kinds of which there were too few."""
    return [kind for kind in kinds if counts[kind] < each]


# A disk of its own -------------------------------------------------------------------------------

NEWNS, NEWUSER, READ_ONLY, REMOUNT = 0x20000, 0x10000000, 1, 32


def _mount(target: Path, flags: int, options: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", bytes(target), b"tmpfs", flags, options.encode()):
        raise OSError(ctypes.get_errno(), f"mount {target} {options}")


@dataclass
class Disk:
    """A small disk in memory, seen by this process alone; it goes when the process ends."""

    at: Path
    size: int = 64 * 2**20

    def mount(self) -> "Disk":
        """Mount it; OSError where that is not allowed."""
        libc = ctypes.CDLL(None, use_errno=True)
        user, group = os.getuid(), os.getgid()
        self.at.mkdir(parents=True, exist_ok=True)
        if libc.unshare(NEWUSER | NEWNS):
            raise OSError(ctypes.get_errno(), "unshare")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        _mount(self.at, 0, f"size={self.size}")
        return self

    def grow(self, size: int = 64 * 2**20) -> None:
        """Give it another size, and make it writable."""
        _mount(self.at, REMOUNT, f"size={size}")

    def read_only(self) -> None:
        """Refuse all writes from now on."""
        _mount(self.at, REMOUNT | READ_ONLY, f"size={self.size}")


@cache
def disks_are_allowed() -> bool:
    """Whether this system lets a test mount a disk of its own."""
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"pocketddpm-disk-{os.getpid()}"
    pid = os.fork()
    if pid == 0:
        try:
            Disk(folder / "disk").mount()
        except BaseException:
            os._exit(1)
        os._exit(0)
    allowed = os.waitpid(pid, 0)[1] == 0
    for path in (folder / "disk", folder):
        with suppress(OSError):
            path.rmdir()
    return allowed


def with_disk(folder: Path, size: int, task: Callable[[Disk], Any]) -> Ended:
    """Do task(disk) in a child with a small disk, and return how it ended."""
    warm()
    child = Child(lambda: task(Disk(folder / "disk", size).mount()), folder / "errors")
    return child.start().wait()


def as_refused(command: Train) -> str:
    """Run a command that a fault must end; return its one line ('' when it came through)."""
    try:
        command.run()
    except DDPMError as error:
        return str(error)
    return ""
