"""Writing files: in one piece, with the process's own mask, and flushed, the folder as well."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from pocketddpm import output
from pocketddpm.errors import OutputError
from pocketddpm.output import replacing, write_text

posix = pytest.mark.skipif(os.name != "posix", reason="masks and folders as files are POSIX's")


@posix
def test_the_mask_of_the_process_is_kept_and_never_touched(tmp_path, monkeypatch):
    """A thread that creates a file meanwhile gets the mode that it should."""
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the mask was changed"))
    write_text(tmp_path / "x.txt", "x")
    assert stat.S_IMODE((tmp_path / "x.txt").stat().st_mode) == 0o666 & ~output._UMASK


@posix
def test_a_file_and_the_entry_of_its_folder_are_flushed_in_this_order(tmp_path, monkeypatch):
    done = []
    flush, rename = os.fsync, os.replace

    def fsync(file):
        done.append("folder" if stat.S_ISDIR(os.fstat(file).st_mode) else "file")
        flush(file)

    def replace(old, new):
        done.append("rename")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    write_text(tmp_path / "x.txt", "x")
    assert done == ["file", "rename", "folder"]


def test_many_threads_write_whole_files(tmp_path):
    """Each of them its own; none is left half written or under its temporary name."""
    texts = {f"{k}.txt": str(k) * 10_000 for k in range(16)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: write_text(tmp_path / name, texts[name]), texts))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == texts


def test_what_fails_leaves_the_old_file(tmp_path):
    write_text(tmp_path / "x.txt", "old")
    with pytest.raises(OutputError, match=r"x\.txt"), replacing(tmp_path / "x.txt") as temporary:
        temporary.write_text("new")
        raise OSError(28, "No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["x.txt"]
    assert (tmp_path / "x.txt").read_text() == "old"
