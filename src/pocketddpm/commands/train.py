"""`pocketddpm train PRESET`: train a model into a run folder."""

import json
from dataclasses import dataclass
from typing import ClassVar

from pocketddpm.commands.options import Plugins, Positional, given, training_options


@dataclass(frozen=True, kw_only=True)
class Train(training_options()):
    """Train a model. `pocketddpm list presets` names the presets; options change them.

    Example: pocketddpm train mnist --minutes 10 --out runs/mnist

    Example: pocketddpm train folder --data my/photos --image-size 32
    """

    EVERYDAY: ClassVar = (
        *("data", "image_size", "classes", "minutes", "epochs", "steps", "batch_size", "seed"),
        *("out", "resume", "begin_with", "sample_every", "overwrite"),
        *("network", "net", "guidance", "lr", "evaluate_every", "device"),
    )

    preset: Positional[str]
    """The experiment to start from, such as mnist; for your own images: folder --data PATH, or
    hf:ORG/NAME."""
    json: bool = False
    """At the end, print what was done and written as one line of JSON."""
    plugin: Plugins = ()
    """Your own network, sampler, schedule or data set: FILE.py (docs/plugins.md)."""

    def run(self) -> None:
        """Train, and say where everything is."""
        from pocketddpm.runs.start import start

        session = start(self.preset, **given(self))
        session.run()
        if self.json and session.main:
            trainer = session.trainer
            told = {"images": trainer.images_seen, "steps": trainer.step}
            told |= {"seconds": round(trainer.seconds, 3), "loss": session.log.final_loss()}
            print(json.dumps({**told, "wrote": [str(session.out)]}))
