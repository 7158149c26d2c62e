"""The notebooks in examples/: run cell by cell with a tiny budget, and stored with outputs."""

import ast
import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "examples"
# What each notebook spends, and what is enough to see that every cell works.
BUDGETS = {
    "first_look": {"IMAGES": 128, "STEPS": 4},
    "how_a_ddpm_works": {"TRAIN_STEPS": 40, "POINTS": 60},
    "own_images": {"IMAGES": 128, "STEPS": 4},
}


def script() -> ModuleType:
    """Return scripts/notebooks.py, which stores the outputs."""
    spec = importlib.util.spec_from_file_location("notebooks", ROOT / "scripts" / "notebooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(name):
    return json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))


def test_every_notebook_is_tested():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(BUDGETS)


@pytest.mark.parametrize("name", BUDGETS)
def test_notebook_runs(name, tmp_path, monkeypatch):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.gcf()) or plt.close("all"))
    monkeypatch.chdir(tmp_path)
    cells = [cell for cell in read(name)["cells"] if cell["cell_type"] == "code"]
    code = "\n\n".join("".join(cell["source"]) for cell in cells)
    for constant, value in BUDGETS[name].items():
        code, count = re.subn(rf"^{constant} = [\d._]+", f"{constant} = {value}", code, flags=re.M)
        assert count == 1, constant
    exec(compile(ast.parse(code), f"{name}.ipynb", "exec"), {"__name__": "__main__"})
    # A picture for every section.
    assert len(shown) >= code.count("plt.show()") - 1
    assert len(shown) >= 5


@pytest.mark.parametrize("name", BUDGETS)
def test_stored_outputs_are_those_of_the_cells(name):
    """After a change of the code: `make notebooks`."""
    book = read(name)
    assert book["metadata"]["executed"]["code_sha256"] == script().code_sha256(book["cells"])
    assert (FOLDER / f"{name}.ipynb").stat().st_size < script().MOST_BYTES
    pictures, text = 0, ""
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == [*range(1, len(code) + 1)]
    for output in (output for cell in code for output in cell["outputs"]):
        assert output["output_type"] in ("stream", "display_data", "execute_result")
        pictures += "image/png" in output.get("data", {})
        text += "".join(output.get("text", ""))
    assert pictures >= 5
    assert "Warning" not in text and "Traceback" not in text
    assert "/tmp" not in text and str(Path.home()) not in text


@pytest.mark.parametrize("name", BUDGETS)
def test_the_first_code_installs_from_the_repository(name):
    code = ["".join(c["source"]) for c in read(name)["cells"] if c["cell_type"] == "code"]
    assert '"install", "--quiet", ".."]' in code[0]
    assert not any("install" in source for source in code[1:])


def test_a_bar_is_stored_as_it_ended():
    as_left = script().as_left
    assert as_left("a note\n\r 0%\r 50%\r100%\ndone\n") == "a note\n100%\ndone\n"
    assert as_left("\r 0%\r 50%\r    \rdone") == "done"
    assert as_left("\r100%\r      \r\nmore\n") == "more\n"
