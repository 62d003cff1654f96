"""What the tests of the graph need: the library files that a stage imports, followed through the code."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent


def imported(path: Path) -> set[str]:
    """Library files that a file imports anywhere, in functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            if parts[0] != "backdrop":
                continue
            # The package itself offers names lazily and holds no code that a stage runs.
            file = ROOT.joinpath(*parts).with_suffix(".py")
            if file.exists():
                found.add(file.relative_to(ROOT).as_posix())
    return found


def library_files(stage: Path) -> set[str]:
    """All library files that running a stage file can import."""
    reached: set[str] = set()
    waiting = imported(stage)
    while waiting:
        file = waiting.pop()
        if file not in reached:
            reached.add(file)
            waiting |= imported(ROOT / file)
    return reached
