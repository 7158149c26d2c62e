"""Files of strangers: they run nothing, write nowhere else, and take no memory on their word.

Fuzzing has two halves: hypothesis builds inputs that are nearly right, and a seeded mutator makes
many of them; `make torture` runs hundreds of thousands. Every input is read, or refused by a
DDPMError; nothing else may come of it.
"""

import ast
import gzip
import hashlib
import io
import json
import os
import pickle
import random
import resource
import struct
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import pocketddpm
from campaign import Child
from pocketddpm.commands.info import described
from pocketddpm.commands.main import main
from pocketddpm.config import Experiment
from pocketddpm.data import npz as arrays
from pocketddpm.data.decode import decode
from pocketddpm.data.idx import read_idx
from pocketddpm.data.npz import read_npz
from pocketddpm.datasets import cifar10
from pocketddpm.errors import CheckpointError, DataError, DDPMError
from pocketddpm.metrics.extractor import read_file
from pocketddpm.metrics.samples import read_samples
from pocketddpm.models.checkpoint import (
    FORMAT_VERSION,
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from pocketddpm.models.model import load, model_from
from pocketddpm.models.samples import Samples
from pocketddpm.output import file_name
from pocketddpm.runs.log import logged
from pocketddpm.values import from_dict

FORMATS = Path(__file__).parent / "checkpoints"
DEVICE = torch.device("cpu")
MANY = int(os.environ.get("POCKETDDPM_FUZZ", "60000"))  # inputs of each kind in `make torture`


class Evil:
    """An object whose unpickling leaves a mark."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return (os.system, (f"touch {self.mark}",))


# Nothing is executed -----------------------------------------------------------------------------


def test_pickles_are_never_loaded(tmp_path):
    mark = tmp_path / "executed"
    torch.save({"model": Evil(mark)}, tmp_path / "last.safetensors")
    (tmp_path / "plain.safetensors").write_bytes(pickle.dumps(Evil(mark)))
    np.savez(tmp_path / "s.npz", images=np.array([Evil(mark)], dtype=object))
    np.savez(
        tmp_path / "l.npz", images=np.zeros((1, 2, 2), np.uint8), labels=np.array([Evil(mark)])
    )
    (tmp_path / "p.npz").write_bytes(pickle.dumps(Evil(mark)))
    for read in (
        lambda: load(tmp_path),
        lambda: load_checkpoint(tmp_path / "plain.safetensors"),
        lambda: read_samples(tmp_path / "s.npz", ()),
        lambda: read_samples(tmp_path / "l.npz", ("a",)),
        lambda: read_samples(tmp_path / "p.npz", ()),
        lambda: read_file(tmp_path / "plain.safetensors", None),
    ):
        with pytest.raises(DDPMError):
            read()
    assert not mark.exists()
    pickle.loads(pickle.dumps(Evil(mark)))
    assert mark.exists(), "the test cannot fail"


ERRORS = {"pickle.UnpicklingError"}  # torch raises it where it refuses a pickle
PIPED = {"pickle"}  # between a process and those that it has started itself, in data/cores.py:
PIPES = ("worker.stdout", "sys.stdin.buffer")  # all that is unpickled there


def test_the_source_has_no_way_to_execute_a_file():
    """No pickle anywhere, no eval; exec for plug-ins, which are asked for; weights only."""
    found = []
    for path in sorted(Path(pocketddpm.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                module = getattr(node, "module", None) or ""
                names = [f"{module}.{n.name}".strip(".") for n in node.names]
                unpickles = {"pickle", "dill", "joblib", "shelve"}
                foreign = {n for n in names if n.split(".")[0] in unpickles} - ERRORS
                if foreign - (PIPED if path.name == "cores.py" else set()):
                    found.append(f"{path.name}: pickle")
            if not isinstance(node, ast.Call):
                continue
            keywords = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
            called = ast.unparse(node.func)
            source = ast.unparse(node.args[0]) if node.args else ""
            if called.startswith("pickle.") and called != "pickle.dump" and source not in PIPES:
                found.append(f"{path.name}: {called} of {source}")
            if called in ("eval", "exec") and path.name != "plugins.py":
                found.append(f"{path.name}: {called}")
            if called == "torch.load" and keywords.get("weights_only") is not True:
                found.append(f"{path.name}: torch.load")
            if called.endswith("np.load") and keywords.get("allow_pickle") is not False:
                found.append(f"{path.name}: np.load")
    assert found == []


# Nothing is written elsewhere --------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["../../escaped", "/tmp/escaped", "..", "a/b\\c", "x\x00y", "\x1b[2J", "", "é", "n" * 999],
)
def test_no_class_name_leads_out_of_the_folder(tmp_path, name):
    safe = file_name(name)
    assert safe not in ("", ".", "..")
    assert not set(safe) & set("/\\\x00\x1b")
    inner = tmp_path / "inner"
    frames = np.zeros((2, 1, 1, 4, 4), np.uint8)
    samples = Samples(frames[-1], np.array([0]), 1, (name,), frames=frames)
    samples.save_gif(inner)
    assert [p.parent for p in tmp_path.rglob("*.gif")] == [inner]


def test_members_of_archives_are_only_read(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    with zipfile.ZipFile(inner / "x.npz", "w") as archive:
        for name in ("../../escaped.npy", "/escaped.npy", "images.npy"):
            stream = io.BytesIO()
            np.save(stream, np.zeros((30, 2, 2), np.uint8))
            archive.writestr(name, stream.getvalue())
    assert read_samples(inner / "x.npz", ()).images.shape == (30, 1, 2, 2)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [inner / "x.npz"]


def test_a_checkpoints_preset_is_no_path(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def escape(meta):
        meta["experiment"]["preset"] = "../../escaped"
        meta["experiment"]["objective"]["prediction"] = "edm"  # can be distilled

    checkpoint = forged(escape)
    save_checkpoint(tmp_path / "run" / "last.safetensors", checkpoint)
    for resume in ("run", "auto"):
        with pytest.raises(SystemExit):
            main(["train", "../../escaped", "--resume", resume])
    assert {p.name for p in tmp_path.iterdir()} == {"run"}
    # Where the folder is made of the name: a run of the same experiment, and its distillation.
    quick = {"steps": 1, "sample_every": 0, "device": "cpu"}
    pocketddpm.train(load(tmp_path / "run").experiment, images=None, **quick)
    pocketddpm.distill(tmp_path / "run", **quick)
    assert not any(path.name.startswith("escaped") for folder in tmp_path.parents
                   for path in folder.iterdir())  # fmt: skip
    assert {p.name for p in tmp_path.iterdir()} == {"run", "runs"}
    assert len(list((tmp_path / "runs").iterdir())) == 2


# Nothing is allocated on a header's word ---------------------------------------------------------


def forged(change):
    """Return the kept checkpoint with another claim, and a checksum that is right."""
    checkpoint = load_checkpoint(FORMATS / "format-1.safetensors")
    meta = json.loads(json.dumps(checkpoint.meta))
    change(meta)
    return Checkpoint(meta, checkpoint.tensors)


def put(*path):
    """Return a change that sets meta[a][b][..] = value; the last argument is the value."""
    *keys, last, value = path

    def change(meta):
        for key in keys:
            meta = meta[key]
        meta[last] = value

    return change


CLAIMS = [
    put("experiment", "network", "sizes", {"widths": [10**7], "groups": 1, "head_width": 10}),
    put("experiment", "network", "sizes", {"widths": [4], "blocks": 10**12, "groups": 2}),
    put("experiment", "network", "sizes", {"widths": [4] * 10**4, "groups": 2, "head_width": 4}),
    put("experiment", "network", "sizes", {"widths": [0], "groups": 0}),
    put("experiment", "network", "name", "../../etc/passwd"),
    put("experiment", "network", "name", "os"),
    put("experiment", "schedule", "T", 10**15),
    put("experiment", "schedule", "T", -1),
    put("shape", [1, 10**6, 10**6]),
    put("shape", [10**9, 1, 1]),
    put("shape", [1, 0, 8]),
    put("shape", [1, 8]),
    put("classes", ["x"] * 10**6),
    put("classes", 7),
    put("class_counts", [0] * 10),
    put("class_counts", [-1] * 10),
    put("class_counts", [10**30] * 10),
    put("class_counts", [1]),
    put("scaling", {"low": 1, "high": -1, "mean": False}),
    put("scaling", {"low": "-1", "high": 1, "mean": False}),
    put("scaling", {"low": -1, "high": 1, "mean": True}),
    put("scaling", None),
    put("experiment", None),
    put("experiment", "objective", {"prediction": "x" * 100}),
    put("experiment", "data", {"name": ["mnist"]}),
]


def limited(task, folder, more):
    """Do task in a child that may take `more` bytes of memory beyond what it has."""

    def run():
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        task()

    return Child(run, folder / "errors").start().wait(120)


def test_forged_claims_are_refused_before_they_cost_anything(tmp_path):
    load(FORMATS / "format-1.safetensors")  # imports what children would import

    def task():
        for number, change in enumerate(CLAIMS):
            try:
                model_from(forged(change), DEVICE)
            except DDPMError:
                continue
            raise AssertionError(f"claim {number} was believed")

    ended = limited(task, tmp_path, 256 << 20)
    assert ended.status == 0, ended.said


def npz_member(folder, header, data=b"", *, method=zipfile.ZIP_DEFLATED):
    """Write an .npz file whose array has this header and data."""
    text = header.encode().ljust(118) + b"\n"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data
    with zipfile.ZipFile(folder / "x.npz", "w", method) as archive:
        archive.writestr("images.npy", content)
    return folder / "x.npz"


@pytest.mark.parametrize(
    ("shape", "kind", "message"),
    [
        ("(1000000000000,)", "|u1", " 4 .*1000000000000"),
        ("(1000000, 1000000, 1000000)", "|u1", str(10**18)),
        ("(2, 2)", "|O", "object"),
        ("(2, 2)", "|V2147483647", "V2147483647"),
        ("(-1,)", "|u1", r"x\.npz"),
        ("(" * 5000, "|u1", r"x\.npz"),
        ("(5,)", "|u1", " 4 .*5"),
    ],
)
def test_forged_arrays_are_refused(tmp_path, shape, kind, message):
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
    path = npz_member(tmp_path, header[:4000], bytes(4))
    with pytest.raises(DataError, match=message):
        read_npz(path, ["images"])


def test_decompression_bombs_are_bounded(tmp_path, monkeypatch):
    """A quarter of a gigabyte of zeros: npz, gzip and PNG take less than half of it."""
    zeros = bytes(1 << 20)
    header = {"descr": "|u1", "fortran_order": False, "shape": (1 << 28,)}
    with (
        zipfile.ZipFile(
            tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1
        ) as archive,
        archive.open("images.npy", "w", force_zip64=True) as member,
    ):
        np.lib.format.write_array_header_1_0(member, header)
        for _ in range(1 << 8):
            member.write(zeros)
    with gzip.open(tmp_path / "bomb.gz", "wb", compresslevel=1) as file:
        file.write(bytes((0, 0, 8, 1)) + struct.pack(">I", 1000))
        for _ in range(1 << 8):
            file.write(zeros)
    Image.new("1", (16_000, 16_000)).save(tmp_path / "bomb.png")
    for name in ("bomb.npz", "bomb.gz", "bomb.png"):
        assert (tmp_path / name).stat().st_size < 8 << 20
    monkeypatch.setattr(arrays, "MAX_BYTES", 64 << 20)

    def task():
        for read in (
            lambda: read_npz(tmp_path / "bomb.npz", ["images"]),
            lambda: read_idx(tmp_path / "bomb.gz", (1000,)),
            lambda: decode(tmp_path / "bomb.png", 1),
        ):
            try:
                read()
            except (DDPMError, ValueError) as error:  # decode: the folder reader names the file
                print(error)
                continue
            raise AssertionError("a bomb was read")

    ended = limited(task, tmp_path, 110 << 20)
    assert ended.status == 0, ended.said


def test_headers_of_checkpoints_are_bounded(tmp_path):
    path = tmp_path / "x.safetensors"
    for content in (
        struct.pack("<Q", 2**63) + b"{" * 64,
        struct.pack("<Q", 50) + b"{" + b"[" * 100_000,
        struct.pack("<Q", 90_000) + b'{"__metadata__":{"pocketddpm":"' + b"[" * 90_000,
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"x\.safetensors"):
            load_checkpoint(path)
    nested = forged(lambda meta: None)
    from safetensors.torch import save_file

    save_file(nested.tensors, path, metadata={"pocketddpm": "[" * 200_000})
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path)


# Old runs keep loading ---------------------------------------------------------------------------


def test_every_format_version_has_a_checkpoint_here():
    names = sorted(path.name for path in FORMATS.iterdir())
    assert names == [f"format-{v}.safetensors" for v in range(1, FORMAT_VERSION + 1)]


# What the model of format 1 drew on the day it was made, 2026-11-22: 3 and 7, seed 5.
DRAWN = [144, 255, 138, 104, 46, 21, 208, 255, 146, 49, 123, 255, 205, 200, 255, 103]


def test_format_1_draws_what_it_drew():
    model = load(FORMATS / "format-1.safetensors")
    images = model.sample(2, labels=model.label_numbers("3,7", 2), steps=4, seed=5).images
    assert np.abs(images.reshape(2, 64)[0, :16].astype(int) - DRAWN).max() <= 1
    assert model.meta["run"]["step"] == 4


def test_format_1_resumes(tmp_path, capsys):
    from pocketddpm.runs.options import RunOptions
    from pocketddpm.runs.run import Session

    checkpoint = load_checkpoint(FORMATS / "format-1.safetensors")
    experiment = from_dict(Experiment, checkpoint.meta["experiment"])
    from conftest import with_training

    run = Session(
        with_training(experiment, steps=6),
        tmp_path,
        RunOptions(device="cpu", sample_every=0),
        checkpoint=checkpoint,
    )
    run.run()
    assert load_checkpoint(tmp_path / "last.safetensors").meta["run"]["step"] == 6
    assert "holds 0 of the 4 steps" in capsys.readouterr().err


# Fuzzing -----------------------------------------------------------------------------------------


def idx_seeds():
    plain = bytes((0, 0, 8, 3)) + struct.pack(">3I", 3, 2, 2) + bytes(range(12))
    return {"x-idx3-ubyte": plain, "x-idx3-ubyte.gz": gzip.compress(plain, mtime=0)}


def npz_seeds():
    seeds = {}
    for name, save in (("stored.npz", np.savez), ("deflated.npz", np.savez_compressed)):
        stream = io.BytesIO()
        save(stream, images=np.zeros((3, 2, 2), np.uint8), labels=np.arange(3))
        seeds[name] = stream.getvalue()
    return seeds


def checkpoint_seeds(folder):
    path = folder / "seed.safetensors"
    meta = {"experiment": {"preset": "x"}, "run": {"step": 1}, "shape": [1, 8, 8]}
    save_checkpoint(path, Checkpoint(meta, {"model.a": torch.arange(4.0), "ema.a": torch.ones(2)}))
    return {"x.safetensors": path.read_bytes()}


def cifar_seeds():
    record = bytes([3]) + bytes(cifar10.RECORD_BYTES - 1)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", compresslevel=1) as tar:
        for name in cifar10.FILES["test"]:
            member = tarfile.TarInfo(f"{cifar10.FOLDER}/{name}")
            member.size = len(record)
            tar.addfile(member, io.BytesIO(record))
    return {cifar10.ARCHIVE: stream.getvalue(), "test_batch.bin": record}


def read_cifar(path):
    """Read CIFAR-10 with one record a file, and a checksum that is always right."""
    cifar10.FILE_BYTES = cifar10.RECORD_BYTES
    cifar10.MD5 = hashlib.md5(path.read_bytes()).hexdigest()
    if path.name.endswith(".bin"):
        folder = path.parent / cifar10.FOLDER
        folder.mkdir(exist_ok=True)
        path.replace(folder / path.name)
        (path.parent / cifar10.ARCHIVE).unlink(missing_ok=True)
    cifar10.load("test", path=path.parent)


def read_config(path):
    try:
        meta = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return
    if isinstance(meta, dict):
        from_dict(Experiment, meta)


def config_seeds():
    checkpoint = load_checkpoint(FORMATS / "format-1.safetensors")
    return {"config.json": json.dumps(checkpoint.meta["experiment"]).encode()}


def log_seeds():
    row = b"1,8,0.1,0.5,1.0,0.001,0.2\r\n"
    return {"log.csv": b"step,images_seen,epoch,loss,grad_norm,lr,seconds\r\n" + row}


READERS = {
    "idx": (lambda folder: idx_seeds(), lambda path: read_idx(path, (3, 2, 2))),
    "cifar": (lambda folder: cifar_seeds(), read_cifar),
    "npz": (lambda folder: npz_seeds(), lambda path: read_samples(path, ("a", "b", "c"))),
    "checkpoint": (checkpoint_seeds, load_checkpoint),
    "extractor": (checkpoint_seeds, lambda path: read_file(path, None)),
    "config": (lambda folder: config_seeds(), read_config),
    "log": (lambda folder: log_seeds(), lambda path: logged(path.parent)),
}
NUMBERS = [0, 1, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1]


def mutated(seed, draw):
    """Return the bytes with one to four changes: bits, numbers, pieces cut, doubled or moved."""
    content = bytearray(seed)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(content) + 1)
        other = draw.randrange(len(content) + 1)
        kind = draw.randrange(6)
        if kind == 0 and content:
            content[at % len(content)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del content[at : at + draw.randrange(1, 40)]
        elif kind == 2:
            content[at:at] = content[other : other + draw.randrange(1, 40)]
        elif kind == 3:
            width = draw.choice([1, 2, 4, 8])
            number = draw.choice(NUMBERS) % 256**width
            content[at : at + width] = number.to_bytes(width, draw.choice(["big", "little"]))
        elif kind == 4:
            content[at : at + 8] = draw.choice(
                [b"-1", b"1e999", b"NaN", b"null", b"[]", b'"', b"{"]
            )
        else:
            del content[at:]
    return bytes(content)


def fuzz(reader, folder, inputs, seed):
    """Read so many mutated files; returns how many were read, and how many refused."""
    make, read = READERS[reader]
    seeds = sorted(make(folder).items())
    draw = random.Random(seed)
    counts = {"read": 0, "refused": 0}
    for number in range(inputs):
        name, content = seeds[number % len(seeds)]
        damaged = mutated(content, draw)
        path = folder / name
        path.write_bytes(damaged)
        try:
            read(path)
            counts["read"] += 1
        except DDPMError:
            counts["refused"] += 1
        except Exception as error:
            raise AssertionError(f"{reader}, {name}: {damaged!r}") from error
    return counts


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder in memory; CIFAR-10's constants are put back afterwards."""
    monkeypatch.setattr(cifar10, "FILE_BYTES", cifar10.FILE_BYTES)
    monkeypatch.setattr(cifar10, "MD5", cifar10.MD5)
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(dir=memory, prefix="pocketddpm-") as folder:
        yield Path(folder)


@pytest.mark.parametrize("reader", READERS)
def test_damaged_files_are_read_or_refused(reader, place):
    counts = fuzz(reader, place, 300, seed=0)
    assert counts["refused"] > 0 or reader == "log"


@pytest.mark.torture
@pytest.mark.parametrize("reader", READERS)
def test_very_many_damaged_files(reader, place, record_property):
    record_property(f"fuzzed {reader}", fuzz(reader, place, MANY, seed=1))


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["mnist", "unet", "cosine", "digits", "2/3", "nan"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)


def leaves(tree, path=()):
    """Yield the path of every entry of nested dictionaries."""
    for key, value in tree.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))


SEED = load_checkpoint(FORMATS / "format-1.safetensors")
CHANGES = st.lists(
    st.tuples(st.sampled_from(sorted(leaves(SEED.meta))), VALUES), min_size=1, max_size=3
)


def believed(changes):
    """Load a model, and describe it, with some of what its checkpoint says changed."""
    meta = json.loads(json.dumps(SEED.meta))
    for path, value in changes:
        inner = meta
        for key in path[:-1]:
            inner = inner.get(key) if isinstance(inner, dict) else None
        if isinstance(inner, dict):
            inner[path[-1]] = value
    with suppress(DDPMError):
        assert model_from(Checkpoint(meta, SEED.tensors), DEVICE).shape[0] > 0
    # These are what `info` turns into its line.
    with suppress(KeyError, TypeError, AttributeError, ValueError):
        described(meta, 1)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(CHANGES)
def test_checkpoints_that_claim_anything(changes):
    believed(changes)


@pytest.mark.torture
@settings(max_examples=5000, deadline=None, suppress_health_check=list(HealthCheck))
@given(CHANGES)
def test_checkpoints_that_claim_very_much(changes):
    believed(changes)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(VALUES)
def test_configurations_of_anything(values):
    if isinstance(values, dict):
        with suppress(DDPMError):
            from_dict(Experiment, values)
