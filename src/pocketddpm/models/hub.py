"""Models on the Hugging Face hub: a folder with one checkpoint, to and from (extra 'hub').

A pulled file is a checkpoint like any other: its checksum is verified, and nothing in it is run.
"""

import re
from pathlib import Path
from typing import Any

from pocketddpm import __version__
from pocketddpm.data.download import offline
from pocketddpm.errors import CheckpointError, ConfigError, OutputError

FILE = "model.safetensors"
Token = str | bool | None
_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)


def is_repository(name: str) -> bool:
    """Return whether a name has the form USER/NAME."""
    return _NAME.fullmatch(name) is not None


def pull(
    name: str,
    *,
    revision: str | None = None,
    token: Token = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Path:
    """Return the checkpoint of USER/NAME, from the hub's cache on this disk or downloaded.

    The options are those of `huggingface_hub.hf_hub_download`; with POCKETDDPM_OFFLINE only the
    cache is asked. Raises ConfigError for a name of another form or without the extra,
    CheckpointError when there is no such repository, revision or file, or no way to it.
    """
    library = _library(name)
    try:
        path = library.hf_hub_download(
            name,
            FILE,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only or offline(),
            library_name="pocketddpm",
            library_version=__version__,
        )
    # The library passes on whatever its many parts raise.
    except Exception as error:
        at = "" if revision is None else f" at {revision}"
        raise CheckpointError(f"cannot get hf:{name}{at}: {_reason(error)}") from error
    return Path(path)


def upload(
    folder: Path,
    name: str,
    *,
    message: str,
    private: bool = True,
    token: Token = None,
    revision: str | None = None,
) -> str:
    """Upload a folder's files as one commit to USER/NAME, made if need be; return the commit's URL.

    private: whether a repository that is made now is; one that exists keeps its visibility.
    revision: a branch, made if need be; the main one by default.
    Raises ConfigError as `pull` does, OutputError when the hub refuses.
    """
    library = _library(name)
    if offline():
        raise OutputError(f"cannot push to {name}: POCKETDDPM_OFFLINE is set")
    try:
        api = library.HfApi(token=token)
        api.create_repo(name, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(name, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=name, folder_path=str(folder), revision=revision, commit_message=message
        )
    except Exception as error:
        raise OutputError(
            f"cannot push to {name}: {_reason(error)}; is 'hf auth login' done?"
        ) from error
    return str(commit.commit_url)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _library(name: str) -> Any:
    if not is_repository(name):
        raise ConfigError(f"a model on the hub is named USER/NAME, got '{name}'")
    try:
        import huggingface_hub
    except ImportError as error:
        raise ConfigError(
            f"hf:{name} needs the extra 'hub': pip install 'pocketddpm[hub]' ({error})"
        ) from error
    return huggingface_hub
