"""`pocketddpm info MODEL`: what a checkpoint holds and how it was made."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from pocketddpm.errors import CheckpointError


@dataclass(frozen=True)
class Info:
    """Say what a model is, what it was trained on, and for how long.

    Example: pocketddpm info runs/mnist
    """

    model: Positional[str]
    """A run folder or a checkpoint."""
    json: bool = False
    """Print all of it as JSON."""

    def run(self) -> None:
        """Print the checkpoint's own account of itself."""
        from pocketddpm.models.checkpoint import find_checkpoint, load_checkpoint

        path = find_checkpoint(Path(self.model))
        checkpoint = load_checkpoint(path)
        meta = checkpoint.meta
        if self.json:
            print(json.dumps(meta, indent=2))
            return
        parameters = sum(t.numel() for t in checkpoint.part("model").values())
        size = f"{path.stat().st_size / 1e6:.1f} MB"
        try:
            rows = {"file": f"{path} ({size}, format {meta['format_version']})"}
            rows |= described(meta, parameters)
        # A stranger's file need not hold what ours do.
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise CheckpointError(f"{path} is incomplete or foreign: {error!r}") from error
        if path.parent == Path(self.model):
            rows["again"] = f"pocketddpm reproduce {self.model}"
        for name, text in rows.items():
            print(f"{name:<10} {text}")


def described(meta: dict[str, Any], parameters: int) -> dict[str, str]:
    """Return all that a rerun needs, in words: data, network, budget, seed, versions, machine."""
    experiment, run, data = meta["experiment"], meta["run"], meta["data"]
    training, health = experiment["training"], run.get("health") or {}
    budgets = ", ".join(
        f"{k} {training[k]}" for k in ("steps", "epochs", "images", "minutes") if training[k]
    )
    planned = f" = {run['plan']['total']} images" if run["plan"] else ""
    rows = {
        "preset": str(experiment["preset"]),
        "data": f"{data['name']}, {data['images']} images"
        + (f" and {held_out} held out" if (held_out := data.get("held_out")) else "")
        + f", fingerprint {data['fingerprint']}",
        "chosen": _told(experiment["data"]),
        "images": "x".join(map(str, meta["shape"]))
        + (f" ({data['source']})" if data["source"] else ""),
        "classes": ", ".join(meta["classes"]) or "none",
        "network": f"{_with(experiment['network'], 'sizes')}, {parameters / 1e6:.2f}M parameters",
        "schedule": f"{_with(experiment['schedule'], 'options')}, "
        + _told({k: v for k, v in experiment["schedule"].items() if k not in ("name", "options")}),
        "objective": _told(experiment["objective"]),
        "optimiser": _told(experiment["optimiser"]),
        "training": _told({k: v for k, v in training.items() if v is not None}),
        "budget": f"{budgets}{planned}",
        "trained": f"{run['images_seen']} images, {run['step']} steps "
        f"({health.get('skipped', 0)} skipped), {run['seconds'] / 60:.1f} minutes",
        "best loss": "none yet" if run["best_loss"] is None else f"{run['best_loss']:.5f}",
        "evaluation": ", ".join(f"{k} {v:.4g}" for k, v in meta.get("evaluation", {}).items())
        or "none",
        "versions": _told(meta["versions"]),
        "machine": _told(meta.get("machine") or {}) or "not recorded",
    }
    for plugin in meta.get("plugins", ()):
        rows["plug-in"] = _told(plugin)
    return rows


def _told(values: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in values.items())


def _with(entry: dict[str, object], key: str) -> str:
    options = entry[key]
    if not isinstance(options, dict):
        raise TypeError(f"{key} must be an object, got {options!r}")
    told = ", ".join(f"{k}={v}" for k, v in options.items())
    return f"{entry['name']} ({told})" if told else str(entry["name"])
