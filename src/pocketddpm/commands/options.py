"""What several verbs' options have in common: the text forms of sizes and lists."""

import re
from pathlib import Path
from typing import Annotated, TypeVar

from tyro.conf import UseAppendAction

from pocketddpm.errors import ConfigError

Plugins = Annotated[tuple[Path, ...], UseAppendAction]
"""The type of --plugin, which may be given several times; `main` loads them before a verb runs."""
Number = TypeVar("Number", int, float)


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


def parse_numbers(text: str, form: str, kind: type[Number]) -> tuple[Number, ...]:
    """Return as many numbers, of the type `kind`, as `form` (such as LOW,HIGH) has names."""
    try:
        numbers = tuple(kind(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != form.count(",") + 1:
        what = "whole numbers" if kind is int else "numbers"
        raise ConfigError(f"{form} must be {form.count(',') + 1} {what}, got '{text}'")
    return numbers
