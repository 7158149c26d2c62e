"""Start a run again from nothing, and compare its first losses with those in its log."""

from math import isnan
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from pocketddpm.errors import CheckpointError, ConfigError
from pocketddpm.models.checkpoint import find_checkpoint, load_checkpoint
from pocketddpm.models.provenance import machine, versions
from pocketddpm.progress import bar as progress_bar
from pocketddpm.runs.log import logged
from pocketddpm.runs.run import Session
from pocketddpm.runs.start import stored_experiment
from pocketddpm.training.plan import Plan

ALIKE = 1e-3  # the largest relative difference that another machine's order of sums explains


class Verdict(NamedTuple):
    """agrees: whether the losses do. text: how well, and what else has changed."""

    agrees: bool
    text: str


def reproduce(run: str | Path, *, steps: int = 100, device: str = "auto") -> Verdict:
    """Train the first steps of a run again in a temporary folder; the run is left as it is.

    run: its folder, with a log.csv. Raises ConfigError for fewer than one step, for a run that
    began with another model's weights and for data that has changed, CheckpointError without a log.
    """
    if steps < 1:
        raise ConfigError(f"steps must be at least 1, got {steps}")
    checkpoint = load_checkpoint(find_checkpoint(Path(run)))
    meta, rows = checkpoint.meta, logged(Path(run))[:steps]
    if not rows:
        raise CheckpointError(f"{run} holds no log.csv to compare with")
    if meta.get("begun_with"):
        raise ConfigError(
            "this run began with another model's weights: repeat the command that made it"
        )
    experiment = stored_experiment(checkpoint)
    with TemporaryDirectory() as folder:
        session = Session(experiment, out=Path(folder) / "run", device=device)
        if session.meta["data"]["fingerprint"] != meta["data"]["fingerprint"]:
            raise ConfigError(
                f"the images of {meta['data']['name']} are not those of this run "
                f"(fingerprint {meta['data']['fingerprint']}, now "
                f"{session.meta['data']['fingerprint']})"
            )
        session.trainer.plan = first_plan(meta["run"]["plan"])
        again = []
        for _, step in zip(
            progress_bar(iterable=rows, unit="step"), session.trainer.steps(), strict=False
        ):
            again.append((float(step.loss), step.lr))
        here = machine(session.accelerator.device)
        session.close()
    text = []
    for what, then, now in (
        ("machine", meta.get("machine", {}), here),
        ("versions", meta["versions"], versions()),
    ):
        changed = [f"{k} {then.get(k)} -> {v}" for k, v in now.items() if then.get(k) != v]
        text.append(f"{what}: {', '.join(changed) or 'the same'}")
    agrees, compared = verdict(rows, again)
    return Verdict(agrees, "\n".join([*text, compared]))


def first_plan(stored: dict[str, Any]) -> Plan:
    """Return the plan that a run began with, before an event moved its end."""
    plan = Plan.from_dict(stored)
    if plan.event is None:
        return plan
    images_seen, progress = plan.event
    return Plan(round(images_seen / progress))


def verdict(rows: list[dict[str, float]], again: list[tuple[float, float]]) -> tuple[bool, str]:
    """Return whether the losses agree, and in words how well. again: (loss, lr) of each step."""
    if len(again) < len(rows):
        return (
            False,
            f"the run ends after {len(again)} steps now, before the {len(rows)} to compare",
        )
    for number, (row, (loss, lr)) in enumerate(zip(rows, again, strict=True), 1):
        if abs(row["lr"] - lr) > 1e-9 * max(row["lr"], lr):
            return False, (
                f"step {number} took the learning rate {row['lr']:g} then and {lr:g} now: was the "
                "budget changed when the run was resumed?"
            )
        both = isnan(row["loss"]) and isnan(loss)
        if not both and not abs(row["loss"] - loss) <= ALIKE * abs(row["loss"]):
            return False, (
                f"step {number} differs: loss {row['loss']:.8g} then, {loss:.8g} now (the "
                f"{number - 1} steps before agree)"
            )
    pairs = [(row["loss"], loss) for row, (loss, _) in zip(rows, again, strict=True)]
    if all(a == b or (isnan(a) and isnan(b)) for a, b in pairs):
        return True, f"the first {len(rows)} losses agree, bit for bit"
    worst = max(abs(a - b) / abs(a) for a, b in pairs if a and not isnan(a))
    return True, f"the first {len(rows)} losses agree to {worst:.1g} of their size"
