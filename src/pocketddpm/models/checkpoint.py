"""Checkpoints: one safetensors file, with plain JSON in its header. Nothing in it can be executed.

The header's entry `pocketddpm` holds the JSON: format_version, the whole experiment, the state of
the run, and a sha256 over that JSON and every tensor, which is checked on loading. Tensors are
named `model.*` (the weights), `ema.*` (their average) and `optimizer.*`.
"""

import hashlib
import json
import os
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pocketddpm.errors import CheckpointError
from pocketddpm.models.hub import pull
from pocketddpm.output import expanded, replacing, writing

FORMAT_VERSION = 1
_KEY = "pocketddpm"
_MAX_HEADER = 64 * 2**20
_SHIPPED = Path(__file__).parents[1] / "weights"


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint: plain JSON values and named tensors on the CPU."""

    meta: dict[str, Any]
    tensors: dict[str, Tensor]

    def part(self, name: str) -> dict[str, Tensor]:
        """Return the tensors called `name.*`, without that prefix."""
        start = len(name) + 1
        return {k[start:]: v for k, v in self.tensors.items() if k.startswith(f"{name}.")}


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically; OutputError when it cannot be written."""
    meta = {**checkpoint.meta, "format_version": FORMAT_VERSION}
    tensors = {k: v.detach().contiguous().cpu() for k, v in checkpoint.tensors.items()}
    meta["sha256"] = _digest(meta, tensors)
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={_KEY: json.dumps(meta)})
        except SafetensorError as error:  # it wraps a full disk in an error of its own
            raise OSError(0, str(error)) from error


def save_last(folder: Path, checkpoint: Checkpoint) -> None:
    """Write last.safetensors, and keep the one before as previous.safetensors.

    At every instant one of the two is complete. OutputError when it cannot be written.
    """
    last, previous = folder / "last.safetensors", folder / "previous.safetensors"
    with writing(previous):
        if last.exists():
            previous.unlink(missing_ok=True)
            try:
                os.link(last, previous)  # a second name for the old file
            except OSError:
                os.replace(last, previous)
    save_checkpoint(last, checkpoint)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and verify a checkpoint.

    Raises CheckpointError when the file is missing, foreign, truncated, altered, or written by a
    newer version.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}; give a run folder or a .safetensors file")
    _check_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            stored = (file.metadata() or {}).get(_KEY)
            if stored is None:
                raise CheckpointError(f"{path} is a safetensors file, but no pocketddpm checkpoint")
            meta = json.loads(stored)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}; use an older checkpoint") from error
    if not isinstance(meta, dict) or not isinstance(meta.get("format_version"), int):
        raise CheckpointError(f"{path} is damaged: its header is not pocketddpm's")
    if meta["format_version"] > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format_version {meta['format_version']}, and this version of pocketddpm "
            f"reads up to {FORMAT_VERSION}; update pocketddpm"
        )
    if meta.pop("sha256", None) != _digest(meta, tensors):
        raise CheckpointError(f"{path} is damaged: its checksum is wrong; use an older checkpoint")
    _complete(meta)
    return Checkpoint(meta, tensors)


def _complete(meta: dict[str, Any]) -> None:
    """Say what an older version wrote as this one says it."""
    experiment = meta.get("experiment")
    parts = experiment if isinstance(experiment, dict) else {}
    data, optimiser = parts.get("data"), parts.get("optimiser")
    if isinstance(data, dict):
        data.setdefault("selection", "first")  # the rules of then; the defaults are others now
        data.setdefault("held_out", 0)
        data.setdefault("background", "black")
    if isinstance(optimiser, dict):
        # Negative ones were taken: the average was the weights themselves, as a ramp of 0 says.
        for name in ("ema_half_life", "ema_ramp"):
            value = optimiser.get(name)
            if isinstance(value, int | float) and value < 0:
                optimiser |= {name: -value, "ema_ramp": 0.0}


def shipped() -> tuple[str, ...]:
    """Return the names of the models that come with the package."""
    return tuple(sorted(path.stem for path in _SHIPPED.glob("*.safetensors")))


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the newest undamaged checkpoint of a run, or None; damaged ones are printed.

    Raises CheckpointError when there are some and all are damaged.
    """
    damaged = []
    for path in (folder / "last.safetensors", folder / "previous.safetensors"):
        if path.exists():
            try:
                return load_checkpoint(path)
            except CheckpointError as error:
                damaged.append(path.name)
                print(f"pocketddpm: skipped: {error}", file=sys.stderr)
    if damaged:
        raise CheckpointError(
            f"all checkpoints in {folder} are damaged ({', '.join(damaged)}); "
            "start again with --overwrite"
        )
    return None


def find_checkpoint(path: Path) -> Path:
    """Return the file of a checkpoint: `path` itself, the last of a run folder, a shipped model.

    A folder may also be what `Model.save_pretrained` wrote. hf:USER/NAME is on the Hugging Face
    hub. A model in a folder of that name comes before a shipped one.
    Raises CheckpointError when there is none.
    """
    if (given := path.as_posix()).startswith("hf:"):
        return pull(given[3:])
    path = expanded(path)
    files = (f"{name}.safetensors" for name in ("last", "previous", "best", "model"))
    places = [path / file for file in files] if path.is_dir() else [path]
    if given in shipped():
        places.append(_SHIPPED / f"{given}.safetensors")
    for place in places:
        if place.is_file():
            return place
    found = "no checkpoint in" if path.is_dir() else "no model at"
    names = "".join(f" or {name}" for name in shipped())
    raise CheckpointError(f"{found} {path}; give a run folder, a .safetensors file{names}")


def _check_header(path: Path) -> None:
    """Refuse files that do not begin like safetensors, before a library allocates memory."""
    with open(path, "rb") as file:
        start = file.read(9)
    size = path.stat().st_size
    if len(start) < 9 or start[8:9] != b"{":
        raise CheckpointError(
            f"{path} is not a pocketddpm checkpoint (a .safetensors file is expected)"
        )
    (header,) = struct.unpack("<Q", start[:8])
    if header > min(size, _MAX_HEADER):
        raise CheckpointError(f"{path} is damaged: its header does not fit the file")


def _digest(meta: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def init_record(meta: dict[str, Any]) -> dict[str, Any] | None:
    """Return what a run's record says of the run whose weights it began with; None for none."""
    return meta.get("init_from") or meta.get("begun_with")  # its key until 0.1


def file_sha256(path: Path) -> str:
    """Return the sha256, in hex digits, of a run folder's checkpoint or of a checkpoint file."""
    return hashlib.sha256(find_checkpoint(path).read_bytes()).hexdigest()
