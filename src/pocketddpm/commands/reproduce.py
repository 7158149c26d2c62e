"""`pocketddpm reproduce RUN`: start a run again, and say whether its first losses come back."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from pocketddpm.commands.options import Plugins
from pocketddpm.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from pocketddpm.training.plan import Plan

ALIKE = 1e-3  # the largest relative difference that another machine's order of sums explains


@dataclass(frozen=True)
class Reproduce:
    """Start a run again from nothing, and compare its first losses with those in its log.

    Exits with 0 when they agree, and with 1 when they do not. The run is left as it is.

    Example: pocketddpm reproduce runs/mnist --steps 20
    """

    folder: Positional[Path]
    """The run's folder."""
    steps: int = 100
    """How many steps to repeat."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    plugin: Plugins = ()
    """Your own network, sampler, schedule or data set: FILE.py (docs/plugins.md)."""

    def run(self) -> None:
        """Train the first steps in a temporary folder, and compare."""
        import sys
        from tempfile import TemporaryDirectory

        from pocketddpm.config import Experiment
        from pocketddpm.models.checkpoint import find_checkpoint, load_checkpoint
        from pocketddpm.models.provenance import machine, versions
        from pocketddpm.progress import bar as progress_bar
        from pocketddpm.runs.log import logged
        from pocketddpm.runs.run import Session
        from pocketddpm.values import from_dict

        if self.steps < 1:
            raise ConfigError(f"--steps must be at least 1, got {self.steps}")
        meta = load_checkpoint(find_checkpoint(self.folder)).meta
        rows = logged(self.folder)[: self.steps]
        if not rows:
            raise CheckpointError(f"{self.folder} holds no log.csv to compare with")
        if meta.get("begun_with"):
            raise ConfigError(
                "this run began with another model's weights: repeat the command that made it"
            )
        experiment = from_dict(Experiment, meta["experiment"], "checkpoint: ")
        with TemporaryDirectory() as folder:
            session = Session(experiment, out=Path(folder) / "run", device=self.device)
            if session.meta["data"]["fingerprint"] != meta["data"]["fingerprint"]:
                raise ConfigError(
                    f"the images of {meta['data']['name']} are not those of this run "
                    f"(fingerprint {meta['data']['fingerprint']}, now "
                    f"{session.meta['data']['fingerprint']})"
                )
            session.trainer.plan = first_plan(meta["run"]["plan"])
            steps = session.trainer.steps()
            again = []
            for _ in progress_bar(iterable=rows, unit="step"):
                progress = next(steps, None)
                if progress is None:
                    break
                again.append((float(progress.loss), progress.lr))
            here = machine(session.accelerator.device)
            session.close()
        for what, then, now in (
            ("machine", meta.get("machine", {}), here),
            ("versions", meta["versions"], versions()),
        ):
            changed = [f"{k} {then.get(k)} -> {v}" for k, v in now.items() if then.get(k) != v]
            print(f"{what}: {', '.join(changed) or 'the same'}")
        agrees, text = verdict(rows, again)
        print(text)
        sys.exit(0 if agrees else 1)


def first_plan(stored: dict[str, Any]) -> "Plan":
    """Return the plan that a run began with, before an event moved its end."""
    from pocketddpm.training.plan import Plan

    plan = Plan.from_dict(stored)
    if plan.event is None:
        return plan
    images_seen, progress = plan.event
    return Plan(round(images_seen / progress))


def verdict(rows: list[dict[str, float]], again: list[tuple[float, float]]) -> tuple[bool, str]:
    """Return whether the losses agree, and in words how well. again: (loss, lr) of each step."""
    from math import isnan

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
