"""Run the core tests in every Python that is installed, and once with the oldest torch.

    make matrix                                     # python3.10 to python3.13, one at a time
    python scripts/matrix.py --python 3.12 -- -k samplers

Each run has an environment of its own, without extras, which is deleted afterwards. The oldest
interpreter found is run a second time, with the oldest torch that pyproject.toml allows.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ("3.10", "3.11", "3.12", "3.13")
# What the core tests compare with; everything else that is optional is skipped by name.
LIBRARIES = ("pytest", "pytest-xdist", "hypothesis", "scipy", "scikit-learn", "torchmetrics")


def interpreter(version: str) -> str | None:
    """Return the path of pythonX.Y on the PATH or of pyenv; None if it is not installed."""
    candidates = [shutil.which(f"python{version}")]
    candidates += sorted(map(str, Path.home().glob(f".pyenv/versions/{version}*/bin/python")))
    for path in filter(None, candidates):
        # pyenv's shims exist for versions that are not active, and then fail.
        done = subprocess.run([path, "-c", "import venv"], capture_output=True, check=False)
        if done.returncode == 0:
            return path
    return None


def oldest_torch() -> str:
    """Return the requirement that pins torch to the oldest version that pyproject.toml allows."""
    (version,) = re.findall(r'"torch>=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    return f"torch=={version}.*"


def run_tests(python: str, torch: str, words: list[str]) -> str:
    """Return what came of one run: pytest's closing line, or what failed before it."""
    with tempfile.TemporaryDirectory(prefix="pocketddpm-matrix-") as folder:
        subprocess.run([python, "-m", "venv", folder], check=True)
        own = str(Path(folder) / "bin" / "python")
        install = [own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        if subprocess.run([*install, str(ROOT), torch, *LIBRARIES], check=False).returncode:
            return f"FAILED: cannot install {torch}"
        versions = "import sys, torch; print(sys.version.split()[0], 'torch', torch.__version__)"
        subprocess.run([own, "-c", versions], check=True)
        tests = [own, "-m", "pytest", "-q", "-n", "2", "--dist", "loadgroup"]
        tests += ["-m", "not slow and not torture", *words]
        process = subprocess.Popen(tests, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        last = ""
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
        return f"{'FAILED: ' if process.wait() else ''}{last}"


def main() -> None:
    """Run all, print one line for each, and exit with 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--python", nargs="+", default=VERSIONS, help="versions, such as 3.12")
    parser.add_argument("--torch", help="one version for all, such as 2.6.0")
    parser.add_argument("pytest", nargs="*", help="more words for pytest, after --")
    options = parser.parse_args()
    found = [(version, path) for version in options.python if (path := interpreter(version))]
    if not found:
        sys.exit(f"none of Python {', '.join(options.python)} is installed")
    runs = [(*each, f"torch=={options.torch}" if options.torch else "torch") for each in found]
    if options.torch is None:
        runs.append((*found[0], oldest_torch()))
    results = []
    for version, path, torch in runs:
        print(f"== Python {version} ({path}), {torch}", flush=True)
        results.append(f"Python {version}, {torch}: {run_tests(path, torch, options.pytest)}")
    for version in sorted(set(options.python) - {version for version, _ in found}):
        results.append(f"Python {version}: not installed, not run")
    print(*results, sep="\n")
    sys.exit(any("FAILED" in line for line in results))


if __name__ == "__main__":
    main()
