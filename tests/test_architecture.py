"""The arrows of docs/design.md: who may import whom."""

import ast
from pathlib import Path

import pocketddpm

ROOT = Path(pocketddpm.__file__).parent

# Each room, and the rooms that it may import. A room not named here may not exist.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "catalog": {"errors"},
    "config": {"errors"},
    "presets": {"config", "errors"},
    "output": {"errors"},
    "noise": {"errors"},
    "flops": set(),
    "schedule": {"errors"},
    "schedules": {"schedule", "errors"},
    "process": {"schedule", "errors"},
    "prediction": {"errors"},
    "grid": {"schedule", "errors"},
    "networks": {"errors"},
    "progress": set(),
    "data": {"catalog", "errors", "noise", "progress"},
    "datasets": {"data", "errors", "progress"},
    "bound": {"process", "prediction", "schedule", "errors"},
    "times": {"config", "errors", "noise", "schedule"},
    "weighting": {"errors", "prediction", "process", "schedule"},
    "losses": {"bound", "prediction", "schedule"},
    "objective": {
        "bound",
        "config",
        "errors",
        "losses",
        "noise",
        "prediction",
        "process",
        "schedule",
        "times",
        "weighting",
    },
    "guidance": {"errors"},
    "likelihood": {
        "bound",
        "denoiser",
        "errors",
        "guidance",
        "noise",
        "prediction",
        "process",
        "schedule",
    },
    "denoiser": {"guidance", "prediction", "errors"},
    "sampling": {"denoiser", "grid", "noise"},
    "samplers": {"samplers", "denoiser", "errors", "grid", "process", "sampling"},
    "hub": {"errors", "output"},
    "checkpoint": {"errors", "hub", "output"},
    "training": {"checkpoint", "config", "data", "errors", "objective"},
    "pictures": {"errors", "output"},
    "run_folder": {"checkpoint", "errors", "output"},
    "processes": {"errors"},
    "stopping": set(),
    "provenance": {"__init__", "processes"},
    "run_log": {"log", "pictures", "training"},
    "run_data": {
        "build",
        "catalog",
        "checkpoint",
        "config",
        "data",
        "errors",
        "provenance",
        "validation",
    },
    "run_pictures": {"flops", "forward", "model", "pictures", "training"},
    "forward": {"data", "noise", "process", "schedule"},
    "plugins": {"catalog", "errors"},
    "labels": {"errors", "noise"},
    "build": {"catalog", "config", "errors", "plugins", "sampling", "schedule"},
    "model": {
        "build",
        "catalog",
        "checkpoint",
        "config",
        "data",
        "denoiser",
        "errors",
        "grid",
        "guidance",
        "labels",
        "pictures",
        "plugins",
        "prediction",
        "sampling",
        "schedule",
        "trust",
    },
    "trust": {"build", "config", "errors"},
    "editing": {
        "build",
        "config",
        "denoiser",
        "errors",
        "grid",
        "guidance",
        "model",
        "noise",
        "process",
        "sampling",
    },
    "convert": {
        "build",
        "catalog",
        "checkpoint",
        "config",
        "data",
        "errors",
        "model",
        "networks",
        "noise",
        "output",
        "schedule",
        "__init__",
    },
    "metrics": {"bound", "catalog", "data", "errors", "likelihood", "model", "noise", "output"},
    "log": {"errors", "output"},
    "validation": {
        "config",
        "data",
        "errors",
        "log",
        "metrics",
        "model",
        "pictures",
        "progress",
        "sampling",
    },
    "features": {"data", "errors", "metrics"},
}
EDGES = {"api", "session", "sharded", "comparison", "commands", "demo", "__init__", "__main__"}


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return {room_of(name) for name in found if name.split(".")[0] == "pocketddpm"}


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def test_every_import_follows_the_arrows():
    wrong = []
    for path in sorted(ROOT.rglob("*.py")):
        here = room(path)
        if here in EDGES:
            continue
        assert here in ALLOWED, f"{path} is in no room of docs/design.md"
        wrong += [
            f"{path.relative_to(ROOT)} imports {there}"
            for there in imports(path) - {here}
            if there not in ALLOWED[here]
        ]
    assert not wrong, wrong


def test_the_rule_can_fail():
    assert room_of("pocketddpm.training.trainer") == "training"
    assert "sampling" not in ALLOWED["training"]
    assert "samplers" in imports(ROOT / "samplers" / "ddim.py") | {"samplers"}
    assert {"process", "sampling"} <= imports(ROOT / "samplers" / "ddim.py")


def test_help_needs_no_heavy_module():
    heavy = {"torch", "numpy", "matplotlib", "PIL", "sklearn", "accelerate", "safetensors", "tqdm"}
    stdlib_only = [ROOT / f"{name}.py" for name in ("errors", "catalog", "config", "presets")]
    for path in [*stdlib_only, *(ROOT / "commands").glob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            names = (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else [n.name for n in node.names]
                if isinstance(node, ast.Import)
                else []
            )
            assert not {n.split(".")[0] for n in names} & heavy, f"{path}: {names}"
