"""What a rerun needs to know besides the experiment: versions, the commit, the machine."""

import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import torch

import pocketddpm
from pocketddpm.distributed import count


@cache
def commit() -> str | None:
    """Return the commit of a checkout, with '-dirty' where files differ; None when installed."""
    root = Path(pocketddpm.__file__).parents[2]
    # Only of a checkout: an installed package may lie inside a stranger's repository.
    if not (root / ".git").exists() or not (root / "src" / "pocketddpm").is_dir():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def versions() -> dict[str, Any]:
    """Return the versions of what computes, as plain JSON."""
    return {
        "commit": commit(),
        "pocketddpm": pocketddpm.__version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
    }


def machine(device: torch.device) -> dict[str, Any]:
    """Return what the last bits of a result depend on besides the versions, as plain JSON."""
    return {
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "processor": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "system": platform.system(),
        "threads": torch.get_num_threads(),
        "processes": count(),
    }
