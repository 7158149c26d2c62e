"""Neon: a finished model steps away from what tuning on its own samples makes of it.

    theta_neon = theta + w (theta - theta_tuned)                              (arXiv 2510.03597)

A model's samples lie nearer to its modes than its training images do, so that tuning on them makes
it cover still less, and the step the other way more. Recall rises with w up to a point, precision
falls. It costs minutes, and nothing when sampling.
"""

import json
from contextlib import suppress
from dataclasses import replace
from math import ceil, prod
from pathlib import Path
from typing import Any

from torch import Tensor

from pocketddpm.build import pick_device
from pocketddpm.config import DataConfig, EvaluationConfig, Experiment
from pocketddpm.data.npz import MAX_BYTES
from pocketddpm.distributed import barrier, rank
from pocketddpm.errors import ConfigError
from pocketddpm.models.checkpoint import (
    Checkpoint,
    file_sha256,
    find_checkpoint,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from pocketddpm.models.model import model_from
from pocketddpm.output import expanded, file_name, refuse_existing, remove_files, write_json
from pocketddpm.progress import say
from pocketddpm.runs.folder import RunFolder
from pocketddpm.runs.options import NeonOptions, RunOptions
from pocketddpm.runs.run import Session, stored_experiment

SHARE = 0.015  # of the images that the model was trained on; 1 to 2 % in the paper


def neon(model: str | Path, options: NeonOptions) -> Path:
    """Draw samples, tune the model on them, and write the model that steps away; return its folder.

    model: a run folder, a checkpoint or the name of a shipped model. The folder holds samples.npz,
    the run tuned/ and last.safetensors, which is loaded as a run's is. A call that was interrupted
    goes on where it was; with another w alone it only steps again.
    The processes of torchrun share drawing and tuning.
    Raises ConfigError for a model that cannot be tuned so, OutputError for a folder in use.
    """
    path = find_checkpoint(Path(model))
    base = load_checkpoint(path)
    experiment = stored_experiment(base)
    if experiment.objective.loss == "consistency":
        raise ConfigError(
            "this model is distilled: give neon the model that it came from, and distill the result"
        )
    device = pick_device(options.device)
    out = expanded(options.out or Path("runs") / file_name(f"{experiment.preset}-neon"))
    if path.parent.resolve() == out.resolve():
        raise ConfigError(
            f"neon would replace the model that it begins with: give another --out, not {out}"
        )
    images = options.images or ceil(SHARE * int(base.meta["run"]["images_seen"]))
    if not images:
        raise ConfigError(
            "it is not known how many images this model has seen, of which --images are 1.5 %: "
            "say how many it is tuned on with --images"
        )
    size = prod(base.meta["shape"])
    if options.n * size > MAX_BYTES:
        raise ConfigError(
            f"--n {options.n} samples of {size:,} bytes are more than samples.npz may hold, "
            f"{MAX_BYTES:,}; give --n {MAX_BYTES // size} or less"
        )
    record = {
        "model": file_sha256(path),
        "n": options.n,
        "images": images,
        "lr": options.lr,
        "seed": options.seed,
    }
    if rank() == 0:
        _begin(out, record, options.overwrite)
    barrier()
    own = out.absolute() / "samples.npz"
    if not own.exists():
        drawn = model_from(base, device)
        labels = "all" if drawn.classes else None
        samples = drawn.sample(
            options.n, labels=labels, seed=options.seed, together=True, progress="samples"
        )
        if rank() == 0:
            samples.save(own)
        barrier()
    checkpoint = newest_checkpoint(out / "tuned")
    session = Session(
        tuning(experiment, own, record),
        out / "tuned",
        RunOptions(device=options.device, sample_every=0, checkpoint_every=100, overwrite=True),
        checkpoint=checkpoint,
        init_from=None if checkpoint else base,
        scaled_as=base,
    )
    try:
        session.run()
    except SystemExit:
        if rank() == 0:
            say("or, to go on and step away in one: the same `pocketddpm neon` command again")
        raise
    weights = base.part("ema") or base.part("model")
    stepped = stepped_away(weights, session.trainer.network.state_dict(), options.w)
    parts = {f"model.{name}": value for name, value in stepped.items()}
    parts |= {f"scaling.{name}": value for name, value in base.part("scaling").items()}
    # What was measured of the base is not true of this model.
    meta = {k: v for k, v in base.meta.items() if k != "evaluation"}
    meta |= {"neon": {**record, "w": options.w}, "run": {**base.meta["run"], "best_loss": None}}
    if rank() == 0:
        save_checkpoint(out / "last.safetensors", Checkpoint(meta, parts))
        say(f"stepped away by w = {options.w:g} -> {out}; draw with: pocketddpm sample {out}")
    barrier()
    return out


def tuning(experiment: Experiment, own: Path, record: dict[str, Any]) -> Experiment:
    """Return the experiment that tunes a model on its own samples, by the plain loss.

    experiment: the model's. own: the array file of its samples. record: images, lr and seed.
    Guidance is not learned again: the samples are guided already.
    """
    objective, optimiser = experiment.objective, experiment.optimiser
    return replace(
        experiment,
        data=DataConfig(
            str(own),
            low=experiment.data.low,
            high=experiment.data.high,
            center=experiment.data.center,
            held_out=0,
            flip=False,
        ),
        objective=replace(objective, guidance=1.0, sigma_data=objective.deviation),
        optimiser=replace(
            optimiser, lr=record["lr"], decay="none", warmup=0, ema_half_life=0, ema_also=()
        ),
        training=replace(
            experiment.training,
            **dict.fromkeys(("steps", "epochs", "minutes", "batches_per_epoch")),
            images=record["images"],
            seed=record["seed"],
        ),
        evaluation=EvaluationConfig(),
    )


def stepped_away(
    weights: dict[str, Tensor], tuned: dict[str, Tensor], w: float
) -> dict[str, Tensor]:
    """Return weights + w (weights - tuned), float32 on the CPU; whole numbers stay as they are."""
    return {
        name: value.float() + w * (value.float() - tuned[name].cpu().float())
        if value.is_floating_point()
        else value
        for name, value in weights.items()
    }


def _begin(out: Path, record: dict[str, Any], overwrite: bool) -> None:
    """Begin the folder, unless what is there was made of the same model with the same options."""
    place = out / "neon.json"
    with suppress(OSError, ValueError):
        if json.loads(place.read_bytes()) == record:
            return
        made = ("samples.npz", "last.safetensors")
        overwrite = overwrite or not any((out / name).exists() for name in made)
    refuse_existing(out, overwrite, folder=True)
    for run in (out, out / "tuned"):  # an earlier run's previous.safetensors would be loaded
        folder = RunFolder(run)
        folder.clear()
        folder.release()
    remove_files(out, "samples.npz")
    write_json(place, record)
