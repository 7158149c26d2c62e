"""The one check of values from outside: Python, command line, checkpoint, options of a plug-in.

A field of a config class has its type, its default and, where `option` made it, a bound, a table of
names or a text form. `from_dict` converts and checks by these; what is not allowed is a ConfigError
that says what was given and what is allowed. Standard library only.
"""

import ast
import operator
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import cache
from inspect import get_annotations
from itertools import pairwise
from math import isfinite
from numbers import Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from pocketddpm.catalog import Table
from pocketddpm.errors import ConfigError, unknown

T = TypeVar("T")
SEEDS = ">= -9223372036854775808, < 18446744073709551616"  # what 64 bits hold
IMAGES = ">= 0, < 72057594037927936"  # numbers that `noise` tells apart, of 56 bits


class Option(NamedTuple):
    """What is known of a field, beside its type and its default.

    bound: what a number must satisfy, such as '>= 0, < 1'; in a tuple, each of them.
    choices: the table whose names are allowed. read: how text becomes the value.
    name: what the option is called where it is not as the field.
    """

    bound: str = ""
    choices: Table | None = None
    read: Callable[[str], Any] | None = None
    name: str = ""


@dataclass(frozen=True)
class NoOptions:
    """The `Config` of an entry that has no options."""


def option(default: Any, bound: str = "", **about: Any) -> Any:
    """Return a dataclass field with an `Option`. default: MISSING for none, or what makes it."""
    metadata = {"option": Option(bound, **about)}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def option_of(f: "Field[Any]") -> Option:
    """Return what a field says of itself; an empty `Option` where it was declared without one."""
    return f.metadata.get("option", Option())


def sentence(kind: type, name: str) -> str:
    """Return the sentence that stands below a field of a config class, or of a base of it."""
    owner = next(c for c in kind.__mro__ if name in get_annotations(c))
    return _sentences(str(sys.modules[owner.__module__].__file__))[owner.__name__, name]


@cache
def _sentences(path: str) -> dict[tuple[str, str], str]:
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    return {
        (c.name, f.target.id): " ".join(below.value.value.split())  # type: ignore[attr-defined]
        for c in tree.body
        if isinstance(c, ast.ClassDef)
        for f, below in pairwise(c.body)
        if isinstance(f, ast.AnnAssign) and isinstance(below, ast.Expr)
    }


def parse_options(text: str) -> dict[str, str]:
    """Split 'width=48,depths=2/3/2' into {'width': '48', 'depths': '2/3/2'}."""
    options: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        key, equals, value = part.partition("=")
        if not equals or not key or not value:
            raise ConfigError(f"options read key=value,key=value; got '{part}' in '{text}'")
        options[key.strip().replace("-", "_")] = value.strip()
    return options


def parse_size(text: str) -> tuple[int, int]:
    """Return (height, width) from '32' or '28x36'."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip())
    if not match or 0 in (sides := [int(s) for s in match.groups() if s]):
        raise ConfigError(f"an image size reads 32 or 28x36 (height x width), got '{text}'")
    return sides[0], sides[-1]


def parse_names(text: str) -> tuple[str, ...]:
    """Return the names in 'a,b,c'."""
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    if not names:
        raise ConfigError(f"a list reads a,b,c; got '{text}'")
    return names


def from_dict(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Return the dataclass `cls` from plain values; missing keys take their defaults.

    Raises ConfigError for an unknown or missing key, and for a value that the field's type, bound
    or choices do not allow. where: what the message begins with.
    """
    hints, known = get_type_hints(cls), {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise unknown(f"option of {where.rstrip(': ') or cls.__name__}", str(key), known)
    for name, f in known.items():
        if name not in values and f.default is MISSING and f.default_factory is MISSING:
            raise ConfigError(f"{where.rstrip(': ') or cls.__name__} needs a value for '{name}'")
    return cls(**{k: convert(v, hints[k], f"{where}{k}", known[k]) for k, v in values.items()})


def convert(value: Any, hint: Any, where: str, f: "Field[Any]") -> Any:
    """Return value as the type `hint`; text is parsed ('2/3' is a tuple), lists become tuples."""
    origin, args, about = get_origin(hint), get_args(hint), option_of(f)
    if origin in (Union, UnionType):
        if value is None:
            return None
        return convert(value, next(a for a in args if a is not NoneType), where, f)
    choices = args if origin is Literal else about.choices and about.choices.names()
    if choices:
        if not isinstance(value, str | int) or value not in choices:
            raise unknown(where, str(value), choices)
        return value
    if origin in (tuple, dict) and about.read and isinstance(value, str):
        try:
            value = about.read(value)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
    if is_dataclass(hint) or origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} must be an object of names and values, got {value!r}")
        if origin is dict:
            return {_scalar(k, str, where, f): _plain(v, f"{where} {k}") for k, v in value.items()}
        return from_dict(hint, value, f"{where}.")  # type: ignore[arg-type]
    if origin is tuple:
        if about.read is parse_size and type(value) is int:
            value = (value, value)
        parts = value.split("/") if isinstance(value, str) else value
        if not isinstance(parts, list | tuple):
            raise ConfigError(f"{where} must be a list such as 1/2/2, got {value!r}")
        kinds = [args[0]] * len(parts) if args[-1] is Ellipsis else list(args)
        if len(kinds) != len(parts):
            raise ConfigError(f"{where} needs {len(kinds)} values, got {value!r}")
        return tuple(convert(p, k, where, f) for p, k in zip(parts, kinds, strict=True))
    return _scalar(value, hint, where, f)


def whole(value: Any, where: str, bound: str = "") -> int:
    """Return a whole number within a bound such as '>= 0, < 9'; ConfigError for another value.

    Text is refused, as by the two below: Python's own functions take numbers, and the options of
    `train`, `distill`, `evaluate` and `likelihood` text as on the command line too.
    """
    return _scalar(value, int, where, option(0, bound), Real)


def real(value: Any, where: str, bound: str = "") -> float:
    """Return a finite number within a bound such as '> 0, <= 1'; ConfigError for another value."""
    return _scalar(value, float, where, option(0.0, bound), Real)


def several(values: Any, count: int, where: str, check: Callable[..., T], bound: str = "") -> Any:
    """Return `count` numbers, in a tuple, each as `check` (`whole` or `real`) returns it."""
    if not isinstance(values, tuple | list) or len(values) != count:
        raise ConfigError(f"{where} must be {count} numbers, got {values!r}")
    return tuple(check(value, where, bound) for value in values)


KINDS = {bool: "yes or no", int: "a whole number", float: "a finite number", str: "text"}
ANSWERS = {"yes": True, "true": True, "no": False, "false": False}
COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def _scalar(value: Any, hint: Any, where: str, f: "Field[Any]", kinds: Any = Real | str) -> Any:
    bound = option_of(f).bound
    allowed = f"{KINDS.get(hint, 'a path')}{' ' * bool(bound)}{bound}"
    wrong = ConfigError(f"{where} must be {allowed}, got {value!r}")
    if hint in (str, Path):
        if not isinstance(value, str | os.PathLike):
            raise wrong
        return os.fspath(value) if hint is str else Path(os.path.expanduser(value))
    if hint is bool:
        answer = ANSWERS.get(value.lower()) if isinstance(value, str) else value
        if not isinstance(answer, bool):
            raise wrong
        return answer
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise wrong
    try:
        number: Any = (float if hint is float else int)(value)  # type: ignore[arg-type]
        exact = hint is float or isinstance(value, str) or value == number
        # Infinite only where that is the default, as for an interval that has no end.
        if not exact or not (isfinite(number) or number == f.default):
            raise wrong
    except (ValueError, OverflowError):  # no number, or one that no float holds
        raise wrong from None
    for sign, limit in (part.split() for part in bound.split(", ") if part):
        if not COMPARE[sign](number, int(limit)):
            raise wrong
    return number


def _plain(value: Any, where: str) -> Any:
    """Return a value of an object as JSON holds it, with tuples in place of lists."""
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, list | tuple):
        return tuple(_plain(each, where) for each in value)
    if isinstance(value, Real):
        return float(value)
    raise ConfigError(f"{where} must be a number, text or a list of them, got {value!r}")
