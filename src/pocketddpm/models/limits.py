"""Limits on what a checkpoint of unknown origin may state, checked before memory is allocated."""

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from pocketddpm.build import build_network
from pocketddpm.config import Experiment
from pocketddpm.errors import CheckpointError

MAX_VALUES = 2**26  # of one image


def check_sizes(
    shape: tuple[int, int, int], classes: tuple[str, ...], counts: tuple[int, ...]
) -> None:
    """Raise CheckpointError for an impossible image shape, or counts that do not fit classes."""
    if min(shape) < 1 or prod(shape) > MAX_VALUES:
        raise CheckpointError(
            f"the checkpoint states images of {'x'.join(map(str, shape))} values; "
            f"1 to {MAX_VALUES} are allowed"
        )
    wrong = len(counts) != len(classes) or min(counts, default=0) < 0 or sum(counts) > 2**62
    if wrong or (classes and sum(counts) < 1):
        raise CheckpointError(
            f"the checkpoint states {len(classes)} classes, and counts that do not fit them"
        )


def check_fit(
    experiment: Experiment, shape: tuple[int, int, int], classes: int, weights: dict[str, Tensor]
) -> None:
    """Raise CheckpointError when the experiment's network has more parameters than the weights.

    It is built without memory, on torch's meta device, until it has more parameters than there are:
    a forged size costs nothing.
    """
    left = sum(tensor.numel() for tensor in weights.values())

    def count(module: nn.Module, name: str, parameter: Tensor | None) -> None:
        nonlocal left
        left -= 0 if parameter is None else parameter.numel()
        if left < 0:
            raise CheckpointError(
                "the checkpoint states a network with more parameters than it holds weights"
            )

    hook = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"), _Unfilled():
            build_network(experiment, shape, classes)
    finally:
        hook.remove()


class _Unfilled(TorchFunctionMode):
    """Skip the initialisation of weights.

    The meta device has no values to fill, and torch's random numbers for it import its compiler:
    over a second, and 100 MB.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else given["tensor"]
        return func(*args, **given)
