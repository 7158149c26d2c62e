"""`pocketddpm completion SHELL`: completion of verbs, options and choices."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pocketddpm.commands.options import Positional
from pocketddpm.commands.parser import Argument, arguments
from pocketddpm.presets import PRESETS

BASH = """_pocketddpm() {{
    local words= verb=${{COMP_WORDS[1]}} before=${{COMP_WORDS[COMP_CWORD-1]}}
    case "$verb $before" in
{cases}
    esac
    [ "$COMP_CWORD" = 1 ] && words={verbs}
    COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _pocketddpm pocketddpm
"""
ZSH = """#compdef pocketddpm
local found= verb=$words[2] before=$words[CURRENT-1]
case "$verb $before" in
{cases}
esac
(( CURRENT == 2 )) && found={verbs}
compadd -- ${{=found}}
(( CURRENT > 2 )) && _files
"""


@dataclass(frozen=True)
class Completion:
    """Print a completion script for bash, zsh or fish.

    Example: pocketddpm completion bash > ~/.local/share/bash-completion/completions/pocketddpm

    Example: pocketddpm completion zsh > ~/.zfunc/_pocketddpm

    Example: pocketddpm completion fish > ~/.config/fish/completions/pocketddpm.fish
    """

    shell: Positional[Literal["bash", "zsh", "fish"]]
    """The shell that it is for."""


def script(shell: str, verbs: Mapping[str, type]) -> str:
    """Return the completion script of a shell. Where no word fits, files are offered."""
    if shell == "fish":
        return _fish(verbs)
    name = {"bash": "words", "zsh": "found"}[shell]
    cases = []
    for verb, kind in verbs.items():
        known = arguments(kind)
        for each in known:
            if each.choices and not each.positional:
                words = shlex.quote(" ".join(each.choices))
                cases.append(f"        {shlex.quote(f'{verb} {each.name}')}) {name}={words} ;;")
        words = shlex.quote(" ".join(_words(known)))
        cases.append(f"        {shlex.quote(verb)}\\ *) {name}={words} ;;")
    template = {"bash": BASH, "zsh": ZSH}[shell]
    return template.format(cases="\n".join(cases), verbs=shlex.quote(" ".join(verbs)))


def _words(known: list[Argument]) -> list[str]:
    """Return what may follow a verb: its options, and the choices of its positionals."""
    words = [argument.name for argument in known if not argument.positional]
    for place in (argument for argument in known if argument.positional):
        words += PRESETS if place.field.name == "preset" else place.choices
    return words


def _fish(verbs: Mapping[str, type]) -> str:
    lines = [f"complete -c pocketddpm -n __fish_use_subcommand -fa {shlex.quote(' '.join(verbs))}"]
    for verb, kind in verbs.items():
        known, here = (
            arguments(kind),
            f"complete -c pocketddpm -n '__fish_seen_subcommand_from {verb}'",
        )
        for each in (argument for argument in known if not argument.positional):
            takes = f" -xa {shlex.quote(' '.join(each.choices))}" if each.choices else " -r"
            about = shlex.quote(each.sentence.replace("'", ""))
            lines.append(f"{here} -l {each.name[2:]}{takes if each.metavar else ''} -d {about}")
        if places := [word for word in _words(known) if not word.startswith("--")]:
            lines.append(f"{here} -a {shlex.quote(' '.join(places))}")
    return "\n".join(lines) + "\n"
