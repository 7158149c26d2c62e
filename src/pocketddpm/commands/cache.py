"""`pocketddpm cache`: the decoded images on this machine's disk, and how to be rid of them."""

import time
from dataclasses import dataclass
from typing import Literal

from pocketddpm.commands.options import Positional


@dataclass(frozen=True)
class Cache:
    """Show which folders of images are kept decoded on the disk, or remove them.

    Nothing else is removed; what is needed again is decoded again. POCKETDDPM_CACHE is the folder
    of the cache, POCKETDDPM_CACHE_GB the most that decoded images take there (20).

    Example: pocketddpm cache

    Example: pocketddpm cache clear
    """

    action: Positional[Literal["show", "clear"]] = "show"
    """What to do."""

    def run(self) -> None:
        """Print a line for each set of images, or how much was removed."""
        from pocketddpm.data.cache import cache_folder, clear, entries, limit_bytes

        if self.action == "clear":
            size, kept = clear()
            print(f"removed {size / 1e9:.3g} GB of decoded images from {cache_folder()}")
            for folder in kept:
                print(f"kept {folder}: another process writes there, or it may not be removed")
            return
        found = entries()
        print(
            f"{cache_folder()}: {sum(entry.size for entry in found) / 1e9:.3g} GB of at most "
            f"{limit_bytes() / 1e9:.3g} GB"
        )
        for entry in reversed(found):
            used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
            shape = "x".join(map(str, entry.shape)) or "damaged"
            print(f"{entry.size / 1e9:8.3f} GB  {shape:<18} last used {used}  {entry.where}")
