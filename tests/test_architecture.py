"""The arrows of docs/design.md: who may import whom."""

import ast
from pathlib import Path

import pocketddpm

ROOT = Path(pocketddpm.__file__).parent

GROUND = {"errors", "noise", "progress", "output", "pictures", "distributed"}
ASKED = {"values", "config", "catalog", "plugins", "build"}
# Each room, and the rooms that it may import. A room not named here may not exist.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "progress": set(),
    "noise": {"errors"},
    "output": {"errors"},
    "pictures": {"output"},
    "distributed": {"errors"},
    "catalog": {"errors"},
    "config": {"catalog", "errors", "values"},
    "values": {"catalog", "errors"},
    "presets": {"config", "errors"},
    "plugins": {"catalog", "errors"},
    "build": {"catalog", "config", "diffusion", "distributed", "errors", "plugins", "values"},
    "networks": {"errors", "values"},
    "schedules": {"diffusion", "errors", "values"},
    # catalog: a sampler is asked for by its name, and only then imported.
    "diffusion": {"catalog", "config", "errors", "noise", "values"},
    "samplers": {"diffusion", "errors", "values"},
    "data": {"catalog", "errors", "noise", "progress"},
    "datasets": {"data", "errors", "progress"},
    "training": {"config", "data", "diffusion", "distributed", "errors"},
    "models": {*GROUND, *ASKED, "__init__", "data", "diffusion"},
    "metrics": {*GROUND, *ASKED, "data", "diffusion", "models"},
    "runs": {*GROUND, *ASKED, "data", "diffusion", "metrics", "models", "presets", "training"},
    "convert": {
        "__init__",
        "build",
        "catalog",
        "config",
        "data",
        "errors",
        "models",
        "networks",
        "values",
        "noise",
        "output",
    },
    "api": {"config", "metrics", "models", "presets", "runs", "values"},
}
EDGES = {"commands", "demo", "__init__", "__main__"}


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
    assert "diffusion" not in ALLOWED["networks"]
    assert {"diffusion", "errors"} <= imports(ROOT / "samplers" / "ddim.py")


def test_help_needs_no_heavy_module():
    heavy = {"torch", "numpy", "matplotlib", "PIL", "sklearn", "safetensors", "tqdm"}
    stdlib_only = [
        ROOT / f"{name}.py" for name in ("errors", "catalog", "config", "presets", "values")
    ]
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
