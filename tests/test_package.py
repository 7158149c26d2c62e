"""The package as others get it: built, installed elsewhere, and used outside the checkout."""

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_the_wheel_works_outside_the_checkout(tmp_path):
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT]
    done = subprocess.run([str(a) for a in build], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    # The dependencies are taken from here; the package itself only from the wheel.
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    site = next((tmp_path / "env" / "lib").glob("python*/site-packages"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel]
    subprocess.run([str(a) for a in pip], check=True)
    here = next(p for p in sys.path if p.endswith("site-packages"))
    (site / "dependencies.pth").write_text(here + "\n")

    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def run(*args: str) -> str:
        done = subprocess.run(
            [str(python), "-m", "pocketddpm", *args],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    code = "import pocketddpm; print(pocketddpm.__file__)"
    where = subprocess.run(
        [str(python), "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert str(site) in where.stdout
    assert "ddim" in run("list")
    net = "widths=8/16,head_width=8,groups=4"
    run("train", "digits", "--steps", "2", "--net", net, "--batch-size", "8", "--out", "run")
    run("sample", "run", "--n", "4", "--steps", "2", "--out", "grid.png")
    assert (tmp_path / "grid.png").exists()


def test_every_module_is_in_the_package_and_in_git():
    files = sorted((ROOT / "src").rglob("*.py"))
    for path in files:
        assert (path.parent / "__init__.py").exists(), f"the wheel would lack {path}"
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs git, in a clone")
    words = ["git", "ls-files", "--others", "--ignored", "--exclude-standard", "src"]
    ignored = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not [line for line in ignored.splitlines() if line.endswith(".py")]


def test_what_is_claimed_is_said_once():
    text = (ROOT / "pyproject.toml").read_text()
    claimed = re.findall(r"Programming Language :: Python :: (3\.\d+)", text)
    assert (claimed[0], claimed) == (
        re.findall(r'requires-python = ">=(.*?)"', text)[0],
        re.findall(r'"(3\.\d+)"', (ROOT / "scripts" / "matrix.py").read_text()),
    )
    version = re.findall(r'^version = "(.*)"', text, re.MULTILINE)
    assert (
        re.findall(r"^version: (.*)", (ROOT / "CITATION.cff").read_text(), re.MULTILINE) == version
    )


def test_importing_the_package_is_cheap_and_its_names_are_stable():
    import pocketddpm

    assert pocketddpm.__all__ == [
        "DDPMError",
        "Experiment",
        "ImageSet",
        "Model",
        "Samples",
        "diffusion",
        "distill",
        "edit",
        "evaluate",
        "likelihood",
        "load",
        "load_images",
        "load_plugin",
        "neon",
        "sample",
        "train",
    ]
    for name in pocketddpm.__all__:
        assert getattr(pocketddpm, name) is not None
    with pytest.raises(AttributeError, match="laod"):
        pocketddpm.laod  # noqa: B018
    code = "import sys, pocketddpm; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
