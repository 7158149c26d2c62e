"""A model as a static page: the network as ONNX, the sampler as JavaScript, and the runtime.

The folder needs a web server that sends files, and nothing behind it. The page's own files are
those of `convert/page/`; the runtime is one version of onnxruntime-web (MIT licence), held to
checksums.
"""

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path

from pocketddpm.convert.onnx import facts, write_onnx
from pocketddpm.data.download import cache_root, offline
from pocketddpm.errors import ConfigError, DataError
from pocketddpm.models.model import Model
from pocketddpm.output import replacing, write_json

PAGE = ("index.html", "style.css", "app.js", "worker.js", "sampler.js")
RUNTIME = "onnxruntime-web@1.30.0"
SHA256 = {
    "ort.wasm.min.js": "faece07e84faa9001f5104bbe4e5c70861d06cb2376a0dea1fa0ad33a67adc81",
    "ort-wasm-simd-threaded.mjs": (
        "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b"
    ),
    "ort-wasm-simd-threaded.wasm": (
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"
    ),
}


def write_web(model: Model, out: Path, runtime: Path | None = None) -> float:
    """Write the folder; return how far the network's ONNX is from torch (see `write_onnx`).

    runtime: a folder with onnxruntime-web's files; None takes them from the cache, or from npm.
    Raises ConfigError for a model that cannot be exported, DataError where there is no runtime.
    """
    if model.shape[0] not in (1, 3):
        raise ConfigError(
            f"a page shows images of 1 or 3 channels, and this model has {model.shape[0]} channels"
        )
    source = find_runtime(runtime)
    difference = write_onnx(model, out / "model.onnx")
    write_json(out / "model.json", facts(model))
    for name in SHA256:
        _copy((source / name).read_bytes(), out / "runtime" / name)
    # The page comes last: where it is, everything is.
    for name in reversed(PAGE):
        _copy((files("pocketddpm.convert") / "page" / name).read_bytes(), out / name)
    return difference


def find_runtime(folder: Path | None = None) -> Path:
    """Return a folder that holds exactly the pinned runtime.

    Raises DataError, with what to do, when it is not there or is another version.
    """
    if folder is not None:
        for place in (folder, folder / "dist", folder / "package" / "dist"):
            if (place / "ort.wasm.min.js").is_file():
                return _checked(place)
        raise DataError(f"{folder} does not hold {', '.join(SHA256)}; {_how_to()}")
    cached = cache_root() / RUNTIME.replace("@", "-")
    if not all((cached / name).is_file() for name in SHA256):
        _from_npm(cached)
    return _checked(cached)


def _from_npm(cached: Path) -> None:
    npm = shutil.which("npm")
    if npm is None or offline():
        why = "npm is not installed" if npm is None else "POCKETDDPM_OFFLINE is set"
        raise DataError(f"the page needs {RUNTIME}, and {why}; {_how_to()}")
    with tempfile.TemporaryDirectory() as temporary:
        command = [npm, "pack", RUNTIME, "--silent", "--pack-destination", temporary]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        packed = list(Path(temporary).glob("*.tgz"))
        if done.returncode or not packed:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise DataError(
                f"npm could not fetch {RUNTIME} ({said[-1] if said else 'no message'}); {_how_to()}"
            )
        with tarfile.open(packed[0]) as archive:
            for name in SHA256:
                member = archive.extractfile(f"package/dist/{name}")
                assert member is not None
                _copy(member.read(), cached / name)


def _checked(folder: Path) -> Path:
    for name, wanted in SHA256.items():
        path = folder / name
        if not path.is_file():
            raise DataError(f"{folder} has no {name}; {_how_to()}")
        if hashlib.sha256(path.read_bytes()).hexdigest() != wanted:
            raise DataError(f"{path} is not that of {RUNTIME}; {_how_to()}")
    return folder


def _how_to() -> str:
    return f"run 'npm pack {RUNTIME}', unpack it, and give --runtime package/dist"


def _copy(content: bytes, path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


class _Handler(SimpleHTTPRequestHandler):
    """Sends files with the content types that browsers require, without a log."""

    extensions_map = {  # noqa: RUF012
        **SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
        ".onnx": "application/octet-stream",
    }

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


def serve(folder: Path, port: int, ready: Callable[[str], object]) -> None:
    """Serve a folder on 127.0.0.1 until interrupted; `ready` is called with the address.

    port: 0 takes a free one. Raises ConfigError when the port is taken.
    """
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), partial(_Handler, directory=str(folder)))
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot serve on port {port}: {error}; give another --port") from error
    with server:
        ready(f"http://127.0.0.1:{server.server_address[1]}/")
        server.serve_forever()
