"""The entry point: choose the verb, run it, and turn expected errors into one line and exit 2."""

import codecs
import errno
import os
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Union

import tyro

from pocketddpm import __version__
from pocketddpm.commands.cache import Cache
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
from pocketddpm.output import expanded

VERBS = (
    *(Quickstart, Train, Distill, Sample, Evaluate, Likelihood, Extractor, Edit, Compare, Export),
    *(Import, Reproduce, Demo, Show, Info, List, Cache, Completion),
)
Command: Any = Union[  # noqa: UP007
    tuple(Annotated[verb, tyro.conf.subcommand(verb.__name__.lower())] for verb in VERBS)
]
FRAMES = str.maketrans("╭╮╰╯├┤─│", "++++++-|")  # of help and of errors in options
MARKERS = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes)


def main(args: list[str] | None = None) -> None:
    """Run the command line; exits with 0, 2 (an error that a user can fix) or 130 (Ctrl-C)."""
    args = sys.argv[1:] if args is None else args
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="pocketddpm")  # type: ignore[union-attr]
    # Threads that wait for each other spin a little, then sleep: beside one other busy process,
    # endless spinning made training six times slower (docs/design.md). Read when torch is loaded.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    try:
        if args == ["--version"]:
            print(f"pocketddpm {__version__}", flush=True)
            return
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
        command = replace(
            command, **{f.name: _expanded(getattr(command, f.name)) for f in fields(command)}
        )
        if plugins := getattr(command, "plugin", ()):
            from pocketddpm.plugins import load_plugin

            for path in plugins:
                load_plugin(path)
        command.run()
        sys.stdout.flush()
    except DDPMError as error:
        print(f"pocketddpm: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("pocketddpm: stopped", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC) or error.filename is not None:
            raise
        if error.errno == errno.ENOSPC:
            print(f"pocketddpm: cannot write to stdout: {error.strerror}", file=sys.stderr)
        # Nothing more can be written, not even at shutdown; of `| head` nothing is said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141 if error.errno == errno.EPIPE else 2)


def _in_plain_text(error: UnicodeError) -> tuple[str, int]:
    """Replace what a terminal's encoding lacks: frames by + - |, the rest by its number."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end].translate(FRAMES)
    return text.encode("ascii", "backslashreplace").decode(), error.end


codecs.register_error("pocketddpm", _in_plain_text)


def _expanded(value: Any) -> Any:
    """Return an option with ~ replaced in paths: a shell leaves that of --out=~/x to us."""
    if isinstance(value, tuple):
        return tuple(map(_expanded, value))
    return expanded(value) if isinstance(value, Path) else value


def _without_quiet(args: list[str]) -> list[str]:
    """Return the arguments without --quiet, which holds for any verb, having obeyed it."""
    if "--quiet" in args:
        os.environ["POCKETDDPM_QUIET"] = "1"  # the processes that we start are quiet as well
    return [arg for arg in args if arg != "--quiet"]


if __name__ == "__main__":
    main()
