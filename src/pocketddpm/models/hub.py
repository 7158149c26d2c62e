"""Models on the Hugging Face hub: one checkpoint and its page, to and from (extra 'hub').

A pulled file is a checkpoint like any other: its checksum is verified, and nothing in it is run.
"""

import re
from pathlib import Path
from typing import Any

from pocketddpm.data.download import offline
from pocketddpm.errors import CheckpointError, ConfigError, OutputError

FILE = "model.safetensors"
_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def pull(name: str) -> Path:
    """Return the checkpoint of USER/NAME, from the hub's cache on this disk or downloaded.

    Raises ConfigError for a name of another form or without the extra, CheckpointError when the
    file is not found.
    """
    library = _library(name)
    try:
        return Path(library.hf_hub_download(name, FILE, local_files_only=offline()))
    # The library passes on whatever its many parts raise.
    except Exception as error:
        raise CheckpointError(f"hf:{name} was not found: {_reason(error)}") from error


def upload(folder: Path, name: str, *, public: bool = False) -> str:
    """Upload a folder's files as one commit to USER/NAME, made if need be; return its URL.

    public: whether a repository that is made now can be seen by everybody; one that exists keeps
    its visibility. Raises ConfigError as `pull` does, OutputError when the hub refuses.
    """
    library = _library(name)
    if offline():
        raise OutputError(f"cannot push to {name}: POCKETDDPM_OFFLINE is set")
    try:
        api = library.HfApi()
        url = str(api.create_repo(name, private=not public, exist_ok=True))
        api.upload_folder(
            repo_id=name, folder_path=str(folder), commit_message="Upload by pocketddpm"
        )
    except Exception as error:
        raise OutputError(
            f"cannot push to {name}: {_reason(error)}; is 'hf auth login' done?"
        ) from error
    return url


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _library(name: str) -> Any:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"a model on the hub is named USER/NAME, got '{name}'")
    try:
        import huggingface_hub
    except ImportError as error:
        raise ConfigError(
            f"hf:{name} needs the extra 'hub': pip install 'pocketddpm[hub]' ({error})"
        ) from error
    return huggingface_hub
