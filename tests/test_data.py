"""The built-in data sets, how their files are found, and how a set is reduced and fitted."""

import gzip
import hashlib
import http.server
import io
import os
import re
import struct
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from pocketddpm.catalog import DATASETS
from pocketddpm.data import download as find
from pocketddpm.data import idx
from pocketddpm.data.image_set import ImageSet, chunks
from pocketddpm.data.load import class_counts, fingerprint, fit_size, load_images
from pocketddpm.data.scaling import Scaling
from pocketddpm.datasets import celeba, cifar10, fashion_mnist, mnist
from pocketddpm.errors import ConfigError, DataError

# Before any fixture hides it: the folder of real data sets, where there is one.
REAL = os.environ.get("POCKETDDPM_DATA")


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test from the user's files and from the network."""
    monkeypatch.setenv("POCKETDDPM_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("POCKETDDPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("POCKETDDPM_OFFLINE", "1")


def idx_bytes(values: np.ndarray) -> bytes:
    header = bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.astype(np.uint8).tobytes()


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def small_set(channels: int = 1, height: int = 6, width: int = 6, labels: bool = True) -> ImageSet:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (12, channels, height, width), dtype=np.uint8)
    numbers = np.arange(12, dtype=np.int64) % 3
    return ImageSet(images, numbers if labels else None, ("a", "b", "c") if labels else (), "small")


# --- IDX files ---


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_reads_what_was_written(tmp_path: Path, suffix: str) -> None:
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    raw = idx_bytes(values)
    path = write(tmp_path / f"x{suffix}", gzip.compress(raw) if suffix else raw)
    found = idx.read_idx(path, (2, 3, 4), hashlib.sha256(raw).hexdigest())
    np.testing.assert_array_equal(found, values)


GOOD = idx_bytes(np.arange(24).reshape(2, 3, 4))
# Fixed times: names of tests hold these bytes, and both processes must collect the same names.
GZIPPED = gzip.compress(GOOD, mtime=0)
WRONG_CRC = GZIPPED[:-8] + bytes(4) + GZIPPED[-4:]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x", b"", "00000803"),
        ("x", b"\x00\x00\x09\x03" + GOOD[4:], "00000903.*00000803"),
        ("x", GOOD[:9], "x"),
        ("x", GOOD[:-1], "23 .*24 "),
        ("x", GOOD + b"!", " 24 "),
        (
            "x",
            GOOD[:4] + struct.pack(">3I", 2**31, 2**31, 9) + GOOD[16:],
            "2147483648x2147483648x9.*2x3x4",
        ),
        ("x.gz", GOOD, "gzip"),
        ("x.gz", GZIPPED[:-12], "gzip"),
        ("x.gz", GZIPPED[:-6], "gzip"),
        ("x.gz", WRONG_CRC, "CRC check failed"),
        ("x.gz", GZIPPED[:10] + b"\xff" * 20, "gzip"),
        ("x.gz", gzip.compress(GOOD + b"!", mtime=0), " 24 "),
    ],
)
def test_idx_refuses_a_bad_file_by_name(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(DataError, match=message) as caught:
        idx.read_idx(path, (2, 3, 4))
    assert str(caught.value).startswith(f"{path}: ")


def test_idx_states_both_checksums(tmp_path: Path) -> None:
    path = write(tmp_path / "x", GOOD)
    with pytest.raises(DataError, match="sha256 00ff") as caught:
        idx.read_idx(path, (2, 3, 4), "00ff")
    assert hashlib.sha256(GOOD).hexdigest() in str(caught.value)


def test_idx_reads_no_more_of_a_gzip_bomb_than_is_expected(tmp_path: Path) -> None:
    import tracemalloc

    path = write(tmp_path / "bomb.gz", gzip.compress(GOOD + bytes(1 << 26)))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=" 24 "):
            idx.read_idx(path, (2, 3, 4))
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()


# --- finding and downloading ---


def test_the_users_folder_comes_before_the_cache(tmp_path: Path) -> None:
    assert find.data_roots() == [tmp_path / "data", tmp_path / "cache"]
    write(tmp_path / "cache" / "a" / "x", b"cached")
    assert find.find(["a/x", "x"]) == tmp_path / "cache" / "a" / "x"
    write(tmp_path / "data" / "x", b"mine")
    assert find.find(["a/x", "x"]) == tmp_path / "data" / "x"


def test_without_variables_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POCKETDDPM_DATA")
    monkeypatch.delenv("POCKETDDPM_CACHE")
    (root,) = find.data_roots()
    assert root.name == "pocketddpm"
    assert root.is_absolute()


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """Yield the address and the folder of a small web server; downloads are on."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("POCKETDDPM_OFFLINE", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_download_tries_the_mirrors_in_turn(tmp_path: Path, mirror: tuple[str, Path]) -> None:
    address, folder = mirror
    write(folder / "second" / "x.gz", b"<html>sign in first</html>")
    write(folder / "third" / "x.gz", GZIPPED)
    urls = [f"{address}/{name}/x.gz" for name in ("first", "second", "third", "fourth")]
    found = find.find_or_download(["set/x.gz"], urls, lambda p: idx.read_idx(p, (2, 3, 4)))
    np.testing.assert_array_equal(found.ravel(), np.arange(24))
    # Nothing is left but the file, under its own name.
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert kept == [tmp_path / "cache" / "set" / "x.gz"]
    assert kept[0].read_bytes() == GZIPPED


def test_failed_downloads_are_one_error_that_says_what_to_do(
    tmp_path: Path, mirror: tuple[str, Path]
) -> None:
    address, folder = mirror
    write(folder / "bad" / "x.gz", b"<html>sign in first</html>")
    urls = [f"{address}/absent/x.gz", f"{address}/bad/x.gz"]
    with pytest.raises(DataError) as caught:
        find.find_or_download(["set/x.gz"], urls, lambda p: idx.read_idx(p, (2, 3, 4)))
    message = str(caught.value)
    wanted = ("set/x.gz", tmp_path / "data", tmp_path / "cache", *urls, "POCKETDDPM_DATA")
    assert all(str(value) in message for value in wanted)
    assert "\n" not in message
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_cache_that_cannot_be_written_is_said(
    tmp_path: Path, mirror: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POCKETDDPM_CACHE", str(write(tmp_path / "file", b"") / "below"))
    with pytest.raises(DataError, match=r"x\.gz.*Not a directory"):
        find.find_or_download(["set/x.gz"], [f"{mirror[0]}/x.gz"], Path.read_bytes)


@pytest.mark.parametrize("value", ["1", "true", "yes"])
def test_offline_means_no_download(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setattr(find, "_download", lambda *_: pytest.fail("downloaded"))
    monkeypatch.setenv("POCKETDDPM_OFFLINE", value)
    with pytest.raises(DataError, match="POCKETDDPM_OFFLINE"):
        load_images("mnist")


@pytest.mark.parametrize("value", ["", "0", "false", "False", "no", None])
def test_these_values_mean_online(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    if value is None:
        monkeypatch.delenv("POCKETDDPM_OFFLINE")
    else:
        monkeypatch.setenv("POCKETDDPM_OFFLINE", value)
    assert not find.offline()


# --- MNIST and its like ---


def fake_mnist(folder: Path, monkeypatch: pytest.MonkeyPatch, suffix: str = ".gz") -> np.ndarray:
    """Write a test split of 30 images, make their checksums the expected ones, return them."""
    images = np.random.default_rng(1).integers(0, 256, (30, 28, 28), dtype=np.uint8)
    labels = np.arange(30) % 10
    monkeypatch.setitem(idx.COUNTS, "test", 30)
    for name, values in zip(idx.FILES["test"], (images, labels), strict=True):
        raw = idx_bytes(values)
        write(folder / f"{name}{suffix}", gzip.compress(raw) if suffix else raw)
        monkeypatch.setitem(mnist.SHA256, name, hashlib.sha256(raw).hexdigest())
    return images


@pytest.mark.parametrize("place", ["MNIST/raw", "raw", "."])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_is_found_in_every_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, suffix: str
) -> None:
    images = fake_mnist(tmp_path / "data" / place, monkeypatch, suffix)
    found = load_images("mnist", "test")
    np.testing.assert_array_equal(found.images[:, 0], images)
    np.testing.assert_array_equal(found.labels, np.arange(30) % 10)
    assert found.classes == tuple("0123456789")
    assert (found.name, found.shape, found.source) == ("mnist", (1, 28, 28), "")


def test_mnist_from_a_given_folder_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = fake_mnist(tmp_path / "mine", monkeypatch)
    np.testing.assert_array_equal(mnist.load("test", path=tmp_path / "mine").images[:, 0], images)
    fake_mnist(tmp_path / "data", monkeypatch)
    with pytest.raises(DataError, match=r"empty .*MNIST/raw/t10k-images-idx3-ubyte"):
        mnist.load("test", path=tmp_path / "empty")


def test_a_damaged_file_of_the_users_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_mnist(tmp_path / "cache" / "MNIST" / "raw", monkeypatch)
    fake_mnist(tmp_path / "data" / "MNIST" / "raw", monkeypatch)
    path = tmp_path / "data" / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="gzip") as caught:
        load_images("mnist", "test")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_real_files(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    folder = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}[name]
    if REAL is None or not (Path(REAL) / folder / "raw").is_dir():
        pytest.skip(f"no real {name} here: set POCKETDDPM_DATA")
    monkeypatch.setenv("POCKETDDPM_DATA", REAL)
    train, test = load_images(name, "train"), load_images(name, "test")
    assert (train.images.shape, test.images.shape) == ((60000, 1, 28, 28), (10000, 1, 28, 28))
    assert train.labels is not None
    first = [train.classes[label] for label in train.labels[:4]]
    if name == "mnist":
        assert first == ["5", "0", "4", "1"]
        assert class_counts(test) == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    else:
        assert first == ["Ankle boot", "T-shirt/top", "T-shirt/top", "Dress"]
        assert class_counts(train) == [6000] * 10


def test_fashion_mnist_has_files_and_checksums_of_its_own() -> None:
    with pytest.raises(DataError, match="FashionMNIST/raw/train-images-idx3-ubyte"):
        load_images("fashion-mnist")
    assert fashion_mnist.SHA256.keys() == mnist.SHA256.keys()
    assert not set(fashion_mnist.SHA256.values()) & set(mnist.SHA256.values())


# --- digits ---


def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    train, test = load_images("digits"), load_images("digits", "test")
    assert (len(train), len(test), train.shape) == (1500, 297, (1, 8, 8))
    images = np.concatenate([train.images, test.images])[:, 0]
    pixels, target = load_digits(return_X_y=True)
    # 17 grey levels, 0..16, can be told apart again.
    np.testing.assert_array_equal(np.rint(images / 255 * 16), pixels.reshape(-1, 8, 8))
    assert (images.min(), images.max()) == (0, 255)
    assert train.labels is not None
    assert test.labels is not None
    labels = np.concatenate([train.labels, test.labels])
    np.testing.assert_array_equal(labels, target)
    # The bytes and their order, on which golden values and old runs rest.
    assert (fingerprint(train), fingerprint(test)) == ("0493665953fdc27a", "1254aac0f42bd3c7")


# --- CIFAR-10: generated files of exactly its format, only with fewer records ---


@pytest.fixture
def cifar(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Return the binary files' contents, with 20 records each."""
    random = np.random.default_rng(2)
    monkeypatch.setattr(cifar10, "FILE_BYTES", 20 * cifar10.RECORD_BYTES)
    contents = {}
    for name in (*cifar10.FILES["train"], *cifar10.FILES["test"]):
        records = random.integers(0, 256, (20, cifar10.RECORD_BYTES), dtype=np.uint8)
        records[:, 0] = random.integers(0, 10, 20)
        contents[name] = records.tobytes()
    return contents


def tar_bytes(contents: dict[str, bytes], prefix: str = "cifar-10-batches-bin/") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def place_archive(folder: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cifar10, "MD5", hashlib.md5(content).hexdigest())
    return write(folder / "cifar-10-binary.tar.gz", content)


@pytest.mark.parametrize("form", ["archive", "folder"])
def test_cifar10(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cifar: dict[str, bytes], form: str
) -> None:
    if form == "archive":
        extra = {"readme.html": b"hello", **cifar}
        place_archive(tmp_path / "data", tar_bytes(extra), monkeypatch)
    else:
        for name, content in cifar.items():
            write(tmp_path / "data" / "cifar-10-batches-bin" / name, content)
    train, test = load_images("cifar10"), load_images("cifar10", "test")
    assert (train.images.shape, test.images.shape) == ((100, 3, 32, 32), (20, 3, 32, 32))
    assert train.labels is not None
    # Record 7 of the third file, by hand: the label, then the rows of the red plane, and so on.
    record = cifar["data_batch_3.bin"][7 * 3073 : 8 * 3073]
    assert train.labels[47] == record[0]
    assert train.images[47, 0, 0, :5].tobytes() == record[1:6]
    assert train.images[47, 2, 31, 31] == record[3072]
    assert train.images[47, 1, 2, 3] == record[1 + 1024 + 2 * 32 + 3]
    assert train.classes[0] == "airplane"
    assert cifar10.FLIP


def test_cifar10_wrong_checksum(tmp_path: Path, cifar: dict[str, bytes]) -> None:
    write(tmp_path / "data" / "cifar-10-binary.tar.gz", tar_bytes(cifar))
    with pytest.raises(DataError, match="c32a1d4ab5d03f1284b67883e8d87530"):
        load_images("cifar10")


def test_cifar10_wants_the_named_regular_members_of_the_right_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cifar: dict[str, bytes]
) -> None:
    cifar["data_batch_2.bin"] = cifar["data_batch_2.bin"][:-1]
    place_archive(tmp_path / "data", tar_bytes(cifar), monkeypatch)
    with pytest.raises(DataError, match=r"cifar-10-batches-bin/data_batch_2\.bin"):
        load_images("cifar10")
    place_archive(tmp_path / "data", tar_bytes(cifar, prefix="../"), monkeypatch)
    with pytest.raises(DataError, match=r"cifar-10-batches-bin/test_batch\.bin"):
        load_images("cifar10", "test")


def test_cifar10_never_follows_a_link_in_the_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cifar: dict[str, bytes]
) -> None:
    secret = write(tmp_path / "secret", cifar["test_batch.bin"])
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        member = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
        member.type, member.linkname = tarfile.SYMTYPE, str(secret)
        member.size = len(cifar["test_batch.bin"])
        tar.addfile(member)
    place_archive(tmp_path / "data", buffer.getvalue(), monkeypatch)
    with pytest.raises(DataError, match=r"cifar-10-batches-bin/test_batch\.bin"):
        load_images("cifar10", "test")


@pytest.mark.parametrize("content", [b"not a tar", gzip.compress(b"x" * 2000, mtime=0), b""])
def test_cifar10_damaged_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    path = place_archive(tmp_path / "data", content, monkeypatch)
    with pytest.raises(DataError, match=re.escape(str(path))):
        load_images("cifar10")


def test_cifar10_cut_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cifar: dict[str, bytes]
) -> None:
    place_archive(tmp_path / "data", tar_bytes(cifar)[:-5000], monkeypatch)
    with pytest.raises(DataError, match="cifar-10-binary"):
        load_images("cifar10", "test")


def test_cifar10_damaged_folder(tmp_path: Path, cifar: dict[str, bytes]) -> None:
    folder = tmp_path / "data" / "cifar-10-batches-bin"
    write(folder / "test_batch.bin", cifar["test_batch.bin"] + b"!")
    with pytest.raises(DataError, match=r"test_batch\.bin: .* 61460 bytes"):
        load_images("cifar10", "test")
    with pytest.raises(DataError, match=r"data_batch_1\.bin: .*No such file"):
        load_images("cifar10")


def test_cifar10_says_how_to_give_it() -> None:
    with pytest.raises(DataError, match=r"POCKETDDPM_DATA.*cifar-10-binary"):
        load_images("cifar10")


# --- CelebA: generated files in its layout ---


def fake_celeba(folder: Path, partition: str | None = None) -> None:
    """Write six 178x218 pictures of one shade each: 0, 40, ... 200."""
    (folder / "img_align_celeba").mkdir(parents=True)
    for i in range(6):
        picture = PIL.Image.new("RGB", (178, 218), (40 * i,) * 3)
        picture.save(folder / "img_align_celeba" / f"{i + 1:06}.jpg")
    if partition is not None:
        (folder / "list_eval_partition.txt").write_text(partition)


PARTITION = "".join(f"{i:06}.jpg {code}\n" for i, code in enumerate("000122", start=1))


def test_celeba_follows_the_partition(tmp_path: Path) -> None:
    fake_celeba(tmp_path / "data" / "celeba", PARTITION)
    train, test = load_images("celeba"), load_images("celeba", "test", image_size=(16, 12))
    assert (train.images.shape, test.images.shape) == ((3, 3, 64, 64), (2, 3, 16, 12))
    np.testing.assert_allclose(train.images[:, 0, 32, 32], [0, 40, 80], atol=2)
    np.testing.assert_allclose(test.images[:, 0, 8, 6], [160, 200], atol=2)
    assert train.labels is None
    assert train.source == "cropped and resized to 64x64"
    assert celeba.FLIP


def test_celeba_without_a_partition_is_all_for_training(tmp_path: Path) -> None:
    fake_celeba(tmp_path / "data" / "celeba")
    assert len(load_images("celeba")) == 6
    with pytest.raises(DataError, match="list_eval_partition"):
        load_images("celeba", "test")


@pytest.mark.parametrize(
    ("partition", "message"),
    [
        (
            PARTITION.replace(" 1", " train"),
            "0, 1 or 2.*000004.jpg train",
        ),
        (PARTITION + "000007.jpg 2\n", " 1 of the 3 test images.*000007.jpg"),
        ("000001.jpg 0\n", "test images"),
    ],
)
def test_celeba_with_a_bad_partition(tmp_path: Path, partition: str, message: str) -> None:
    fake_celeba(tmp_path / "data" / "celeba", partition)
    with pytest.raises(DataError, match=message):
        load_images("celeba", "test")


def test_celeba_says_how_to_give_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"POCKETDDPM_DATA.*celeba/img_align_celeba"):
        load_images("celeba")
    with pytest.raises(DataError, match="img_align_celeba"):
        celeba.load("train", path=tmp_path)


# --- the catalogue ---


@pytest.mark.parametrize("name", DATASETS.names())
def test_every_entry_keeps_the_contract(name: str) -> None:
    entry = DATASETS.load(name)
    assert isinstance(entry.FLIP, bool)
    assert entry.FIT in ("pad", "resize")
    assert 20 < len(DATASETS.describe()[name]) < 100
    if name not in ("digits", "folder", "hf", "npz"):
        with pytest.raises(DataError, match="POCKETDDPM_DATA"):
            entry.load("train")


def test_what_is_flipped_and_how_sizes_are_reached() -> None:
    flipped = {name for name in DATASETS.names() if DATASETS.load(name).FLIP}
    assert flipped == {"cifar10", "celeba"}
    padded = {name for name in DATASETS.names() if DATASETS.load(name).FIT == "pad"}
    assert padded == {"mnist", "fashion-mnist", "digits"}


# --- load_images: names, classes, subset, size ---


def test_an_unknown_name_gets_the_nearest_and_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"'mnits'.* mnist.*folder"):
        load_images("mnits")
    with pytest.raises(ConfigError, match="'folder'"):
        load_images("folder")


def test_classes_are_numbered_anew_in_their_original_order() -> None:
    whole, some = load_images("digits"), load_images("digits", classes=("7", "8", "1", "7"))
    assert whole.labels is not None
    assert some.labels is not None
    assert some.classes == ("1", "7", "8")
    kept = np.isin(whole.labels, [1, 7, 8])
    np.testing.assert_array_equal(some.images, whole.images[kept])
    names = np.array([int(name) for name in some.classes])
    np.testing.assert_array_equal(names[some.labels], whole.labels[kept])


def test_classes_by_number_where_names_are_no_numbers(
    tmp_path: Path, cifar: dict[str, bytes]
) -> None:
    write(tmp_path / "data" / "cifar-10-batches-bin" / "test_batch.bin", cifar["test_batch.bin"])
    by_number = load_images("cifar10", "test", classes=("9", "0"))
    by_name = load_images("cifar10", "test", classes=("airplane", "truck"))
    assert by_number.classes == ("airplane", "truck")
    np.testing.assert_array_equal(by_number.images, by_name.images)
    with pytest.raises(ConfigError, match=r"cifar10.*'aeroplane'.*airplane"):
        load_images("cifar10", "test", classes=("aeroplane",))
    with pytest.raises(ConfigError, match=r"cifar10.*'10'"):
        load_images("cifar10", "test", classes=("10",))


def test_a_name_that_is_a_number_is_never_an_index(tmp_path: Path) -> None:
    for name in ("3", "7"):
        (tmp_path / "set" / name).mkdir(parents=True)
        PIL.Image.new("L", (4, 4), int(name)).save(tmp_path / "set" / name / "x.png")
    found = load_images(str(tmp_path / "set"), classes=("7",))
    assert np.asarray(found.images).ravel().tolist() == [7] * 16
    with pytest.raises(ConfigError, match=r"set.*'0'.* 3, 7"):
        load_images(str(tmp_path / "set"), classes=("0",))


def test_no_classes_to_choose_from(tmp_path: Path) -> None:
    PIL.Image.new("L", (4, 4)).save(tmp_path / "x.png")
    with pytest.raises(ConfigError, match=tmp_path.name):
        load_images(str(tmp_path), classes=("a",))
    with pytest.raises(ConfigError, match="digits"):
        load_images("digits", classes=())


def test_the_subset_is_one_of_the_chosen_classes() -> None:
    ones = load_images("digits", classes=("1",))
    some = load_images("digits", classes=("1",), subset=5, selection="first")
    np.testing.assert_array_equal(some.images, ones.images[:5])
    assert class_counts(some) == [5]
    assert class_counts(load_images("digits", classes=("1", "7"), subset=6)) == [3, 3]


@pytest.mark.parametrize("count", [0, -1, 1501])
def test_a_subset_that_cannot_be(count: int) -> None:
    with pytest.raises(ConfigError, match=rf" {count} .* 1 to 1500"):
        load_images("digits", subset=count)


def test_padding_is_symmetric_and_changes_no_pixel() -> None:
    plain, padded = load_images("digits"), load_images("digits", image_size=(12, 11))
    np.testing.assert_array_equal(padded.images[:, :, 2:10, 1:9], plain.images)
    assert padded.images.astype(int).sum() == plain.images.astype(int).sum()
    assert padded.shape == (1, 12, 11)
    assert padded.source == "8x8 padded to 12x11"


def test_padding_to_less_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"8x8.*16x4.*--fit resize"):
        load_images("digits", image_size=(16, 4))


def test_the_size_it_has_already_is_left_alone() -> None:
    images = small_set()
    assert fit_size(images, (6, 6), "resize") is images
    assert load_images("digits", image_size=(8, 8)).source == ""


@pytest.mark.parametrize("size", [(0, 8), (8, -1)])
def test_a_size_below_one_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="x".join(map(str, size))):
        load_images("digits", image_size=size)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_resizing_crops_to_the_aspect_ratio_first(channels: int) -> None:
    # A ramp from left to right, 8 a pixel: the slope tells whether pixels were squashed.
    ramp = np.broadcast_to(np.arange(24, dtype=np.uint8) * 8, (2, channels, 12, 24))
    images = ImageSet(ramp, None, (), "ramp")
    fitted = fit_size(images, (6, 6), "resize")
    assert fitted.shape == (channels, 6, 6)
    assert fitted.source == "12x24 cropped and resized to 6x6"
    # The middle 12 columns are 6..17; pairs of them have the means 52, 68, ...
    expected = np.broadcast_to(np.arange(6) * 16 + 52, fitted.images.shape)
    np.testing.assert_allclose(fitted.images, expected, atol=2)


def test_resizing_is_antialiased() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (1, 1, 32, 16))
    fitted = fit_size(ImageSet(stripes, None, (), "stripes"), (8, 8), "resize")
    np.testing.assert_allclose(fitted.images[..., 2:-2, 2:-2], 127.5, atol=12)


def test_digits_can_be_resized() -> None:
    smaller = load_images("digits", image_size=(4, 4), fit="resize")
    assert smaller.shape == (1, 4, 4)
    # Antialiased: the mean brightness survives (nearest-neighbour would keep a quarter of it all).
    plain = load_images("digits")
    np.testing.assert_allclose(smaller.images.mean(), plain.images.mean(), rtol=0.05)


# --- fingerprint, counts ---


def test_the_fingerprint_sees_every_change(monkeypatch: pytest.MonkeyPatch) -> None:
    images = small_set()
    assert images.labels is not None
    original = fingerprint(images)
    assert len(original) == 16
    assert int(original, 16) >= 0
    pixel = images.images.copy()
    pixel[11, 0, 5, 5] ^= 1
    label = images.labels.copy()
    label[11] = 0
    changed = [
        replace(images, images=pixel),
        replace(images, labels=label),
        replace(images, labels=None, classes=()),
        replace(images, images=images.images.reshape(12, 1, 4, 9)),
        replace(images, images=images.images[::-1]),
    ]
    prints = [fingerprint(one) for one in changed]
    assert len({original, *prints}) == 6
    monkeypatch.setattr("pocketddpm.data.load.chunks", partial(chunks, size=5))
    assert fingerprint(images) == original


def test_class_counts() -> None:
    assert class_counts(small_set()) == [4, 4, 4]
    assert class_counts(small_set(labels=False)) == []
    two = replace(small_set(), labels=np.zeros(12, np.int64))
    assert class_counts(two) == [12, 0, 0]


# --- scaling ---

ALL_VALUES = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)


@pytest.mark.parametrize("scaling", [Scaling(), Scaling(0, 1), Scaling(-3.5, 0.25)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_scaling_maps_the_ends_to_the_bounds(scaling: Scaling, dtype: torch.dtype) -> None:
    x = scaling.to_model(ALL_VALUES, dtype)
    assert x.dtype == dtype
    ends = torch.stack([x.min(), x.max()])
    torch.testing.assert_close(ends, torch.tensor(scaling.bounds, dtype=dtype))
    steps = x.double().flatten().diff()
    if dtype != torch.bfloat16:
        torch.testing.assert_close(
            steps, torch.full_like(steps, scaling.bin_width), rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("with_mean", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scaling_is_inverted_exactly(with_mean: bool, dtype: torch.dtype) -> None:
    mean = torch.linspace(-1, 1, 256).reshape(1, 16, 16) if with_mean else None
    scaling = Scaling(-1, 1, mean)
    images = torch.stack([ALL_VALUES[0], ALL_VALUES[0].flip(-1)])
    back = scaling.to_uint8(scaling.to_model(images, dtype))
    torch.testing.assert_close(back, images, rtol=0, atol=0)
    assert back.dtype == torch.uint8


def test_to_uint8_rounds_and_clips() -> None:
    x = torch.tensor([-5.0, -1.0, 0.004, 0.0, 0.999, 5.0])
    expected = torch.tensor([0, 0, 128, 128, 255, 255], dtype=torch.uint8)
    torch.testing.assert_close(Scaling(-1, 1).to_uint8(x), expected)


def test_clip_keeps_what_a_picture_can_be() -> None:
    x = torch.tensor([[[[-9.0, 0.3, 9.0]]]])
    torch.testing.assert_close(Scaling(-1, 1).clip(x), torch.tensor([[[[-1.0, 0.3, 1.0]]]]))
    mean = torch.tensor([[[-1.0, 0.0, 0.5]]])
    scaling = Scaling(-1, 1, mean)
    torch.testing.assert_close(scaling.clip(x), torch.tensor([[[[0.0, 0.3, 0.5]]]]))
    # Every true picture is left as it is.
    pictures = scaling.to_model(torch.tensor([[[[0, 7, 255]]]], dtype=torch.uint8))
    torch.testing.assert_close(scaling.clip(pictures), pictures, rtol=0, atol=0)


def test_a_mean_is_subtracted_last() -> None:
    mean = torch.full((1, 16, 16), 0.25)
    plain, less = Scaling(-1, 1), Scaling(-1, 1, mean)
    torch.testing.assert_close(less.to_model(ALL_VALUES), plain.to_model(ALL_VALUES) - 0.25)


@pytest.mark.parametrize("mean", [None, torch.zeros(1, 2, 2)])
def test_scaling_survives_a_checkpoint(mean: torch.Tensor | None) -> None:
    import json

    scaling = Scaling(-2, 3, mean)
    config = json.loads(json.dumps(scaling.to_config()))
    again = Scaling.from_config(config, scaling.tensors())
    assert again.bounds == (-2, 3)
    assert again.mean is mean


@pytest.mark.parametrize("ends", [(1, 1), (1, -1), (float("nan"), 1), (0, float("inf"))])
def test_scaling_refuses_ends_out_of_order(ends: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{ends[0]}..{ends[1]}")):
        Scaling(*ends)


def test_scaling_refuses_a_foreign_config() -> None:
    with pytest.raises(ConfigError, match="low, high and mean"):
        Scaling.from_config({"low": "-1", "high": 1})
    with pytest.raises(ConfigError, match="mean"):
        Scaling.from_config({"low": -1, "high": 1, "mean": True})
