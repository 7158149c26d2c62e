"""`pocketddpm info MODEL`: what a checkpoint holds and how it was made."""

import json
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional


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
        from pocketddpm.checkpoint import find_checkpoint, load_checkpoint

        path = find_checkpoint(Path(self.model))
        checkpoint = load_checkpoint(path)
        meta = checkpoint.meta
        if self.json:
            print(json.dumps(meta, indent=2))
            return
        experiment, run, data = meta["experiment"], meta["run"], meta["data"]
        parameters = sum(t.numel() for t in checkpoint.part("model").values())
        rows = {
            "file": f"{path} ({path.stat().st_size / 1e6:.1f} MB, format {meta['format_version']})",
            "preset": experiment["preset"],
            "data": f"{data['name']}, {data['images']} images"
            + (f" and {held_out} held out" if (held_out := data.get("held_out")) else "")
            + f", fingerprint {data['fingerprint']}",
            "images": "x".join(map(str, meta["shape"]))
            + (f" ({data['source']})" if data["source"] else ""),
            "classes": ", ".join(meta["classes"]) or "none",
            "network": _with(experiment["network"], "sizes")
            + f", {parameters / 1e6:.2f}M parameters",
            "schedule": _with(experiment["schedule"], "options")
            + f", T = {experiment['schedule']['T']}",
            "objective": ", ".join(f"{k} {v}" for k, v in experiment["objective"].items()),
            "optimiser": ", ".join(f"{k} {v}" for k, v in experiment["optimiser"].items()),
            "trained": f"{run['images_seen']} images, {run['step']} steps, "
            f"{run['seconds'] / 60:.1f} minutes, seed {experiment['training']['seed']}, "
            f"{experiment['training']['precision']}",
            "best loss": "none yet" if run["best_loss"] is None else f"{run['best_loss']:.5f}",
            "evaluation": ", ".join(f"{k} {v:.4g}" for k, v in meta.get("evaluation", {}).items())
            or "none",
            "versions": ", ".join(f"{k} {v}" for k, v in meta["versions"].items()),
        }
        for name, text in rows.items():
            print(f"{name:<10} {text}")


def _with(entry: dict[str, object], key: str) -> str:
    options = entry[key]
    assert isinstance(options, dict)
    told = ", ".join(f"{k}={v}" for k, v in options.items())
    return f"{entry['name']} ({told})" if told else str(entry["name"])
