"""Hooks of MkDocs (mkdocs.yml): what the site has that docs/ has not.

The README is the first page. The page of commands is made from the commands' own help, so that it
cannot go stale; those of the notebooks from the outputs that are stored in them. Files of the
repository that a page links to are copied beside it. Formulas become MathML, which browsers draw
without a script or a font of ours.
"""

import ast
import html
import os
import re
from contextlib import redirect_stdout, suppress
from io import BytesIO, TextIOWrapper
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

from pocketddpm.commands.main import VERBS, main
from pocketddpm.commands.parser import help_text

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "pocketddpm"
SHOWN = ("list", "info mnist")
"""Commands of which the page shows what they print."""
ROOT_PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
"""Files of the repository that are pages of the site; the README is its first."""
LINK = re.compile(r"\]\(\.\./([^)#]+)")
"""A Markdown link from docs/ to a file of the repository."""
NOTEBOOK = re.compile(r"\]\((examples/\w+)\.ipynb")
"""A link to a notebook, as it stands in the README, or once it points at a copy."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and the files of the repository that pages link to."""
    pages = {
        name.replace("README", "index"): (ROOT / name).read_text().replace("](docs/", "](")
        for name in ROOT_PAGES
    }
    linked = set(re.findall(r"\]\(((?:examples|benchmarks|src)/[^)#]+)", pages["index.md"]))
    pages["commands.md"] = commands()
    pages |= {f"reference/{name}.md": room(name) for name in rooms()}
    for page in files.documentation_pages():
        linked |= set(LINK.findall(page.content_string)) - set(ROOT_PAGES)
    for path in sorted((ROOT / "examples").glob("*.ipynb")):
        linked.add(f"examples/{path.name}")
        text, resources = MarkdownExporter().from_filename(str(path), {"unique_key": path.stem})
        title, rest = text.strip().split("\n", 1)
        note = f"A notebook, with what it printed and showed: [{path.name}]({path.name}).\n"
        pages[f"examples/{path.stem}.md"] = f"{title}\n\n{note}\n{rest}"
        for name, picture in resources["outputs"].items():
            files.append(File.generated(config, f"examples/{name}", content=picture))
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    for name in sorted(linked):
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links out of docs/ at the copies, and those to notebooks at their pages."""
    here = LINK.sub(lambda m: f"]({m[1].replace('README.md', 'index.md')}", markdown)
    return NOTEBOOK.sub(r"](\1.md", here)


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    r"""Write \(...\) and \[...\], as arithmatex marks them, as MathML."""
    return re.sub(
        r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>',
        lambda m: _formula(html.unescape(m[3]), "block" if m[2] == "[" else "inline"),
        content,
        flags=re.DOTALL,
    )


def _formula(tex: str, display: str) -> str:
    """Return MathML; PluginError for what the converter leaves as it was."""
    mathml = convert(tex, display=display)
    if re.search(r'\\|mathvariant="(?!normal)', mathml):
        raise PluginError(f"no MathML for {tex}: write \\mathcal{{N}} and \\lVert, not \\mathcal N")
    return mathml


def rooms() -> list[str]:
    """Return the folders that the reference shows; commands have a page of their own."""
    folders = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
    return [name for name in folders if name not in ("commands", "demo")]


def room(name: str) -> str:
    """Return the page of a folder: the docstrings of its files, in their alphabetical order."""
    about = (
        ast.get_docstring(ast.parse((PACKAGE / name / "__init__.py").read_text())) or ""
    ).strip()
    files = sorted(path.stem for path in (PACKAGE / name).glob("*.py") if path.stem[0] != "_")
    entries = "\n".join(f"::: pocketddpm.{name}.{file}\n" for file in files)
    return f"# {name}\n\n{about}\n\n{entries}"


def commands() -> str:
    """Return the page of commands, from the help of each, and what some of them print."""
    parts = [
        "# Commands\n\nMade from `pocketddpm VERB --help-all` when this site was built. With "
        "`--quiet` any verb prints errors and results only.\n"
    ]
    for verb, kind in VERBS.items():
        parts.append(f"## {verb}\n\n{_help(verb, kind)}")
        for shown in (line for line in SHOWN if line.split()[0] == verb):
            text = _printed(shown.split()).replace(f"{ROOT}/", "")
            parts.append(f"`pocketddpm {shown}` prints\n\n```text\n{text}```\n")
    return "\n".join(parts)


def _help(verb: str, kind: type) -> str:
    """Return a verb's help as Markdown: each of its groups is a table."""
    usage, *about = help_text(verb, kind, everything=True).split("\n\n")
    groups = [part for part in about if re.match(r"  \S|\S.*:\n  --", part)]
    prose = "\n\n".join(part for part in about if part not in groups)
    prose = re.sub(r"^Example: (.*)$", r"    \1", prose, flags=re.MULTILINE)
    parts = [f"```text\n{usage.removeprefix('usage: ')}\n```\n\n{prose}\n"]
    for group in groups:
        title, rows = group.split("\n", 1) if not group.startswith(" ") else ("", group)
        parts.append(f"\n| {title.rstrip(':')} | |\n|---|---|\n")
        for row in re.split(r"\n(?=  \S)", rows):
            name, _, rest = re.sub(r" {2,}|\n", "\n", row.strip(), count=1).partition("\n")
            parts.append(f"| `{name}` | {' '.join(rest.split())} |\n")
    return "".join(parts)


def _printed(args: list[str]) -> str:
    before, os.environ["COLUMNS"] = os.environ.get("COLUMNS"), "160"
    out = TextIOWrapper(BytesIO(), "utf-8", write_through=True)
    try:
        with redirect_stdout(out), suppress(SystemExit):
            main(args)
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
    out.seek(0)
    return out.read()
