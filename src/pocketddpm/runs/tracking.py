"""Where a run's numbers go besides its own log: TensorBoard and trackio, each an extra.

A tracker is made from the run's folder, its record and the number of images seen so far. To add
one, write a class and its row in TRACKERS, and an option of that name in `runs/options.py`.
"""

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from pocketddpm.errors import ConfigError, OutputError
from pocketddpm.models.publishing import public_meta
from pocketddpm.runs.options import RunOptions

PROJECT = "pocketddpm"


class Tracker(Protocol):
    """What is told of a run's numbers, by their names, at a number of images seen."""

    def __init__(self, folder: Path, meta: Mapping[str, Any], images_seen: int) -> None:
        """Begin, or go on with what a resumed run wrote before."""
        ...

    def log(self, values: Mapping[str, float], images_seen: int) -> None:
        """Take note of values."""
        ...

    def close(self) -> None:
        """Write what is pending."""
        ...


class TensorBoard:
    """Event files in the run's folder; what was written beyond the checkpoint is hidden."""

    def __init__(self, folder: Path, meta: Mapping[str, Any], images_seen: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge = images_seen + 1 if images_seen else None
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=purge)

    def log(self, values: Mapping[str, float], images_seen: int) -> None:
        """Add a point to the curve of each name."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, images_seen)

    def close(self) -> None:
        """Write what is pending."""
        self._writer.close()


class Trackio:
    """A run of trackio's project 'pocketddpm', called as the folder, where trackio keeps its runs.

    A resumed run goes on with the newest of that name; what lies beyond its checkpoint stays.
    """

    def __init__(self, folder: Path, meta: Mapping[str, Any], images_seen: int) -> None:
        trackio: Any = import_module("trackio")
        try:
            with redirect_stdout(sys.stderr):  # results alone are on stdout
                self._run = trackio.init(
                    PROJECT,
                    name=folder.resolve().name,
                    # It may go to a server of the user's: no path of this machine does.
                    config=public_meta(meta)["experiment"],
                    resume="allow" if images_seen else "never",
                    embed=False,
                )
        # Its settings come from the environment; it raises whatever its parts do.
        except Exception as error:
            raise OutputError(f"trackio cannot begin a run: {error}") from error

    def log(self, values: Mapping[str, float], images_seen: int) -> None:
        """Add a point to the curve of each name."""
        self._run.log(dict(values), step=images_seen)

    def close(self) -> None:
        """Write what is pending."""
        with redirect_stdout(sys.stderr):
            self._run.finish()


TRACKERS: dict[str, type[Tracker]] = {"tensorboard": TensorBoard, "trackio": Trackio}
"""By the name of the option, of the extra, and of the module that the extra brings."""


def wanted(options: RunOptions) -> list[type[Tracker]]:
    """Return the trackers that are asked for; ConfigError where an extra is not installed."""
    names = [name for name in TRACKERS if getattr(options, name)]
    for name in names:
        try:
            import_module(name)
        except ImportError as error:
            raise ConfigError(
                f"--{name} needs the extra '{name}': pip install 'pocketddpm[{name}]' ({error})"
            ) from error
    return [TRACKERS[name] for name in names]
