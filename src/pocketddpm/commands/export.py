"""`pocketddpm export MODEL --to FORMAT`: a model for other tools."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pocketddpm.commands.options import Plugins, Positional
from pocketddpm.errors import ConfigError, unknown

if TYPE_CHECKING:
    from pocketddpm.models.model import Model

FORMATS = ("diffusers", "onnx", "web")


@dataclass(frozen=True)
class Export:
    """Write a model for other tools, or as a page that draws in the browser.

    Example: pocketddpm export runs/mnist --to web --out page --serve
    """

    model: Positional[str]
    """A run folder or a checkpoint."""
    to: str
    """diffusers (a folder), onnx (a file), web (a static page) or hub:USER/NAME (uploads it)."""
    out: Path | None = None
    """Where to write it; MODEL-FORMAT beside the model by default."""
    weights: str = "ema"
    """ema (the average), model (the last step's), or a further average such as ema-3000."""
    public: bool = False
    """For hub: everybody can see the repository; a new one is private by default."""
    runtime: Path | None = None
    """For web: a folder with onnxruntime-web's files, in place of npm."""
    serve: bool = False
    """For web: serve the page on 127.0.0.1 until Ctrl-C."""
    port: int = 8000
    """Port of --serve; 0 takes a free one."""
    overwrite: bool = False
    """Replace files that exist."""
    plugin: Plugins = ()
    """Your own network, sampler, schedule or data set: FILE.py (docs/plugins.md)."""

    def run(self) -> None:
        """Convert, write, and say what was written where."""
        from pocketddpm.models.model import load
        from pocketddpm.output import refuse_existing

        hub = self.to.startswith("hub:")
        if self.to not in FORMATS and not hub:
            raise unknown("format", self.to, (*FORMATS, "hub:USER/NAME"))
        if self.to != "web" and (self.runtime is not None or self.serve):
            raise ConfigError(f"--runtime and --serve are for --to web, not {self.to}")
        if self.public and not hub:
            raise ConfigError(f"--public is for --to hub:USER/NAME, not {self.to}")
        if hub:
            if self.out is not None:
                raise ConfigError("--out is for files; hub:USER/NAME says where already")
            name = self.to.removeprefix("hub:")
            url = load(self.model, weights=self.weights).push_to_hub(name, private=not self.public)
            print(f"wrote {url}; draw from it with: pocketddpm sample hf:{name}")
            return
        path = Path(self.model)
        # Shipped models and the hub's have no folder of their own here.
        beside = path.parent if path.exists() else Path()
        out = self.out or beside / (f"{path.stem}{'.' if self.to == 'onnx' else '-'}{self.to}")
        refuse_existing(out, self.overwrite, folder=self.to != "onnx")
        model = load(self.model, weights=self.weights)
        {"diffusers": self._diffusers, "onnx": self._onnx, "web": self._web}[self.to](model, out)

    def _diffusers(self, model: "Model", out: Path) -> None:
        from pocketddpm.convert.diffusers_write import write_diffusers

        write_diffusers(model, out)
        print(f"wrote {out}; its README.md has the lines that draw from it")

    def _onnx(self, model: "Model", out: Path) -> None:
        from pocketddpm.convert.onnx import write_onnx

        _announce()
        difference = write_onnx(model, out)
        print(
            f"wrote {out}; onnxruntime agrees with torch to {difference:.1e} of the largest value"
        )

    def _web(self, model: "Model", out: Path) -> None:
        from pocketddpm.convert.web import serve, write_web

        _announce()
        difference = write_web(model, out, self.runtime)
        print(
            f"wrote {out}; its network agrees with torch to {difference:.1e} of the largest value; "
            "any web server can send it"
        )
        if self.serve:
            serve(out, self.port, lambda url: print(f"serving {url}, Ctrl-C ends it", flush=True))


def _announce() -> None:
    import sys

    print("tracing the network: this takes up to a minute or two ...", file=sys.stderr)
