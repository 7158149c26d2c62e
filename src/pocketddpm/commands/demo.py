"""`pocketddpm demo MODELS`: a local page on which models draw, edit and show what they do."""

from dataclasses import dataclass
from pathlib import Path

from pocketddpm.commands.options import Plugins, Positional
from pocketddpm.errors import ConfigError


@dataclass(frozen=True)
class Demo:
    """Open a local page in the browser: draw, compare samplers, edit, look inside.

    Nothing leaves this machine. Needs the extra: pip install 'pocketddpm[demo]'.

    Example: pocketddpm demo runs/mnist
    """

    models: Positional[tuple[Path, ...]] = ()
    """Run folders, checkpoints, or names of shipped models; by default all runs in ./runs, and
    all shipped models."""
    port: int | None = None
    """The page's port on 127.0.0.1; the first free one from 7860 by default."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    no_browser: bool = False
    """Only print the address."""
    plugin: Plugins = ()
    """Your own network, sampler, schedule or data set: FILE.py (docs/plugins.md)."""

    def run(self) -> None:
        """Serve until Ctrl-C."""
        import threading
        import webbrowser

        from pocketddpm.build import pick_device
        from pocketddpm.demo.model_list import ModelList
        from pocketddpm.demo.server import serving

        if self.port is not None and not 1024 <= self.port <= 65535:
            raise ConfigError(f"--port must lie in 1024..65535, got {self.port}")
        models = ModelList(list(self.models) or _runs(), pick_device(self.device))
        print(f"models: {', '.join(models.names)}; starting the page ...", flush=True)
        with serving(models, self.port) as address:
            print(f"open {address} (Ctrl-C ends it)", flush=True)
            if not self.no_browser:
                webbrowser.open(address)
            threading.Event().wait()


def _runs() -> list[Path]:
    """Return the run folders in ./runs and the names of shipped models."""
    from pocketddpm.models.checkpoint import shipped

    runs = sorted(path.parent for path in Path("runs").glob("*/last.safetensors"))
    return [*runs, *map(Path, shipped())]
