"""`Model`: a trained network with all that its checkpoint says of it, ready to sample."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pocketddpm.build import build_network, build_schedule, pick_precision
from pocketddpm.config import Experiment, Options, from_dict
from pocketddpm.data.scaling import Scaling
from pocketddpm.diffusion.build import SamplerChoice, build_sampler
from pocketddpm.diffusion.denoiser import Denoiser
from pocketddpm.diffusion.grid import Grid, make_grid
from pocketddpm.diffusion.guidance import Guidance, as_guidance, dynamic_threshold
from pocketddpm.diffusion.prediction import get_prediction
from pocketddpm.diffusion.sampling import State, sample_states
from pocketddpm.diffusion.schedule import Schedule
from pocketddpm.distributed import share_batches
from pocketddpm.errors import CheckpointError, ConfigError, DDPMError
from pocketddpm.models.checkpoint import (
    Checkpoint,
    file_sha256,
    find_checkpoint,
    load_checkpoint,
)
from pocketddpm.models.labels import Labels, count_labels, label_numbers
from pocketddpm.models.limits import check_fit, check_sizes
from pocketddpm.output import replacing
from pocketddpm.pictures import save_grid, save_png
from pocketddpm.plugins import require


@dataclass(frozen=True)
class Samples:
    """images: uint8 [N,C,H,W]. labels: int64 [N] or None. nfe: network evaluations per image."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    nfe: int

    def save(self, path: str | Path, columns: int | None = None) -> None:
        """Write a grid (.png), an array (.npz), or a folder of one PNG an image (no suffix).

        columns: of the grid; about as many as rows by default. The array file holds `images`, uint8
        [N,H,W] or [N,H,W,3], and `labels`; the folder's files are called NUMBER-LABEL.png.
        Raises ConfigError for another suffix, OutputError when the file cannot be written.
        """
        path = Path(path)
        if path.suffix == ".png":
            save_grid(path, self.images, columns)
        elif path.suffix == ".npz":
            images = self.images.transpose(0, 2, 3, 1)
            arrays = {"images": images[..., 0] if images.shape[3] == 1 else images}
            if self.labels is not None:
                arrays["labels"] = self.labels
            with replacing(path) as temporary:
                np.savez_compressed(temporary, **arrays)
        elif not path.suffix:
            digits = len(str(len(self.images) - 1))
            for k, image in enumerate(self.images):
                label = "" if self.labels is None else f"-{self.labels[k]}"
                save_png(path / f"{k:0{digits}d}{label}.png", image)
        else:
            raise ConfigError(f"samples are written to .png, .npz or a folder, got {path}")


Watch = Callable[[slice, State], None]


@dataclass(frozen=True)
class Model:
    """A trained model.

    shape: (channels, height, width). classes: class names, empty when unconditional.
    class_counts: images of each class in the training set. meta: the checkpoint's JSON.
    """

    experiment: Experiment
    network: nn.Module
    schedule: Schedule
    scaling: Scaling
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    class_counts: tuple[int, ...]
    meta: dict[str, Any]
    device: torch.device

    @property
    def learned_guidance(self) -> float:
        """The scale that the network learned: its objective's, or its teacher's if it had one."""
        objective = self.experiment.objective
        try:
            teacher = float(self.meta["begun_with"]["objective"]["guidance"])
        except (KeyError, TypeError, ValueError):  # there was none, or a stranger's file says so
            return objective.guidance
        return teacher if objective.loss == "consistency" else objective.guidance

    def denoiser(
        self,
        labels: Tensor | None = None,
        *,
        guidance: Guidance | float = 1.0,
        guide: "Model | None" = None,
        clip: bool = True,
        precision: str = "float32",
        sampler: str | None = None,
    ) -> Denoiser:
        """Return what samplers and metrics see.

        labels: int64 [B] (None: no label). guidance: a `Guidance`, or its scale. guide: a weaker
        model, for autoguidance. clip: whether x0 estimates are kept in the images' range.
        precision: the network's: 'float32', 'bf16', or 'auto' (bf16 where hardware multiplies it).
        sampler: the name of the one that will call it, if known.
        Raises ConfigError for guidance that this model or sampler cannot follow.
        """
        guidance = as_guidance(guidance)
        if sampler is not None:
            guidance.check_sampler(sampler)
        if labels is None and self.classes and not guidance.is_none and guide is None:
            raise ConfigError("guidance needs --labels")
        self._check_guidance(guidance, guide)
        objective = self.experiment.objective
        return Denoiser(
            self.network,
            get_prediction(objective.prediction, objective.sigma_data),
            labels=labels if self.classes else None,
            guidance=guidance,
            null=len(self.classes) if self.classes else None,
            clip=self._clip(guidance.threshold) if clip or guidance.threshold else None,
            guide=None if guide is None else guide.network,
            bf16=pick_precision(precision, self.device) == "bf16",
        )

    def _clip(self, threshold: float | None) -> Callable[[Tensor], Tensor]:
        if threshold is None:
            return self.scaling.clip
        low, high = self.scaling.bounds
        mean = 0.0 if self.scaling.mean is None else self.scaling.mean.to(self.device)
        return partial(dynamic_threshold, share=threshold, low=low - mean, high=high - mean)

    def _check_guidance(self, guidance: Guidance, guide: "Model | None") -> None:
        if guidance.interval is not None and guidance.interval[1] > self.schedule.T:
            raise ConfigError(
                f"the guidance interval must lie in this model's times 0..{self.schedule.T}, "
                f"got {guidance.interval[0]:g},{guidance.interval[1]:g}"
            )
        negative = guidance.negative_label
        if negative is not None and not self.classes:
            raise ConfigError("this model was trained without labels; leave out --negative-label")
        if negative is not None and not 0 <= negative <= len(self.classes):
            raise ConfigError(
                f"the negative label must be a class number 0..{len(self.classes) - 1}, or "
                f"{len(self.classes)} for no label, got {negative}"
            )
        if guide is None:
            return
        for what, mine, theirs in (
            ("image shape", self.shape, guide.shape),
            ("classes", self.classes, guide.classes),
            ("prediction", *(m.experiment.objective.prediction for m in (self, guide))),
            ("sigma_data", *(m.experiment.objective.sigma_data for m in (self, guide))),
            ("schedule", *(m.schedule.alpha_bar.tolist() for m in (self, guide))),
            ("scaling", self.scaling, guide.scaling),
        ):
            if mine != theirs:
                values = "" if what in ("schedule", "scaling") else f" ({theirs}, here {mine})"
                raise ConfigError(
                    f"the guide has another {what} than the model{values}; guide by a smaller or "
                    "less trained model of the same experiment"
                )

    def sampler(self, name: str | None = None, options: Options | None = None) -> SamplerChoice:
        """Return a sampler that starts from noise; None means the checkpoint's experiment's.

        Raises ConfigError for an unknown name or option.
        """
        plan = self.experiment.sampling
        name = name or plan.sampler
        if options is None:
            options = plan.options if name == plan.sampler else {}
        return build_sampler(name, options)

    def grid(
        self, steps: int | None = None, spacing: str | None = None, t_start: int | None = None
    ) -> Grid:
        """Return the times of a run from t_start (None: T); None means the experiment's.

        steps: those of a run from T. A shorter one keeps their stride, and so takes fewer.
        """
        plan, T = self.experiment.sampling, self.schedule.T
        steps = plan.steps if steps is None else steps
        if t_start is not None:
            steps = -(-steps * t_start // T)
        return make_grid(self.schedule, steps, spacing or plan.spacing, t_start=t_start)

    def sample(
        self,
        n: int | None = None,
        *,
        labels: Labels = None,
        sampler: str | None = None,
        steps: int | None = None,
        spacing: str | None = None,
        options: Options | None = None,
        guidance: Guidance | float | None = None,
        guide: "Model | None" = None,
        seed: int = 0,
        batch_size: int = 100,
        first: int = 0,
        clip: bool | None = None,
        precision: str = "float32",
        watch: Watch | None = None,
    ) -> Samples:
        """Draw n images (as many as there are labels, else one).

        None means what the checkpoint's experiment says.
        labels: '3,7' or 'all' as on the command line, or class names, or numbers 0..classes
        (classes: no label), cycled where n is larger; None for no labels at all.
        guidance: a `Guidance`, or its scale; guide: a weaker model, for autoguidance. Image k
        depends on (seed, first + k), its label and the settings alone, whatever the batch size.
        precision: as in `denoiser`; bf16 is faster and no picture is quite the same.
        watch(which, state) is called after every step of every batch, and once with the noise.
        Raises ConfigError for settings that cannot work.
        """
        plan = self.experiment.sampling
        choice = self.sampler(sampler, options)
        grid = self.grid(steps, spacing)
        n = count_labels(labels) if n is None else n
        numbers = label_numbers(labels, n, self.classes, self.class_counts, seed)
        images = np.empty((n, *self.shape), np.uint8)
        nfe = 0
        for start in range(0, n, batch_size):
            which = slice(start, min(start + batch_size, n))
            index = torch.arange(first + which.start, first + which.stop, device=self.device)
            y = None if numbers is None else torch.from_numpy(numbers[which]).to(self.device)
            denoiser = self.denoiser(
                y,
                guidance=plan.guidance if guidance is None else guidance,
                guide=guide,
                clip=plan.clip if clip is None else clip,
                precision=precision,
                sampler=choice.name,
            )
            state = None
            for state in sample_states(
                denoiser,
                choice.sample,
                grid,
                choice.config,
                index=index,
                shape=self.shape,
                seed=seed,
            ):
                if watch is not None:
                    watch(which, state)
            assert state is not None
            images[which] = self.scaling.to_uint8(state.x).cpu().numpy()
            nfe = denoiser.nfe
        return Samples(images, numbers, nfe)

    def label_numbers(self, names: str, n: int, seed: int = 0) -> NDArray[np.int64] | None:
        """Return n labels for a command-line list such as '3,7' (cycled) or 'all'.

        'all' keeps the training set's proportions, exactly up to rounding, in shuffled order. Names
        are class names, or positions where no class is named by a number. None if unconditional.
        """
        return label_numbers(names, n, self.classes, self.class_counts, seed)


def model_from(checkpoint: Checkpoint, device: torch.device, weights: str = "ema") -> Model:
    """Return the model of a checkpoint in memory. weights: 'ema' (the average) or 'model'."""
    meta = checkpoint.meta
    require(meta)
    try:
        experiment = from_dict(Experiment, meta["experiment"], "checkpoint: ")
        channels, height, width = (int(v) for v in meta["shape"])
        shape = (channels, height, width)
        classes = tuple(str(c) for c in meta["classes"])
        counts = tuple(int(c) for c in meta["class_counts"])
        check_sizes(shape, classes, counts)
        stored = checkpoint.part(weights) or checkpoint.part("model")
        if not meta.get("plugins"):  # which are somebody's own code, and were asked for
            check_fit(experiment, shape, len(classes), stored)
        network = build_network(experiment, shape, len(classes))
        network.load_state_dict(stored)
        scaling = Scaling.from_config(meta["scaling"], checkpoint.part("scaling"))
        schedule = build_schedule(experiment.schedule)
    except DDPMError:
        raise
    # What a stranger's file says of itself can make building fail in almost any way.
    except Exception as error:
        raise CheckpointError(f"the checkpoint is incomplete or foreign: {error!r:.300}") from error
    # torch's own annotations leave memory_format out.
    network = network.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    network = network.eval().requires_grad_(False)
    return Model(
        experiment=experiment,
        network=network,
        schedule=schedule,
        scaling=scaling,
        shape=shape,
        classes=classes,
        class_counts=counts,
        meta=meta,
        device=device,
    )


def load_hashed(path: str | Path, device: str | torch.device, weights: str) -> tuple[Model, str]:
    """Return the model that `load_model` returns, and the sha256 of the file that it was read from.

    A run that trains on may replace its checkpoint meanwhile: then the new one is loaded.
    """
    file = find_checkpoint(Path(path))
    sha256 = file_sha256(file)
    model = load_model(file, device, weights)
    return (model, sha256) if file_sha256(file) == sha256 else load_hashed(path, device, weights)


def load_model(path: str | Path, device: str | torch.device = "cpu", weights: str = "ema") -> Model:
    """Load a run folder or a checkpoint file; no other option is needed.

    Raises CheckpointError when it is missing, damaged or foreign.
    """
    return model_from(load_checkpoint(find_checkpoint(Path(path))), torch.device(device), weights)


def sample_together(
    model: Model,
    n: int,
    *,
    labels: NDArray[np.int64] | None,
    batch_size: int,
    watch: Watch,
    **settings: Any,
) -> Samples:
    """Return what `model.sample` returns, drawn by all processes of torchrun; all get all of it.

    watch: is called for this process's batches only.
    """

    def draw(which: slice) -> Samples:
        return model.sample(
            which.stop - which.start,
            labels=None if labels is None else labels[which],
            batch_size=batch_size,
            first=which.start,
            watch=lambda _, state: watch(which, state),
            **settings,
        )

    images, nfe = np.empty((n, *model.shape), np.uint8), 0
    for which, samples in share_batches(n, batch_size, draw):
        images[which], nfe = samples.images, samples.nfe
    return Samples(images, labels, nfe)
