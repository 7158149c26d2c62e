"""The library's verbs: they take Python's own types, and commands and programs call them alike.

A function here imports what it needs when it is called, so that none pays for another.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketddpm.config import Experiment
from pocketddpm.models.model import Model, load
from pocketddpm.values import from_dict

if TYPE_CHECKING:
    from pocketddpm.metrics.likelihood import LikelihoodReport
    from pocketddpm.metrics.report import Report
    from pocketddpm.runs.run import Session


def train(preset: str | Experiment, *, out: str | Path | None = None, **options: Any) -> Model:
    """Train a preset, or an experiment of one's own, and return the model.

    preset: its name (also that of a data set, or hf:ORG/NAME), or an `Experiment`.
    out: the run folder, runs/PRESET by default. options: those of `pocketddpm train` by name, as
    Python's own types: `flip=True`, `image_size=(28, 28)`, `net={"widths": (32, 64)}`,
    `classes=["cat", "dog"]`; text as on the command line is read too. None keeps the preset's
    value. Give exactly one budget (steps, epochs, images, minutes), or keep the preset's.
    Raises ConfigError for an option that is unknown or not allowed, before anything is written, and
    KeyboardInterrupt on Ctrl-C, with the run saved.

    >>> import pocketddpm as pd
    >>> model = pd.train("digits", steps=2, batch_size=16, device="cpu", out="runs/two-steps")
    >>> model.sample(labels=["0", "1"], steps=2).images.shape
    (2, 1, 8, 8)
    """
    from pocketddpm.runs.start import start

    return _trained(start(preset, out=out, **options))


def distill(model: str | Path, *, out: str | Path | None = None, **options: Any) -> Model:
    """Tune a trained model so that one or two steps give an image, and return the new model.

    model: a run folder, a checkpoint or the name of a shipped model. out: the run folder,
    runs/PRESET-distilled by default. options: those of `pocketddpm distill` by name.
    Raises as `train` does, and ConfigError for a model that cannot be distilled.

    >>> import pocketddpm as pd
    >>> quick = pd.distill("runs/digits", steps=2, device="cpu", out="runs/quick")
    >>> quick.sample(10).nfe
    2
    """
    from pocketddpm.runs.start import distillation

    return _trained(distillation(model, out=out, **options))


def neon(model: str | Path, *, out: str | Path | None = None, **options: Any) -> Model:
    """Step away from what tuning on its own samples makes of a model, and return the new model.

    model: a run folder, a checkpoint or the name of a shipped model. out: a folder,
    runs/PRESET-neon by default. options: those of `pocketddpm neon` by name.
    Raises ConfigError for an option that is unknown or not allowed, and for a distilled model.

    >>> import pocketddpm as pd
    >>> wider = pd.neon("runs/digits", n=20, images=32, device="cpu", out="runs/wider")
    >>> wider.sample(2, steps=2).images.shape
    (2, 1, 8, 8)
    """
    from pocketddpm.runs.neon import neon
    from pocketddpm.runs.options import NeonOptions

    given = {**options, "out": out}
    try:
        return load(neon(model, from_dict(NeonOptions, given, "neon: ")))
    except SystemExit as stop:  # the command line's way to end after a signal
        raise KeyboardInterrupt("stopped; call it again to go on") from stop


def _trained(session: "Session") -> Model:
    try:
        session.run()
    except SystemExit as stop:  # the command line's way to end after a signal
        raise KeyboardInterrupt(f"stopped; the run is in {session.out}") from stop
    return load(session.out)


def evaluate(subject: str | Path | Model, **options: Any) -> "Report":
    """Score a model, samples.npz or a folder of images, as `pocketddpm evaluate` does.

    options: those of the command by name, as Python's own types: `n=1000`, `labels=["3", "7"]`,
    `sampler_options={"eta": 1}`; text as on the command line is read too. `out` is a folder for the
    report. Raises ConfigError for an option that is unknown or not allowed, before anything is
    drawn or written.

    >>> import pocketddpm as pd
    >>> report = pd.evaluate("runs/digits", n=20, steps=2, device="cpu", out="scores")
    >>> "Frechet distance" in report.text()
    True
    """
    from pocketddpm.metrics import protocol
    from pocketddpm.metrics.options import EvaluateOptions

    return protocol.evaluate(subject, from_dict(EvaluateOptions, options, "evaluate: "))


def likelihood(subject: str | Path | Model, **options: Any) -> "LikelihoodReport":
    """Measure bits per dimension of real images, as `pocketddpm likelihood` does.

    options: those of the command by name; `out` is a folder for the report. Raises as `evaluate`.

    >>> import pocketddpm as pd
    >>> report = pd.likelihood("runs/digits", n=8, device="cpu")
    >>> "bound" in report.text()
    True
    """
    from pocketddpm.metrics import likelihood as bits
    from pocketddpm.metrics.options import LikelihoodOptions

    return bits.likelihood(subject, from_dict(LikelihoodOptions, options, "likelihood: "))
