"""Hooks of MkDocs (mkdocs.yml): what the site has that docs/ has not.

The README is the first page. The page of commands is made from the commands' own help, so that it
cannot go stale. Files of the repository that a page links to are copied beside it. Formulas become
MathML, which browsers draw without a script or a font of ours.
"""

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

from pocketddpm.commands.main import VERBS, main
from pocketddpm.commands.parser import help_text

ROOT = Path(__file__).parent.parent
SHOWN = ("list", "info mnist")
"""Commands of which the page shows what they print."""
ROOT_PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
"""Files of the repository that are pages of the site; the README is its first."""
LINK = re.compile(r"\]\(\.\./([^)#]+)")
"""A Markdown link from docs/ to a file of the repository."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and the files of the repository that pages link to."""
    pages = {
        name.replace("README", "index"): (ROOT / name).read_text().replace("](docs/", "](")
        for name in ROOT_PAGES
    }
    linked = set(re.findall(r"\]\(((?:examples|benchmarks|src)/[^)#]+)", pages["index.md"]))
    pages["commands.md"] = commands()
    for page in files.documentation_pages():
        linked |= set(LINK.findall(page.content_string)) - set(ROOT_PAGES)
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    for name in sorted(linked):
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links out of docs/ at the copies."""
    return LINK.sub(lambda m: f"]({m[1].replace('README.md', 'index.md')}", markdown)


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
