"""The folder of a run: one run at a time, and no half-written file of one that was killed.

The lock is the operating system's: it ends with the process that holds it, however that ends, so
that no stale lock is ever in the way.
"""

import json
import os
import shutil
import socket
import sys
import weakref
from pathlib import Path

from filelock import FileLock, Timeout

from pocketddpm.errors import CheckpointError, OutputError
from pocketddpm.models.checkpoint import load_checkpoint
from pocketddpm.output import remove_files, replacing, writing

# What a run writes; everything else in its folder is somebody else's.
FILES = ("*.safetensors", "last.damaged", "*.csv", "*.png", "samples/*.png", "tensorboard/*")
HISTORY = ("log.csv", "evaluation.csv", "best.safetensors")
LEFTOVERS = (
    *(f".*.tmp.{kind}" for kind in ("safetensors", "csv", "json", "png")),
    "samples/.step-*.tmp.png",
    ".tmp??????",  # safetensors' own, since 0.8: it writes beside the file that it is given
)


class RunFolder:
    """The lock on a run's folder, held until `release`."""

    def __init__(self, folder: Path) -> None:
        """Make the folder, take its lock, and remove what a killed run left half-written.

        Raises OutputError when another process trains into it, or when it cannot be written.
        """
        self.folder = folder
        path, holder = folder / ".lock", folder / ".lock-holder"
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            path.touch()
        lock = FileLock(path, timeout=0, thread_local=False)
        self.release = weakref.finalize(self, lock.release)
        try:
            lock.acquire()
        except Timeout:
            name = holder.read_text() if holder.exists() else "another process"
            raise OutputError(
                f"{folder} is in use by {name}; stop that run, or give another --out"
            ) from None
        except (OSError, NotImplementedError) as error:
            print(
                f"pocketddpm: {folder} cannot be locked ({error}); make sure that no other "
                "run writes there",
                file=sys.stderr,
            )
        with writing(holder):
            holder.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        remove_files(folder, *LEFTOVERS)

    def clear(self) -> None:
        """Remove the files of an earlier run that --overwrite gave up."""
        remove_files(self.folder, *FILES)

    def take_history(self, other: Path) -> None:
        """Copy the logs of another run folder, and its best checkpoint, for a run that goes on."""
        if not (other / "config.json").is_file():
            return  # a checkpoint that lies among a stranger's files
        for name in HISTORY:
            if (other / name).is_file():
                with replacing(self.folder / name) as temporary:
                    shutil.copyfile(other / name, temporary)

    def set_aside_damaged(self) -> None:
        """Rename a damaged last.safetensors, so that it never becomes previous.safetensors."""
        last = self.folder / "last.safetensors"
        if last.exists():
            try:
                load_checkpoint(last)
            except CheckpointError:
                with writing(last):
                    os.replace(last, last.with_suffix(".damaged"))


def only_begun(folder: Path) -> bool:
    """Whether a folder holds a run that ended before its first checkpoint, and nothing else."""
    try:
        begun = "experiment" in json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, TypeError):
        return False
    names = {"config.json", *(str(p) for pattern in FILES for p in _inside(folder, pattern))}
    here = {str(p) for p in _inside(folder, "**/*") if (folder / p).is_file()}
    return begun and {name for name in here if not Path(name).name.startswith(".")} <= names


def _inside(folder: Path, pattern: str) -> list[Path]:
    return [path.relative_to(folder) for path in folder.glob(pattern)]
