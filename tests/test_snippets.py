"""Every command and every snippet of the README and docs/: parsed by the real parser, and run.

A page is read from top to bottom, as a newcomer would: its commands in their order, in one folder,
with the options and values that it names, the shipped models, the real MNIST and Fashion-MNIST.
Only what BUDGETS names is smaller. Commands that NOT_RUN names are parsed only; those of LONG, with
the whole page around them, are run by `make torture`.
"""

import argparse
import contextlib
import os
import re
import runpy
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from torch.distributed.run import get_args_parser

import pocketddpm as pd
from conftest import find_real_data, score_quickly
from pocketddpm.build import build_network
from pocketddpm.catalog import ALL
from pocketddpm.commands.main import VERBS, main
from pocketddpm.commands.options import given
from pocketddpm.commands.parser import parse as parse_command
from pocketddpm.config import Experiment, experiment_options, with_options
from pocketddpm.datasets import cifar10
from pocketddpm.metrics import protocol
from pocketddpm.pictures import save_png
from pocketddpm.presets import get_preset
from pocketddpm.runs import evaluation
from pocketddpm.values import from_dict, parse_options
from test_processes import together

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = ("pocketddpm", "python", "make", "torchrun", "pip", "mkdir")

# What is not run, by a pattern of the command, and why; it is parsed nevertheless.
NOT_RUN = {
    "^make ": "network: it installs (`make -n` shows what it would do), or runs this very suite",
    "^pip ": "network: it installs; its extras are looked up in pyproject.toml",
    "hub:|hf:": "network: the Hugging Face hub (tests/test_hub.py)",
    "--extractor inception": "network: 95 MB of weights (tests/test_extractors.py)",
    "--to web": "network (npm), and serves until Ctrl-C (tests/test_web.py)",
}
# What only `make torture` runs, by a pattern of the command, and how long it takes on one core.
LONG = {
    "^pocketddpm demo": "10 seconds: starts Gradio, and serves until Ctrl-C",
    "^python benchmarks/scaling.py": "40 seconds: it has no budget, and counts 92M parameters",
    "^python benchmarks/soak.py": "45 seconds at the least: 1300 steps",
    "^pocketddpm compare": "12 seconds, and 60 for 94M and 51M parameters: steps of 32 images",
    r"diffunet|conditional|runs/(b|guided)\b": "50 seconds: a step and checkpoints of 94M and 51M",
    "^torchrun --nproc-per-node 4": "40 seconds: processes find features of 60,000 images",
}
# What is smaller, by the first pattern that the words after the program begin with. Budgets and
# numbers of images: no other option or value of a page is changed.
TRAIN = {"steps": 1, "batch-size": 8, "sample-every": 0}
BUDGETS: dict[str, dict[str, Any]] = {
    "train .*--resume": {"steps": 2, "sample-every": 0},
    "train (diffunet|conditional)": TRAIN | {"batch-size": 2},
    "train .*--evaluate-every": TRAIN | {"evaluate-every": 1, "evaluate-n": 20},
    "train ": TRAIN,
    "distill ": {"steps": 1},
    "neon ": {"n": 20, "images": 8},
    "sample runs/(b|c|guided)": {"n": 2, "steps": 4},
    "sample ": {"n": 10},
    "evaluate runs/photos": {"n": 20, "steps": 2},
    "evaluate ": {"n": 20},
    "extractor ": {"epochs": 1},
    "edit restore": {"steps": 2},
    "likelihood .*--draws": {"n": 2, "draws": 100},
    "likelihood ": {"n": 2},
    "compare ": {"n": 2, "steps": 2},
    "--nproc-per-node": {"nproc-per-node": 2},
    "benchmarks/soak.py": {"minutes": 0.1, "kills": 1},
}
SMALLER = {"steps", "epochs", "n", "draws", "batch-size", "nproc-per-node", "minutes", "kills"}
SMALLER |= {"images", "sample-every", "evaluate-every", "evaluate-n"}
BUDGET_NAMES = {"steps": ("epochs", "images", "minutes")}  # one of them, of `train`
RUNS = {
    "mnist": "pocketddpm train mnist --minutes 10 --out runs/mnist",
    "photos": "pocketddpm train folder --data photos --image-size 32 --out runs/photos",
    "small-unet-mnist": "pocketddpm train small-unet-mnist --out runs/c",
}
"""How the runs come about that a page takes for given, by their names; others are as mnist."""
ONCE = {
    *RUNS.values(),
    "pocketddpm train mnist --evaluate-every 1000 --best-by evaluation --out runs/best",
    "pocketddpm evaluate runs/mnist --out score",
}
"""What needs nothing else of its page than RUNS, and is run once for all pages."""
FEATURES = 2000
"""Of so many of 60,000 training images features are found, which takes 20 s for all, and repeated;
torchrun's `evaluate`, which is LONG, finds them all."""
EXTRAS = {"--to onnx": "onnxscript", "diffunet": "deepinv", "pocketddpm demo": "gradio"}
"""What a page needs beside the package, by what its commands hold."""
SAVED = {"plugins.md": "slow_start.py"}
"""Snippets that are a file, of which the page's commands speak."""
PLACES = {"train": ["mnist"], "sample": ["mnist"], "export": ["mnist", "--out", "x"]}
PLACES |= {"import": ["x", "--out", "y"], "edit": ["inpaint", "mnist", "--images", "mnist"]}
"""What stands for what prose leaves out behind a verb: `train --lr 1e-2` means any preset."""


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
    found = re.findall(rf"`((?:{starts}) [^`]*)`", prose)
    return [" ".join(code.split()) for code in found]


def words(line: str) -> tuple[list[str], str | None]:
    """Return the words of a shell line, without its comment, and the file that it is sent to."""
    found = shlex.split(line, comments=True)
    return (found[:-2], found[-1]) if ">" in found else (found, None)


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


def parse(args: list[str], monkeypatch) -> Any:
    """Fail unless the command's own parser takes these words; return a command of ours."""
    program, *rest = args
    if program == "torchrun":  # which takes --n for an option of its own, unless `--` is before
        launched = get_args_parser().parse_args(rest)
        assert (launched.module, launched.training_script) == (True, "pocketddpm"), args
        return parse(["pocketddpm", *launched.training_script_args], monkeypatch)
    if program == "pocketddpm":
        options = [word for word in rest if word != "--quiet"]
        assert options[0] in VERBS, options[0]
        return parse_command(options[0], VERBS, options[1:])
    if program == "python":
        parser = script_parser(ROOT / rest[0], monkeypatch)
        if parser is not None:
            parser.parse_args(rest[1:])
        elif rest[1:]:
            assert "sys.argv[1]" in (ROOT / rest[0]).read_text(), f"{rest[0]} takes no options"
            assert not rest[1].startswith("--"), f"{rest[0]} takes no options"
    elif program == "make":
        subprocess.run(["make", "-n", *rest], cwd=ROOT, check=True, capture_output=True)
    elif program == "pip":
        assert rest[0] in ("install", "wheel"), args
        known = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
        extras = ",".join(re.findall(r"\[([\w,]+)\]", rest[1])).split(",")
        assert set(extras) - {""} <= set(known), rest[1]
    return None


def check_mention(code: str, monkeypatch) -> None:
    """Fail if a command in prose, which may be cut short, has an option or a value that is wrong.

    One option alone may stand for its name (`train --guidance`), unless its value is yes or no.
    """
    args = [arg for arg in words(code)[0] if arg != "..."]
    if args == ["import", "pocketddpm"] or args[:3] == ["python", "-m", "pytest"]:
        return
    if args[0] in PROGRAMS and args[0] != "pocketddpm" and "pocketddpm" not in args:
        parse(args, monkeypatch)
        return
    if args[0] == "torchrun":
        get_args_parser().parse_args(args[1:])
    verb, *rest = args[args.index("pocketddpm") + 1 :] if "pocketddpm" in args else args
    options = [arg for arg in rest if arg.startswith("--")]
    names = {option.removeprefix("--").replace("-", "_") for option in options}
    known = get_type_hints(VERBS[verb])
    known |= {"help": bool, "quiet": bool} | ({"from": str} if verb == "import" else {})
    assert names <= set(known), f"`{code}`: no such option {', '.join(sorted(names - set(known)))}"
    if not options:
        return
    if rest == options and len(rest) == 1:
        choices = {word for kind in get_args(known[names.pop()]) for word in get_args(kind)}
        assert choices.isdisjoint(("yes", "no")), f"`{code}`: {rest[0]} needs yes or no"
        return
    rest = ["20" if arg in ("N", "K") else arg for arg in rest]
    if rest[0].startswith("--"):
        rest = [*PLACES[verb], *rest]
    command = parse(["pocketddpm", verb, *rest], monkeypatch)
    if verb == "train":
        own = {k: v for k, v in given(command).items() if k in experiment_options()}
        experiment = with_options(get_preset(command.preset), own)
        experiment = from_dict(Experiment, experiment.to_dict())
        if command.net is not None:
            build_network(experiment, (1, 28, 28), 10)
    elif verb == "sample" and command.model == "mnist":
        pd.load("mnist").plan(
            sampler=command.sampler,
            steps=command.steps,
            spacing=command.spacing,
            options=parse_options(command.sampler_options or ""),
        )


def budgeted(args: list[str]) -> list[str]:
    """Return a command's words with the values of BUDGETS; those of torchrun are its own."""
    if args[0] == "torchrun":
        ours = args.index("pocketddpm")
        return [*_budgeted(args[:ours]), *budgeted(args[ours:])]
    return _budgeted(args)


def _budgeted(args: list[str]) -> list[str]:
    line = " ".join(args[1:])
    found = next((new for pattern, new in BUDGETS.items() if re.match(pattern, line)), {})
    left = {f"--{name}": str(value) for name, value in found.items()}
    gone = {f"--{name}" for new in found for name in BUDGET_NAMES.get(new, ()) if "train" in args}
    kept, rest = [], iter(args)
    for arg in rest:
        if arg in left:
            kept += [arg, left.pop(arg)]
        elif arg not in gone:
            kept.append(arg)
            continue
        next(rest)  # its value
    return [*kept, *(word for option in left.items() for word in option)]


# Running ------------------------------------------------------------------------------------------


def run(line: str) -> None:
    """Run a command with the budget of the tables: ours in this process, others as a shell does."""
    args, sent_to = words(line)
    args = [os.path.expanduser(arg) for arg in budgeted(args)]
    if args[:2] == ["pocketddpm", "demo"]:
        serve([sys.executable, "-m", *args])
        return
    if args[0] != "pocketddpm":
        if args[0] == "torchrun":
            torchrun(args[1:])
        else:
            begin([sys.executable, str(ROOT / args[1]), *args[2:]] if args[0] == "python" else args)
        return
    with contextlib.ExitStack() as stack:
        if sent_to is not None:
            file = stack.enter_context(open(os.path.expanduser(sent_to), "w"))
            stack.enter_context(contextlib.redirect_stdout(file))
        try:
            main(args[1:])
        except SystemExit as stop:
            assert not stop.code, f"{args}: exit status {stop.code}"


def begin(args: list[str]) -> None:
    """Run another program, as a shell does."""
    done = subprocess.run(args, env=os.environ | {"PET_MASTER_PORT": str(free_port())})
    assert not done.returncode, f"{args}: exit status {done.returncode}"


def torchrun(args: list[str]) -> None:
    begin([sys.executable, "-m", "torch.distributed.run", *args])


def serve(args: list[str]) -> None:
    """Start what serves until Ctrl-C; when it has said where, end it so."""
    environment = os.environ | {"BROWSER": "true"}  # the program of that name: opens nothing
    with subprocess.Popen(args, env=environment, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        said = next((line for line in server.stdout if "http://" in line), None)
        server.send_signal(signal.SIGINT)
    assert said is not None and server.returncode == 130, f"{args}: {server.returncode}"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def among(table: dict[str, str], line: str) -> bool:
    """Return whether a command has one of a table's patterns."""
    return any(re.search(pattern, line) for pattern in table)


class World:
    """What all pages share: pictures, arrays, and trainings of which several pages speak."""

    def __init__(self, home: Path) -> None:
        self.home, self.made = home, dict[str, Path]()
        draw = np.random.default_rng(2)
        for k in range(240):
            folder = home / "photos" / ("test" if k % 2 else "train") / f"class-{k % 4 // 2}"
            save_png(folder / f"{k}.png", draw.integers(0, 256, (1, 40, 36), np.uint8))
        for k in range(20):
            save_png(home / "pngs" / f"{k}.png", draw.integers(0, 256, (1, 28, 28), np.uint8))
        np.savez(home / "samples.npz", images=draw.integers(0, 256, (20, 28, 28, 1), np.uint8))

    def make(self, line: str, out: Path) -> None:
        """Put what a command of ONCE makes into the folder `out`; it is run at the first call."""
        if line not in self.made:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(self.home)
                run(line)
            self.made[line] = self.home / words(line)[0][-1]
        shutil.copytree(self.made[line], out)

    def cifar10(self) -> None:
        """Generate files of exactly its format: the photographs are not at hand."""
        folder = self.home / "cache" / cifar10.FOLDER
        if not folder.exists():
            folder.mkdir(parents=True)
            draw = np.random.default_rng(3)
            for name in (*cifar10.FILES["train"], *cifar10.FILES["test"]):
                records = draw.integers(0, 256, (10_000, cifar10.RECORD_BYTES), np.uint8)
                records[:, 0] %= 10
                (folder / name).write_bytes(records.tobytes())


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The world, removed at the end: a run of 94 million parameters has 2 GB."""
    home = tmp_path_factory.mktemp("world")
    yield World(home)
    shutil.rmtree(home)


@pytest.fixture(scope="module")
def small_scores():
    """Features of 60,000 training images are those of FEATURES of them, repeated."""
    found = protocol.features_together

    def features(extractor, images, advance):
        if len(images) < 60_000:
            return found(extractor, images, advance)
        return found(extractor, images[:FEATURES], None)[torch.arange(len(images)) % FEATURES]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "features_together", features)
        patch.setattr(evaluation, "MOST", FEATURES)
        score_quickly(patch)
        yield


@pytest.fixture
def forks(tmp_path, monkeypatch):
    """Processes of torchrun are forked, and import nothing; test_train.py starts torchrun."""

    def fork(args: list[str]) -> None:
        asked = get_args_parser().parse_args(args)
        count, words = int(asked.nproc_per_node), list(asked.training_script_args)
        together(count, lambda rank: main(words), tmp_path)

    monkeypatch.setattr(sys.modules[__name__], "torchrun", fork)


@pytest.fixture
def here(tmp_path, world, monkeypatch):
    """An empty folder, a home and a cache; runs are removed at the end."""
    (tmp_path / "home").mkdir()
    (tmp_path / "page").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("POCKETDDPM_CACHE", str(world.home / "cache"))
    monkeypatch.chdir(tmp_path / "page")
    yield tmp_path / "page"
    shutil.rmtree(tmp_path / "page")
    for catalog in ALL:
        catalog.plugins.clear()


def furnish(here: Path, world: World, text: str) -> None:
    """Put what a page takes for given, and does not make itself, into its folder."""
    for name in ("photos", "my/photos", "my/faces"):
        shutil.copytree(world.home / "photos", here / name)
    shutil.copytree(world.home / "pngs", here / "pngs")
    made = set(re.findall(r"""out(?: |=")(?:runs/)?([\w.-]+)(?![\w/-])""", text))
    if "samples.npz" not in made:
        shutil.copy(world.home / "samples.npz", here)
    for name in set(re.findall(r"runs/([\w-]+)", text)) - made:
        world.make(RUNS.get(name, RUNS["mnist"]), here / "runs" / name)


COMMANDS = [page for page in PAGES if items(page.read_text())]
WITH_LONG = [p for p in COMMANDS if any(among(LONG, line) for _, line in items(p.read_text()))]


@pytest.mark.parametrize("page", COMMANDS, ids=lambda page: page.name)
def test_every_command_parses(page, monkeypatch):
    for kind, code in items(page.read_text()):
        if kind == "shell":
            parse(words(code)[0], monkeypatch)


@pytest.mark.parametrize("page", COMMANDS, ids=lambda page: page.name)
def test_every_command_and_snippet_runs(page, world, small_scores, forks, here, capfd):
    found = [(kind, code) for kind, code in items(page.read_text()) if not among(LONG, code)]
    run_all(page.name, found, world, here, capfd)


@pytest.mark.torture
@pytest.mark.parametrize("page", WITH_LONG, ids=lambda page: page.name)
def test_every_page_with_a_long_command_runs_whole(page, world, here, capfd):
    run_all(page.name, items(page.read_text()), world, here, capfd)


def run_all(page: str, found: list[tuple[str, str]], world: World, here: Path, capfd) -> None:
    """Run commands and snippets of a page, in their order, in the folder `here`."""
    todo = [(kind, code) for kind, code in found if not among(NOT_RUN, code)]
    text = "\n".join(code for _, code in todo)
    if "mnist" in text:
        find_real_data()
    for pattern, module in EXTRAS.items():
        if pattern in text:
            pytest.importorskip(module)
    if "cifar10" in text:
        world.cifar10()
    furnish(here, world, text)
    for kind, code in todo:
        try:
            if kind == "python":
                exec(compile(code, page, "exec"), {"__name__": "snippet"})
                if page in SAVED:
                    Path(SAVED[page]).write_text(code)
            elif (line := shlex.join(words(code)[0])) in ONCE:
                world.make(line, here / words(code)[0][-1])
            else:
                run(code)
        except (Exception, SystemExit) as error:
            said = "".join(capfd.readouterr())[-2000:]
            raise AssertionError(f"{page}: {code}: {error!r}\n{said}") from error


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_and_value_in_prose_is_right(page, monkeypatch):
    for code in inline(page.read_text()):
        check_mention(code, monkeypatch)


@pytest.mark.parametrize("verb", VERBS)
def test_the_examples_of_the_help_parse(verb, monkeypatch):
    examples = re.findall(r"^ *Example: (.*)$", VERBS[verb].__doc__ or "", re.MULTILINE)
    assert examples
    for example in examples:
        parse(words(example)[0], monkeypatch)


def test_the_tables_speak_of_commands_that_there_are_and_of_budgets_only():
    lines = [c for page in PAGES for kind, c in items(page.read_text()) if kind == "shell"]
    assert len(lines) > 60
    assert all(why.startswith("network") for why in NOT_RUN.values())
    for pattern in (*NOT_RUN, *LONG):
        assert any(re.search(pattern, line) for line in lines), f"no command has {pattern}"
    for pattern, new in BUDGETS.items():
        assert any(re.search(f"^[a-z]+ {pattern}", line) for line in lines), pattern
        assert set(new) <= SMALLER, pattern


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


def test_the_extras_are_documented():
    project = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1]
    extras = re.findall(r"^([\w-]+) = \[", project.split("\n[")[0], re.MULTILINE)
    assert len(extras) > 8
    text = (ROOT / "docs" / "start.md").read_text().split("| extra |")[1].split("\n\n")[0]
    named = " ".join(row.split("|")[1] for row in text.splitlines()[2:])
    assert set(re.findall(r"`(.+?)`", named)) == set(extras)


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
        wrong = (SystemExit, AssertionError, subprocess.CalledProcessError, pd.DDPMError)
        with pytest.raises(wrong):
            parse(words(line)[0], monkeypatch)
    for code in (
        "train --minuts 3",
        "train --progressive",
        "train --lr 1e-2 --center",
        "train --net width=48/96",
        "train --decay square --lr 1",
        "sample --sampler unpic",
        "sample --spacing log_snr",
        "pocketddpm evaluate x --nn 3",
        "python benchmarks/soak.py --x",
    ):
        with pytest.raises((SystemExit, AssertionError, pd.DDPMError)):
            check_mention(code, monkeypatch)
    with pytest.raises(AssertionError, match="no such script"):
        parse(words("python benchmarks/gone.py")[0], monkeypatch)
