"""`--plugin FILE.py`: each kind in use, what is refused, and that a checkpoint never runs code."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import pocketddpm as pd
from pocketddpm.catalog import ALL, NETWORKS, SCHEDULES
from pocketddpm.commands.main import main
from pocketddpm.errors import CheckpointError, ConfigError
from pocketddpm.models.checkpoint import load_checkpoint, save_checkpoint
from pocketddpm.plugins import moved

DOCS = Path(__file__).parent.parent / "docs"
SCHEDULE = re.findall(r"```python\n(.*?)```", (DOCS / "plugins.md").read_text(), re.DOTALL)[0]
NETWORK = '''"""One convolution: a network of our own."""
from __future__ import annotations
from dataclasses import dataclass
from torch import nn

CONDITIONAL = False

@dataclass(frozen=True)
class Config:
    side: int = 3

class Net(nn.Module):
    def __init__(self, channels, out, side):
        super().__init__()
        self.conv = nn.Conv2d(channels, out, side, padding=side // 2)

    def forward(self, x_t, t, y=None):
        return self.conv(x_t)

def build(config, *, channels, out_channels, height, width, classes):
    return Net(channels, out_channels, config.side)
'''
SAMPLER = '''"""Jumps to the estimate: a sampler of our own."""
from dataclasses import dataclass
from pocketddpm.diffusion.sampling import State

STOCHASTIC = False

@dataclass(frozen=True)
class Config:
    pass

def order(config):
    return 1

def nfe(steps, config):
    return steps

def sample(denoise, x, grid, noise, config):
    for i, t, ab_t, s, ab_s in grid:
        x = denoise(x, t, ab_t).x0
        yield State(i + 1, s, x, x, i + 1)
'''
DATASET = '''"""Grey squares: a data set of our own."""
import numpy as np
from pocketddpm.data.image_set import ImageSet

FLIP, FIT = False, "pad"

def load(split, *, path=None, image_size=None):
    images = np.full((64, 1, 8, 8), 99, np.uint8)
    return ImageSet(images, None, (), "grey-squares")
'''


@pytest.fixture(autouse=True)
def nothing_stays():
    yield
    for catalog in ALL:
        catalog.plugins.clear()


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def run(*args) -> None:
    main([str(a) for a in args])


def refused(capsys, *args) -> str:
    with pytest.raises(SystemExit) as stop:
        run(*args)
    assert stop.value.code == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("pocketddpm:")]
    return line


def test_all_kinds_together(tmp_path, capsys):
    files = [
        written(tmp_path, "slow_start.py", SCHEDULE),
        written(tmp_path, "one_conv.py", NETWORK),
        written(tmp_path, "jump.py", SAMPLER),
        written(tmp_path, "grey_squares.py", DATASET),
    ]
    plugins = [a for f in files for a in ("--plugin", f)]
    run("list", *plugins)
    printed = capsys.readouterr().out
    assert re.search(r"one-conv +One convolution", printed)
    out = tmp_path / "run"
    run("train", "digits", *plugins, "--data", "grey-squares", "--network", "one-conv",
        "--net", "side=5", "--schedule", "slow-start", "--schedule-options", "power=3",
        "--steps", "2", "--batch-size", "8", "--sample-every", "0", "--out", out)  # fmt: skip
    records = load_checkpoint(out / "last.safetensors").meta["plugins"]
    assert {(r["kind"], r["name"]) for r in records} == {
        ("data set", "grey-squares"),
        ("network", "one-conv"),
        ("schedule", "slow-start"),
    }
    assert all(len(r["sha256"]) == 64 and Path(r["path"]) in files for r in records)
    run("sample", out, *plugins, "--n", "2", "--steps", "3", "--sampler", "jump",
        "--out", tmp_path / "x.png")  # fmt: skip
    model = pd.load(out)
    assert model.network.conv.weight.shape == (1, 1, 5, 5)
    expected = (1 - torch.arange(1001, dtype=torch.float64) / 1000).pow(3)
    assert torch.equal(model.schedule.alpha_bar, expected)
    run("train", "digits", "--resume", out, *plugins, "--steps", "3")


def test_a_model_asks_for_its_plugin_and_never_runs_it(tmp_path, capsys):
    mark = tmp_path / "ran"
    text = f"with open({str(mark)!r}, 'a') as file:\n    file.write('x')\n"
    path = written(tmp_path, "one_conv.py", NETWORK + text)
    out = tmp_path / "run"
    run("train", "digits", "--plugin", path, "--network", "one-conv", "--steps", "1",
        "--batch-size", "8", "--sample-every", "0", "--out", out)  # fmt: skip
    assert mark.read_text() == "x"
    NETWORKS.plugins.clear()
    line = refused(capsys, "sample", out, "--n", "1")
    assert all(value in line for value in ("network", "one-conv", "--plugin", str(path)))
    for verb in (("evaluate", out), ("compare", out, "--out", tmp_path / "c"),
                 ("train", "digits", "--resume", out), ("export", out, "--to", "diffusers"),
                 ("show", "strip", out)):  # fmt: skip
        assert str(path) in refused(capsys, *verb)
    assert mark.read_text() == "x"  # nobody ran it meanwhile
    path.write_text(path.read_text() + "# changed\n")
    pd.load_plugin(path)
    with pytest.warns(UserWarning, match=re.escape(str(path))):
        pd.load(out)


def test_a_damaged_list_of_plugins_is_refused(tmp_path, tiny):
    from pocketddpm.runs.options import RunOptions
    from pocketddpm.runs.run import Session

    Session(tiny, tmp_path / "run", RunOptions(device="cpu", sample_every=0)).run()
    checkpoint = load_checkpoint(tmp_path / "run" / "last.safetensors")
    for value in ([{"kind": "network"}], ["x"]):
        checkpoint.meta["plugins"] = value
        save_checkpoint(tmp_path / "x.safetensors", checkpoint)
        with pytest.raises(CheckpointError, match="plug-ins"):
            pd.load(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.py", "x = 1\n", "network: Config, CONDITIONAL, build"),
        ("a.py", "CONDITIONAL = False\n", "network.*Config, build;"),
        ("a.py", "def load(): pass\n", "data set.* FLIP, FIT;"),
        ("a.py", "import nothing_of_that_name\n", r"a\.py, line 1: ModuleNotFoundError"),
        ("a.py", "x = (\n", r"a\.py, line 1: SyntaxError"),
        ("a.py", "\n\n1 / 0\n", r"a\.py, line 3: ZeroDivisionError"),
        ("cosine.py", SCHEDULE, "schedule.*'cosine'.*cosine\\.py"),
        ("a.txt", SCHEDULE, r"a\.txt.*\.py"),
    ],
)
def test_what_is_no_plugin_is_refused(tmp_path, name, text, message):
    with pytest.raises(ConfigError, match=message):
        pd.load_plugin(written(tmp_path, name, text))
    assert not any(catalog.plugins for catalog in ALL)


def test_a_module_that_has_moved_is_told_by_its_new_name(tmp_path):
    for number, (old, new) in enumerate(moved().items()):
        assert find_spec(f"pocketddpm.{new}"), f"{old} is not at {new}: put it right in MOVED"
        package, _, module = f"pocketddpm.{old}".rpartition(".")
        for kind, line in enumerate((f"import pocketddpm.{old}\n",
                                     f"from pocketddpm.{old} import x\n",
                                     f"from {package} import {module}\n")):  # fmt: skip
            if line.startswith("from pocketddpm import") and hasattr(pd, module):
                continue  # a function has the module's name now
            path = written(tmp_path, f"old_{number}_{kind}.py", line)
            with pytest.raises(ConfigError) as caught:
                pd.load_plugin(path)
            assert str(caught.value).endswith(f"pocketddpm.{old} is now pocketddpm.{new}")


def test_other_missing_modules_are_not_told_to_have_moved(tmp_path):
    for number, line in enumerate(("import schedule\n", "from pocketddpm import times_\n",
                                   "from pocketddpm.data import nothing\n")):  # fmt: skip
        with pytest.raises(ConfigError) as caught:
            pd.load_plugin(written(tmp_path, f"other_{number}.py", line))
        assert "is now" not in str(caught.value)


def test_twice_is_once_but_names_are_unique(tmp_path):
    path = written(tmp_path, "slow_start.py", SCHEDULE)
    assert pd.load_plugin(path) is pd.load_plugin(str(path))
    (tmp_path / "other").mkdir()
    with pytest.raises(ConfigError, match="slow-start"):
        pd.load_plugin(written(tmp_path / "other", "slow_start.py", SCHEDULE))
    assert "slow-start" in SCHEDULES.names()
