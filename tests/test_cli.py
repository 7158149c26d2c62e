"""The command line as a person meets it: help, the whole way from data to pictures, bad input."""

import os
import subprocess
import sys
from dataclasses import fields
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pocketddpm
from pocketddpm.catalog import ALL, SAMPLERS
from pocketddpm.commands.main import main
from pocketddpm.commands.sample import Sample
from pocketddpm.config import BUDGETS
from pocketddpm.diffusion.grid import SPACINGS
from pocketddpm.presets import PRESETS

TINY_NET = "widths=8/16,head_width=8,groups=4"


def run(*args: str) -> None:
    main([str(a) for a in args])


def refused(capsys, *args: str) -> str:
    """Run a command that must fail with exit 2 and one line; return the line."""
    with pytest.raises(SystemExit) as stop:
        run(*args)
    assert stop.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pocketddpm")]
    assert len(lines) == 1, lines
    return lines[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "run"
    run("train", "digits", "--net", TINY_NET, "--steps", "12", "--batch-size", "16", "--out", out,
        "--device", "cpu", "--sample-every", "6", "--precision", "float32")  # fmt: skip
    return out


# Help and lists ----------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["", "train", "sample", "show", "info", "list", "quickstart"])
def test_help_is_quick_and_needs_no_torch(verb):
    code = (
        "import sys, time\n"
        "from pocketddpm.commands.main import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        "print('seconds', time.process_time())\n"
    )
    words = [verb, "--help"] if verb else ["--help"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
    )
    assert "usage: pocketddpm" in done.stdout
    # Processor time, the interpreter's start included: a busy machine does not change it.
    assert float(done.stdout.split()[-1]) < 0.5


def test_the_version_is_printed(capsys):
    run("--version")
    assert capsys.readouterr().out == f"pocketddpm {pocketddpm.__version__}\n"


def test_sampling_imports_nothing_that_only_training_needs(tmp_path):
    """The first picture of a cold start waits for every import."""
    code = (
        "import sys\n"
        "from pocketddpm.commands.main import main\n"
        "main(sys.argv[1:])\n"
        "heavy = {'matplotlib', 'sklearn', 'sympy', 'torch._dynamo'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    words = ["sample", "mnist", "--n", "1", "--steps", "1", "--out", str(tmp_path / "one.png")]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_list_names_everything(capsys):
    run("list")
    printed = capsys.readouterr().out
    for name in [*PRESETS, *(n for c in ALL for n in c.names())]:
        assert f"  {name} " in printed
    run("list", "samplers")
    assert "mnist" not in capsys.readouterr().out


def test_every_catalogue_entry_says_what_it_is():
    for catalog in ALL:
        for name, line in catalog.describe().items():
            assert len(line) > 20, f"{catalog.kind} {name}"


def test_shell_completion_is_offered():
    done = subprocess.run(
        [sys.executable, "-m", "pocketddpm", "completion", "bash"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert "complete" in done.stdout


# The whole way -----------------------------------------------------------------------------------


def test_train_leaves_a_readable_run(trained):
    names = {p.name for p in trained.iterdir()}
    assert {"config.json", "log.csv", "last.safetensors", "best.safetensors", "data.png"} <= names
    assert (trained / "loss.png").exists()
    samples = sorted(p.name for p in (trained / "samples").iterdir())
    assert samples == ["step-0000006.png", "step-0000012.png"]
    assert Image.open(trained / "samples" / samples[0]).size[0] > 100
    assert oct((trained / "last.safetensors").stat().st_mode & 0o777) == "0o644"


def test_sample_grid_gif_and_strip(trained, tmp_path, capsys):
    out, gif, strip = (tmp_path / n for n in ("digits.png", "digits.gif", "strip.png"))
    run("sample", trained, "--labels", "0,1,2,3,4,5,6,7,8,9", "--n", "20", "--sampler", "ddim",
        "--steps", "6", "--guidance", "1.5", "--seed", "7", "--out", out, "--gif", gif,
        "--strip", strip, "--panels", "5")  # fmt: skip
    printed = capsys.readouterr().out
    assert "12 evaluations each, guidance 1.5, seed 7" in printed
    assert str(out) in printed
    line = 15  # of text: the classes stand over their columns
    assert Image.open(out).size == (10 * 10 * 8 + 2 * 8, 2 * 10 * 8 + 2 * 8 + line)
    frames = Image.open(gif)
    durations = []
    for k in range(frames.n_frames):
        frames.seek(k)
        durations.append(frames.info["duration"])
    assert frames.n_frames == 7  # the noise and six steps
    assert durations[-1] == pytest.approx(sum(durations) / 3, rel=0.05)
    width, height = Image.open(strip).size  # times stand over it, classes beside it
    assert 5 * 10 * 8 + 2 * 8 + 8 < width < 5 * 10 * 8 + 2 * 8 + 24
    assert height == 8 * 10 * 8 + 2 * 8 + line


def test_sample_array_and_folder(trained, tmp_path):
    run(
        "sample",
        trained,
        "--n",
        "6",
        "--labels",
        "3,7",
        "--steps",
        "3",
        "--out",
        tmp_path / "s.npz",
    )
    with np.load(tmp_path / "s.npz") as arrays:
        images, labels = arrays["images"], arrays["labels"]
    assert (images.dtype, images.shape) == (np.uint8, (6, 8, 8))
    assert labels.tolist() == [3, 7] * 3
    run("sample", trained, "--n", "6", "--labels", "3,7", "--steps", "3", "--out", tmp_path / "s",
        "--batch-size", "4")  # fmt: skip
    files = sorted((tmp_path / "s").iterdir())
    assert [f.name for f in files][:2] == ["0-3.png", "1-7.png"]
    # Image k is the same whatever the batch size (convolutions may differ in the last bit).
    again = np.stack([np.array(Image.open(f)) for f in files])
    assert np.abs(again.astype(int) - images).max() <= 1


def test_all_labels_keep_the_proportions(trained, tmp_path):
    run("sample", trained, "--n", "50", "--steps", "1", "--out", tmp_path / "s.npz")
    with np.load(tmp_path / "s.npz") as arrays:
        counts = np.bincount(arrays["labels"], minlength=10)
    assert counts.sum() == 50
    assert counts.min() >= 4
    assert counts.max() <= 6


# Words that must change the images, and words beside which they do.
CHANGES = {
    "labels": ("--labels 3", ""),
    "sampler": ("--sampler ddpm", ""),
    "steps": ("--steps 5", ""),
    "spacing": ("--spacing linspace", ""),
    "guidance": ("--guidance 4", ""),
    "guidance_interval": ("--guidance 4 --guidance-interval 0,500", "--guidance 4"),
    "guidance_rescale": ("--guidance 4 --guidance-rescale 0.9", "--guidance 4"),
    "cfg_plus_plus": ("--guidance 0.9 --cfg-plus-plus", "--guidance 0.9"),
    "negative_label": ("--guidance 4 --negative-label 3", "--guidance 4"),
    "guide": ("--guidance 4 --guide GUIDE", "--guidance 4"),
    "clip": ("--clip no", "--clip yes"),
    "threshold": ("--threshold 0.99", ""),
    "eta": ("--eta 1", ""),
    "sampler_options": ("--sampler ddpm --sampler-options variance=beta", "--sampler ddpm"),
    "weights": ("--weights model", "--weights ema"),
    "seed": ("--seed 1", ""),
    "precision": ("--precision bf16", "--precision float32"),
}
# The others say how many, where, and in what form.
KEEPS = """
    model n batch_size device out gif stretch strip panels names overwrite json plugin
"""


def test_every_option_of_sample_reaches_the_images(trained, tmp_path):
    assert {f.name for f in fields(Sample)} == CHANGES.keys() | set(KEEPS.split())
    guide = tmp_path / "guide"
    run("train", "digits", "--net", TINY_NET, "--steps", "1", "--out", guide, "--device", "cpu")

    @cache
    def drawn(words: str) -> np.ndarray:
        out = tmp_path / "s.npz"
        run("sample", trained, "--n", "4", "--steps", "4", "--overwrite", "--out", out,
            *words.replace("GUIDE", str(guide)).split())  # fmt: skip
        with np.load(out) as arrays:
            return arrays["images"]

    plain = drawn("")
    for words in ("--clip yes", "--weights ema", "--precision float32", "--batch-size 4"):
        np.testing.assert_array_equal(drawn(words), plain)
    for name, (words, beside) in CHANGES.items():
        assert not np.array_equal(drawn(words), drawn(beside)), name


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("sampler", [n for n in SAMPLERS.names() if n != "ddim-inversion"])
def test_every_sampler_and_spacing_from_the_command_line(trained, tmp_path, sampler, spacing):
    out = tmp_path / "s.npz"
    run("sample", trained, "--n", "2", "--steps", "4", "--sampler", sampler, "--spacing", spacing,
        "--out", out)  # fmt: skip
    with np.load(out) as arrays:
        assert arrays["images"].shape == (2, 8, 8)


def test_sample_without_out_writes_into_the_run(trained, capsys):
    run("sample", trained, "--n", "4", "--steps", "2", "--seed", "5")
    assert (trained / "samples" / "seed-5.png").exists()
    run("sample", trained / "best.safetensors", "--n", "4", "--steps", "2", "--seed", "6")
    assert (trained / "samples" / "seed-6.png").exists()
    assert "wrote" in capsys.readouterr().out


def test_info(trained, capsys):
    run("info", trained)
    printed = capsys.readouterr().out
    assert "digits, 1500 images" in printed
    assert "192 images, 12 steps" in printed
    run("info", trained, "--json")
    assert '"format_version": 1' in capsys.readouterr().out


def test_show(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("show", "data", "digits", "--n", "20")
    run("show", "forward", "digits", "--schedule", "cosine")
    run("show", "schedule", "linear,cosine,sigmoid")
    run("show", "strip", trained, "--n", "3", "--out", "strip.png", "--panels", "4")
    printed = capsys.readouterr().out
    for name in ("data-digits.png", "forward-digits.png", "schedule-linear-cosine-sigmoid.png"):
        assert f"wrote {name}" in printed
        assert Image.open(tmp_path / name).size[0] > 50
    assert Image.open(tmp_path / "strip.png").size[1] == 3 * 10 * 8 + 16 + 15


def test_resume_from_the_command_line(tmp_path, capsys):
    out = tmp_path / "run"
    base = ["train", "digits", "--net", TINY_NET, "--batch-size", "16", "--out", out]
    base += ["--sample-every", "0", "--device", "cpu"]
    run(*base, "--steps", "4")
    assert "--overwrite" in refused(capsys, *base, "--steps", "4")
    run(*base, "--steps", "6", "--resume", "auto")
    run("info", out)
    assert "96 images, 6 steps" in capsys.readouterr().out
    message = refused(capsys, *base, "--steps", "8", "--resume", "auto", "--lr", "0.1")
    assert all(f"--{budget}" in message for budget in BUDGETS)
    message = refused(capsys, "train", "mnist", "--resume", out)
    assert "'digits'" in message and "'mnist'" in message
    run(*base, "--steps", "2", "--overwrite")
    run("info", out)
    assert "32 images, 2 steps" in capsys.readouterr().out


def test_unlabelled_grey_and_colour_folders_train_and_sample(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name, shape in (("grey", (12, 10)), ("colour", (12, 10, 3))):
        (tmp_path / name).mkdir()
        for k in range(8):
            pixels = rng.integers(0, 256, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{k}.png")
        out = tmp_path / f"run-{name}"
        run("train", "unet-folder", "--data", tmp_path / name, "--image-size", "8x12",
            "--steps", "2", "--batch-size", "4", "--net", TINY_NET, "--out", out,
            "--device", "cpu")  # fmt: skip
        run("sample", out, "--n", "3", "--steps", "2", "--out", tmp_path / f"{name}.npz")
        with np.load(tmp_path / f"{name}.npz") as arrays:
            assert list(arrays) == ["images"]
            assert arrays["images"].shape == (3, 8, 12, 3)[: 3 + (name == "colour")]
        assert "without labels" in refused(capsys, "sample", out, "--labels", "1", "--out", "x.png")
        assert "needs a model with labels" in refused(
            capsys, "sample", out, "--guidance", "2", "--out", tmp_path / "x.png"
        )


@pytest.mark.slow
def test_quickstart_without_mnist(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("POCKETDDPM_DATA", str(tmp_path / "nothing"))
    out = tmp_path / "quickstart"
    for _ in range(2):  # the second refreshes its own folder
        run("quickstart", "--minutes", "0.02", "--out", out, "--device", "cpu")
    assert "using the built-in 8x8 digits" in capsys.readouterr().err
    page = (out / "README.md").read_text()
    for name in ("samples.png", "denoising.gif", "strip.png", "forward.png", "loss.png"):
        assert name in page
        assert (out / name).stat().st_size > 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert "exists" in refused(capsys, "quickstart", "--out", tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


# Bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "values"),
    [
        (["train", "mnits"], ("mnits", "mnist")),
        (["train", "digits", "--data", "no-such-set"], ("no-such-set", "folder")),
        (["train", "folder"], ("--data",)),
        (["train", "folder", "--data", "./absent"], ("absent",)),
        (["train", "digits", "--network", "conditional"], ("conditional", "8x8", "16x16", "lean")),
        (["train", "digits", "--image-size", "big"], ("big", "28x36")),
        (["train", "digits", "--subset", "99999"], ("99999", "1500")),
        (["train", "digits", "--classes", "0,11"], ("11", "0, 1")),
        (["train", "digits", "--net", "widht=3"], ("widht", "widths", "unet")),
        (["train", "digits", "--net", "widths=8/x"], ("widths", "'x'")),
        (["train", "digits", "--network", "unett"], ("unett", "unet")),
        (["train", "digits", "--schedule", "cosin"], ("cosin", "cosine")),
        (["train", "digits", "--steps", "2", "--epochs", "1"], ("--steps 2 --epochs 1",)),
        (["train", "digits", "--steps", "0"], ("steps", "> 0", "0")),
        (["train", "digits", "--device", "tpu"], ("tpu", "auto, cpu, cuda")),
        (["train", "digits", "--resume", "./absent"], ("absent",)),
        (["sample", "absent"], ("absent", "mnist")),
        (["info", "absent"], ("absent", "mnist")),
        (["show", "data", "absent"], ("absent", "data set")),
        (["show", "schedule", "lin"], ("lin", "linear")),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(args, values, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = refused(capsys, *args)
    assert all(value in said for value in values), said
    assert not list(tmp_path.iterdir()), "something was written"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--steps", "1001"], "steps must lie in 1..1000"),
        (["--steps", "0"], "steps must lie in 1..1000"),
        (["--sampler", "dimm"], "did you mean ddim"),
        (["--spacing", "training"], "did you mean trailing"),
        (["--labels", "0,10"], "unknown label '10'"),
        (["--eta", "2"], ">= 0, <= 1, got 2"),
        (["--sampler", "ddpm", "--eta", "1"], "unknown option of sampler ddpm"),
        (["--n", "0"], ">= 1, got 0"),
        (["--weights", "best"], "ema, model"),
        (["--out", "picture.jpg"], "must end in .png or .npz"),
        (["--panels", "1", "--strip", "s.png"], "--panels must be a whole number >= 2"),
    ],
)
def test_bad_sampling_is_one_line(trained, args, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = args if "--out" in args else [*args, "--out", "grid.png"]
    assert message in refused(capsys, "sample", str(trained), *args)
    assert not list(tmp_path.iterdir()), "something was written"


def test_outputs_in_the_way_are_refused(trained, tmp_path, capsys):
    out = tmp_path / "mine.png"
    out.write_text("mine")
    assert "--overwrite" in refused(capsys, "sample", trained, "--n", "2", "--out", out)
    assert out.read_text() == "mine"
    run("sample", trained, "--n", "2", "--steps", "2", "--out", out, "--overwrite")
    assert Image.open(out).format == "PNG"


def test_unknown_options_exit_2():
    done = subprocess.run(
        [sys.executable, "-m", "pocketddpm", "train", "digits", "--leraning-rate", "1"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "leraning-rate" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_disk_costs_no_finished_file(trained, tmp_path, capsys):
    """/dev/full stands in for a full disk: every write to it fails with ENOSPC."""
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    from pocketddpm.errors import OutputError
    from pocketddpm.output import replacing

    target = tmp_path / "file.png"
    target.write_text("finished")
    with pytest.raises(OutputError, match="No space left"), replacing(target) as temporary:
        os.symlink("/dev/full", temporary)
        with open(temporary, "w") as file:
            file.write("x" * 100_000)
    assert target.read_text() == "finished"
    assert [p.name for p in tmp_path.iterdir()] == ["file.png"]


def test_a_folder_that_cannot_be_written(trained, tmp_path, capsys):
    (tmp_path / "file").write_text("not a folder")
    message = refused(capsys, "sample", trained, "--n", "1", "--out", tmp_path / "file" / "x.png")
    assert "not a folder that you may write to" in message


def test_a_closed_pipe_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m pocketddpm list | head -1", shell=True, capture_output=True, text=True
    )
    assert done.stdout.startswith("presets")
    assert "Traceback" not in done.stderr


def test_a_gif_for_each_class_and_stretched_frames(trained, tmp_path):
    gifs = tmp_path / "gifs"
    run("sample", trained, "--labels", "3,7", "--n", "6", "--steps", "4", "--gif", gifs,
        "--out", tmp_path / "s.npz", "--stretch")  # fmt: skip
    assert sorted(p.name for p in gifs.iterdir()) == ["3.gif", "7.gif"]
    first = Image.open(gifs / "3.gif")
    assert (first.n_frames, first.info["duration"] > 0) == (5, True)
    # Pure noise, stretched, has black and white in every image.
    pixels = np.array(first.convert("L"))
    assert pixels.min() < 10
    assert pixels.max() > 245
