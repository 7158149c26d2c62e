"""`pocketddpm info MODEL`: what a checkpoint holds and how it was made; or what a folder holds."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketddpm.commands.options import Positional
from pocketddpm.errors import CheckpointError


@dataclass(frozen=True)
class Info:
    """Say what a model is, what it was trained on, and for how long; or what images a folder or an
    .npz file holds.

    Example: pocketddpm info runs/mnist
    """

    model: Positional[str]
    """A run folder or a checkpoint; or a folder of images, or an .npz file."""
    json: bool = False
    """Print all of it as JSON."""

    def run(self) -> None:
        """Print the checkpoint's own account of itself."""
        from pocketddpm.models.checkpoint import find_checkpoint, load_checkpoint

        given = Path(self.model).expanduser()
        is_run = any(given.glob("*.safetensors")) or (given / "config.json").exists()
        if (given.is_dir() and not is_run) or given.suffix == ".npz":
            self._print_images(str(given.absolute()))
            return
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
        if path.parent == given and (given / "log.csv").exists():  # a run, with steps to repeat
            rows["again"] = f"pocketddpm reproduce {shlex.quote(self.model)}"
        for name, text in rows.items():
            print(f"{name:<11} {text}")

    def _print_images(self, folder: str) -> None:
        from pocketddpm.data.load import class_counts, load_images
        from pocketddpm.runs.summary import describe_images

        images = load_images(folder, quiet=True)
        if self.json:
            told: dict[str, Any] = {"images": len(images), "shape": list(images.shape)}
            told |= {"classes": dict(zip(images.classes, class_counts(images), strict=True))}
            print(json.dumps({**told, "notes": list(images.notes)}, indent=2))
        else:
            print("\n".join(describe_images(images)))


def described(meta: dict[str, Any], parameters: int) -> dict[str, str]:
    """Return all that a rerun needs, in words: data, network, budget, seed, versions, machine."""
    experiment, run, data = meta["experiment"], meta["run"], meta["data"]
    held_out = f" and {data['held_out']} held out" if data.get("held_out") else ""
    seen, skipped = run["images_seen"], (run.get("health") or {}).get("skipped", 0)
    plan = f"; planned: {run['plan']['total']} images" if run["plan"] else ""
    best = run["best_loss"]
    return {
        "preset": str(experiment["preset"]),
        "data": f"{data['name']}, {data['images']} images{held_out}, "
        f"fingerprint {data['fingerprint']}",
        "images": "; ".join(
            ["x".join(map(str, meta["shape"])) + f" {data['source']}", *data.get("notes", ())]
        ),
        "classes": ", ".join(meta["classes"]) or "none",
        "parameters": f"{parameters / 1e6:.2f}M",
        **{k: _listed(v) for k, v in experiment.items() if k not in ("preset", "data")},
        "chosen": _listed(experiment["data"]),
        "trained": f"{seen} images, {run['step']} steps ({skipped} skipped), "
        f"{run['seconds'] / 60:.1f} minutes{plan}",
        **({"neon": _listed(meta["neon"])} if "neon" in meta else {}),
        "best loss": "none yet" if best is None else f"{best:.5f}",
        "result": _listed(meta.get("evaluation") or {}) or "not evaluated",
        "versions": _listed(meta["versions"]),
        "machine": _listed(meta.get("machine") or {}) or "not recorded",
        **{f"plug-in {p['name']}": _listed(p) for p in meta.get("plugins", ())},
    }


def _listed(values: dict[str, Any]) -> str:
    """Return 'key value, key value' of what is set; options of a part follow its name."""
    told = ((k, _listed(v) if isinstance(v, dict) else v) for k, v in values.items())
    return ", ".join(f"{k} {_plain(v)}" for k, v in told if v not in (None, "", [], ()))


def _plain(value: Any) -> str:
    """Return a value as the command line reads it, 8/16 for a list."""
    return "/".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
