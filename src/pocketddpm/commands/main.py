"""The entry point: choose the verb, run it, and turn expected errors into one line and exit 2."""

import os
import sys
from typing import Annotated, Any, Union

import tyro

from pocketddpm import __version__
from pocketddpm.commands.compare import Compare
from pocketddpm.commands.completion import Completion
from pocketddpm.commands.demo import Demo
from pocketddpm.commands.distill import Distill
from pocketddpm.commands.edit import Edit
from pocketddpm.commands.evaluate import Evaluate
from pocketddpm.commands.export import Export
from pocketddpm.commands.extractor import Extractor
from pocketddpm.commands.import_model import Import
from pocketddpm.commands.info import Info
from pocketddpm.commands.likelihood import Likelihood
from pocketddpm.commands.list import List
from pocketddpm.commands.quickstart import Quickstart
from pocketddpm.commands.reproduce import Reproduce
from pocketddpm.commands.sample import Sample
from pocketddpm.commands.show import Show
from pocketddpm.commands.train import Train
from pocketddpm.errors import DDPMError

VERBS = (
    *(Quickstart, Train, Distill, Sample, Evaluate, Likelihood, Extractor, Edit, Compare, Export),
    *(Import, Reproduce, Demo, Show, Info, List, Completion),
)
Command: Any = Union[  # noqa: UP007
    tuple(Annotated[verb, tyro.conf.subcommand(verb.__name__.lower())] for verb in VERBS)
]
MARKERS = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes)


def main(args: list[str] | None = None) -> None:
    """Run the command line; exits with 0, 2 (an error that a user can fix) or 130 (Ctrl-C)."""
    args = sys.argv[1:] if args is None else args
    if args == ["--version"]:
        print(f"pocketddpm {__version__}")
        return
    # Threads that wait for each other spin a little, then sleep: beside one other busy process,
    # endless spinning made training six times slower (docs/design.md). Read when torch is loaded.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    try:
        command = tyro.cli(
            Command,
            prog="pocketddpm",
            description="Denoising diffusion for small images: train, sample, look, measure. "
            "With --quiet any verb prints errors and results only; --version prints the version.",
            args=_without_quiet(args),
            config=MARKERS,
        )
        if isinstance(command, Completion):  # tyro knows all verbs and options, prints and exits
            return main(["--tyro-print-completion", command.shell])
        if plugins := getattr(command, "plugin", ()):
            from pocketddpm.plugins import load_plugin

            for path in plugins:
                load_plugin(path)
        command.run()
    except DDPMError as error:
        print(f"pocketddpm: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("pocketddpm: stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader (`| head`) has gone: say nothing more, not even at shutdown.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def _without_quiet(args: list[str]) -> list[str]:
    """Return the arguments without --quiet, which holds for any verb, having obeyed it."""
    if "--quiet" in args:
        os.environ["POCKETDDPM_QUIET"] = "1"  # the processes that we start are quiet as well
    return [arg for arg in args if arg != "--quiet"]


if __name__ == "__main__":
    main()
