"""The library files that a stage imports, followed through the code, and `deps:` of dvc.yaml written from them.

`python -m tests.graph` writes dvc.yaml (`make deps`); `test_graph.py` holds it equal.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
EXEMPT = ("backdrop/errors.py", "backdrop/params.py", "backdrop/stage.py", "backdrop/run/")
"""Who runs a call, what a fault is called, and the check of params.yaml: none of these can change a result. (That `run`
cannot is what the comparisons of bytes in test_cluster.py guard.)"""


def library_file(name: str) -> Path | None:
    """The file of a module by its dotted name; of a package, its __init__.py where that holds code."""
    path = ROOT.joinpath(*name.split("."))
    if path.with_suffix(".py").exists():
        return path.with_suffix(".py")
    file = path / "__init__.py"
    if path == ROOT / "backdrop" or not file.exists():
        return None  # the package itself offers names lazily and holds no code that a stage runs
    holds_code = any(not isinstance(node, ast.Expr) for node in ast.parse(file.read_text(encoding="utf-8")).body)
    return file if holds_code else None


@cache
def _imported(path: Path, _changed: int) -> frozenset[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            file = library_file(name) if name.split(".")[0] == "backdrop" else None
            if file is not None:
                found.add(file.relative_to(ROOT).as_posix())
    return frozenset(found)


def imported(path: Path) -> set[str]:
    """Library files that a file imports anywhere, in functions too."""
    return set(_imported(path, path.stat().st_mtime_ns))


def library_files(stage: Path) -> set[str]:
    """All library files that running a stage file can import and that can change its result."""
    reached: set[str] = set()
    waiting = imported(stage)
    while waiting:
        file = waiting.pop()
        if file not in reached and not file.startswith(EXEMPT):
            reached.add(file)
            waiting |= imported(ROOT / file)
    return reached


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


if __name__ == "__main__":
    pipeline = ROOT / "dvc.yaml"
    pipeline.write_text(write_deps(pipeline.read_text(encoding="utf-8")), encoding="utf-8")
