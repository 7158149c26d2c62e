"""The entry point: choose the verb, run it, and turn expected errors into one line and exit 2."""

import codecs
import errno
import os
import sys
from typing import Any

from pocketddpm import __version__
from pocketddpm.commands.cache import Cache
from pocketddpm.commands.compare import Compare
from pocketddpm.commands.completion import Completion, script
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
from pocketddpm.commands.neon import Neon
from pocketddpm.commands.parser import help_text, overview, parse
from pocketddpm.commands.quickstart import Quickstart
from pocketddpm.commands.reproduce import Reproduce
from pocketddpm.commands.sample import Sample
from pocketddpm.commands.show import Show
from pocketddpm.commands.train import Train
from pocketddpm.errors import ConfigError, DDPMError, nearest
from pocketddpm.presets import PRESETS

VERBS: dict[str, type] = {
    verb.__name__.lower(): verb
    for verb in (
        *(
            Quickstart,
            Train,
            Distill,
            Neon,
            Sample,
            Evaluate,
            Likelihood,
            Extractor,
            Edit,
            Compare,
            Export,
        ),
        *(Import, Reproduce, Demo, Show, Info, List, Cache, Completion),
    )
}


ELSEWHERE = {
    **dict.fromkeys(("generate", "draw", "create", "run"), "sample"),
    **dict.fromkeys(("finetune", "fine-tune", "fit", "resume"), "train"),
    **dict.fromkeys(("inpaint", "interpolate", "img2img", "restore"), "edit"),
    **dict.fromkeys(("test", "score", "fid"), "evaluate"),
    **dict.fromkeys(("gui", "ui", "serve", "web"), "demo"),
}
"""What people call a verb, and what it is called here."""


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
        command = _command(_without_quiet(args))
        if command is None:
            sys.stdout.flush()
            return
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


def _command(args: list[str]) -> Any:
    """Return the command that the words mean; None where a help or the version was printed."""
    verb, *words = args or [""]
    if verb in ("-h", "--help", "help") and not words:
        print(overview(VERBS), end="")
    elif verb in ("-V", "--version"):
        print(f"pocketddpm {__version__}")
    elif verb in ("-h", "--help", "help"):
        return _command([*words, "--help"])
    elif verb not in VERBS:
        raise _no_verb(verb)
    elif wanted := {"-h", "--help", "--help-all"}.intersection(words):
        everything = "--help-all" in wanted
        print(help_text(verb, VERBS[verb], words, everything=everything), end="")
    else:
        command = parse(verb, VERBS, words)
        if not isinstance(command, Completion):
            return command
        print(script(command.shell, VERBS), end="")
    return None


def _no_verb(typed: str) -> ConfigError:
    if not typed:
        return ConfigError(
            "which verb? A first picture: pocketddpm sample mnist; all verbs: pocketddpm --help"
        )
    if typed.startswith("-"):
        return ConfigError(
            f"options come after the verb, as in: pocketddpm sample mnist {typed} ..."
        )
    if typed in PRESETS or "/" in typed:
        return ConfigError(f"which verb? As in: pocketddpm train {typed}, or sample {typed}")
    near = [ELSEWHERE[typed]] if typed in ELSEWHERE else nearest(typed, VERBS)
    way = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(VERBS)}."
    return ConfigError(f"there is no verb '{typed}': {way} pocketddpm --help says what each does")


def _in_plain_text(error: UnicodeError) -> tuple[str, int]:
    """Replace what a terminal's encoding lacks by its number."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    return text.encode("ascii", "backslashreplace").decode(), error.end


codecs.register_error("pocketddpm", _in_plain_text)


def _without_quiet(args: list[str]) -> list[str]:
    """Return the arguments without --quiet, which holds for any verb, having obeyed it."""
    if "--quiet" in args:
        os.environ["POCKETDDPM_QUIET"] = "1"  # the processes that we start are quiet as well
    return [arg for arg in args if arg != "--quiet"]


if __name__ == "__main__":
    main()
