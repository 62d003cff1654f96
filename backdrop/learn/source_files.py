"""The files of the library that code imports: resume checkpoints hang on those of a stage, and `deps:` of dvc.yaml."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent.parent

CANNOT_CHANGE_A_RESULT = ("errors.py", "params.py", "stage.py", "run/")
"""Below `PACKAGE`: what a fault is called, the check of params.yaml, what all stages' files call, and who runs a call.
(That `run` cannot is what the comparisons of bytes in the cluster tests guard.)"""


def source_files(package: str) -> list[Path]:
    """The files of a stage's package, and all files of the library that they import, directly or not; sorted.

    Args:
        package: folder of the library, such as "train".
    """
    return sorted(reached_from((PACKAGE / package).rglob("*.py")))


def run_key(package: str, sections: Sequence[Any], *files: Path) -> str:
    """The name of what a run leaves for the next one to go on from: a run with another key does not take it.

    It changes with any of `sections` (by their `repr`), with the contents of `files`, and with any line of the library
    that the run can execute.

    Args:
        package: the stage's package, such as "train"; see `source_files`.
    """
    digest = hashlib.sha256(package.encode())
    for section in sections:
        digest.update(repr(section).encode())
    for path in (*files, *source_files(package)):
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return f"{package}-{digest.hexdigest()[:16]}"


def reached_from(files: Iterable[Path]) -> set[Path]:
    """These files of the library and those that they import, directly or not, as far as they can change a result.

    Weights that lie beside a file under its name belong to it. Files are found in the import statements of the code:
    the list does not depend on what this process has imported.
    """
    found: set[Path] = set()
    waiting = set(files)
    while waiting:
        path = waiting.pop()
        if path not in found and not path.relative_to(PACKAGE).as_posix().startswith(CANNOT_CHANGE_A_RESULT):
            found.add(path)
            waiting |= imported_files(path)
    return found | {weights for path in found if (weights := path.with_suffix(".safetensors")).is_file()}


def imported_files(path: Path) -> set[Path]:
    """The library's files that the import statements of a file name, those within functions too."""
    return set(_imported(path, path.stat().st_mtime_ns))


@cache
def _imported(path: Path, _changed: int) -> frozenset[Path]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    # Below the package: its own __init__.py offers names lazily, and holds no code that a stage runs.
    places = [PACKAGE.joinpath(*name.split(".")[1:]) for name in names if name.startswith("backdrop.")]
    files = [place.with_suffix(".py") for place in places]
    files += [place / "__init__.py" for place in places if _holds_code(place / "__init__.py")]
    return frozenset(file for file in files if file.is_file())


def _holds_code(file: Path) -> bool:
    """Whether a package's __init__.py holds more than its docstring."""
    if not file.is_file():
        return False
    return any(not isinstance(node, ast.Expr) for node in ast.parse(file.read_text(encoding="utf-8")).body)
