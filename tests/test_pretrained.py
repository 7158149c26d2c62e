"""Models to and from the Hugging Face hub: its real library, and a hub of our own on 127.0.0.1."""

import base64
import hashlib
import importlib.util
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import pocketddpm as pd
from pocketddpm.commands.export import FORMATS
from pocketddpm.commands.main import main
from pocketddpm.convert.web import SHA256
from pocketddpm.errors import CheckpointError, ConfigError, OutputError
from pocketddpm.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pocketddpm.models.publishing import public_meta, public_name

huggingface_hub = pytest.importorskip("huggingface_hub")

FILES = {"model.safetensors", "config.json", "README.md"}


class Hub(ThreadingHTTPServer):
    """As much of the hub's protocol as a push and a pull of small files need.

    repositories: name -> branch -> path -> content. tokens: those that were shown.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: dict[str, bool] = {}
        self.commits: list[tuple[str, str, str]] = []  # repository, branch, message
        self.tokens: set[str | None] = set()


class Answer(BaseHTTPRequestHandler):
    """One request to the hub."""

    server: Hub

    def log_message(self, *args):
        pass

    def answer(self, status, body=b"", **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(data), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        token = self.headers.get("Authorization")
        hub, (path, _, _) = self.server, self.path.partition("?")
        if path != "/api/validate-yaml":  # which is asked without one
            hub.tokens.add(token)
        if token == "Bearer wrong":
            self.answer(401, {"error": "Invalid username or password."}, X_Error_Message="wrong")
        elif path == "/api/repos/create":
            said = json.loads(body)
            name = f"{said['organization']}/{said['name']}"
            known = name in hub.repositories
            if not known:
                hub.repositories[name] = {"main": {}}
                hub.private[name] = said.get("private", said.get("visibility") == "private")
            self.answer(409 if known else 200, {"url": f"{hub.url}/{name}"})
        elif path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(\w+)/(\w+)", path):
            name, what, branch = found.groups()
            files = hub.repositories[name]
            if what == "branch":
                files.setdefault(branch, {})
                self.answer(200, {})
            elif what == "preupload":
                paths = [file["path"] for file in json.loads(body)["files"]]
                rule = {"uploadMode": "regular", "shouldIgnore": False}
                self.answer(200, {"files": [{"path": path, **rule} for path in paths]})
            elif what == "commit":
                for line in map(json.loads, body.splitlines()):
                    value = line["value"]
                    if line["key"] == "header":
                        hub.commits.append((name, branch, value["summary"]))
                    else:
                        files[branch][value["path"]] = base64.b64decode(value["content"])
                oid = hashlib.sha1(body).hexdigest()
                url = f"{hub.url}/{name}/commit/{oid}"
                self.answer(200, {"success": True, "commitOid": oid, "commitUrl": url})
        else:
            self.answer(404)

    def do_HEAD(self):
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/(\w+)/(.+)", self.path)
        name, branch, file = found.groups() if found else ("", "", "")
        if found:  # others are the library's own questions
            self.server.tokens.add(self.headers.get("Authorization"))
        repository = self.server.repositories.get(name)
        if repository is None:
            self.answer(404, X_Error_Code="RepoNotFound")
        elif branch not in repository:
            self.answer(404, X_Error_Code="RevisionNotFound")
        elif file not in repository[branch]:
            self.answer(404, X_Error_Code="EntryNotFound")
        else:
            content = repository[branch][file]
            oid = hashlib.sha1(content).hexdigest()
            self.answer(200, content, ETag=f'"{oid}"', X_Repo_Commit=oid)

    do_GET = do_HEAD


@pytest.fixture(scope="module")
def server():
    """A hub on a free port, the same for all tests: old libraries read its address once."""
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def hub(server, tmp_path, monkeypatch):
    """The hub, empty, for a user with an empty cache who is not logged in."""
    for content in (server.repositories, server.private, server.commits, server.tokens):
        content.clear()
    constants = importlib.import_module("huggingface_hub.constants")
    template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.delenv("POCKETDDPM_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    return server


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("hub") / "run"
    return out, pd.train("digits", steps=3, batch_size=8, sample_every=0, out=out,
                         net="widths=8/16,head_width=8,groups=4")  # fmt: skip


def test_there_and_back(hub, trained, tmp_path, monkeypatch):
    model = trained[1]
    monkeypatch.chdir(tmp_path)
    url = model.push_to_hub("me/digits", commit_message="First", token="secret")
    assert url.startswith(f"{hub.url}/me/digits/commit/")
    assert hub.commits == [("me/digits", "main", "First")]
    assert hub.private == {"me/digits": True}
    files = hub.repositories["me/digits"]["main"]
    assert set(files) == FILES
    (tmp_path / "pulled.safetensors").write_bytes(files["model.safetensors"])
    stored = load_checkpoint(tmp_path / "pulled.safetensors")
    assert {name.split(".")[0] for name in stored.tensors} == {"model"}  # no optimiser
    assert json.loads(files["config.json"])["experiment"] == stored.meta["experiment"]
    settings = {"labels": [3, 5], "steps": 2}
    wanted = model.sample(**settings).images
    again = pd.Model.from_pretrained("me/digits", token="secret")
    assert hub.tokens == {"Bearer secret"}
    for back in (
        again,
        pd.Model.from_pretrained("hf:me/digits", revision="main"),
        pd.Model.from_pretrained("me/digits", local_files_only=True),
        pd.Model.from_pretrained("me/digits", force_download=True, cache_dir=tmp_path / "own"),
        pd.load("hf:me/digits"),
    ):
        assert np.array_equal(back.sample(**settings).images, wanted)
    assert (tmp_path / "own").exists()


def test_the_card_is_the_hubs_and_its_code_runs(hub, trained, tmp_path, monkeypatch):
    trained[1].push_to_hub("me/digits")
    text = hub.repositories["me/digits"]["main"]["README.md"].decode()
    front = huggingface_hub.ModelCard(text).data.to_dict()
    assert front == {
        "library_name": "pocketddpm",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["diffusion", "ddpm", "pytorch"],
    }
    assert "images of 1x8x8, of 10 classes: 0, 1, 2" in text
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert (tmp_path / "samples.png").exists()


def test_a_branch_and_a_public_repository(hub, trained):
    trained[1].push_to_hub("me/open", private=False, revision="try")
    assert hub.private == {"me/open": False}
    repository = hub.repositories["me/open"]
    assert (set(repository["main"]), set(repository["try"])) == (set(), FILES)
    assert pd.Model.from_pretrained("me/open", revision="try").shape == (1, 8, 8)
    with pytest.raises(CheckpointError, match="me/open"):
        pd.Model.from_pretrained("me/open")
    with pytest.raises(CheckpointError, match="me/open at gone"):
        pd.Model.from_pretrained("me/open", revision="gone")
    trained[1].push_to_hub("me/open")  # one that exists keeps its visibility
    assert hub.private == {"me/open": False}


def test_a_folder_is_the_same(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = pd.load("mnist-fast")  # with a mean image
    model.save_pretrained("me/digits")
    assert {path.name for path in Path("me/digits").iterdir()} == FILES
    wanted = model.sample(labels=[3]).images
    for load in (pd.Model.from_pretrained, pd.load):
        for name in ("me/digits", Path("me/digits"), tmp_path / "me" / "digits"):
            assert np.array_equal(load(name).sample(labels=[3]).images, wanted)
    main(["sample", "me/digits", "--n", "1", "--out", "x.png"])
    with pytest.raises(OutputError, match="me/digits"):
        trained[1].save_pretrained("me/digits")
    trained[1].save_pretrained("me/digits", overwrite=True)
    assert pd.load("me/digits").shape == (1, 8, 8)
    assert pd.Model.from_pretrained("mnist").classes == pd.load("mnist").classes
    for name in ("me/digits", "mnist"):
        with pytest.raises(ConfigError, match=f"v1.*{name}"):
            pd.Model.from_pretrained(name, revision="v1")


@pytest.mark.parametrize(
    ("name", "named"), [("hf:ylecun/mnist", ["ylecun/mnist"]), ("hf:/home/me/photos", None)]
)
def test_a_data_set_of_the_hub_is_named_on_the_card(trained, tmp_path, name, named):
    """A folder is none: of its path the last part is left, which may be the name of another set."""
    stored = load_checkpoint(trained[0] / "last.safetensors")
    experiment = stored.meta["experiment"]
    data = {**experiment["data"], "name": name}
    meta = {**stored.meta, "experiment": {**experiment, "data": data}}
    save_checkpoint(tmp_path / "last.safetensors", Checkpoint(meta, stored.tensors))
    pd.load(tmp_path).save_pretrained(tmp_path / "mine")
    card = huggingface_hub.ModelCard((tmp_path / "mine" / "README.md").read_text())
    assert card.data.datasets == named


def test_commands(hub, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["export", str(trained[0]), "--to", "hub:me/digits"])
    said = capsys.readouterr().out
    assert f"{hub.url}/me/digits/commit/" in said and "pocketddpm sample hf:me/digits" in said
    main(["export", str(trained[0]), "--to", "hub:me/open", "--public"])
    assert hub.private == {"me/digits": True, "me/open": False}
    main(["sample", "hf:me/digits", "--n", "2", "--steps", "2", "--out", "x.png"])
    main(["sample", "hf:me/digits", "--n", "2", "--steps", "2"])
    assert (tmp_path / "samples" / "digits-seed-0.png").exists()
    main(["info", "hf:me/digits"])
    main(["export", "hf:me/digits", "--to", "diffusers"])
    assert (tmp_path / "digits-diffusers" / "unet").is_dir()


def test_what_the_hub_refuses_is_one_line(hub, trained, monkeypatch, capsys):
    out, model = trained
    with pytest.raises(CheckpointError, match=r"hf:me/nothing.*404"):
        pd.load("hf:me/nothing")
    with pytest.raises(OutputError, match=r"me/x.*401") as caught:
        model.push_to_hub("me/x", token="wrong")
    assert "\n" not in str(caught.value)
    for name in ("me", "a/b/c", "../x/y", "../y", "me/ x", ""):
        for use in (lambda name: pd.load(f"hf:{name}"), model.push_to_hub):
            with pytest.raises(ConfigError, match="named USER/NAME"):
                use(name)
    for name in ("gone", "/gone/model", "a/b/c"):  # nothing here, and no name on the hub
        with pytest.raises(CheckpointError, match=name):
            pd.Model.from_pretrained(name)
    with pytest.raises(SystemExit):
        main(["export", str(out), "--to", "onnx", "--public"])
    assert "--public" in capsys.readouterr().err
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda *_, **__: 1 / 0)
    with pytest.raises(SystemExit):
        main(["export", str(out), "--to", "hub:me/x"])
    (line,) = capsys.readouterr().err.splitlines()
    assert all(value in line for value in ("me/x", "division by zero", "hf auth login"))
    hub.repositories["me/broken"] = {"main": {"model.safetensors": b"nonsense"}}
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        pd.load("hf:me/broken")
    monkeypatch.setenv("POCKETDDPM_OFFLINE", "1")
    with pytest.raises(OutputError, match=r"me/x.*POCKETDDPM_OFFLINE"):
        model.push_to_hub("me/x")


def test_no_path_of_this_machine_leaves_it(hub, trained, tmp_path, monkeypatch):
    """A model of somebody's photos: on the hub, and in every format that others are given."""
    monkeypatch.setattr("pocketddpm.convert.web.find_runtime", lambda folder: tmp_path / "runtime")
    for name in SHA256:
        save = tmp_path / "runtime" / name
        save.parent.mkdir(exist_ok=True)
        save.write_text("runtime")
    stored = load_checkpoint(trained[0] / "last.safetensors")
    data = {**stored.meta["experiment"]["data"], "name": str(tmp_path / "photos")}
    meta = {**stored.meta, "experiment": {**stored.meta["experiment"], "data": data}}
    save_checkpoint(tmp_path / "run" / "last.safetensors", Checkpoint(meta, stored.tensors))
    pd.load(tmp_path / "run").push_to_hub("me/photos")
    for content in hub.repositories["me/photos"]["main"].values():
        assert str(tmp_path).encode() not in content
    assert pd.load("hf:me/photos").experiment.data.name == "photos"
    package = str(Path(pd.__file__).parent)
    for kind in FORMATS if importlib.util.find_spec("onnxruntime") else ["diffusers"]:
        out = tmp_path / "exports" / kind
        main(["export", str(tmp_path / "run"), "--to", kind, "--out", str(out)])
        written = [out] if out.is_file() else [path for path in out.rglob("*") if path.is_file()]
        for path in written:
            for local in (str(tmp_path), package):
                assert local.encode() not in path.read_bytes(), (path, local)
        assert any(b"photos" in path.read_bytes() for path in written)


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("mnist", "mnist"),
        ("/home/ann/photos", "photos"),
        ("/home/ann/photos/", "photos"),
        ("~/photos", "photos"),
        ("../ann/photos", "photos"),
        ("./photos", "photos"),
        ("ann/photos", "photos"),
        (r"C:\Users\ann\photos", "photos"),
        ("hf:ylecun/mnist", "hf:ylecun/mnist"),
        ("hf:/home/ann/photos", "hf:photos"),
        ("hf:./photos", "hf:photos"),
    ],
)
def test_of_a_path_its_last_part_is_public(name, public):
    assert public_name(name) == public
    plugin = {"kind": "network", "name": "mine", "path": "/home/ann/mine.py", "sha256": "0" * 64}
    given = {"experiment": {"data": {"name": name, "low": -1.0}, "preset": "x"},
             "classes": ["/", "T-shirt/top"], "plugins": [plugin]}  # fmt: skip
    found = public_meta(given)
    assert found["experiment"] == {"data": {"name": public, "low": -1.0}, "preset": "x"}
    assert found["classes"] == ["/", "T-shirt/top"]
    assert found["plugins"] == [{**plugin, "path": "mine.py"}]
    assert given["plugins"][0]["path"] == "/home/ann/mine.py"
