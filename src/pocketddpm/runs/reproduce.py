"""Starting a run again from nothing: do its first losses come back?"""

from collections.abc import Sequence
from math import isnan
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from pocketddpm.errors import CheckpointError, ConfigError
from pocketddpm.models.checkpoint import find_checkpoint, init_record, load_checkpoint
from pocketddpm.models.provenance import machine, versions
from pocketddpm.progress import bar as progress_bar
from pocketddpm.runs.log import logged
from pocketddpm.runs.options import ReproduceOptions, RunOptions
from pocketddpm.runs.run import Session, stored_experiment
from pocketddpm.training.plan import Plan

TOLERANCE = 1e-3  # the largest relative difference that another machine's order of sums explains


class Verdict(NamedTuple):
    """agrees: whether the losses do. text: how well, and what else has changed, line by line."""

    agrees: bool
    text: str


def reproduce(folder: Path, options: ReproduceOptions) -> Verdict:
    """Train a run's first steps again, in a temporary folder; the run is left as it is.

    Raises CheckpointError without a checkpoint or a log, ConfigError for a run that began with
    another model's weights or whose images have changed.
    """
    checkpoint = load_checkpoint(find_checkpoint(folder))
    meta, rows = checkpoint.meta, logged(folder)[: options.steps]
    if not rows:
        raise CheckpointError(f"{folder} holds no log.csv to compare with")
    if init_record(meta):
        raise ConfigError(
            "this run began with another model's weights: repeat the command that made it"
        )
    experiment = stored_experiment(checkpoint)
    with TemporaryDirectory() as temporary:
        session = Session(experiment, Path(temporary) / "run", RunOptions(options.device))
        then, now = (found["data"]["fingerprint"] for found in (meta, session.meta))
        if now != then:
            raise ConfigError(
                f"the images of {meta['data']['name']} are not those of this run "
                f"(fingerprint {then}, now {now})"
            )
        session.trainer.plan = first_plan(meta["run"]["plan"])
        results = zip(
            progress_bar(iterable=rows, unit="step"), session.trainer.steps(), strict=False
        )
        again = [(float(result.loss), result.lr) for _, result in results]
        here = machine(session.device)
        session.close()
    agrees, text = verdict(rows, again)
    lines = [
        changes("machine", meta.get("machine", {}), here),
        changes("versions", meta["versions"], versions()),
        text,
    ]
    return Verdict(agrees, "\n".join(lines))


def changes(what: str, then: dict[str, Any], now: dict[str, Any]) -> str:
    """Return what differs between two records, in one line."""
    changed = [f"{k} {then.get(k)} -> {v}" for k, v in now.items() if then.get(k) != v]
    return f"{what}: {', '.join(changed) or 'the same'}"


def first_plan(stored: dict[str, Any]) -> Plan:
    """Return the plan that a run began with, before an event moved its end."""
    plan = Plan.from_dict(stored)
    if plan.event is None:
        return plan
    images_seen, run_fraction = plan.event
    return Plan(round(images_seen / run_fraction))


def verdict(
    rows: Sequence[dict[str, float]], again: Sequence[tuple[float, float]]
) -> tuple[bool, str]:
    """Return whether the losses agree, and in words how well. again: (loss, lr) of each step."""
    if len(again) < len(rows):
        return (
            False,
            f"the run ends after {len(again)} steps now, before the {len(rows)} to compare",
        )
    worst = 0.0
    for step, (row, (loss, lr)) in enumerate(zip(rows, again, strict=True), 1):
        if abs(row["lr"] - lr) > 1e-9 * max(row["lr"], lr):
            return False, (
                f"step {step} took the learning rate {row['lr']:g} then and {lr:g} now: was the "
                "budget changed when the run was resumed?"
            )
        if row["loss"] == loss or (isnan(row["loss"]) and isnan(loss)):
            continue
        difference = abs(row["loss"] - loss)
        if not difference <= TOLERANCE * abs(row["loss"]):
            return False, (
                f"step {step} differs: loss {row['loss']:.8g} then, {loss:.8g} now (the "
                f"{step - 1} steps before agree)"
            )
        worst = max(worst, difference / abs(row["loss"]))
    if worst == 0:
        return True, f"the first {len(rows)} losses agree, bit for bit"
    return True, f"the first {len(rows)} losses agree to {worst:.1g} of their size"
