"""Models on the Hugging Face hub: one checkpoint and its page, to and from (extra 'hub').

A pulled file is a checkpoint like any other: its checksum is verified, and nothing in it is run.
"""

import os
import re
import tempfile
from pathlib import Path
from typing import Any

from pocketddpm.errors import CheckpointError, ConfigError, OutputError
from pocketddpm.output import write_text

FILE = "model.safetensors"
_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def pull(name: str) -> Path:
    """Return the checkpoint of USER/NAME, from the hub's cache on this disk or downloaded.

    Raises ConfigError for a name of another form or without the extra, CheckpointError when the
    file cannot be had.
    """
    library = _library(name)
    try:
        offline = bool(os.environ.get("POCKETDDPM_OFFLINE"))
        return Path(library.hf_hub_download(name, FILE, local_files_only=offline))
    # The library passes on whatever its many parts raise.
    except Exception as error:
        told = " ".join(str(error).split())[:200]
        raise CheckpointError(f"hf:{name} cannot be had: {told}") from error


def push(checkpoint: Path, name: str, page: str) -> str:
    """Upload a checkpoint and its page as one commit to USER/NAME, made if need be; return its URL.

    Raises ConfigError as `pull` does, OutputError when the hub refuses (`hf auth login` first).
    """
    library = _library(name)
    if os.environ.get("POCKETDDPM_OFFLINE"):
        raise OutputError(f"cannot push to {name}: POCKETDDPM_OFFLINE is set")
    try:
        api = library.HfApi()
        url = str(api.create_repo(name, exist_ok=True))
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            write_text(folder / "README.md", page)
            (folder / FILE).write_bytes(checkpoint.read_bytes())
            api.upload_folder(
                repo_id=name, folder_path=str(folder), commit_message="Upload by pocketddpm"
            )
    except Exception as error:
        told = " ".join(str(error).split())[:200]
        raise OutputError(f"cannot push to {name}: {told}; is 'hf auth login' done?") from error
    return url


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
