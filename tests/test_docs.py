"""The documentation site builds without a warning, and its pages load nothing from elsewhere."""

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import pocketddpm

pytest.importorskip("material", reason="needs mkdocs-material: pip install 'pocketddpm[docs]'")
pytest.importorskip("mkdocstrings", reason="needs mkdocstrings: pip install 'pocketddpm[docs]'")
pytest.importorskip("latex2mathml", reason="needs latex2mathml: pip install 'pocketddpm[docs]'")
pytest.importorskip("nbconvert", reason="needs nbconvert: pip install 'pocketddpm[docs]'")

ROOT = Path(__file__).parent.parent


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Run `mkdocs build`, as `make docs` does (with --quiet it would count no warnings)."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "-f", str(config), "-d", str(site)],
        capture_output=True,
        text=True,
        cwd=config.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "NO_MKDOCS_2_WARNING": "1"},
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT / "mkdocs.yml", folder)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    return folder


class Loads(HTMLParser):
    """Collects the addresses that a browser fetches by itself; links to follow are none."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        for name in ("src", "srcset", "poster", "data", "href", "xlink:href"):
            if name in given and not (tag == "a" and name == "href"):
                self.found.append(given[name] or "")


def elsewhere(address: str) -> bool:
    return bool(re.match(r"\s*(?:\w+:)?//", address))


def test_no_page_loads_anything_from_another_host(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) >= 18
    for page in pages:
        loads = Loads(page.read_text())
        assert len(loads.found) > 3
        assert not [a for a in loads.found if elsewhere(a)], page.name
    for sheet in site.rglob("*.css"):
        fetched = re.findall(r"(?:url\(|@import)\s*['\"]?([^'\")\s;]+)", sheet.read_text())
        assert not [a for a in fetched if elsewhere(a)], sheet.name


def test_what_a_page_could_load_is_seen():
    foreign = '<link rel="stylesheet" href="https://x.org/a.css"><script src="//x.org/b.js">'
    assert [elsewhere(a) for a in Loads(foreign).found] == [True, True]
    assert not Loads('<a href="https://x.org">x</a>').found


def test_a_browser_asks_nothing_of_others(site):
    """Scripts too: every request of real pages, the search included, is for the site's files."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    asked: list[str] = []
    with playwright.sync_playwright() as start:
        browser = start.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        for name in ("index.html", "how.html"):
            page.goto((site / name).as_uri(), wait_until="networkidle")
        assert page.evaluate("document.querySelector('math msub').getBoundingClientRect().width")
        browser.close()
    assert len(asked) > 5
    assert not [a for a in asked if not a.startswith(("file:", "data:", "blob:"))]


def test_formulas_commands_and_public_names_are_there(site):
    how = (site / "how.html").read_text()
    assert how.count("<math") > 20 and 'class="arithmatex"' not in how
    verbs = (site / "commands.html").read_text()
    for option in ("--resume", "--guidance-interval", "--evaluate-every"):
        assert f"<code>{option}" in verbs
    assert "log-linear" in verbs  # of what `list` prints
    pages = [site / "reference.html", *(site / "reference").glob("*.html")]
    reference = "".join(page.read_text() for page in pages)
    for module, attribute in pocketddpm._PUBLIC.values():
        if attribute is not None:
            assert reference.count(f'id="{module}.{attribute}"') == 1
    assert "pocketddpm.diffusion" in (site / "diffusion.html").read_text()


def test_notebooks_are_pages_with_their_pictures(site):
    for path in (ROOT / "examples").glob("*.ipynb"):
        page = (site / "examples" / f"{path.stem}.html").read_text()
        pictures = re.findall(rf'<img [^>]*src="({path.stem}_\d+_\d+\.png)"', page)
        assert len(pictures) >= 5
        assert all((site / "examples" / name).stat().st_size > 1000 for name in pictures)
        assert f'href="{path.name}"' in page and (site / "examples" / path.name).exists()
        assert f'href="examples/{path.stem}.html' in (site / "index.html").read_text()
    assert (site / "examples" / "how_a_ddpm_works.html").read_text().count("<math") > 10


def test_the_search_finds_what_people_look_for(site):
    index = json.loads((site / "search" / "search_index.json").read_text())
    for words, page in (
        ("own images", "own_images.html"),
        ("transparency", "formats.html"),
        ("fine-tune", "editing.html"),
        ("inpaint", "editing.html"),
        ("from_pretrained", "formats.html"),
        ("without CUDA", "start.html"),
    ):
        found = [
            e["location"]
            for e in index["docs"]
            if words.lower() in (e["title"] + e["text"]).lower()
        ]
        assert any(page in location for location in found), (words, found)


def test_every_room_has_a_page_of_its_reference(site):
    package = ROOT / "src" / "pocketddpm"
    for path in package.glob("*/[a-z]*.py"):
        if path.parent.name not in ("commands", "demo"):
            page = (site / "reference" / f"{path.parent.name}.html").read_text()
            assert f'id="pocketddpm.{path.parent.name}.{path.stem}"' in page


def test_a_broken_link_is_an_error(tmp_path):
    config = f"INHERIT: {ROOT / 'mkdocs.yml'}\ndocs_dir: docs\nhooks: []\nplugins: []\n"
    (tmp_path / "mkdocs.yml").write_text(f"{config}nav: [index.md]\n")
    page = tmp_path / "docs" / "index.md"
    page.parent.mkdir()
    page.write_text("# One\n\n[here](index.md#one)\n")
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode == 0, done.stderr
    broken = ("gone.md", "index.md#gone", "/index.md", "other")
    page.write_text("# One\n\n" + " ".join(f"[there]({link})" for link in broken) + "\n")
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode != 0
    for link in broken:
        assert f"'{link}'" in done.stderr, done.stderr
