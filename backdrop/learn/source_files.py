"""The files of the library that a stage runs: resume checkpoints are valid for one state of them only."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent

CANNOT_CHANGE_A_RESULT = ("errors.py", "run/")
"""What a fault is called, and who runs a call."""


def source_files(package: str) -> list[Path]:
    """The files of a stage's package, and all files of the library that they import, directly or not; sorted.

    They are found in the import statements of the code: the list does not depend on what this process has imported.

    Args:
        package: folder of the library, such as "train".
    """
    found: set[Path] = set()
    waiting = set((PACKAGE / package).rglob("*.py"))
    while waiting:
        path = waiting.pop()
        if path not in found and not path.relative_to(PACKAGE).as_posix().startswith(CANNOT_CHANGE_A_RESULT):
            found.add(path)
            waiting |= _imported(path, path.stat().st_mtime_ns)
    return sorted(found)


@cache
def _imported(path: Path, _changed: int) -> frozenset[Path]:
    """The library's files that the import statements of a file name, those within functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    places = [PACKAGE.joinpath(*name.split(".")[1:]) for name in names if name.startswith("backdrop.")]
    files = [file for place in places for file in (place.with_suffix(".py"), place / "__init__.py")]
    return frozenset(file for file in files if file.is_file())
