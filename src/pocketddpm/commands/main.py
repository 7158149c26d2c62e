"""The entry point: choose the verb, run it, and turn expected errors into one line and exit 2."""

import os
import sys
from typing import Annotated

import tyro

from pocketddpm import __version__
from pocketddpm.commands.compare import Compare
from pocketddpm.commands.completion import Completion
from pocketddpm.commands.demo import Demo
from pocketddpm.commands.distill import Distill
from pocketddpm.commands.edit import Edit
from pocketddpm.commands.evaluate import Evaluate
from pocketddpm.commands.export import Export
from pocketddpm.commands.extractor import ExtractorCommand
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

Command = (
    Annotated[Quickstart, tyro.conf.subcommand("quickstart")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Distill, tyro.conf.subcommand("distill")]
    | Annotated[Sample, tyro.conf.subcommand("sample")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Likelihood, tyro.conf.subcommand("likelihood")]
    | Annotated[ExtractorCommand, tyro.conf.subcommand("extractor")]
    | Annotated[Edit, tyro.conf.subcommand("edit")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Import, tyro.conf.subcommand("import")]
    | Annotated[Reproduce, tyro.conf.subcommand("reproduce")]
    | Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Show, tyro.conf.subcommand("show")]
    | Annotated[Info, tyro.conf.subcommand("info")]
    | Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Completion, tyro.conf.subcommand("completion")]
)

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
            Command,  # type: ignore[arg-type]
            prog="pocketddpm",
            description="Denoising diffusion for small images: train, sample, look, measure. "
            "With --quiet any verb prints errors and results only; --version prints the version.",
            args=_without_quiet(args),
            config=MARKERS,
        )
        if plugins := getattr(command, "plugin", ()):
            from pocketddpm.plugins import load_plugin

            for path in plugins:
                load_plugin(path)
        command.run()  # type: ignore[attr-defined]
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
