"""The library files that a stage imports, followed through the code, and `deps:` of dvc.yaml written from them.

`python -m tests.graph` writes dvc.yaml and rivals/dvc.yaml (`make deps`); `test_graph.py` holds them equal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from backdrop.learn.source_files import CANNOT_CHANGE_A_RESULT, imported_files, reached_from, source_files

ROOT = Path(__file__).parent.parent
EXEMPT = tuple(f"backdrop/{place}" for place in CANNOT_CHANGE_A_RESULT)


def imported(path: Path) -> set[str]:
    """Library files that a file imports anywhere, in functions too."""
    return _names(imported_files(path))


def library_files(stage: Path) -> set[str]:
    """All library files that running a stage file can import and that can change its result."""
    return _names(reached_from(imported_files(stage)))


def _names(files: Iterable[Path]) -> set[str]:
    return {file.relative_to(ROOT).as_posix() for file in files}


def library_deps(name: str, stage: Path) -> list[str]:
    """What `deps:` of a stage lists of the library: its own package as a folder, and the shared files one by one."""
    own = f"backdrop/{name}"
    return [own, *sorted(file for file in library_files(stage) if not file.startswith(f"{own}/"))]


def write_deps(text: str) -> str:
    """dvc.yaml with the library's files of each stage as its imports say; all else as it is."""
    lines: list[str] = []
    name = ""
    for line in text.splitlines():
        stage = re.fullmatch(r"  (\w+):", line)
        name = stage[1] if stage else name
        if line.startswith("      - backdrop/"):
            continue
        lines.append(line)
        file = re.fullmatch(r"      - (stages/\w+\.py)", line)
        if file:
            lines += [f"      - {dep}" for dep in library_deps(name, ROOT / file[1])]
    return "\n".join(lines) + "\n"


def package_deps(package: str) -> list[str]:
    """The same of a package whose command a stage runs."""
    own = f"backdrop/{package}"
    return [own, *sorted(file for file in _names(source_files(package)) if not file.startswith(f"{own}/"))]


def write_rival_deps(text: str) -> str:
    """rivals/dvc.yaml with the library's files as the imports of the package say; all else as it is."""
    own = "      - backdrop/rivals"
    kept = [line for line in text.splitlines() if line == own or not line.startswith("      - backdrop/")]
    whole = "\n".join(f"      - {dep}" for dep in package_deps("rivals"))
    return "\n".join(whole if line == own else line for line in kept) + "\n"


if __name__ == "__main__":
    pipeline = ROOT / "dvc.yaml"
    pipeline.write_text(write_deps(pipeline.read_text(encoding="utf-8")), encoding="utf-8")
    rivals = ROOT / "rivals" / "dvc.yaml"
    rivals.write_text(write_rival_deps(rivals.read_text(encoding="utf-8")), encoding="utf-8")
