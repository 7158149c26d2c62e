"""`pocketddpm extractor DATA --out FILE`: a feature extractor of your own, for `evaluate`."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from pocketddpm.commands.options import Plugins, Positional, given, options_of
from pocketddpm.metrics.options import ExtractorOptions


@dataclass(frozen=True, kw_only=True)
class Extractor(options_of(ExtractorOptions)):
    """Make a feature extractor for `evaluate --extractor`: a small classifier trained on half of
    the training images; where they have no labels, the principal directions of their pixels.

    Example: pocketddpm extractor ./photos --out photos.safetensors
    """

    data: Positional[str]
    """A data set, or a folder of images (sub-folders are classes; train/ and test/ are splits)."""
    out: Path
    """The .safetensors file to write."""
    plugin: Plugins = ()
    """Your own data set: FILE.py (docs/plugins.md)."""

    def run(self) -> None:
        """Make it, test it once on the test images if there are any, and write it."""
        from pocketddpm.metrics.train_extractor import make_extractor
        from pocketddpm.values import from_dict

        options = from_dict(ExtractorOptions, given(self), "extractor: ")
        extractor, told = make_extractor(self.data, self.out, options)
        size = self.out.stat().st_size / 1000
        use = ["pocketddpm", "evaluate", "MODEL", "--data", self.data, "--extractor", str(self.out)]
        print(
            f"wrote {self.out}: {told}; {size:.0f} kB, sha256 {extractor.sha256}; "
            f"use it with: {shlex.join(use)}"
        )
