"""Soak: a long run, and the same steps again with many kills; bit-equal, and memory flat?

    python benchmarks/soak.py --minutes 20 --kills 10 --out soak

The first run takes the minutes; the second takes the same steps, is killed (SIGKILL) at random
moments and resumed each time. Both are children forked from this process, so that a kill costs no
import. Minutes are of the processor, so that neither a busy machine nor a pause moves the plan.
Writes soak.json and memory.png into --out; exits with 1 when anything differs. Linux only.
"""

import argparse
import json
import os
import platform
import random
import shutil
import signal
import sys
import threading
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from pocketddpm.commands.train import Train
from pocketddpm.models.checkpoint import load_checkpoint
from pocketddpm.models.provenance import versions
from pocketddpm.pictures import figure, save_figure
from pocketddpm.runs.log import COLUMNS, logged
from pocketddpm.runs.run import Session

__all__ = ["Session"]  # imported here so that no child has to

Memory = list[tuple[float, float]]  # processor seconds, megabytes
SETTLED = 0.25  # share of a run after which its memory should be flat
CHECKPOINTS = ("last", "previous", "best")


def command(out: Path, steps: int) -> Train:
    """Return the training that is soaked: digits, with previews and checkpoints throughout."""
    return Train(
        preset="digits",
        net="widths=8/16,head_width=8,groups=4",
        timesteps=100,
        batch_size=16,
        steps=steps,
        device="cpu",
        precision="float32",
        checkpoint_every=100,
        sample_every=1000,
        out=out,
        resume="auto",
    )


def start(out: Path, steps: int) -> int:
    """Fork a child that trains; return its number."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 2)
        # tqdm's own lock is shared with the parent, and dies with whom is killed holding it.
        tqdm.set_lock(threading.RLock())
        command(out, steps).run()
        status = 0
    finally:
        os._exit(status)


def resident(pid: int) -> float:
    """Return the resident memory of a process, in megabytes; 0 when it has ended."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def spent(pid: int) -> float:
    """Return the processor time of a process that has not been waited for, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def watched(pid: int, until: float, memory: Memory, began: float) -> tuple[int | None, float]:
    """Note the child's memory until it has used so much time in all, or ends.

    began: what the children before it used. Returns the exit status (None: it lives), and the time.
    """
    while True:
        # Left as a zombie until its time is read.
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        now = began + spent(pid)
        if ended is not None:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), now
        if megabytes := resident(pid):
            memory.append((now, megabytes))
        if now >= until:
            return None, now
        time.sleep(0.2)


def undisturbed(out: Path, steps: int) -> tuple[float, Memory]:
    """Train without kills; return how long it took, and its memory."""
    memory: Memory = []
    status, seconds = watched(start(out, steps), float("inf"), memory, 0.0)
    if status != 0:
        raise SystemExit(f"the undisturbed run ended with status {status}")
    return seconds, memory


def disturbed(
    out: Path, steps: int, seconds: float, kills: int, seed: int
) -> tuple[list[float], Memory]:
    """Train with kills at random moments; return when they were, and the memory."""
    draw = random.Random(seed)
    # One in each of as many equal parts. What is done twice comes on top: all come before the end.
    moments = [(k + draw.random()) * seconds / kills for k in range(kills)]
    memory: Memory = []
    killed: list[float] = []
    now = 0.0
    for until in [*moments, float("inf")]:
        pid = start(out, steps)
        status, now = watched(pid, until, memory, now)
        if status is None:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            killed.append(now)
            print(f"kill {len(killed)} after {now:.0f} s", file=sys.stderr)
        elif status == 0:
            break
        else:
            raise SystemExit(f"the disturbed run ended with status {status}")
    return killed, memory


def differences(a: Path, b: Path) -> list[str]:
    """Return the names of what two runs do not share, bit for bit: tensors, logs, previews."""
    found = []
    for name in CHECKPOINTS:
        one, two = (load_checkpoint(run / f"{name}.safetensors") for run in (a, b))
        for key in one.tensors.keys() | two.tensors.keys():
            if not torch.equal(one.tensors[key], two.tensors[key]):
                found.append(f"{name} {key}")
    rows = [[[r[c] for c in COLUMNS if c != "seconds"] for r in logged(run)] for run in (a, b)]
    if rows[0] != rows[1]:
        found.append("log.csv")
    pictures = [{p.name: p.read_bytes() for p in (run / "samples").iterdir()} for run in (a, b)]
    if pictures[0] != pictures[1]:
        found.append("samples")
    return found


def growth(memory: Memory) -> float:
    """Return the slope of the settled memory, in megabytes an hour (least squares)."""
    end = memory[-1][0]
    settled = np.array([(t, m) for t, m in memory if t > SETTLED * end])
    return float(np.polyfit(settled[:, 0], settled[:, 1], 1)[0]) * 3600


def plot(path: Path, whole: Memory, broken: Memory, killed: list[float]) -> None:
    """Write the memory of both runs, with the kills as lines."""
    fig = figure(7.5, 3.6)
    axes = fig.subplots()
    for memory, label in ((whole, "undisturbed"), (broken, f"killed {len(killed)} times")):
        axes.plot([t / 60 for t, _ in memory], [m for _, m in memory], label=label, linewidth=1)
    for moment in killed:
        axes.axvline(moment / 60, color="grey", linewidth=0.5)
    axes.set(xlabel="minutes of one core", ylabel="resident memory, MB")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    save_figure(path, fig)


def main() -> None:
    """Soak, compare, write, and say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20.0, help="of each run, on the processor")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--out", type=Path, default=Path("soak"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in ("whole", "killed", "trial"):
        shutil.rmtree(given.out / name, ignore_errors=True)
    trial = 300
    seconds, _ = undisturbed(given.out / "trial", trial)
    steps = max(500, int(trial * given.minutes * 60 / seconds))
    print(f"{steps} steps, twice", file=sys.stderr)
    seconds, whole = undisturbed(given.out / "whole", steps)
    killed, broken = disturbed(given.out / "killed", steps, seconds, given.kills, given.seed)
    wrong = differences(given.out / "whole", given.out / "killed")
    result = {
        "date": date.today().isoformat(),
        "command": "python " + " ".join(["benchmarks/soak.py", *sys.argv[1:]]),
        "machine": f"{platform.machine()}, 1 thread",
        "versions": versions(),
        "steps": steps,
        "seed": given.seed,
        "undisturbed_seconds": round(seconds, 1),
        "killed_seconds": round(broken[-1][0], 1),
        "kills": len(killed),
        "differences": wrong,
        "memory_mb": {
            "undisturbed_median": round(float(np.median([m for _, m in whole])), 1),
            "undisturbed_peak": round(max(m for _, m in whole), 1),
            "undisturbed_growth_per_hour": round(growth(whole), 2),
            "killed_peak": round(max(m for _, m in broken), 1),
        },
    }
    (given.out / "soak.json").write_text(json.dumps(result, indent=2) + "\n")
    plot(given.out / "memory.png", whole, broken, killed)
    print(json.dumps(result, indent=2))
    print(f"wrote {given.out / 'soak.json'} and {given.out / 'memory.png'}", file=sys.stderr)
    sys.exit(1 if wrong or len(killed) < given.kills else 0)


if __name__ == "__main__":
    main()
