"""Execute the notebooks in examples/, and store them with what they print and show.

    make notebooks
    python scripts/notebooks.py own_images

Outputs are made small: pictures get a palette, a progress bar is left as it ended. The hash of the
code that was run is kept in the file, and tests/test_notebooks.py refuses outputs of other code.
"""

import argparse
import base64
import hashlib
import io
import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "examples"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
MOST_BYTES = 1_500_000  # of a notebook
COLOURS = 64  # of a stored picture


def main() -> None:
    """Execute the notebooks that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    for name in parser.parse_args().names or NAMES:
        path = FOLDER / f"{name}.ipynb"
        execute(path)
        print(f"wrote {path}: {path.stat().st_size / 1e3:.0f} kB")


def execute(path: Path) -> None:
    """Run a notebook in an empty folder, and write it with its outputs."""
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        where = {"metadata": {"path": folder}}
        client = NotebookClient(book, record_timing=False, resources=where)
        client.execute()
        for cell in book.cells:
            if cell.cell_type == "code":
                cell.metadata.pop("execution", None)
                cell.outputs = small(cell.outputs, folder)
    book.metadata.language_info = {"name": "python"}
    book.metadata.executed = {"code_sha256": code_sha256(book.cells)}
    text = nbformat.writes(book) + "\n"
    if len(text) > MOST_BYTES:
        raise SystemExit(f"{path.name} has {len(text)} bytes, more than {MOST_BYTES}")
    path.write_text(text, encoding="utf-8")


def code_sha256(cells: Sequence[Any]) -> str:
    """Return the sha256 of what is run; text between may change without a new run."""
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()


def small(outputs: Sequence[Any], folder: str) -> list[Any]:
    """Return a cell's outputs: text as a terminal would leave it, small pictures, no folder."""
    kept: list[Any] = []
    for output in outputs:
        if output.output_type == "stream":
            if kept and kept[-1].output_type == "stream" and kept[-1].name == output.name:
                kept[-1].text += output.text
            else:
                kept.append(output)
        else:
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = small_png(output.data["image/png"])
            kept.append(output)
    for output in kept:
        if output.output_type == "stream":
            output.text = as_left(output.text).replace(f"{folder}/", "")
    return kept


def as_left(text: str) -> str:
    r"""Return text without what '\r' wrote over, and without lines that were wiped."""
    lines = [re.sub(r".*\r(?=.)", "", line.rstrip("\r")) for line in text.split("\n")]
    *whole, last = (line if line.strip() else "" for line in lines)
    return "\n".join([*filter(None, whole), last])


def small_png(encoded: str) -> str:
    """Return a PNG in base64 with a palette."""
    from PIL import Image

    image = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
    file = io.BytesIO()
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


if __name__ == "__main__":
    main()
