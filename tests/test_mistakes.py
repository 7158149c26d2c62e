"""Sixty mistakes that people make: each answer has at most three lines, a way out, and exit 2.

And the help of every verb: its groups, its width, its defaults.
"""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from pocketddpm.commands.main import VERBS, main
from pocketddpm.commands.parser import arguments, help_text
from pocketddpm.config import experiment_options
from pocketddpm.presets import CHOSEN, PRESETS, follows_rule, get_preset

# What is typed, and what its answer must hold: what was wrong, and what to type instead.
MISTAKES: dict[str, tuple[str, ...]] = {
    # the verb
    "": ("pocketddpm sample mnist", "--help"),
    "sampel mnist": ("sampel", "sample"),
    "trian mnist": ("trian", "train"),
    "eval mnist": ("eval", "evaluate"),
    "generate mnist": ("generate", "sample"),
    "inpaint mnist": ("inpaint", "edit"),
    "mnist": ("pocketddpm train mnist", "sample mnist"),
    "runs/mnist": ("sample runs/mnist",),
    "--steps 3 train mnist": ("--steps", "after the verb"),
    "Train mnist": ("Train", "train"),
    # what a verb works on
    "train": ("PRESET", "pocketddpm train mnist"),
    "sample": ("MODEL", "pocketddpm sample"),
    "train minst": ("minst", "mnist"),
    "train MNIST": ("MNIST", "mnist"),
    "train cifar": ("cifar", "cifar10"),
    "train ./photos": ("./photos", "folder", "--data ./photos"),
    "train photos": ("photos", "folder", "--data photos"),
    "train /my/folder": ("/my/folder", "folder", "--data /my/folder"),
    "train folder": ("--data",),
    "train folder photos": ("photos", "--data photos"),
    "train folder --data ./absent": ("absent",),
    "sample runs/absent": ("runs/absent", "mnist"),
    "sample minst": ("minst", "mnist"),
    "sample photos": ("photos",),
    "sample text.txt": ("text.txt",),
    "info absent": ("absent",),
    "edit inpint mnist --images mnist": ("inpint", "inpaint"),
    "edit inpaint mnist": ("--images",),
    "edit inpaint mnist --images digits --box 4,4": ("TOP,LEFT,BOTTOM,RIGHT", "4,4"),
    "edit inpaint mnist --images digits": ("--mask", "--box"),
    "edit restore mnist --images digits": ("--task", "super-resolution"),
    "edit restore mnist --images digits --task deblur": ("deblur", "blur"),
    "edit img2img mnist --images digits --task blur": ("--task", "restore", "img2img"),
    "restore mnist": ("restore", "edit"),
    "show dat mnist": ("'dat'", "data"),
    "show data minst": ("minst", "mnist"),
    "list sampler": ("sampler", "samplers"),
    "compare": ("MODEL", "pocketddpm compare"),
    "export mnist": ("--to", "pocketddpm export"),
    "export mnist --to pytorch": ("pytorch", "onnx"),
    "import x --from keras": ("keras", "diffusers"),
    "evaluate photos": ("photos", "--data"),
    "completion csh": ("csh", "bash"),
    # options
    "sample mnist --step 10": ("--step", "--steps"),
    "train mnist --epoch 3": ("--epoch", "--epochs"),
    "train mnist --learning-rate 1e-3": ("--learning-rate", "--lr"),
    "train mnist --batch 32": ("--batch", "--batch-size"),
    "train mnist --optimizer adam": ("--optimizer", "--optimiser"),
    "train mnist --batchsize 32": ("--batchsize", "--batch-size"),
    "train mnist --gpu": ("--gpu", "--device"),
    "sample mnist -n 10": ("-n", "--n"),
    "sample mnist --num-samples 10": ("--num-samples", "--n"),
    "sample mnist --output a.png": ("--output", "--out"),
    "sample mnist --cfg 2": ("--cfg", "--guidance"),
    "sample mnist --minutes 3": ("--minutes", "train"),
    "sample mnist --label 3": ("--label", "--labels"),
    "sample mnist 10": ("10", "--n 10"),
    "sample mnist a.png": ("a.png", "--out a.png"),
    "sample mnist --labels 3 7": ("7", "--help"),
    # values
    "train mnist --steps": ("--steps", "N"),
    "train mnist --steps ten": ("--steps", "whole number", "ten"),
    "train mnist --steps 1e4": ("--steps", "whole number", "1e4"),
    "train mnist --steps -5": ("--steps", "> 0", "-5"),
    "train mnist --minutes 0": ("--minutes", "> 0"),
    "train mnist --minutes five": ("--minutes", "number", "five"),
    "train mnist --lr 0,001": ("--lr", "number", "0,001"),
    "train mnist --flip": ("--flip", "yes"),
    "train mnist --flip maybe": ("--flip", "maybe", "yes"),
    "train mnist --steps 5 --epochs 2": ("--steps 5", "--epochs 2"),
    "train mnist --image-size 32,32": ("32,32", "28x36"),
    "train mnist --classes 11": ("11", "0, 1"),
    "train mnist --precision fp8": ("--precision", "fp8", "bf16"),
    "train mnist --device gpu": ("gpu", "cuda"),
    "train mnist --net width=3": ("width", "widths"),
    "train mnist --network unett": ("unett", "unet"),
    "train mnist --resume absent": ("absent",),
    "sample mnist --labels 10": ("10", "0, 1"),
    "sample mnist --labels seven": ("seven", "0, 1"),
    "sample mnist --n 100000000000": ("--n", "GB", "--seed"),
    "sample mnist --n 0": ("0", ">= 1"),
    "sample mnist --n 1.5": ("--n", "whole number", "1.5"),
    "sample mnist --steps 5000": ("1..1000", "5000"),
    "sample mnist --sampler dimm": ("dimm", "ddim"),
    "sample mnist --out a.jpg": ("a.jpg", ".png"),
    "sample mnist --out here.png": ("here.png", "--overwrite"),
    "sample mnist --seed abc": ("--seed", "whole number", "abc"),
    "sample mnist --json=yes": ("--json", "no value"),
    "sample mnist --guidance two": ("--guidance", "number", "two"),
    "sample mnist --plugin absent.py": ("absent.py",),
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with pictures, a text file and a picture in the way."""
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "photos" / "0.png")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "here.png")
    (tmp_path / "text.txt").write_text("no model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_are_sixty_mistakes_at_least():
    assert len(MISTAKES) >= 60


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_costs_three_lines_and_shows_a_way_out(typed, here, capsys, request):
    if "mnist --image" in typed or "--classes" in typed or "data minst" in typed:
        request.getfixturevalue("real_data")
    before = sorted(here.rglob("*"))
    with pytest.raises(SystemExit) as stop:
        main(typed.split())
    captured = capsys.readouterr()
    said = captured.err.strip()
    assert (stop.value.code, captured.out) == (2, "")
    assert said.startswith("pocketddpm: ") and len(said.splitlines()) == 1, said
    assert len(said) <= 300, said  # three lines of a wide terminal
    assert all(part in said for part in MISTAKES[typed]), said
    assert sorted(here.rglob("*")) == before, "something was written"


# Help ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [60, 100, 300])
@pytest.mark.parametrize("verb", VERBS)
def test_help_fits_the_terminal_and_names_its_groups(verb, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    text = help_text(verb, VERBS[verb], everything=True)
    usage, *_ = text.split("\n\n")
    assert usage.startswith(f"usage: pocketddpm {verb} ")
    lines = [line for line in text.splitlines() if not line.startswith("Example: ")]
    assert max(map(len, lines)) <= max(min(columns, 100), 60), max(lines, key=len)
    for argument in arguments(VERBS[verb]):
        if not argument.positional:
            group = text.split(f"\n\n{argument.group}:\n")[1].split("\n\n")[0]
            assert re.search(rf"^  {argument.name}( |$)", group, re.MULTILINE), argument.name
    assert "None" not in text and "typing" not in text


def test_everyday_options_come_first_and_the_others_on_request(capsys):
    main(["train", "--help"])
    short = capsys.readouterr().out
    main(["train", "--help-all"])
    whole = capsys.readouterr().out
    for option in ("--data", "--minutes", "--out"):
        assert f"\n  {option} " in short and f"\n  {option} " in whole
    assert "--p-mean" not in short and "--help-all" in short
    assert "\n  --p-mean " in whole
    groups = re.findall(r"^([a-z ]+):$", whole, re.MULTILINE)
    assert groups == [
        *("data", "budget", "output", "network", "noise and loss", "optimiser", "measuring"),
        "machine",
    ]


@pytest.mark.parametrize("preset", PRESETS)
def test_help_shows_the_defaults_of_the_preset_that_is_named(preset, capsys):
    main(["train", preset, "--help-all"])
    said = " ".join(capsys.readouterr().out.split())
    experiment = get_preset(preset)
    for name in ("lr", "batch_size", "network", "schedule", "prediction", "minutes", "epochs"):
        place = experiment_options()[name]
        value = getattr(getattr(experiment, place.part), place.field.name)
        value = CHOSEN.get(name, value) if follows_rule(preset) else value
        row = re.findall(rf"--{name.replace('_', '-')} [A-Z{{].*?(?= --[a-z])", said)[0]
        shown = f"{value:g}" if isinstance(value, float) else value
        assert ("(default: " in row) == (value is not None), row
        assert value is None or f"(default: {shown})" in row, row


def test_help_names_what_was_chosen(capsys):
    main(["edit", "inpaint", "--help"])
    assert capsys.readouterr().out.startswith("usage: pocketddpm edit inpaint MODEL --images DATA")
    main(["help", "sample"])
    assert capsys.readouterr().out.startswith("usage: pocketddpm sample MODEL")


def test_the_overview_has_a_line_or_two_for_each_verb(capsys):
    main(["--help"])
    said = capsys.readouterr().out
    for verb in VERBS:
        assert re.search(rf"^  {verb} +[A-Z]", said, re.MULTILINE), verb
    assert len(said.splitlines()) < 60


def test_words_mean_what_they_did(tmp_path):
    """Equals signs, underscores, negative numbers, lists, what stands between, and `--`."""
    from pocketddpm.commands.parser import parse

    train = parse("train", VERBS, ["--low=-2", "mnist", "--high", "-1e-3", "--image_size", "32"])
    assert (train.preset, train.low, train.high, train.image_size) == ("mnist", -2.0, -1e-3, "32")
    demo = parse("demo", VERBS, ["--port", "8000", "a", "--no-browser", "b"])
    assert ([str(m) for m in demo.models], demo.port, demo.no_browser) == (["a", "b"], 8000, True)
    edit = parse("edit", VERBS, ["inpaint", "m", "--images", "a.png", "b.png", "--seed", "-3"])
    assert (edit.images, edit.seed) == (("a.png", "b.png"), -3)
    twice = parse("sample", VERBS, ["m", "--n", "1", "--n", "2", "--plugin=a", "--plugin", "b"])
    assert (twice.n, [str(p) for p in twice.plugin]) == (2, ["a", "b"])
    assert parse("info", VERBS, ["--", "--odd"]).model == "--odd"
    assert str(parse("sample", VERBS, ["m", "--out=~/x.png"]).out) == os.path.expanduser("~/x.png")


def test_the_completion_of_bash_offers_verbs_options_and_choices(tmp_path):
    script = tmp_path / "completion.bash"
    words = [sys.executable, "-m", "pocketddpm", "completion", "bash"]
    script.write_bytes(subprocess.run(words, check=True, capture_output=True).stdout)

    def offered(*typed: str) -> list[str]:
        line = (
            f"source {script}; COMP_WORDS=(pocketddpm {' '.join(typed)} ''); "
            f"COMP_CWORD={len(typed) + 1}; _pocketddpm; echo ${{COMPREPLY[@]}}"
        )
        done = subprocess.run(["bash", "-c", line], check=True, capture_output=True, text=True)
        return done.stdout.split()

    assert offered() == list(VERBS)
    assert {"--minutes", "--prediction", "mnist"} <= set(offered("train"))
    assert set(offered("train", "mnist", "--prediction")) == {"eps", "x0", "v", "edm"}
    assert {"inpaint", "--images"} <= set(offered("edit"))
    assert "--minutes" not in offered("sample")
