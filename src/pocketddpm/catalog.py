"""Catalogues: every network, sampler, schedule and data set is one file, named like it.

Listing a catalogue reads file names and first docstring lines without importing anything, so that
`pocketddpm list` and every `--help` answer without importing torch. Only the entry that is
asked for is imported. A user's own file joins a catalogue through `pocketddpm.plugins`.
What is one function rather than one file (a loss, a weighting) is an entry of a `Table`, which is
read in the same way.
"""

import ast
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

from pocketddpm.errors import unknown


@dataclass(frozen=True)
class Plugin:
    """A user's own entry. sha256: of the file as it was when it was run."""

    kind: str
    name: str
    path: Path
    sha256: str
    module: ModuleType


@dataclass(frozen=True)
class Catalog:
    """All entries of one kind: the modules of `package`, a folder of pocketddpm."""

    kind: str
    package: str
    plugins: dict[str, Plugin] = field(default_factory=dict, compare=False, repr=False)

    def files(self) -> dict[str, Path]:
        """Return name -> source file, sorted by name (`fashion_mnist.py` is 'fashion-mnist')."""
        folder = Path(__file__).parent / self.package
        paths = sorted(p for p in folder.glob("*.py") if not p.name.startswith("_"))
        files = {p.stem.replace("_", "-"): p for p in paths}
        return files | {name: plugin.path for name, plugin in self.plugins.items()}

    def names(self) -> list[str]:
        """Return all names, sorted."""
        return list(self.files())

    def describe(self) -> dict[str, str]:
        """Return name -> first line of the entry's docstring, without importing it."""
        described = {}
        for name, path in self.files().items():
            doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            described[name] = doc.split("\n", 1)[0]
        return described

    def load(self, name: str) -> ModuleType:
        """Import and return the entry called `name`.

        Raises ConfigError, with the nearest names, when there is none.
        """
        if name not in self.files():
            raise unknown(self.kind, name, self.files())
        if name in self.plugins:
            return self.plugins[name].module
        return import_module(f"pocketddpm.{self.package}.{name.replace('-', '_')}")


NETWORKS = Catalog("network", "networks")
SAMPLERS = Catalog("sampler", "samplers")
SCHEDULES = Catalog("schedule", "schedules")
DATASETS = Catalog("data set", "datasets")
ALL = (DATASETS, NETWORKS, SCHEDULES, SAMPLERS)


@dataclass(frozen=True)
class Table:
    """The entries of one dictionary of functions, `name` in the package's file `path`."""

    path: str
    name: str

    def names(self) -> list[str]:
        """Return all names, in the dictionary's order, without importing the file."""
        return list(self.describe())

    @cache  # noqa: B019
    def describe(self) -> dict[str, str]:
        """Return name -> the comment above the entry, else its function's first docstring line."""
        source = (Path(__file__).parent / self.path).read_text(encoding="utf-8")
        tree, lines, described = ast.parse(source).body, source.splitlines(), {}
        docs = {n.name: ast.get_docstring(n) or "" for n in tree if isinstance(n, ast.FunctionDef)}
        table = next(node.value for node in tree if _assigned(node) == self.name)  # type: ignore[attr-defined]
        for key, value in zip(table.keys, table.values, strict=True):
            first = last = key.lineno - 1  # of the lines above, counted from 0
            while lines[first - 1].lstrip().startswith("#"):
                first -= 1
            comment = " ".join(line.strip(" #") for line in lines[first:last])
            described[key.value] = comment or docs.get(getattr(value, "id", ""), "").split("\n")[0]
        return described


def _assigned(node: ast.stmt) -> str | None:
    """Return the name that a statement such as `NAME: type = ...` assigns."""
    target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
    return getattr(target, "id", None)


TABLES = {
    "extractors": Table("metrics/extractors.py", "EXTRACTORS"),
    "predictions": Table("diffusion/prediction.py", "PREDICTIONS"),
    "losses": Table("diffusion/losses.py", "LOSSES"),
    "weightings": Table("diffusion/weighting.py", "WEIGHTINGS"),
    "times": Table("diffusion/times.py", "TIMES"),
    "restore-tasks": Table("diffusion/operators.py", "TASKS"),
    "restore-methods": Table("diffusion/conditioning.py", "METHODS"),
}


KINDS = (*(f"{catalog.kind.replace(' ', '-')}s" for catalog in ALL), *TABLES)
"""Everything that has a name, but presets."""


def describe_all() -> dict[str, dict[str, str]]:
    """Return kind -> name -> what it is, without importing any of it."""
    return {
        kind: each.describe() for kind, each in zip(KINDS, (*ALL, *TABLES.values()), strict=True)
    }
