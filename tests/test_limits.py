"""The house's own limits: sizes of folders, modules, classes, functions; one name, one meaning."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from backdrop.measures import jaccard

ROOT = Path(__file__).parent.parent
LIBRARY = sorted((ROOT / "backdrop").rglob("*.py"))
MODULES, LINES, FUNCTION, CLASS, POSITIONAL = 10, 400, 60, 200, 5


def length(node: ast.stmt) -> int:
    return (node.end_lineno or 0) - node.lineno + 1


def positional(function: ast.FunctionDef) -> int:
    names = [argument.arg for argument in function.args.posonlyargs + function.args.args]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def command(function: ast.FunctionDef) -> bool:
    """Whether a function is a command of the command line or an event of the page, whose caller goes by names."""
    return any("command" in ast.unparse(decorator) for decorator in function.decorator_list)


def top_level(path: Path) -> list[str]:
    names = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names += [leaf.id for target in targets for leaf in ast.walk(target) if isinstance(leaf, ast.Name)]
    return names


def test_no_folder_holds_more_than_ten_modules() -> None:
    folders: dict[Path, int] = defaultdict(int)
    for path in LIBRARY:
        folders[path.parent] += path.name != "__init__.py"
    assert {str(folder): count for folder, count in folders.items() if count > MODULES} == {}


def test_modules_classes_and_functions_fit_a_reader() -> None:
    large = []
    for path in LIBRARY:
        text = path.read_text()
        where = path.relative_to(ROOT).as_posix()
        if text.count("\n") > LINES:
            large.append(where)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and length(node) > FUNCTION:
                large.append(f"{where}:{node.name}")
            if isinstance(node, ast.ClassDef) and length(node) > CLASS:
                large.append(f"{where}:{node.name}")
    assert large == []


def test_no_function_takes_more_than_five_positional_arguments() -> None:
    many = []
    for path in LIBRARY:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and positional(node) > POSITIONAL and not command(node):
                many.append(f"{path.relative_to(ROOT).as_posix()}:{node.name}")
    assert many == []


def test_no_two_modules_share_a_top_level_name() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in LIBRARY:
        for name in set(top_level(path)) - {"__all__", "__getattr__"}:
            places[name].append(path.relative_to(ROOT).as_posix())
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_each_package_says_what_it_is() -> None:
    for folder in {path.parent for path in LIBRARY}:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder
    for path in LIBRARY:
        assert ast.get_docstring(ast.parse(path.read_text())), path


def test_annotations_are_checked_at_each_call() -> None:
    """Were the library imported before tests/conftest.py installs the check, all checks would be gone in silence."""
    mask = np.ones((4, 6), bool)
    assert jaccard(mask, mask) == 1
    with pytest.raises(TypeCheckError):
        jaccard(mask, mask.astype(np.float32))  # type: ignore[arg-type]
    with pytest.raises(TypeCheckError):
        jaccard(mask, np.ones((6, 4), bool))
