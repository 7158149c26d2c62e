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
    "presets": {"catalog", "config", "errors"},
    "plugins": {"catalog", "errors"},
    "build": {"catalog", "config", "data", "diffusion", "distributed", "errors"}
    | {"plugins", "values"},
    "networks": {"errors", "values"},
    "schedules": {"diffusion", "errors", "values"},
    # catalog: a sampler is asked for by its name, and only then imported.
    "diffusion": {"catalog", "config", "errors", "noise", "values"},
    "samplers": {"diffusion", "errors", "values"},
    "data": {"catalog", "errors", "noise", "progress", "values"},
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
    "api": {"config", "metrics", "models", "runs", "values"},
}
EDGES = {"commands", "demo", "__init__", "__main__"}  # the picture alone holds these
DESIGN = ROOT.parents[1] / "docs" / "design.md"


def floors() -> dict[str, int]:
    """Return room -> floor, 0 at the bottom, as the picture in docs/design.md has them."""
    text = DESIGN.read_text(encoding="utf-8").split("<!-- rooms:")[1].split("```text\n")[1]
    lines = text.split("```")[0].strip().splitlines()
    return {
        name: len(lines) - 1 - number
        for number, line in enumerate(lines)
        for name in line.split()[1:]
    }


def room_of(module: str) -> str:
    """Return the room of `pocketddpm.a.b`: a; of a name that the package itself defines: itself."""
    name = module.split(".")[1] if "." in module else "__init__"
    here = (ROOT / name).is_dir() or (ROOT / f"{name}.py").exists()
    return name if here else "__init__"


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{name.name}" for name in node.names}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return {name for name in found if name.split(".")[0] == "pocketddpm"}


def imports(path: Path) -> set[str]:
    return {room_of(name) for name in imported(path)}


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


def test_every_import_goes_down_in_the_picture():
    floor = floors()
    assert set(floor) == {room(path) for path in ROOT.rglob("*.py")}
    wrong = [
        f"{path.relative_to(ROOT)} imports {there}"
        for path in sorted(ROOT.rglob("*.py"))
        if (here := room(path)) != "__init__"  # which imports when a name is asked for
        for there in imports(path) - {here}
        if floor[there] >= floor[here]
    ]
    assert not wrong, wrong


def test_no_module_imports_itself_through_others():
    """No circle between files either; what is imported inside a function counts too."""
    files = {
        "pocketddpm." + ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for path in ROOT.rglob("*.py")
    }
    files = {name.removesuffix(".__init__"): path for name, path in files.items()}
    files.pop("pocketddpm.__init__", None)
    del files["pocketddpm"]
    arrows = {name: imported(path) & set(files) - {name} for name, path in files.items()}
    done: set[str] = set()
    for start in files:
        waiting, path_here = [(start, iter(arrows[start]))], [start]
        while waiting:
            name, rest = waiting[-1]
            there = next(rest, None)
            if there is None:
                done.add(name)
                waiting.pop()
                path_here.pop()
            elif there in path_here:
                raise AssertionError(" -> ".join([*path_here[path_here.index(there) :], there]))
            elif there not in done:
                waiting.append((there, iter(arrows[there])))
                path_here.append(there)


def test_the_root_is_small():
    entries = [p for p in ROOT.iterdir() if p.name != "__pycache__"]
    assert len([p for p in entries if p.is_file()]) <= 16
    assert len([p for p in entries if p.is_dir()]) <= 15


def test_the_rule_can_fail():
    assert room_of("pocketddpm.training.trainer") == "training"
    assert "diffusion" not in ALLOWED["networks"]
    assert {"diffusion", "values"} <= imports(ROOT / "samplers" / "ddim.py")


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
