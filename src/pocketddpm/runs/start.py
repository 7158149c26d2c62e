"""How a run starts: anew from a preset, on from its checkpoint, or with another model's weights."""

from collections.abc import Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from pocketddpm.build import typed
from pocketddpm.catalog import DATASETS
from pocketddpm.config import BUDGETS, Experiment, SamplingConfig, experiment_options, with_options
from pocketddpm.errors import ConfigError, unknown
from pocketddpm.models.checkpoint import (
    Checkpoint,
    find_checkpoint,
    load_checkpoint,
    newest_checkpoint,
)
from pocketddpm.output import expanded, file_name, refuse_existing
from pocketddpm.presets import Found, follows_rule, get_preset, sized
from pocketddpm.runs.folder import only_begun
from pocketddpm.runs.options import DISTILLATION, RunOptions
from pocketddpm.runs.run import Session, stored_experiment
from pocketddpm.values import from_dict


def start(preset: str | Experiment, **options: Any) -> Session:
    """Return the run of a preset or an experiment, with options in place of its own values.

    preset: its name, or an experiment of one's own, whose sizes are taken as they are. options:
    those of `pocketddpm train`, by name; None keeps what is there. Nothing is written before all of
    them have been found to fit. Raises ConfigError for a name or an option that is unknown or not
    allowed, OutputError for a folder in use.
    """
    recipe = get_preset(preset) if isinstance(preset, str) else preset
    run, given = _split(options, experiment_options())
    out = run.out or Path("runs") / file_name(recipe.preset)
    checkpoint = init_from = moved_from = None
    if run.begin_with is not None:
        if run.resume not in (None, "auto"):
            raise ConfigError(
                f"--begin-with starts a new run and --resume {run.resume} goes on with one; "
                "leave one of them out"
            )
        init_from = load_checkpoint(find_checkpoint(Path(run.begin_with)))
    if run.resume == "auto":
        checkpoint = newest_checkpoint(out)
        if checkpoint is None and only_begun(out):
            run = replace(run, overwrite=True)
    elif run.resume is not None:
        path = find_checkpoint(Path(run.resume))
        checkpoint = load_checkpoint(path)
        out = run.out or path.parent
        if out.resolve() != path.parent.resolve():
            refuse_existing(out, run.overwrite)  # the run that is there is another one
            moved_from = path.parent
    complete = partial(_completed, recipe, given, init_from)
    if checkpoint is None:
        experiment = complete()
    else:
        experiment = _resumed(checkpoint, recipe.preset, given)
        init_from = None
    if not experiment.data.name:
        raise ConfigError(
            f"preset '{experiment.preset}' needs images: give --data FOLDER or hf:ORG/NAME"
        )
    if checkpoint is None or "data" in given:
        data = replace(experiment.data, name=_placed(experiment.data.name))
        experiment = replace(experiment, data=data)
    by_rule = checkpoint is None and isinstance(preset, str) and follows_rule(recipe.preset)
    return Session(
        experiment,
        out,
        run,
        checkpoint=checkpoint,
        moved_from=moved_from,
        init_from=init_from,
        rule=complete if by_rule else None,
    )


def distillation(model: str | Path, **options: Any) -> Session:
    """Return the run that tunes a model to draw in one or two steps (`pocketddpm distill`).

    options: a budget (5 minutes by default), lr, seed and those of the run's folder.
    """
    run, given = _split({**DISTILLATION, **options}, ("lr", "seed", *BUDGETS))
    teacher = load_checkpoint(find_checkpoint(Path(model)))
    experiment = _tuned(teacher, given)
    out = run.out or Path("runs") / file_name(f"{experiment.preset}-distilled")
    return Session(_checked(experiment), out, run, init_from=teacher)


def _split(options: Mapping[str, Any], allowed: Any) -> tuple[RunOptions, dict[str, Any]]:
    """Return the options of the run's folder, and the others; ConfigError for unknown ones."""
    own = [f.name for f in fields(RunOptions)]
    for name in options:
        if name not in (*own, *allowed):
            raise unknown("option of training", name, (*own, *allowed))
    given = {name: value for name, value in options.items() if value is not None}
    run = from_dict(RunOptions, {name: given.pop(name) for name in own if name in given})
    return run, given


def _completed(
    recipe: Experiment,
    options: Mapping[str, Any],
    init_from: Checkpoint | None,
    found: Found | None = None,
) -> Experiment:
    """Return the experiment of a new run: the recipe, and what is chosen for it; options win.

    init_from: the model to begin with, whose sigma_data its weights count on. found: the images, of
    which the rule makes sizes; those of the model to begin with come before.
    """
    if found is not None:
        recipe = sized(recipe, found)
    if init_from is not None:
        learned = stored_experiment(init_from)
        if found is not None:
            recipe = replace(recipe, network=learned.network)
        if learned.objective.prediction == recipe.objective.prediction == "edm":
            deviation = learned.objective.deviation
            recipe = replace(recipe, objective=replace(recipe.objective, sigma_data=deviation))
    return _checked(with_options(recipe, options))


def _checked(experiment: Experiment) -> Experiment:
    """Return the experiment as it is stored; ConfigError where that could not be loaded.

    Presets and experiments of one's own pass the guard as options do.
    """
    return typed(from_dict(Experiment, experiment.to_dict()))


def _placed(data: str) -> str:
    """Return the name of a data set; that of files as a path that is the same from everywhere."""
    source = "hf:" if data.startswith("hf:") else ""  # which reads folders too
    folder = expanded(data.removeprefix(source))
    is_path = folder.is_dir() or (folder.suffix == ".npz" and folder.is_file())
    is_path = is_path and data not in DATASETS.names()
    return f"{source}{folder.resolve()}" if is_path else data


def _resumed(checkpoint: Checkpoint, preset: str, options: Mapping[str, Any]) -> Experiment:
    """Return the stored experiment; options may change its budget, and where its images lie.

    That they are the same images is checked when they have been loaded. Raises ConfigError when
    other options, or the preset, differ from the stored ones.
    """
    stored = stored_experiment(checkpoint)
    if preset != stored.preset:
        raise ConfigError(
            f"this run was started as '{stored.preset}', not '{preset}'; "
            f"resume it with: pocketddpm train {stored.preset} --resume ..."
        )
    wanted = _checked(with_options(stored, options))
    budget = {name: getattr(stored.training, name) for name in BUDGETS}
    data = replace(wanted.data, name=stored.data.name)
    if replace(wanted, data=data, training=replace(wanted.training, **budget)) != stored:
        raise ConfigError(
            "a resumed run keeps its options, except for --steps, --epochs, --images, --minutes "
            "and the place of its images, --data; leave the others out, or start a new run with "
            "another --out"
        )
    return wanted


def _tuned(teacher: Checkpoint, options: Mapping[str, Any]) -> Experiment:
    """Return the teacher's experiment with the objective, budget and sampler of distillation."""
    stored = stored_experiment(teacher)
    if stored.objective.prediction != "edm":
        raise ConfigError(
            f"this model predicts {stored.objective.prediction}, and only one that gives its "
            "input back at sigma = 0 can be distilled: train with --prediction edm"
        )
    if stored.objective.loss == "consistency":
        raise ConfigError(
            "this model is distilled already; distill the one that it came from, or train it "
            "further with pocketddpm train --resume"
        )
    objective = replace(
        stored.objective,
        loss="consistency",
        weighting="simple",
        times="log-normal",
        p_mean=0.3,
        p_std=1.8,
        label_dropout=0.0,
        guidance=1.0,
        sigma_data=stored.objective.deviation,
    )
    sampling = SamplingConfig("consistency", 2, spacing="jumps")
    tuned = replace(stored, objective=objective, sampling=sampling)
    defaults = {"minutes": 5.0} if options.keys().isdisjoint(BUDGETS) else {}
    return with_options(tuned, {**defaults, **options})
