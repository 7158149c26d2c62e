"""Denoising diffusion for small images that anyone can train, sample, measure and trust.

Nothing heavy is imported until it is used (PEP 562): `import pocketddpm` does not load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pocketddpm import diffusion as diffusion
    from pocketddpm.api import distill as distill
    from pocketddpm.api import evaluate as evaluate
    from pocketddpm.api import likelihood as likelihood
    from pocketddpm.api import train as train
    from pocketddpm.config import Experiment as Experiment
    from pocketddpm.data.image_set import ImageSet as ImageSet
    from pocketddpm.data.load import load_images as load_images
    from pocketddpm.errors import DDPMError as DDPMError
    from pocketddpm.models.model import Model as Model
    from pocketddpm.models.model import load as load
    from pocketddpm.models.samples import Samples as Samples
    from pocketddpm.models.verbs import edit as edit
    from pocketddpm.models.verbs import sample as sample
    from pocketddpm.plugins import load_plugin as load_plugin

__version__ = "0.1.0"

# The public API: these names and no others are kept stable. docs/api.md shows them.
_PUBLIC = {
    "load": ("pocketddpm.models.model", "load"),
    "train": ("pocketddpm.api", "train"),
    "distill": ("pocketddpm.api", "distill"),
    "neon": ("pocketddpm.api", "neon"),
    "sample": ("pocketddpm.models.verbs", "sample"),
    "edit": ("pocketddpm.models.verbs", "edit"),
    "evaluate": ("pocketddpm.api", "evaluate"),
    "likelihood": ("pocketddpm.api", "likelihood"),
    "load_plugin": ("pocketddpm.plugins", "load_plugin"),
    "Model": ("pocketddpm.models.model", "Model"),
    "Samples": ("pocketddpm.models.samples", "Samples"),
    "load_images": ("pocketddpm.data.load", "load_images"),
    "ImageSet": ("pocketddpm.data.image_set", "ImageSet"),
    "Experiment": ("pocketddpm.config", "Experiment"),
    "DDPMError": ("pocketddpm.errors", "DDPMError"),
    "diffusion": ("pocketddpm.diffusion", None),
}

__all__ = sorted(_PUBLIC)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'pocketddpm' has no attribute '{name}'")
    path, attribute = _PUBLIC[name]
    module = import_module(path)
    return module if attribute is None else getattr(module, attribute)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
