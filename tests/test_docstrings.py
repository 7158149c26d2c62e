"""The examples in the docstrings of the public names: each has one, and they run as they stand."""

import doctest
import inspect
import re
from pathlib import Path

import pytest

import pocketddpm as pd
from pocketddpm.catalog import SCHEDULES

ROOT = Path(__file__).parent.parent
OTHERS = {
    "ImageSet": "load_images returns it",
    "Experiment": "a dataclass of settings; the presets make it",
    "DDPMError": "an exception",
    "diffusion": "a module, whose sample is shown",
}
NAMES = [*(set(pd.__all__) - set(OTHERS)), "Model.sample", "Model.from_pretrained"]
NAMES += ["diffusion.sample"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Make a folder with a run of digits and the plug-in of docs/plugins.md."""
    path = tmp_path_factory.mktemp("examples")
    net = {"widths": (8, 16), "head_width": 8, "groups": 4}
    pd.train(
        "digits", steps=2, batch_size=8, net=net, sample_every=0, device="cpu", prediction="edm",
        out=path / "runs" / "digits",
    )  # fmt: skip
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    found = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert found
    (path / "slow_start.py").write_text(found[1], encoding="utf-8")
    yield path
    SCHEDULES.plugins.pop("slow-start", None)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_the_example_of_a_public_name_runs(name, folder, quick_scores, monkeypatch):
    monkeypatch.chdir(folder)
    subject = pd
    for part in name.split("."):
        subject = getattr(subject, part)
    text = inspect.getdoc(subject) or ""
    test = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)
    assert test.examples, f"{name} has no example"
    assert any(name.split(".")[-1] in example.source for example in test.examples) or name in (
        "Model",
        "Samples",
    )
    said: list[str] = []
    result = doctest.DocTestRunner().run(test, out=said.append)
    assert result.failed == 0, "".join(said)


def test_a_notebook_shows_samples(folder):
    samples = pd.load("mnist-fast").sample(12, labels="3,7", steps=1)
    assert samples._repr_png_().startswith(b"\x89PNG")
    assert "\n" not in repr(samples) and "12 images 1x28x28, of 3 and 7" in repr(samples)
    assert "all" not in repr(samples)
    model = pd.load(folder / "runs" / "digits")
    assert repr(model).startswith("Model digits: 1x8x8, 10 classes, unet with ")
    assert "\n" not in repr(model)
