"""What leaves this machine with a model: its weights and its experiment, but none of its paths."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pocketddpm.models.checkpoint import Checkpoint, save_checkpoint
from pocketddpm.models.hub import FILE
from pocketddpm.output import write_json, write_text

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


def write_folder(folder: Path, checkpoint: Checkpoint, name: str) -> None:
    """Write what a repository of the hub holds: model.safetensors, config.json and README.md.

    checkpoint: of the weights alone. name: what the page calls the model, USER/NAME on the hub.
    config.json is a copy, for people and other tools, of the JSON in model.safetensors.
    """
    meta = public_meta(checkpoint.meta)
    save_checkpoint(folder / FILE, Checkpoint(meta, checkpoint.tensors))
    write_json(folder / "config.json", meta)
    write_text(folder / "README.md", model_card(meta, name))


def model_card(meta: Mapping[str, Any], name: str) -> str:
    """Return a page about a model, with the front matter that the hub reads."""
    experiment, classes = meta["experiment"], meta["classes"]
    channels, height, width = meta["shape"]
    data, run = experiment["data"]["name"], meta.get("run", {})
    front = {"library_name": "pocketddpm", "pipeline_tag": "unconditional-image-generation"}
    front |= {"tags": ["diffusion", "ddpm", "pytorch"]}
    if data.startswith("hf:") and "/" in data:  # ORG/NAME; of a folder's path the name is left
        front["datasets"] = [data.removeprefix("hf:")]
    lines = [f"{key}: {json.dumps(value)}" for key, value in front.items()]  # YAML holds JSON
    labels = f", of {len(classes)} classes: {', '.join(classes[:20])}" if classes else ""
    more = f" and {len(classes) - 20} more" if len(classes) > 20 else ""
    seen = f" in {run['images_seen']} training images" if "images_seen" in run else ""
    plan = experiment["sampling"]
    return "\n".join(
        [
            *("---", *lines, "---", "", f"# {name}", ""),
            "A denoising diffusion model, made with pocketddpm.",
            "",
            f"- Draws images of {channels}x{height}x{width}{labels}{more}.",
            f"- Trained on `{data}`{seen}, with the network `{experiment['network']['name']}`.",
            f"- Sampled by `{plan['sampler']}` in {plan['steps']} steps unless told otherwise.",
            "",
            "```python",
            "import pocketddpm as pd",
            "",
            f"model = pd.Model.from_pretrained({name!r})",
            'model.sample(4).save("samples.png")',
            "```",
            "",
            f"`{FILE}` holds the weights and, in its header, the whole experiment; `config.json` "
            "is a copy of the latter.",
            "",
        ]
    )
