"""`pocketddpm list`: everything that has a name."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pocketddpm.catalog import KINDS, describe_all
from pocketddpm.commands.options import Plugins, Positional

if TYPE_CHECKING:
    Kind = str
else:
    Kind = Literal[("all", "presets", *KINDS)]


@dataclass(frozen=True)
class List:
    """List everything that has a name: presets, data sets, networks, samplers, losses, ...

    Example: pocketddpm list samplers
    """

    kind: Positional[Kind] = "all"
    """What to list."""
    json: bool = False
    """Print names and descriptions as JSON."""
    plugin: Plugins = ()
    """Your own network, sampler, schedule or data set: FILE.py (docs/plugins.md)."""

    def run(self) -> None:
        """Print names and their first docstring lines; imports none of them."""
        from pocketddpm.presets import describe_presets

        sections = {"presets": describe_presets(), **describe_all()}
        chosen = {k: v for k, v in sections.items() if self.kind in ("all", k)}
        if self.json:
            print(json.dumps(chosen, indent=2))
            return
        for title, entries in chosen.items():
            print(f"{title}:")
            width = max(map(len, entries), default=0)
            for name, line in entries.items():
                print(f"  {name:<{width}}  {line}")
