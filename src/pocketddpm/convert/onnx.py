"""A model's network as one ONNX file: x, t (and y) to the prediction, for a batch of any size.

What a sampler needs to know besides lies in the file's metadata, as plain JSON under `pocketddpm`:
prediction, alpha_bar, clipping, scaling, class names and the model's own plan. Needs the extra
'onnx'; onnxruntime checks every file against torch before it takes its name.
"""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pocketddpm.errors import ConfigError
from pocketddpm.models.model import Model
from pocketddpm.models.publishing import public_name
from pocketddpm.noise import Role, normal
from pocketddpm.output import replacing

OPSET = 18
TOLERANCE = 1e-4
"""Largest difference to torch, as a share of the largest value."""


def write_onnx(model: Model, out: Path) -> float:
    """Write the file and return its largest relative difference to torch, over batches of 1 and 5.

    Raises ConfigError where the extra is missing, where torch cannot express the network in ONNX,
    or where the result differs by more than `TOLERANCE`.
    """
    onnx, runtime = _libraries()
    with replacing(out) as temporary:
        try:
            _export(model, temporary)
        except Exception as error:
            if isinstance(error, OSError):
                raise
            cause = error.__cause__ or error  # the exporter wraps what went wrong in advice
            said = next((line for line in str(cause).splitlines() if line.strip()), "")
            raise ConfigError(
                f"torch cannot write the network '{model.experiment.network.name}' as ONNX: "
                f"{type(cause).__name__}: {said[:200]}"
            ) from error
        graph = onnx.load(str(temporary))
        _remove_traces(graph)
        graph.metadata_props.add(key="pocketddpm", value=json.dumps(facts(model)))
        onnx.save(graph, str(temporary))
        difference = max(_difference(model, temporary, runtime, batch) for batch in (1, 5))
        if not difference < TOLERANCE:
            raise ConfigError(
                f"onnxruntime's answers differ from torch's by {difference:.1e} of the largest "
                f"value, more than {TOLERANCE:.0e}; the file is not written"
            )
    return difference


def facts(model: Model) -> dict[str, Any]:
    """Return what a sampler must know, as plain JSON.

    mean: the scaling's mean image, [C H W] in rows, or None. null: the label of "no label".
    sampler, spacing, steps: the model's own plan where it is one that the page can follow (ddim, or
    dpmpp of order 2, or consistency; trailing, karras or jumps), else ddim with trailing times.
    """
    objective, plan, scaling = model.experiment.objective, model.experiment.sampling, model.scaling
    known = plan.sampler in ("ddim", "dpmpp", "consistency") and not plan.options
    even = known and plan.spacing in ("karras", "jumps") and not model.schedule.zero_terminal
    return {
        "name": public_name(model.experiment.data.name),
        "shape": list(model.shape),
        "classes": list(model.classes),
        "null": len(model.classes) if model.classes else None,
        "prediction": objective.prediction,
        "sigma_data": objective.deviation,
        "guidable": model.null is not None,
        "alpha_bar": model.schedule.alpha_bar.tolist(),
        "clip": plan.clip,
        "low": scaling.low,
        "high": scaling.high,
        "mean": None if scaling.mean is None else scaling.mean.flatten().tolist(),
        "sampler": plan.sampler if known else "ddim",
        "spacing": plan.spacing if even else "trailing",
        "steps": min(plan.steps, 50),
        "guidance": plan.guidance,
    }


class _Called(nn.Module):
    """The network, called with as many inputs as it has."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.network(x, t, y)


def _inputs(model: Model, batch: int) -> dict[str, Tensor]:
    index = torch.arange(batch)
    inputs = {
        "x": normal(0, Role.START, index, model.shape),
        "t": torch.linspace(model.schedule.T, 1, batch),
    }
    if model.classes:
        inputs["y"] = index % (len(model.classes) + 1)
    return inputs


def _export(model: Model, path: Path) -> None:
    inputs = _inputs(model, 2)
    batch = torch.export.Dim("batch")
    with _silence(), torch.no_grad():
        torch.onnx.export(
            _Called(model.network).eval(),
            tuple(inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=["prediction"],
            dynamic_shapes=tuple({0: batch} for _ in inputs),
            opset_version=OPSET,
            external_data=False,
            dynamo=True,
            verbose=False,
        )


def _remove_traces(graph: Any) -> None:
    """Remove the exporter's notes, which hold the paths of this machine's source files."""
    for part in (graph.graph, *graph.functions):
        for noted in (part, *part.node, *part.value_info):
            noted.ClearField("metadata_props")
            noted.ClearField("doc_string")


def _difference(model: Model, path: Path, runtime: Any, batch: int) -> float:
    inputs = _inputs(model, batch)
    with torch.no_grad():
        wanted = model.network(inputs["x"], inputs["t"], inputs.get("y")).numpy()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    return float(np.abs(got - wanted).max() / max(np.abs(wanted).max(), 1e-8))


@contextmanager
def _silence() -> Iterator[None]:
    """Hide the exporter's log messages and warnings."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _libraries() -> tuple[Any, Any]:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  (torch's exporter needs it)
    except ImportError as error:
        raise ConfigError(
            f"--to onnx needs the extra 'onnx': pip install 'pocketddpm[onnx]' ({error})"
        ) from error
    return onnx, onnxruntime
