"""dvc.yaml against the code: dependencies, parameters, and nothing read that is not declared."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

from tests.graph import ROOT, imported, library_files

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
FREE = {"compute"}  # cannot change a result, so no stage depends on it


def stage_file(stage: dict) -> Path:
    return ROOT / next(word for word in stage["cmd"].split() if word.startswith("stages/"))


def keys_read(path: Path) -> set[str]:
    """The literal arguments of the stage's one load_params call."""
    calls = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "load_params"
    ]
    assert len(calls) == 1
    return {ast.literal_eval(argument) for argument in calls[0].args}


@pytest.mark.parametrize("name", STAGES)
def test_deps_list_exactly_the_library_files_the_stage_imports(name: str) -> None:
    stage = STAGES[name]
    file = stage_file(stage)
    listed = {dep for dep in stage["deps"] if dep.startswith("backdrop/")}
    files = library_files(file)
    templates = {path.relative_to(ROOT).as_posix() for path in (ROOT / "backdrop").glob("*.jinja")}
    assert listed == files | {path for path in templates if f"{path.split('.')[0]}.py" in files}
    assert file.relative_to(ROOT).as_posix() in stage["deps"]


@pytest.mark.parametrize("name", STAGES)
def test_params_list_exactly_the_keys_the_stage_reads(name: str) -> None:
    assert set(STAGES[name]["params"]) == keys_read(stage_file(STAGES[name])) - FREE


@pytest.mark.parametrize("name", STAGES)
def test_paths_on_the_command_line_are_deps_or_outs(name: str) -> None:
    stage = STAGES[name]
    outs = [next(iter(o)) if isinstance(o, dict) else o for k in ("outs", "metrics", "plots") for o in stage.get(k, [])]
    for word in stage["cmd"].split():
        if word.startswith(("data/", "models/", "metrics")):
            assert any(known == word or known.startswith(f"{word}/") for known in [*stage["deps"], *outs]), word


def test_an_edit_of_the_crf_reruns_only_what_uses_the_crf() -> None:
    users = {name for name, stage in STAGES.items() if "backdrop/crf.py" in stage["deps"]}
    assert "refine" in users
    assert users <= {"refine", "student"}


def test_an_unlisted_import_is_found(tmp_path: Path) -> None:
    stage = tmp_path / "s.py"
    stage.write_text("def f():\n    from backdrop import crf\n")
    assert imported(stage) == {"backdrop/crf.py"}
    assert "backdrop/video.py" in library_files(stage)


def test_library_imports_go_one_way() -> None:
    """Stages -> loops and inference -> model, losses -> leaves, without circles."""
    files = {p.relative_to(ROOT).as_posix() for p in (ROOT / "backdrop").glob("*.py")} - {"backdrop/__init__.py"}
    edges = {file: imported(ROOT / file) & files for file in files}
    waiting = dict(edges)
    while waiting:
        leaves = [file for file, needs in waiting.items() if not needs & waiting.keys()]
        assert leaves, f"import circle among {sorted(waiting)}"
        for leaf in leaves:
            del waiting[leaf]
    parts = {"detector", "spatial", "synthesis", "inpainter"}
    for part in parts - {"spatial"}:
        others = {f"backdrop/{other}.py" for other in parts - {part, "spatial"}}
        assert not edges[f"backdrop/{part}.py"] & others


def test_each_equation_stands_in_exactly_one_docstring() -> None:
    found: dict[int, list[str]] = {number: [] for number in range(1, 14)}
    for path in (ROOT / "backdrop").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                for number in re.findall(r"Eq\. (\d+)", ast.get_docstring(node) or ""):
                    found[int(number)].append(f"{path.name}:{getattr(node, 'name', '')}")
    assert {number: places for number, places in found.items() if len(places) != 1} == {}


def test_no_tracked_file_names_a_path_of_a_machine() -> None:
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("backdrop/*.py"), ROOT / "requirements.lock"]:
        text = path.read_text()
        assert str(ROOT.parent) + "/" not in text
        assert str(Path.home()) + "/" not in text
    line = re.compile(r"#.*|\s+#.*|[\w.-]+(\[[\w,-]+\])?==\S+( ; .+)? \\|\s+--hash=sha256:[0-9a-f]{64}( \\)?")
    lock = (ROOT / "requirements.lock").read_text()
    assert [found for found in lock.splitlines() if not line.fullmatch(found)] == []
    assert "://" not in lock, "packages are named by version and hash alone"
