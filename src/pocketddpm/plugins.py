"""`--plugin FILE.py`: a user's own network, sampler, schedule or data set.

Such a file has the form of the files in the catalogue's folder, and its file name is its name
(`my_net.py` is `my-net`). It is run only when it is given: a checkpoint records the path and sha256
of the plug-ins that it needs, but never runs them, because a checkpoint from an untrusted source
must not execute code.
"""

import hashlib
import re
import sys
import traceback
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pocketddpm.catalog import DATASETS, NETWORKS, SAMPLERS, SCHEDULES, Catalog, Plugin
from pocketddpm.errors import CheckpointError, ConfigError

# The attribute that identifies a kind, and all that such a file defines; the first match counts.
KINDS: dict[str, tuple[Catalog, tuple[str, ...]]] = {
    "sample": (SAMPLERS, ("Config", "STOCHASTIC", "order", "sample")),
    "load": (DATASETS, ("FLIP", "FIT", "load")),
    "CONDITIONAL": (NETWORKS, ("Config", "CONDITIONAL", "build")),
    "build": (SCHEDULES, ("Config", "build")),
}
# Modules that have moved, so that an older plug-in gets the new name: room -> modules (old=new).
MOVED = {
    "": "processes=distributed",
    "data": "data.arrays=npz data.find=download data.loader=batches",
    "diffusion": "bound denoiser grid guidance likelihood losses objective prediction process "
    "sampling schedule times weighting",
    "metrics": "features=extractors metrics.classified=classifier_scores "
    "metrics.counted=likelihood metrics.estimate=intervals metrics.evaluate=protocol "
    "metrics.halves=split metrics.kernel=kid metrics.making=train_extractor "
    "metrics.moments=frechet metrics.neighbours=precision_recall metrics.principal=pca "
    "metrics.reference=reference_data metrics.setting=reference_data "
    "metrics.training=train_extractor",
    "models": "checkpoint editing flops=cost hub labels model provenance trust=limits",
    "runs": "comparison forward=previews log run_data=data run_folder=folder run_log=log "
    "run_pictures=previews session=run stopping=signals validation=evaluation",
}
TO_SAMPLE = ("network", "schedule", "sampler")
ALL_KINDS = (*TO_SAMPLE, "data set")


def load_plugin(path: str | Path) -> Plugin:
    """Run a file and enter it into its catalogue; twice the same file is once.

    Raises ConfigError for a file that is missing, fails, defines no entry, or has a taken name.

    >>> import pocketddpm as pd
    >>> pd.load_plugin("slow_start.py").name  # of docs/plugins.md
    'slow-start'
    """
    path = Path(path).expanduser().resolve()
    if path.suffix != ".py" or not path.is_file():
        raise ConfigError(f"no plug-in at {path}; give the path of a .py file")
    content = path.read_bytes()
    sha256, name = hashlib.sha256(content).hexdigest(), path.stem.replace("_", "-")
    for catalog, _ in KINDS.values():
        known = catalog.plugins.get(name)
        if known is not None and (known.path, known.sha256) == (path, sha256):
            return known
    module = _run(path, content)
    for mark, (catalog, needed) in KINDS.items():
        if not hasattr(module, mark):
            continue
        if missing := [what for what in needed if not hasattr(module, what)]:
            raise ConfigError(
                f"{path} looks like a {catalog.kind}, but does not define {', '.join(missing)}; "
                f"a {catalog.kind} defines {', '.join(needed)}"
            )
        if name in catalog.files():
            raise ConfigError(
                f"there is a {catalog.kind} called '{name}' already "
                f"({catalog.files()[name]}); rename {path}"
            )
        catalog.plugins[name] = Plugin(catalog.kind, name, path, sha256, module)
        return catalog.plugins[name]
    kinds = "; ".join(f"a {c.kind}: {', '.join(needed)}" for c, needed in KINDS.values())
    raise ConfigError(f"{path} defines no entry of a catalogue. What each defines: {kinds}")


def loaded() -> list[Path]:
    """Return the files of all plug-ins that have been loaded."""
    return [plugin.path for catalog, _ in KINDS.values() for plugin in catalog.plugins.values()]


def _run(path: Path, content: bytes) -> ModuleType:
    module = ModuleType(f"pocketddpm_plugin_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look their module up by name
    try:
        exec(compile(content, str(path), "exec"), module.__dict__)
    except Exception as error:
        del sys.modules[module.__name__]
        lines = [
            f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)
        ]
        line = getattr(error, "lineno", None) or (lines[-1] if lines else None)
        raise ConfigError(
            f"plug-in {path}{f', line {line}' if line else ''}: {type(error).__name__}: {error}"
            f"{_moved(error)}"
        ) from error
    return module


def moved() -> dict[str, str]:
    """Return old -> new name of every module that has moved, without 'pocketddpm.'."""
    pairs = [(room, *entry.split("=")) for room, text in MOVED.items() for entry in text.split()]
    return {old: ".".join(filter(None, (room, *(new or [old])))) for room, old, *new in pairs}


def _moved(error: Exception) -> str:
    """Return where the module is now that an import did not find; '' for any other error."""
    # "No module named 'a.b'", or "cannot import name 'b' from 'a'".
    named = re.findall(r"'([\w.]+)'", str(error)) if isinstance(error, ImportError) else []
    wanted = ".".join(reversed(named[:2])) + "."
    for old, new in moved().items():
        if wanted.startswith(f"pocketddpm.{old}."):
            return f"; pocketddpm.{old} is now pocketddpm.{new}"
    return ""


def records(used: Mapping[str, str]) -> list[dict[str, str]]:
    """Return what a checkpoint keeps of the plug-ins among `used`, from kind to name."""
    kept = []
    for catalog, _ in KINDS.values():
        plugin = catalog.plugins.get(used.get(catalog.kind, ""))
        if plugin is not None:
            path = str(plugin.path)
            kept.append(
                {"kind": plugin.kind, "name": plugin.name, "path": path, "sha256": plugin.sha256}
            )
    return kept


def require(meta: Mapping[str, Any], kinds: Collection[str] = TO_SAMPLE) -> None:
    """Check that the plug-ins of these kinds that a checkpoint's JSON records have been loaded.

    Raises CheckpointError, naming file and sha256, for one that has not. Warns of one that has
    changed since: whether it still means the same is not for us to say.
    """
    catalogs = {catalog.kind: catalog for catalog, _ in KINDS.values()}
    for record in meta.get("plugins", ()):
        try:
            kind, name, path, sha256 = (str(record[k]) for k in ("kind", "name", "path", "sha256"))
        except (KeyError, TypeError) as error:
            raise CheckpointError(
                f"the checkpoint's list of plug-ins is damaged: {error}"
            ) from error
        if kind not in kinds or kind not in catalogs:
            continue
        plugin = catalogs[kind].plugins.get(name)
        if plugin is None:
            raise CheckpointError(
                f"this model needs the {kind} {name!r}, a plug-in: {path!r} with sha256 "
                f"{sha256[:16]}...; a checkpoint never runs code by itself, so if you trust that "
                "file, give it with --plugin FILE.py (in Python: pocketddpm.load_plugin)"
            )
        if plugin.sha256 != sha256:
            warnings.warn(
                f"plug-in {plugin.path} has changed since this model was made (sha256 "
                f"{plugin.sha256[:16]}, then {sha256[:16]})",
                stacklevel=2,
            )
