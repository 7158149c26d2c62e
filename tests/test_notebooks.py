"""The notebooks in examples/, executed cell by cell with a tiny budget."""

import ast
import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "examples"
# What each notebook spends, and what is enough to see that every cell works.
BUDGETS = {
    "first_look": {"MINUTES": 0.05, "STEPS": 4},
    "how_a_ddpm_works": {"TRAIN_STEPS": 40, "POINTS": 60},
}


def cells(name):
    book = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    return [(c["cell_type"], "".join(c["source"]), c) for c in book["cells"]]


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
    code = "\n\n".join(source for kind, source, _ in cells(name) if kind == "code")
    for constant, value in BUDGETS[name].items():
        code, count = re.subn(rf"^{constant} = [\d.]+", f"{constant} = {value}", code, flags=re.M)
        assert count == 1, constant
    exec(compile(ast.parse(code), f"{name}.ipynb", "exec"), {"__name__": "__main__"})
    # A picture for every section.
    assert len(shown) >= code.count("plt.show()") - 1
    assert len(shown) >= 6


@pytest.mark.parametrize("name", BUDGETS)
def test_notebooks_are_stored_without_outputs(name):
    for kind, source, cell in cells(name):
        assert source.strip()
        if kind == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
