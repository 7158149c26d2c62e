"""`pocketddpm list`: everything that has a name."""

import json
from dataclasses import dataclass
from typing import Literal

from tyro.conf import Positional

from pocketddpm.commands.options import Plugins


@dataclass(frozen=True)
class List:
    """List presets, data sets, networks, schedules and samplers.

    Example: pocketddpm list samplers
    """

    kind: Positional[
        Literal["all", "presets", "data-sets", "networks", "schedules", "samplers", "extractors"]
    ] = "all"
    """What to list."""
    json: bool = False
    """Print names and descriptions as JSON."""
    plugin: Plugins = ()
    """Your own network, sampler, schedule or data set: FILE.py (docs/plugins.md)."""

    def run(self) -> None:
        """Print names and their first docstring lines; imports none of them."""
        from pocketddpm.catalog import ALL
        from pocketddpm.presets import describe_presets

        sections = {"presets": describe_presets()}
        sections |= {f"{c.kind.replace(' ', '-')}s": c.describe() for c in ALL}
        chosen = {k: v for k, v in sections.items() if self.kind in ("all", k)}
        if self.json:
            print(json.dumps(chosen, indent=2))
            return
        for title, entries in chosen.items():
            print(f"{title}:")
            width = max(map(len, entries), default=0)
            for name, line in entries.items():
                print(f"  {name:<{width}}  {line}")
