"""`Model`: a trained network with all that its checkpoint says of it, ready to sample."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pocketddpm.build import build_network, build_schedule, pick_device, pick_precision
from pocketddpm.config import Experiment, Options
from pocketddpm.data.scaling import Scaling
from pocketddpm.diffusion.build import SamplerChoice, build_sampler
from pocketddpm.diffusion.denoiser import Denoiser
from pocketddpm.diffusion.grid import Grid, make_grid
from pocketddpm.diffusion.guidance import Guidance, as_guidance, dynamic_threshold
from pocketddpm.diffusion.prediction import get_prediction
from pocketddpm.diffusion.sampling import sample_states
from pocketddpm.diffusion.schedule import Schedule
from pocketddpm.distributed import count as processes
from pocketddpm.distributed import rank, share_batches
from pocketddpm.errors import CheckpointError, ConfigError, DDPMError, unknown
from pocketddpm.models.checkpoint import (
    Checkpoint,
    file_sha256,
    find_checkpoint,
    init_record,
    load_checkpoint,
)
from pocketddpm.models.hub import Token, is_repository, pull, upload
from pocketddpm.models.labels import Labels, label_numbers, listed_numbers
from pocketddpm.models.limits import check_fit, check_sizes
from pocketddpm.models.publishing import write_folder
from pocketddpm.models.samples import Recorder, Samples, Watch
from pocketddpm.output import expanded, refuse_existing
from pocketddpm.pictures import columns_for
from pocketddpm.plugins import require
from pocketddpm.progress import bar
from pocketddpm.values import IMAGES, SEEDS, from_dict, whole

WEIGHTS = ("ema", "model")
PRECISIONS = ("float32", "bf16", "auto")
# A bar that comes late and, below another one, goes when it is done.
QUICK: dict[str, Any] = {"delay": 0.5, "leave": None}
MOST_COLUMNS = 20  # of a grid with a column for each label that is cycled


@dataclass(frozen=True)
class Plan:
    """How a run samples, every setting decided.

    sampler: with its options. grid: the times, from noise to image. spacing: where they lie.
    options: of the sampler, as given. guidance: for the sampler. clip: whether x0 estimates are
    kept in the images' range.
    """

    sampler: SamplerChoice
    options: Options
    grid: Grid
    spacing: str
    guidance: Guidance
    clip: bool


@dataclass(frozen=True)
class Model:
    """A trained model.

    shape: (channels, height, width). classes: class names, empty when unconditional.
    class_counts: images of each class in the training set. meta: the checkpoint's JSON.

    >>> import pocketddpm as pd
    >>> model = pd.load("mnist-fast")
    >>> model
    Model mnist: 1x28x28, 10 classes, lean with 1.73M parameters, draws by consistency in 2 steps
    >>> model.plan(steps=1).grid.steps
    1
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

    def __repr__(self) -> str:
        size, named = "x".join(map(str, self.shape)), f"{len(self.classes)} classes"
        parameters = sum(p.numel() for p in self.network.parameters()) / 1e6
        own = self.experiment.sampling
        return (
            f"Model {self.experiment.preset}: {size}, {named if self.classes else 'no labels'}, "
            f"{self.experiment.network.name} with {parameters:.2f}M parameters, draws by "
            f"{own.sampler} in {own.steps} steps"
        )

    @property
    def learned_guidance(self) -> float:
        """The scale that the network learned: its objective's, or its teacher's if it had one."""
        objective = self.experiment.objective
        try:
            origin: Any = init_record(self.meta)
            teacher = float(origin["objective"]["guidance"])
        except (KeyError, TypeError, ValueError):  # there was none, or a stranger's file says so
            return objective.guidance
        return teacher if objective.loss == "consistency" else objective.guidance

    @property
    def null(self) -> int | None:
        """The label that means "no label", len(classes); None where it was never learned.

        It is learned where training hides labels (label dropout), and guidance needs it.
        """
        learned = self.classes and self.experiment.objective.label_dropout > 0
        return len(self.classes) if learned else None

    def plan(
        self,
        *,
        sampler: str | None = None,
        steps: int | None = None,
        spacing: str | None = None,
        options: Options | None = None,
        guidance: Guidance | float | None = None,
        clip: bool | None = None,
        t_start: int | None = None,
    ) -> Plan:
        """Return the settings of a run: what is None is what the checkpoint's experiment says.

        options: of the sampler, put over the experiment's if it is the experiment's sampler.
        t_start: where the run begins, None: T. steps: those of a run from T; one that begins below
        keeps their stride, and so takes fewer.
        Raises ConfigError for an unknown name or option, steps that are not in 1..T, a sampler that
        turns images into noise, and guidance that the sampler cannot follow.
        """
        own, T = self.experiment.sampling, self.schedule.T
        name = sampler or own.sampler
        options = {**(own.options if name == own.sampler else {}), **(options or {})}
        choice = build_sampler(name, options)
        steps, spacing = own.steps if steps is None else steps, spacing or own.spacing
        if t_start is not None:
            steps, t_start = whole(steps, "steps"), whole(t_start, "t_start")
            if not 1 <= steps <= T:
                raise ConfigError(f"steps must lie in 1..{T}, got {steps}")
            steps = -(-steps * t_start // T)
        grid = make_grid(self.schedule, steps, spacing, t_start=t_start)
        guidance = as_guidance(own.guidance if guidance is None else guidance)
        guidance.check_sampler(name)
        return Plan(choice, options, grid, spacing, guidance, own.clip if clip is None else clip)

    def denoiser(
        self,
        labels: Tensor | None = None,
        *,
        guidance: Guidance | float = 1.0,
        guide: "Model | None" = None,
        clip: bool = True,
        precision: str = "float32",
    ) -> Denoiser:
        """Return what samplers and metrics see.

        labels: int64 [B] (None: no label). guidance: a `Guidance`, or its scale. guide: a weaker
        model, for autoguidance. clip: whether x0 estimates are kept in the images' range.
        precision: the network's: 'float32', 'bf16', or 'auto' (bf16 where hardware multiplies it).
        Raises ConfigError for guidance that this model cannot follow, and for "no label" where that
        was never learned.
        """
        if precision not in PRECISIONS:
            raise unknown("precision", precision, PRECISIONS)
        guidance = as_guidance(guidance)
        self._check_labels(labels, guidance, guide)
        self._check_guidance(guidance, guide)
        objective = self.experiment.objective
        return Denoiser(
            self.network,
            get_prediction(objective.prediction, objective.deviation),
            labels=labels.to(self.device) if labels is not None and self.classes else None,
            guidance=guidance,
            null=len(self.classes) if self.classes else None,
            clip=self._clip(guidance.threshold) if clip or guidance.threshold else None,
            guide=None if guide is None else guide.network,
            bf16=pick_precision(precision, self.device) == "bf16",
        )

    def _check_labels(
        self, labels: Tensor | None, guidance: Guidance, guide: "Model | None"
    ) -> None:
        """Refuse to ask the network for an image without a label if it has not learned that."""
        if not self.classes:
            return
        none = len(self.classes)
        guided = not guidance.is_none and guide is None
        if labels is None and guided:
            raise ConfigError("guidance needs --labels")
        if self.null is not None:
            return
        if labels is None or bool((labels == none).any()):
            raise ConfigError(
                "this model has not learned to draw without a label (label dropout 0); "
                f"give labels: all, or some of {', '.join(self.classes)}"
            )
        if guided and guidance.negative_label in (None, none):
            raise ConfigError(
                "guidance needs a model that has learned to draw without a label, and this one has "
                "not (label dropout 0); use --guidance 1, --negative-label or --guide"
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
            ("sigma_data", *(m.experiment.objective.deviation for m in (self, guide))),
            ("schedule", *(m.schedule.alpha_bar.tolist() for m in (self, guide))),
            ("scaling", *(_scaling_values(m.scaling) for m in (self, guide))),
        ):
            if mine != theirs:
                values = "" if what in ("schedule", "scaling") else f" ({theirs}, here {mine})"
                raise ConfigError(
                    f"the guide has another {what} than the model{values}; guide by a smaller or "
                    "less trained model of the same experiment"
                )

    def sample(
        self,
        n: int | None = None,
        *,
        labels: Labels = "all",
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
        record: bool = False,
        together: bool = False,
        progress: str = "",
        watch: Watch | None = None,
    ) -> Samples:
        """Draw n images (as many as there are labels, else one).

        Image k depends on (seed, first + k), its label and the settings alone, whatever the batch
        size.

        Args:
            n: how many images, at least 1.
            labels: 'all' draws in the training set's proportions; '3,7' as on the command line, or
                class names, or numbers 0..classes (classes: no label), cycled where n is larger;
                None for no labels at all.
            sampler: its name; None is the experiment's, as for all that follow.
            steps: 1..T.
            spacing: where the steps lie.
            options: of the sampler, such as {"eta": 1.0}; those of the experiment's sampler are
                kept where they are not given.
            guidance: a `Guidance`, or its scale.
            guide: a weaker model, for autoguidance.
            seed: of all noise.
            batch_size: images at a time, at least 1; bounds the memory.
            first: the number of the first image.
            clip: whether x0 estimates are kept in the images' range.
            precision: as in `denoiser`; bf16 is faster and no picture is quite the same.
            record: keep frames of the first images on their way, for animations and strips.
            together: whether the processes of torchrun share the work; all get all images.
            progress: what a bar on stderr is called; without a name there is none.
            watch: watch(which, state) is called after every step of every batch (of this process),
                and once with the noise.

        Raises ConfigError for settings that cannot work.

        >>> import pocketddpm as pd
        >>> model = pd.load("mnist")
        >>> samples = model.sample(4, labels="3,7", steps=3, guidance=1.5, seed=1)
        >>> samples.images.dtype, samples.nfe
        (dtype('uint8'), 6)
        """
        plan = self.plan(
            sampler=sampler,
            steps=steps,
            spacing=spacing,
            options=options,
            guidance=guidance,
            clip=clip,
        )
        listed = listed_numbers(labels, self.classes)
        count = 1 if listed is None else len(listed)
        n = count if n is None else n
        n, batch_size = whole(n, "--n", ">= 1"), whole(batch_size, "--batch-size", ">= 1")
        seed, first = whole(seed, "seed", SEEDS), whole(first, "first", IMAGES)
        if record and together and processes() > 1:
            raise ConfigError("the way from noise is recorded by one process: leave torchrun out")
        numbers = label_numbers(labels, n, self.classes, self.class_counts, seed)
        calls = plan.sampler.calls(plan.grid.steps)
        recorder = Recorder(plan.grid.steps, self.scaling.to_uint8) if record else None

        def draw(which: slice) -> tuple[NDArray[np.uint8], int]:
            denoiser = self.denoiser(
                None if numbers is None else torch.from_numpy(numbers[which]),
                guidance=plan.guidance,
                guide=guide,
                clip=plan.clip,
                precision=precision,
            )
            state = None
            for state in sample_states(
                denoiser,
                plan.sampler.sample,
                plan.grid,
                plan.sampler.config,
                index=torch.arange(first + which.start, first + which.stop, device=self.device),
                shape=self.shape,
                seed=seed,
            ):
                done = which.start * calls + (which.stop - which.start) * state.nfe
                shown.update(done - shown.n)
                for see in filter(None, (recorder, watch)):
                    see(which, state)
            assert state is not None
            return self.scaling.to_uint8(state.x).cpu().numpy(), denoiser.nfe

        started = time.monotonic()
        hidden = not progress or (together and rank() > 0)
        with bar(total=n * calls, desc=progress, unit="call", disable=hidden, **QUICK) as shown:
            batches = share_batches(n, batch_size, draw, together=together)
        return Samples(
            np.concatenate([images for _, (images, _) in batches]),
            numbers,
            max(nfe for _, (_, nfe) in batches),
            classes=self.classes,
            columns=columns_for(n, count) if 1 < count <= MOST_COLUMNS else None,
            seconds=time.monotonic() - started,
            **({} if recorder is None else recorder.recorded()),
        )

    def label_numbers(self, labels: Labels, n: int, seed: int = 0) -> NDArray[np.int64] | None:
        """Return n labels as `sample` understands them, int64 [n]; None for no labels."""
        return label_numbers(labels, n, self.classes, self.class_counts, seed)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        token: Token = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        device: str | torch.device = "cpu",
        weights: str = "ema",
    ) -> "Model":
        """Load USER/NAME from the Hugging Face hub, or what `load` takes.

        A folder or a file of that name here comes first. device, weights: as for `load`; the others
        are huggingface_hub's: revision is a branch, a tag or a commit, token the hub's (True, or
        None: of `hf auth login`).
        Raises what `load` does, ConfigError for a revision of what is not on the hub, and
        CheckpointError where the hub has no such model.

        >>> import pocketddpm as pd
        >>> pd.Model.from_pretrained("mnist-fast").save_pretrained("my-digits")
        >>> pd.Model.from_pretrained("my-digits").shape
        (1, 28, 28)
        """
        given = Path(name).as_posix()
        if expanded(name).exists() or not is_repository(given.removeprefix("hf:")):
            if revision is not None:
                raise ConfigError(f"revision {revision!r} is for models on the hub, not for {name}")
            return load(name, device, weights)
        path = pull(
            given.removeprefix("hf:"),
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
        )
        return load(path, device, weights)

    def save_pretrained(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write these weights as a folder that `load` and `from_pretrained` take.

        It holds model.safetensors, config.json and README.md, a model card, without the
        optimiser's state and without paths of this machine.
        Raises OutputError for a folder that is not empty, unless overwrite, or cannot be written.
        """
        folder = expanded(folder)
        refuse_existing(folder, overwrite, folder=True)
        write_folder(folder, self._checkpoint(), folder.absolute().name)

    def push_to_hub(
        self,
        name: str,
        *,
        commit_message: str = "Upload by pocketddpm",
        private: bool = True,
        token: Token = None,
        revision: str | None = None,
    ) -> str:
        """Upload what `save_pretrained` writes to the Hugging Face hub; return the commit's URL.

        name: USER/NAME. private: whether a repository that is made now is; one that exists keeps
        its visibility. token: the hub's. revision: a branch, made if need be.
        Raises ConfigError for a name of another form or without the extra 'hub', OutputError when
        the hub refuses (`hf auth login` first).
        """
        with tempfile.TemporaryDirectory() as folder:
            write_folder(Path(folder), self._checkpoint(), name)
            return upload(
                Path(folder),
                name,
                message=commit_message,
                private=private,
                token=token,
                revision=revision,
            )

    def _checkpoint(self) -> Checkpoint:
        """Return these weights, and nothing of the optimiser's state."""
        tensors = {f"model.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"scaling.{k}": v for k, v in self.scaling.tensors().items()}
        return Checkpoint(self.meta, tensors)


def _scaling_values(scaling: Scaling) -> dict[str, Any]:
    return scaling.to_config() | {k: v.tolist() for k, v in scaling.tensors().items()}


def model_from(checkpoint: Checkpoint, device: torch.device, weights: str = "ema") -> Model:
    """Return the model of a checkpoint in memory. weights: 'ema' (the average), 'model', or
    a further average such as 'ema-3000'.

    Raises CheckpointError for a foreign one, ConfigError for other weights.
    """
    meta = checkpoint.meta
    require(meta)
    try:
        experiment = from_dict(Experiment, meta["experiment"], "checkpoint: ")
        also = (f"ema-{half_life}" for half_life in experiment.optimiser.ema_also)
        if weights not in (kinds := (*WEIGHTS, *also)):
            raise unknown("weights", weights, kinds)
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
        scaling = scaling_of(checkpoint, device)
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


def scaling_of(checkpoint: Checkpoint, device: torch.device) -> Scaling:
    """Return how a checkpoint's images are scaled; its mean image, if it has one, is on device."""
    tensors = {k: v.to(device) for k, v in checkpoint.part("scaling").items()}
    return Scaling.from_config(checkpoint.meta["scaling"], tensors)


def load_hashed(path: str | Path, device: str | torch.device, weights: str) -> tuple[Model, str]:
    """Return the model that `load` returns, and the sha256 of the file that it was read from.

    A run that trains on may replace its checkpoint meanwhile: then the new one is loaded.
    """
    file = find_checkpoint(Path(path))
    sha256 = file_sha256(file)
    model = load(file, device, weights)
    return (model, sha256) if file_sha256(file) == sha256 else load_hashed(path, device, weights)


def load(path: str | Path, device: str | torch.device = "cpu", weights: str = "ema") -> Model:
    """Load a run folder, a checkpoint file, or a shipped model by its name.

    device: 'auto', 'cpu', 'cuda', 'cuda:1', 'mps' or torch's own. weights: 'ema' (their average),
    'model' (the last step's), or a further average, 'ema-3000', of a run that keeps it.
    Raises CheckpointError when the file is missing, damaged or foreign, ConfigError for a device
    that is not here and for other weights.

    >>> import pocketddpm as pd
    >>> pd.load("fashion-mnist").classes[7:]
    ('Sneaker', 'Bag', 'Ankle boot')
    """
    checkpoint = load_checkpoint(find_checkpoint(Path(path)))
    where = device if isinstance(device, torch.device) else pick_device(str(device))
    return model_from(checkpoint, where, weights)
