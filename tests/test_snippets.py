"""Every command and every snippet of the README and docs/: parsed by the real parser, and run.

A page is read from top to bottom, as a newcomer would: its commands in their order, in one folder,
each with the budget that BUDGETS gives it. MNIST, Fashion-MNIST and CIFAR-10 are stand-ins of a few
hundred images, so that a page takes seconds; commands that NOT_RUN names are parsed only.
"""

import argparse
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import tyro
from torch.distributed.run import get_args_parser

import pocketddpm as pd
from pocketddpm.commands.main import MARKERS, Command, main
from pocketddpm.data.image_set import ImageSet
from pocketddpm.pictures import save_png

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
VERBS = {args[1].name: args[0] for args in map(get_args, get_args(Command))}
PROGRAMS = ("pocketddpm", "python", "make", "torchrun", "pip")

# What is not run, by a pattern of the command, and why; it is parsed nevertheless.
NOT_RUN = {
    "^make ": "make -n shows what it would do; it installs, or runs this very suite",
    "^pip ": "installs; its extras are looked up in pyproject.toml",
    "^torchrun ": "several processes: tests/test_processes.py",
    "^python ": "measurements of minutes to hours; parsed by their own parsers",
    "^pocketddpm demo": "serves until Ctrl-C: tests/test_demo_browser.py",
    "--to web": "needs npm and serves until Ctrl-C: tests/test_web.py",
    "hub:|hf:": "needs the Hugging Face hub: tests/test_hub.py",
    "--extractor inception": "needs 95 MB of weights: tests/test_extractors.py",
    "train diffunet-mnist": "94 million parameters: tests/test_networks_systems.py",
    "^pocketddpm compare": "starts a process for each model: tests/test_compare.py",
    "completion ": "writes to the home folder: tests/test_comfort.py",
}
TINY = "widths=8/16,head_width=8"
TRAIN = {"steps": 2, "batch-size": 8, "sample-every": 0, "precision": "float32"}
SAMPLE = {"n": 10, "steps": 2}
# What takes the place of a command's own options: the first pattern that its words begin with.
BUDGETS: dict[str, dict[str, Any]] = {
    "train .*--resume": {},
    "train small-unet": TRAIN | {"net": "widths=4/8/8"},
    "train conditional": TRAIN | {"net": "widths=8/16,attention=0,heads=1,head_width=8"},
    "train (folder|unet-mnist|digits)": TRAIN | {"net": f"{TINY},groups=4"},
    "train .*--evaluate-every": TRAIN | {"net": TINY, "evaluate-every": 2, "evaluate-n": 20},
    "train ": TRAIN | {"net": TINY},
    "distill ": {"steps": 2},
    "sample mnist": {"n": 10},
    "sample ": SAMPLE,
    "evaluate samples.npz|evaluate ./pngs": {"n": 20},
    "evaluate ": {"n": 20, "steps": 1},
    "extractor ": {"epochs": 1},
    "likelihood .*both": {"n": 2, "draws": 2, "flow-steps": 4},
    "likelihood ": {"n": 2, "draws": 2},
    "edit inpaint": {"jump-count": 1, "steps": 10},
    "edit ": {"steps": 2},
}
BUDGET_NAMES = {"steps": ("epochs", "images", "minutes")}  # one of them, of `train`
SAVED = {"plugins.md": "slow_start.py"}
"""Snippets that are a file, of which the page's commands speak."""


# The text -----------------------------------------------------------------------------------------


def items(text: str) -> list[tuple[str, str]]:
    """Return ('shell', line) and ('python', code) in the page's order."""
    found: list[tuple[str, str]] = []
    fence, code = None, ""  # the open fence's language, and what it holds so far
    for line in text.splitlines():
        if line.startswith("```"):
            if fence == "python":
                found.append(("python", code))
            fence, code = (line[3:], "") if fence is None else (None, "")
        elif fence == "python":
            code += f"{line}\n"
        elif fence is not None or line.startswith("    "):
            command = line.strip().removeprefix("$ ")
            if command.startswith(tuple(f"{program} " for program in PROGRAMS)):
                found.append(("shell", command))
    return found


def inline(text: str) -> list[str]:
    """Return what is set as code within prose and tables, and begins as a command does."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    starts = "|".join((*PROGRAMS, *VERBS))
    return re.findall(rf"`((?:{starts}) [^`\n]*)`", prose)


def words(line: str) -> list[str]:
    """Return the words of a shell line, without its comment and redirection."""
    return shlex.split(line.split(" > ")[0], comments=True)


# Parsing ------------------------------------------------------------------------------------------


class Parsed(Exception):
    """Raised in place of running a script, with its parser."""


def script_parser(path: Path, monkeypatch) -> argparse.ArgumentParser | None:
    """Return the parser of a script of ours, which is stopped there; None if it has none."""
    assert path.exists(), f"no such script: {path}"
    if "ArgumentParser" not in path.read_text():
        return None

    def stop(self, *args, **kwargs):
        raise Parsed(self)

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setattr(sys, "argv", [str(path)])
        patch.setattr(sys, "path", [str(path.parent), *sys.path])
        with pytest.raises(Parsed) as stopped:
            runpy.run_path(str(path), run_name="__main__")
    return stopped.value.args[0]


def parse(args: list[str], monkeypatch) -> None:
    """Fail unless the command's own parser takes these words."""
    program, *rest = args
    if program == "torchrun":  # which takes --n for an option of its own, unless `--` is before
        given = get_args_parser().parse_args(rest)
        assert (given.module, given.training_script) == (True, "pocketddpm"), args
        parse(["pocketddpm", *given.training_script_args], monkeypatch)
    elif "pocketddpm" in rest and program == "python":
        parse(["pocketddpm", *rest[rest.index("pocketddpm") + 1 :]], monkeypatch)
    elif program == "pocketddpm":
        options = [word for word in rest if word != "--quiet"]
        tyro.cli(Command, prog="pocketddpm", args=options, config=MARKERS)  # type: ignore[arg-type]
    elif program == "python":
        parser = script_parser(ROOT / rest[0], monkeypatch)
        assert parser is not None or not rest[1:], f"{rest[0]} takes no options"
        if parser is not None:
            parser.parse_args(rest[1:])
    elif program == "make":
        subprocess.run(["make", "-n", *rest], cwd=ROOT, check=True, capture_output=True)
    else:
        assert program == "pip" and rest[0] == "install", args
        known = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
        extras = ",".join(re.findall(r"\[([\w,]+)\]", rest[1])).split(",")
        assert set(extras) - {""} <= set(known), rest[1]


def check_options(code: str, monkeypatch) -> None:
    """Fail if a command in prose, which may be cut short, has an option that there is not."""
    args = re.split(r"[\s=]+", code)
    if "pocketddpm" in args:
        args = args[args.index("pocketddpm") + 1 :]
    if not args:
        return
    if args[0] == "python" and args[1].endswith(".py"):
        parser = script_parser(ROOT / args[1], monkeypatch)
        known = set() if parser is None else set(parser._option_string_actions)
    elif args[0] in VERBS:
        known = {f"--{f.name.replace('_', '-')}" for f in fields(VERBS[args[0]])}
        known |= {"--help", "--quiet"}
        known |= {"--from"} if args[0] == "import" else set()
    else:
        return
    given = {arg for arg in args if arg.startswith("--")}
    assert given <= known, f"`{code}`: no such option {', '.join(sorted(given - known))}"


def budgeted(args: list[str]) -> list[str]:
    """Return a verb and its words, with the options of BUDGETS in place of their own."""
    line = " ".join(args)
    options = next((new for pattern, new in BUDGETS.items() if re.match(pattern, line)), {})
    gone = {f"--{name}" for name in options}
    if "train" in args:
        gone |= {f"--{other}" for name in options for other in BUDGET_NAMES.get(name, ())}
    kept, rest = [], iter(args)
    for arg in rest:
        if arg in gone:
            next(rest)  # its value
        else:
            kept.append(arg)
    return [*kept, *(str(word) for name, value in options.items() for word in (f"--{name}", value))]


# Running ------------------------------------------------------------------------------------------


def stand_in(name: str, shape: tuple[int, int, int]):
    """Return a data set's `load`, of 400 and 100 images of noise in ten brightnesses."""

    def load(split, *, path=None, image_size=None):
        n = 400 if split == "train" else 100
        draw = np.random.default_rng(n)
        labels = np.arange(n) % 10
        images = draw.integers(0, 26 * (labels + 1), (*shape, n)).astype(np.uint8)
        return ImageSet(np.moveaxis(images, -1, 0).copy(), labels, tuple("0123456789"), name)

    return load


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """What pages take for given: runs, grey photographs in classes, samples; small data sets."""
    home = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POCKETDDPM_OFFLINE", "1")
        patch.setenv("POCKETDDPM_CACHE", str(home / "cache"))
        grey, colour = (1, 28, 28), (3, 32, 32)
        for name, shape in (("mnist", grey), ("fashion-mnist", grey), ("cifar10", colour)):
            module = f"pocketddpm.datasets.{name.replace('-', '_')}"
            patch.setattr(f"{module}.load", stand_in(name, shape))
        draw = np.random.default_rng(2)
        for k in range(240):
            folder = home / "photos" / ("test" if k % 2 else "train") / f"class-{k % 4 // 2}"
            save_png(folder / f"{k}.png", draw.integers(0, 256, (1, 40, 36), np.uint8))
        for k in range(20):
            save_png(home / "pngs" / f"{k}.png", draw.integers(0, 256, (1, 28, 28), np.uint8))
        np.savez(home / "samples.npz", images=draw.integers(0, 256, (20, 28, 28, 1), np.uint8))
        patch.chdir(home)
        run(["train", "mnist", "--out", "runs/mnist"])
        run(["train", "folder", "--data", "photos", "--image-size", "32", "--out", "runs/photos"])
        yield home


def run(args: list[str]) -> None:
    """Run the command line in this process, with the budget of the tables."""
    try:
        main(budgeted(args))
    except SystemExit as stop:
        assert not stop.code, f"{args}: exit status {stop.code}"


def reason(line: str) -> str | None:
    """Return why a command is not run, or None."""
    return next((why for pattern, why in NOT_RUN.items() if re.search(pattern, line)), None)


def furnish(here: Path, world: Path, text: str) -> None:
    """Put what a page takes for given, and does not make itself, into its folder."""
    lines = [line for kind, line in items(text) if kind == "shell" and not reason(line)]
    makers = "\n".join([*lines, *(code for kind, code in items(text) if kind == "python")])
    made = set(re.findall(r"""out(?: |=")runs/([\w-]+)(?![\w/-])""", makers))
    for name in set(re.findall(r"runs/([\w-]+)", text)) - made:
        run_folder = world / "runs" / ("photos" if name == "photos" else "mnist")
        shutil.copytree(run_folder, here / "runs" / name)
    for name in ("photos", "my/photos", "my/faces"):
        shutil.copytree(world / "photos", here / name)
    shutil.copytree(world / "pngs", here / "pngs")
    if not any("--out samples.npz" in line for line in lines):
        shutil.copy(world / "samples.npz", here)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if items(page.read_text())], ids=lambda page: page.name
)
def test_every_command_and_snippet_runs(page, world, tmp_path, monkeypatch, capsys):
    text = page.read_text()
    if "--to onnx" in text:
        pytest.importorskip("onnxscript", reason="needs onnx: pip install 'pocketddpm[onnx]'")
    furnish(tmp_path, world, text)
    monkeypatch.chdir(tmp_path)
    for kind, code in items(text):
        try:
            if kind == "python":
                exec(compile(code, page.name, "exec"), {"__name__": "snippet"})
                if page.name in SAVED:
                    Path(SAVED[page.name]).write_text(code)
                continue
            args = words(code)
            parse(args, monkeypatch)
            if reason(code) is None:
                run(args[1:])
        except (Exception, SystemExit) as error:
            said = "".join(capsys.readouterr())[-2000:]
            raise AssertionError(f"{page.name}: {code}: {error!r}\n{said}") from error


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_in_prose_exists(page, monkeypatch):
    for code in inline(page.read_text()):
        check_options(code, monkeypatch)


@pytest.mark.parametrize("verb", VERBS)
def test_the_examples_of_the_help_parse(verb, monkeypatch):
    examples = re.findall(r"^ *Example: (.*)$", VERBS[verb].__doc__ or "", re.MULTILINE)
    assert examples
    for example in examples:
        parse(words(example), monkeypatch)


def test_the_tables_speak_of_commands_that_there_are():
    lines = [c for page in PAGES for kind, c in items(page.read_text()) if kind == "shell"]
    assert len(lines) > 60
    for pattern in (*NOT_RUN, *BUDGETS):
        assert any(re.search(pattern, line) for line in lines), f"no command has {pattern}"


def test_every_paper_that_the_package_cites_is_in_the_bibliography():
    rows: dict[str, str] = {}  # by number
    for row in (ROOT / "docs" / "bibliography.md").read_text().splitlines():
        rows |= dict.fromkeys(re.findall(r"\[arXiv ([\d.]+)\]", row), row)
    cited: set[str] = set()
    for path in (ROOT / "src").rglob("*.py"):
        cited |= set(re.findall(r"\b\d{4}\.\d{5}\b", path.read_text()))
    assert cited == set(rows)
    for number, row in rows.items():
        files = re.findall(r"\]\(\.\./([^)]+)\)", row)
        assert any(number in (ROOT / name).read_text() for name in files), f"{number}: {files}"


def test_the_public_names_are_documented():
    text = (ROOT / "docs" / "api.md").read_text()
    for name in pd.__all__:
        assert f"`{name}" in text


def test_what_is_wrong_is_found(monkeypatch):
    """The parsers refuse what a careless edit would leave behind."""
    for line in (
        "pocketddpm sample runs/mnist --stepz 3",
        "pocketddpm smaple runs/mnist",
        "python benchmarks/soak.py --hours 1",
        "python benchmarks/scaling.py --fast",
        "torchrun --nproc-per-node 2 -m -- pocketddpm train mnist --minuts 3",
        "torchrun --nproc-per-node 2 -m pocketddpm sample runs/mnist --n 3",
        "make tset",
        "pip install 'pocketddpm[dmeo]'",
    ):
        with pytest.raises((SystemExit, AssertionError, subprocess.CalledProcessError)):
            parse(words(line), monkeypatch)
    for code in (
        "train --minuts 3",
        "pocketddpm evaluate x --nn 3",
        "python benchmarks/soak.py --x",
    ):
        with pytest.raises(AssertionError, match="no such option"):
            check_options(code, monkeypatch)
    with pytest.raises(AssertionError, match="no such script"):
        parse(words("python benchmarks/gone.py"), monkeypatch)
