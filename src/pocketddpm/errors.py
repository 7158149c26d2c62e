"""Every error that pocketddpm raises on purpose: one root, four kinds.

A message says what was given, what is allowed, and what to do next. The command line prints it as
one line and exits with status 2.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class DDPMError(Exception):
    """Root of all errors that a user can cause and fix."""


class ConfigError(DDPMError, ValueError):
    """An option, a name or a combination of options that is invalid."""


class DataError(DDPMError):
    """A data file or folder that is missing, damaged, or not what it claims to be."""


class CheckpointError(DDPMError):
    """A checkpoint that is missing, damaged, foreign, or does not fit the run."""


class OutputError(DDPMError):
    """An output that exists already or cannot be written."""


def unknown(kind: str, name: str, allowed: Iterable[str]) -> ConfigError:
    """Return the error for a name that is not in a list, with the nearest names first."""
    names = sorted(set(allowed))
    near = nearest(name, names)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return ConfigError(f"unknown {kind} {name!r}: {hint}choose from {listed(names, 100)}")


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """Return up to three names like `name`: those that hold it, the shortest first, or look so."""
    plain = {known.casefold(): known for known in names}
    near = [known for key, known in plain.items() if len(name) > 2 and name.casefold() in key]
    looks = [plain[key] for key in get_close_matches(name.casefold(), plain, 3, 0.5)]
    return sorted(near, key=len)[:3] or looks


def listed(names: Iterable[str], most: int = 10) -> str:
    """Return names for a message: the first of them, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more
