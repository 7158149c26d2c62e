"""Catalogues: every network, sampler, schedule and data set is one file, named like it.

Listing a catalogue reads file names and first docstring lines without importing anything, so that
`pocketddpm list` and every `--help` answer without importing torch. Only the entry that is
asked for is imported. A user's own file joins a catalogue through `pocketddpm.plugins`.
"""

import ast
from dataclasses import dataclass, field
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
        folder = Path(__file__).parent.joinpath(*self.package.split("."))
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
EXTRACTORS = Catalog("extractor", "metrics.extractors")
ALL = (DATASETS, NETWORKS, SCHEDULES, SAMPLERS, EXTRACTORS)
