"""`Extractor`: a network or linear map that turns images into features; its file; how it is run.

Stored as safetensors with plain JSON in the header, in float16 for networks. Images go in as uint8
[N,C,H,W] and are mapped to 0..1; features come out as float32 [N,D]. Extractors run on the CPU,
wherever the samples were drawn: a GPU's shorter products (TF32) would change the third digit.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pocketddpm.data.image_set import ImageArray
from pocketddpm.distributed import share_batches
from pocketddpm.errors import DataError, unknown
from pocketddpm.metrics.classifiers import ARCHITECTURES, Unit
from pocketddpm.metrics.extractors import ASSETS, EXTRACTORS, shipped_sha256
from pocketddpm.output import replacing
from pocketddpm.progress import Advance

FEATURE_BATCH = 100
FORMAT_VERSION = 1
SUFFIX = ".safetensors"
_KEY = "pocketddpm-extractor"


@dataclass(frozen=True)
class Features:
    """What an extractor makes of N images.

    values: float32 [N,D]. logits: float32 [N,K] of its K classes; None where it has none.
    """

    values: Tensor
    logits: Tensor | None = None

    def __getitem__(self, index: Tensor) -> "Features":
        logits = None if self.logits is None else self.logits[index]
        return Features(self.values[index], logits)


@dataclass(frozen=True)
class Extractor:
    """A network or linear map with its name and its file's sha256 ("" if it has no file yet).

    network: images float [B,C,H,W] in 0..1 -> (features [B,D], logits [B,K] or None). shape:
    (channels, height, width) of its images. classes: what its logits stand for; empty without
    logits. facts: what its file says of it: architecture, data, half, accuracy.
    """

    name: str
    sha256: str
    network: nn.Module
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    facts: dict[str, Any]

    @torch.no_grad()
    def __call__(
        self,
        images: ImageArray,
        *,
        batch_size: int = FEATURE_BATCH,
        advance: Advance | None = None,
    ) -> Features:
        """Return the features of images, uint8 [N,C,H,W]. advance(k): called after k more images.

        Raises DataError when the images are of another shape than the extractor's.
        """
        self.check(images)
        values = logits = None
        for start in range(0, len(images), batch_size):
            part = torch.from_numpy(images[start : start + batch_size].copy())
            x = (part.float() / 255).contiguous(memory_format=torch.channels_last)
            features, classified = self.network(x)
            values = _filled(values, features, start, len(images))
            if classified is not None:
                logits = _filled(logits, classified, start, len(images))
            if advance is not None:
                advance(len(part))
        assert values is not None
        return Features(values, logits)

    def check(self, images: ImageArray) -> None:
        """Raise DataError when there are no images, or of another shape than the extractor's."""
        if images.shape[1:] != self.shape or not len(images):
            raise DataError(
                f"extractor {self.name} takes images of {'x'.join(map(str, self.shape))} "
                f"(channels x height x width), got {len(images)} of "
                f"{'x'.join(map(str, images.shape[1:]))}"
            )


def features_together(
    extractor: Extractor, images: ImageArray, advance: Advance | None
) -> Features:
    """Return what `extractor(images)` returns, computed by all processes of torchrun."""

    def extract(which: slice) -> Features:
        return extractor(images[which], advance=advance)

    parts = [part for _, part in share_batches(len(images), FEATURE_BATCH, extract)]
    logits = [part.logits for part in parts if part.logits is not None]
    return Features(torch.cat([p.values for p in parts]), torch.cat(logits) if logits else None)


def _filled(whole: Tensor | None, part: Tensor, start: int, total: int) -> Tensor:
    """Return the tensor of all rows with a part written to it from row `start` on.

    A list of parts would lie scattered among the network's large buffers, whose memory could then
    not be given back: half a gigabyte for MNIST.
    """
    if whole is None:
        whole = part.new_empty(total, *part.shape[1:])
    whole[start : start + len(part)] = part
    return whole


class Linear(nn.Module):
    """Coordinates along fixed directions: (x - mean) @ directions.T; classifies nothing."""

    def __init__(self, mean: Tensor, directions: Tensor) -> None:
        super().__init__()
        self.mean: Tensor
        self.directions: Tensor
        self.register_buffer("mean", mean)  # [C*H*W]
        self.register_buffer("directions", directions)  # [D, C*H*W]

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Return coordinates [B,D] of images [B,C,H,W], and no logits."""
        return (x.flatten(1) - self.mean) @ self.directions.T, None


def save_extractor(path: Path, extractor: Extractor, dtype: torch.dtype) -> str:
    """Write an extractor to a file; return the file's sha256.

    dtype: float16 for classifiers, whose weights are rounded to it; float32 for linear maps.
    """
    facts = {
        **extractor.facts,
        "shape": list(extractor.shape),
        "classes": list(extractor.classes),
    }
    tensors = {k: v.detach().to("cpu", dtype) for k, v in extractor.network.state_dict().items()}
    return save_tensors(path, tensors, facts)


def save_tensors(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> str:
    """Write tensors with JSON facts to a safetensors file; return the file's sha256."""
    header = json.dumps({"format_version": FORMAT_VERSION, **facts})
    with replacing(path) as temporary:
        contiguous = {k: v.contiguous() for k, v in tensors.items()}
        save_file(contiguous, temporary, metadata={_KEY: header})
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_file(path: Path, sha256: str | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the JSON facts and the tensors of a file written by `save_tensors`.

    sha256: what the file must hash to; None for a file of the user's own.
    Raises DataError when it is missing, altered, damaged or foreign.
    """
    if not path.is_file():
        fix = "reinstall pocketddpm" if sha256 else "give the name or the file of an extractor"
        raise DataError(f"{path}: no such file; {fix}")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if sha256 is not None and found != sha256:
        raise DataError(
            f"{path} is damaged: its sha256 is {found}, expected {sha256}; reinstall pocketddpm"
        )
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise DataError(f"{path} is not an extractor of pocketddpm's ({error})") from error
    return {**facts, "sha256": found}, tensors


def load_shipped(name: str, data: str) -> Extractor:
    """Return a shipped extractor's file for a data set; DataError when it is missing or altered."""
    file = f"{EXTRACTORS[name].files[data]}{SUFFIX}"
    return load_extractor(name, ASSETS / file, shipped_sha256(file))


def load_extractor(name: str, path: Path, sha256: str | None = None) -> Extractor:
    """Return the extractor in a file; `sha256` as for `read_file`.

    Raises DataError when it is missing, altered, damaged or foreign.
    """
    facts, tensors = read_file(path, sha256)
    try:
        channels, height, width = (int(size) for size in facts.pop("shape"))
        classes = tuple(str(c) for c in facts.pop("classes"))
        architecture = str(facts["architecture"])
        if architecture == "linear":
            network: nn.Module = Linear(tensors["mean"].float(), tensors["directions"].float())
        elif architecture in ARCHITECTURES:
            # Batch norms are folded away in a stored file.
            blocks = int((facts.get("recipe") or {}).get("blocks", 1))
            network = ARCHITECTURES[architecture](channels, len(classes), blocks)
            for module in network.modules():
                if isinstance(module, Unit):
                    module.norm = nn.Identity()
            network.load_state_dict({k: v.float() for k, v in tensors.items()})
        else:
            raise unknown("architecture", architecture, ["linear", *ARCHITECTURES])
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise DataError(f"{path} is not an extractor that this version reads: {error}") from error
    # torch's own annotations leave memory_format out.
    network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    network = network.eval().requires_grad_(False)
    return Extractor(name, facts.pop("sha256"), network, (channels, height, width), classes, facts)
