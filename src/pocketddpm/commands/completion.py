"""`pocketddpm completion SHELL`: completion of verbs, options and choices."""

from dataclasses import dataclass
from typing import Literal

from tyro.conf import Positional


@dataclass(frozen=True)
class Completion:
    """Print a completion script for bash, zsh or fish.

    Example: pocketddpm completion bash > ~/.local/share/bash-completion/completions/pocketddpm

    Example: pocketddpm completion zsh > ~/.zfunc/_pocketddpm

    Example: pocketddpm completion fish > ~/.config/fish/completions/pocketddpm.fish
    """

    shell: Positional[Literal["bash", "zsh", "fish"]]
    """The shell that it is for."""
