"""What leaves this machine with a model: its weights and its experiment, but none of its paths."""

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pocketddpm.models.checkpoint import (
    Checkpoint,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from pocketddpm.models.hub import FILE, upload
from pocketddpm.models.model import Model, model_from
from pocketddpm.output import write_text

_PATH = re.compile(r"(hf:)?(~|\.{0,2}[\\/]|[A-Za-z]:[\\/])")


def public_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's JSON in which of every path only its last part is left.

    A data set's name that is a relative path is one as well. Class names stay as they are.
    """
    public = {k: v if k == "classes" else _public(v) for k, v in meta.items()}
    data = public["experiment"]["data"]
    return public | {
        "experiment": public["experiment"] | {"data": data | {"name": public_name(data["name"])}}
    }


def public_name(name: str) -> str:
    """Return a data set's name; of a folder's path its last part ('hf:USER/NAME' stays)."""
    if name.startswith("hf:") and not _PATH.match(name):
        return name
    source = "hf:" if name.startswith("hf:") else ""
    return source + re.split(r"[\\/]", name.rstrip("\\/"))[-1]


def _public(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _public(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_public(v) for v in value]
    return public_name(value) if isinstance(value, str) and _PATH.match(value) else value


def push(path: str | Path, name: str, *, weights: str = "ema", public: bool = False) -> str:
    """Upload a model's weights, without the optimiser's state and without paths; return its URL.

    name: USER/NAME. public: whether everybody can see a repository that is made now.
    Raises CheckpointError for a model that cannot be loaded, ConfigError for a name of another
    form or without the extra 'hub', OutputError when the hub refuses (`hf auth login` first).
    """
    stored = load_checkpoint(find_checkpoint(Path(path)))
    model = model_from(stored, torch.device("cpu"), weights)
    parts = {f"model.{k}": v for k, v in model.network.state_dict().items()}
    parts |= {f"scaling.{k}": v for k, v in stored.part("scaling").items()}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save_checkpoint(folder / FILE, Checkpoint(public_meta(stored.meta), parts))
        write_text(folder / "README.md", _page(model, name))
        return upload(folder, name, public=public)


def _page(model: Model, name: str) -> str:
    c, height, width = model.shape
    return (
        "---\nlibrary_name: pocketddpm\ntags: [diffusion, ddpm]\n---\n\n"
        f"A diffusion model for images of {c}x{height}x{width}, trained with pocketddpm.\n"
        f'\n```python\nimport pocketddpm as pd\n\nmodel = pd.load("hf:{name}")\n'
        f'model.sample(4).save("samples.png")\n```\n'
    )
