"""The mathematics: schedules, objectives, guidance, the denoiser, and sampling of any function.

The names in `__all__` are kept stable; docs/diffusion.md shows them. Nothing is imported until it
is used (PEP 562), so that `import pocketddpm.diffusion` does not load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pocketddpm.config import ObjectiveConfig as ObjectiveConfig
    from pocketddpm.diffusion.build import build_objective as build_objective
    from pocketddpm.diffusion.denoiser import Denoiser as Denoiser
    from pocketddpm.diffusion.denoiser import DenoiserOutput as DenoiserOutput
    from pocketddpm.diffusion.foreign import sample as sample
    from pocketddpm.diffusion.grid import Grid as Grid
    from pocketddpm.diffusion.grid import make_grid as make_grid
    from pocketddpm.diffusion.guidance import Guidance as Guidance
    from pocketddpm.diffusion.objective import Objective as Objective
    from pocketddpm.diffusion.prediction import get_prediction as get_prediction
    from pocketddpm.diffusion.process import add_noise as add_noise
    from pocketddpm.diffusion.process import posterior as posterior
    from pocketddpm.diffusion.sampling import State as State
    from pocketddpm.diffusion.sampling import sample_states as sample_states
    from pocketddpm.diffusion.schedule import Schedule as Schedule

_MODULES = {
    "Denoiser": "pocketddpm.diffusion.denoiser",
    "DenoiserOutput": "pocketddpm.diffusion.denoiser",
    "Grid": "pocketddpm.diffusion.grid",
    "Guidance": "pocketddpm.diffusion.guidance",
    "Objective": "pocketddpm.diffusion.objective",
    "ObjectiveConfig": "pocketddpm.config",
    "Schedule": "pocketddpm.diffusion.schedule",
    "State": "pocketddpm.diffusion.sampling",
    "add_noise": "pocketddpm.diffusion.process",
    "build_objective": "pocketddpm.diffusion.build",
    "get_prediction": "pocketddpm.diffusion.prediction",
    "make_grid": "pocketddpm.diffusion.grid",
    "posterior": "pocketddpm.diffusion.process",
    "sample": "pocketddpm.diffusion.foreign",
    "sample_states": "pocketddpm.diffusion.sampling",
}

__all__ = sorted(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'pocketddpm.diffusion' has no attribute '{name}'")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
