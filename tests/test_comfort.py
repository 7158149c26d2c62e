"""Comfort: help with examples, progress in a terminal and in a log, quiet, JSON, completion."""

import ast
import io
import json
import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import tqdm

from pocketddpm.build import pick_device
from pocketddpm.commands import main as entry
from pocketddpm.commands.main import main
from pocketddpm.commands.parser import parse
from pocketddpm.data.load import load_images
from pocketddpm.errors import DDPMError
from pocketddpm.progress import bar, say

PACKAGE = Path(entry.__file__).parent.parent
VERBS = entry.VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_examples_that_parse(verb):
    found = re.findall(r"Example: (pocketddpm .*)", VERBS[verb].__doc__)
    assert found, f"{verb} --help has no example"
    for example in found:
        program, *words = shlex.split(example.split(">")[0])
        assert (program, words[0]) == ("pocketddpm", verb)
        assert isinstance(parse(verb, VERBS, words[1:]), VERBS[verb])


# Progress ----------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves on."""
    now = [0.0]
    monkeypatch.setattr(tqdm.std, "time", lambda: now[0])
    return now


def test_a_log_file_gets_a_line_now_and_then(monkeypatch, clock):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with bar(total=1000, unit="img", desc="work", mininterval=0) as b:
        for k in range(1000):
            clock[0] += 0.05  # fifty seconds in all
            b.update()
            if k == 500:
                say("a note")
    text = log.getvalue()
    assert "\r" not in text
    lines = text.splitlines()
    assert 4 <= len(lines) <= 8
    assert lines[-1].startswith("work: 100%")
    assert "1000/1000" in lines[-1]
    assert "a note" in lines
    assert text.endswith("\n")


def test_a_terminal_gets_a_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with bar(total=3, unit="img") as b:
        b.update(3)
    assert "\r" in terminal.getvalue()
    assert "3/3" in terminal.getvalue()


def test_a_notebook_gets_text_and_needs_no_widget(monkeypatch):
    page = io.StringIO()
    monkeypatch.setitem(sys.modules, "ipykernel.zmqshell", object())
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    monkeypatch.setattr(sys, "stderr", page)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with bar(total=3) as b:
            b.update(3)
    assert "3/3" in page.getvalue().split("\r")[-1]


def test_quiet_leaves_bars_and_notes_out(monkeypatch):
    monkeypatch.setenv("POCKETDDPM_QUIET", "1")
    for log in (io.StringIO(), Terminal()):
        monkeypatch.setattr(sys, "stderr", log)
        with bar(total=3) as b:
            b.update(3)
        say("a note")
        assert log.getvalue() == ""


# Quiet and JSON ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("comfort") / "run"
    train = ["train", "digits", "--net", "widths=8/16,head_width=8,groups=4", "--steps", "2"]
    main([*train, "--batch-size", "8", "--device", "cpu", "--sample-every", "0", "--out", str(out)])
    return out


def test_quiet_and_json_for_scripts(trained, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("POCKETDDPM_QUIET", "0")  # so that what --quiet sets is undone
    out = tmp_path / "a b.png"
    main(
        ["sample", str(trained), "--n", "2", "--steps", "2", "--out", str(out), "--json", "--quiet"]
    )
    printed = capfd.readouterr()
    assert printed.err == ""
    told = json.loads(printed.out)
    assert (told["images"], told["nfe"], told["wrote"]) == (2, 2, [str(out)])
    main(["list", "--json"])
    assert "ddim" in json.loads(capfd.readouterr().out)["samplers"]
    run = tmp_path / "run"
    train = ["train", "digits", "--net", "widths=8/16,head_width=8,groups=4", "--steps", "2"]
    main([*train, "--batch-size", "8", "--sample-every", "0", "--out", str(run), "--json"])
    printed = capfd.readouterr()
    assert printed.err == ""  # still quiet
    told = json.loads(printed.out)
    assert (told["images"], told["steps"], told["wrote"]) == (16, 2, [str(run)])
    assert 0 < told["loss"] < 10 and told["seconds"] > 0


def test_quiet_says_errors_all_the_same(monkeypatch, capsys):
    monkeypatch.setenv("POCKETDDPM_QUIET", "0")
    with pytest.raises(SystemExit) as stop:
        main(["--quiet", "info", "absent"])
    assert stop.value.code == 2
    assert "no model at absent" in capsys.readouterr().err


# Shells, devices, systems ------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_the_verbs(shell, capsys):
    main(["completion", shell])
    script = capsys.readouterr().out
    for word in ("pocketddpm", "train", "evaluate", "guidance"):
        assert word in script, word


def test_bash_takes_the_completion_script():
    done = subprocess.run(
        [sys.executable, "-m", "pocketddpm", "completion", "bash"], capture_output=True, text=True
    )
    assert subprocess.run(["bash", "-n"], input=done.stdout, text=True).returncode == 0


def test_mps_is_chosen_where_it_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("auto").type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto").type == "cuda"


def test_paths_with_either_separator_are_paths(monkeypatch):
    monkeypatch.setattr("os.sep", "\\")
    monkeypatch.setattr("os.altsep", "/")
    for path in ("no/such", "no\\such"):
        with pytest.raises(DDPMError) as refused:
            load_images(path)
        assert "unknown data set" not in str(refused.value)


def test_nothing_unix_is_imported_at_the_top():
    """`resource`, `fcntl` and the like do not exist on Windows."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [n.name for n in node.names] if isinstance(node, ast.Import) else []
            assert not {"resource", "fcntl", "pwd", "grp", "termios"} & set(names), path
