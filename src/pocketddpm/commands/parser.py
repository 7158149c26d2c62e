"""Words become a verb's dataclass, whose fields are its options; and the text of every --help.

What a value may be is checked by `values.convert`, as everywhere, and each mistake is a ConfigError
of one line that names what is nearest. Standard library only, so that every --help is quick.
"""

import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from pocketddpm.commands.options import POSITIONAL, REPEATED, Flag
from pocketddpm.config import experiment_options
from pocketddpm.errors import ConfigError, nearest
from pocketddpm.presets import CHOSEN, PRESETS, follows_rule, get_preset
from pocketddpm.values import convert, option_of, parse_names, parse_options, parse_size, sentence

GROUPS = {  # in the order of a help text
    "options": "",
    "data": "",
    "budget": "",
    "sampler": "sampler steps spacing eta clip threshold sampler_options jump_length jump_count",
    "restoring": "task factor noise method method_options samples measured",
    "guidance": "guidance guidance_interval guidance_rescale cfg_plus_plus negative_label guide",
    "output": "out resume begin_with checkpoint_every sample_every sample_at_start tensorboard "
    "trackio sample_each_epoch gif names strip panels rows frames stretch json serve public "
    "overwrite",
    "network": "",
    "noise and loss": "",
    "optimiser": "",
    "measuring": "",
    "machine": "device precision batch_size weights plugin port no_browser runtime",
}
"""The groups, and whose options are in them where the field does not say: by their names."""
METAVARS = {
    **dict.fromkeys(("data", "images", "subject"), "DATA"),
    **dict.fromkeys(("model", "models", "guide", "begin_with", "resume"), "MODEL"),
    **{"minutes": "MINUTES", "index": "N,N,...", "box": "TOP,LEFT,BOTTOM,RIGHT", "to": "FORMAT"},
    **{"guidance_interval": "LOW,HIGH", "format": "FORMAT", "betas": "B1/B2", "plugin": "FILE.py"},
    **dict.fromkeys(("sampler_options", "schedule_options", "method_options"), "KEY=VALUE,..."),
    **{
        "task": "TASK",
        "labels": "CLASSES",
        "negative_label": "CLASS",
        "threshold": "SHARE",
        "device": "DEVICE",
    },
}
"""What a value is called, by the name of its option, where the type does not say enough."""
OF_TYPES = {int: "N", float: "X", Path: "PATH", str: "NAME"}
OF_READERS = {parse_size: "SIZE", parse_options: "KEY=VALUE,...", parse_names: "A,B,..."}
ELSEWHERE = {
    **{"learning-rate": "lr", "epoch": "epochs", "num-epochs": "epochs", "max-steps": "steps"},
    **dict.fromkeys(("output", "output-dir", "outdir", "save", "o"), "out"),
    **dict.fromkeys(("num-samples", "samples", "count", "num"), "n"),
    **dict.fromkeys(("dataset", "data-dir", "input"), "data"),
    **dict.fromkeys(("size", "resolution"), "image-size"),
    **dict.fromkeys(("cfg", "cfg-scale", "guidance-scale", "scale"), "guidance"),
    **dict.fromkeys(("gpu", "cuda", "cpu"), "device"),
    **{"class": "labels", "label": "labels", "force": "overwrite", "checkpoint": "resume"},
}
"""What other tools call an option, and what it is called here."""
OVERVIEW = """usage: pocketddpm VERB ...

Denoising diffusion for small images: train, sample, look, measure. A first picture:

    pocketddpm sample mnist --labels 3,7

verbs:
{verbs}

pocketddpm VERB --help says more of one. With --quiet any verb prints errors and results only;
--version prints the version.
"""
WIDTH, COLUMN = 100, 28  # of a help text, at most; where its sentences begin


class Argument(NamedTuple):
    """A positional or an option of a verb, as `arguments` makes it of a field.

    name: as it is typed. hint: the type of the value. metavar: what the value is called; '' where
    there is none (a flag). many: takes all words up to the next option.
    """

    field: "Field[Any]"
    name: str
    hint: Any
    metavar: str
    sentence: str
    group: str
    choices: tuple[str, ...]
    positional: bool
    repeated: bool
    many: bool

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.field.default is MISSING

    @property
    def shown(self) -> str:
        """As it stands in a help text."""
        dots = "..." * self.many
        return f"{self.name}{dots}" if self.positional else f"{self.name} {self.metavar}{dots}"


def arguments(verb: type) -> list[Argument]:
    """Return the arguments of a verb, in the order of its fields."""
    made, hints = [], get_type_hints(verb, include_extras=True)
    for f in fields(verb):
        hint, *marks = (
            get_args(hints[f.name]) if get_origin(hints[f.name]) is Annotated else (hints[f.name],)
        )
        plain = next((kind for kind in get_args(hint) if kind is not NoneType), hint)
        kind = plain if NoneType in get_args(hint) else hint
        choices = get_args(kind) if get_origin(kind) is Literal else ()
        metavar = OF_READERS.get(option_of(f).read) or OF_TYPES.get(plain)
        if plain is not int:
            metavar = METAVARS.get(f.name) or metavar
        if choices:
            metavar = f"{{{','.join(choices)}}}"
        positional, many = POSITIONAL in marks, get_origin(kind) is tuple
        told, group = f.metadata.get("told", (None, None))
        flag = next((mark.name for mark in marks if isinstance(mark, Flag)), f.name)
        name = f"--{flag.replace('_', '-')}"
        if positional:
            fits = choices and len(str(metavar)) < 40
            name = str(metavar) if fits or f.name in METAVARS else f.name.upper()
        made.append(
            Argument(
                field=f,
                name=name,
                hint=hint,
                metavar="" if kind is bool else metavar or f.name.upper(),
                sentence=told or sentence(verb, f.name),
                group=group
                or next((g for g, n in GROUPS.items() if f.name in n.split()), "options"),
                choices=choices,
                positional=positional,
                repeated=REPEATED in marks,
                many=many and REPEATED not in marks,
            )
        )
    return made


# Words --------------------------------------------------------------------------------------------


def parse(name: str, verbs: Mapping[str, type], words: Sequence[str]) -> Any:
    """Return the verb's dataclass, filled from the words; ConfigError for what it does not take."""
    verb = verbs[name]
    known = arguments(verb)
    options = {argument.name: argument for argument in known if not argument.positional}
    given: dict[str, list[str]] = {}
    places, left = [], list(words)
    while left:
        word = left.pop(0)
        if word == "--":
            places += left
            break
        if not _is_option(word):
            places.append(word)
            continue
        typed, equals, value = word.partition("=")
        option = options.get(typed.replace("_", "-"))
        if option is None:
            raise _unknown_option(name, typed, options, verbs)
        values = [value] if equals else []
        while option.metavar and not equals and left and not _is_option(left[0]):
            if left[0] == "--" or (values and not option.many):
                break
            values.append(left.pop(0))
        if bool(option.metavar) != bool(values):
            wants = f"needs a value, {option.metavar}" if option.metavar else "takes no value"
            raise ConfigError(f"{option.name} {wants}: {option.sentence} {_more(name)}")
        before = given.get(option.field.name, []) if option.repeated else []
        given[option.field.name] = before + values
    for argument in (argument for argument in known if argument.positional):
        taken = places if argument.many else places[:1]
        places = places[len(taken) :]
        if taken:
            given[argument.field.name] = taken
    if places:
        raise _one_too_many(name, places[0], options)
    for argument in known:
        if argument.required and argument.field.name not in given:
            example = re.findall(r"^ *Example: (.*)$", verb.__doc__ or "", re.MULTILINE)[0]
            raise ConfigError(f"{name} needs {argument.shown}, as in: {example}")
    return verb(
        **{
            a.field.name: _value(a, given[a.field.name], name)
            for a in known
            if a.field.name in given
        }
    )


def _is_option(word: str) -> bool:
    """Return whether a word is an option's name: no number, no dash alone, no path."""
    return re.match(r"--?[A-Za-z]", word) is not None and word not in ("-inf", "-nan")


def _value(argument: Argument, values: list[str], verb: str) -> Any:
    where = verb if argument.positional else argument.name
    if not argument.metavar:
        return True
    several = argument.many or argument.repeated
    return convert(values if several else values[-1], argument.hint, where, argument.field)


def _one_too_many(verb: str, word: str, options: Mapping[str, Argument]) -> ConfigError:
    """Return the error for a word that is no option's value, with the option that it may be of."""
    guess = "--data"
    if word.isdigit():
        guess = "--n"
    elif Path(word).suffix in (".png", ".npz", ".gif"):
        guess = "--out"
    way = f"did you mean {guess} {word}?" if guess in options else "values follow their options."
    return ConfigError(f"{verb} has no place for '{word}': {way} {_more(verb)}")


def _unknown_option(
    verb: str, typed: str, options: Mapping[str, Argument], verbs: Mapping[str, type]
) -> ConfigError:
    """Return the error for an option that a verb has not, with the nearest that it has."""
    plain = typed.lstrip("-").replace("_", "-").lower()
    near = [name for name in (f"--{plain}", f"--{ELSEWHERE.get(plain)}") if name in options]
    near = near or nearest(f"--{plain}", options)[:2]
    others = [
        other for other, kind in verbs.items() if f"--{plain}" in {a.name for a in arguments(kind)}
    ]
    way = f"; {', '.join(others)} {'have' if others[1:] else 'has'} it."
    if near and (not others or verb in others):
        way = f": did you mean {' or '.join(near)}?"
    elif not others:
        way = "."
    return ConfigError(f"{verb} has no option {typed}{way} {_more(verb)}")


def _more(verb: str) -> str:
    return f"See pocketddpm {verb} --help"


# Help ---------------------------------------------------------------------------------------------


def help_text(name: str, verb: type, words: Sequence[str] = (), *, everything: bool = False) -> str:
    """Return the help of a verb: what it does, and its options in groups, with their defaults.

    words: what was typed beside --help; a preset among them gives the defaults of its own.
    everything: those too that few need, where the verb tells them apart (its EVERYDAY).
    """
    known = arguments(verb)
    places = [argument for argument in known if argument.positional]
    first = [w for w in words if places and w in (*PRESETS, *places[0].choices)][:1]
    named = [*first, *(p.shown for p in places[len(first) :])]
    needed = [a.shown for a in known if a.required and not a.positional]
    about = " ".join(["usage: pocketddpm", name, *named, *needed, "[OPTIONS]"])
    parts = [textwrap.fill(about, _width(), subsequent_indent="    "), _prose(verb)]
    defaults = {}
    if any(argument.field.name == "preset" for argument in places):
        preset = first[0] if first else "mnist"
        defaults = _of_preset(preset)
        parts.append(f"The defaults are those of the preset {preset}.")
    everyday = getattr(verb, "EVERYDAY", ())
    options = [argument for argument in known if not argument.positional]
    short = [a for a in options if everything or not everyday or a.field.name in everyday]
    short.sort(key=lambda a: (list(GROUPS).index(a.group), a.field.name not in everyday))
    if places:
        parts.append("\n".join(_row(p.shown, p.sentence, _default(p, {})) for p in places))
    for group in dict.fromkeys(argument.group for argument in short):
        rows = [_row(a.shown, a.sentence, _default(a, defaults)) for a in short if a.group == group]
        parts.append("\n".join([f"{group}:", *rows]))
    if len(short) < len(options):
        line = " ".join(["pocketddpm", name, *first, "--help-all"])
        parts.append(f"All {len(options)} options: {line}")
    return "\n\n".join(parts) + "\n"


def overview(verbs: Mapping[str, type]) -> str:
    """Return the help of the command: a line for each verb."""
    rows = [
        _row(name, " ".join((verb.__doc__ or "").split("\n\n")[0].split()))
        for name, verb in verbs.items()
    ]
    return OVERVIEW.format(verbs="\n".join(rows))


def _prose(verb: type) -> str:
    """Return the docstring of a verb, filled to the width; its examples as they are."""
    paragraphs = textwrap.dedent(f"    {verb.__doc__}").strip().split("\n\n")
    return "\n\n".join(
        part if part.startswith("Example: ") else textwrap.fill(part, _width())
        for part in (" ".join(part.split()) for part in paragraphs)
    )


def _row(shown: str, text: str, default: str = "") -> str:
    """Return a line of a help text, or a few: what is typed, then what it does."""
    indent, text = " " * COLUMN, f"{text} {default}".strip()
    filled = textwrap.fill(text, _width(), initial_indent=indent, subsequent_indent=indent)
    left = f"  {shown}"
    return f"{left}\n{filled}" if len(left) > COLUMN - 2 else left + filled[len(left) :]


def _width() -> int:
    """Return the columns of the terminal, 60 to 100."""
    return min(max(_columns(), 60), WIDTH)


def _columns() -> int:
    try:
        return int(os.environ["COLUMNS"])
    except (KeyError, ValueError):
        try:
            return os.get_terminal_size(1).columns
        except OSError:
            return WIDTH


def _default(argument: Argument, defaults: Mapping[str, Any]) -> str:
    """Return what holds where an option is not given, in brackets; '' for nothing."""
    if argument.required:
        return "" if argument.positional else "(required)"
    value = defaults.get(argument.field.name, argument.field.default)
    if value is None or value in ({}, (), "") or not argument.metavar:
        return ""
    return f"(default: {_text(value)})"


def _text(value: Any) -> str:
    """Return a value as it is typed."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ",".join(f"{k}={_text(v)}" for k, v in value.items())
    if isinstance(value, tuple):
        return "/".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _of_preset(name: str) -> dict[str, Any]:
    """Return the values of a preset, by the names of options, or how its rule chooses them."""
    experiment = get_preset(name)
    values = {
        option: getattr(getattr(experiment, place.part), place.field.name)
        for option, place in experiment_options().items()
    }
    return values | (CHOSEN if follows_rule(name) else {})
