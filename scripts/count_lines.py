"""Count the lines of code of src/pocketddpm, or of the folders that are named.

Blank lines, comments, docstrings and import statements do not count:

    python scripts/count_lines.py            # one number
    python scripts/count_lines.py --rooms    # and one for each room
"""

import argparse
import ast
import io
import tokenize
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1] / "src" / "pocketddpm"
SILENT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def count(source: str) -> int:
    """Return how many lines of the source hold code."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in SILENT:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        silent = isinstance(node, ast.Import | ast.ImportFrom) or (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        )
        if silent and isinstance(node, ast.stmt):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def main() -> None:
    """Print the count."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folders", nargs="*", type=Path, default=[ROOT])
    parser.add_argument("--rooms", action="store_true", help="one line for each room as well")
    given = parser.parse_args()
    rooms: Counter[str] = Counter()
    for folder in given.folders:
        for path in sorted(folder.rglob("*.py")):
            room = path.relative_to(folder).parts[0].removesuffix(".py")
            rooms[room] += count(path.read_text(encoding="utf-8"))
    if given.rooms:
        for room, lines in rooms.most_common():
            print(f"{lines:6d} {room}")
    print(rooms.total())


if __name__ == "__main__":
    main()
