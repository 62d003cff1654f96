"""dvc.yaml against the code: dependencies, parameters, what an edit makes stale, no undeclared reads."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
from modulefinder import ModuleFinder
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from backdrop.config.sections import StageParams
from backdrop.rivals.footage import FOOTAGE
from backdrop.rivals.registry import RIVALS
from tests.graph import EXEMPT, ROOT, imported, library_deps, library_files, write_deps, write_rival_deps
from tests.small_pipeline import environment

PIPELINE = (ROOT / "dvc.yaml").read_text()
STAGES = yaml.safe_load(PIPELINE)["stages"]
RIVAL_PIPELINE = ROOT / "rivals" / "dvc.yaml"
FREE = {"compute"}  # cannot change a result, so no stage depends on it
CANNOT_CHANGE_A_RESULT = ("errors", "params", "stage", "run")
"""Written out: what the graph leaves out must not grow unseen."""
LIBRARY = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "backdrop").rglob("*.py"))


def stage_file(stage: dict) -> Path:
    return ROOT / next(word for word in stage["cmd"].split() if word.startswith("stages/"))


def stage_module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stages_of(file: str) -> set[str]:
    """The stages that DVC runs again by themselves when a file of the library changes."""
    return {
        name for name, stage in STAGES.items() if any(f"{file}/".startswith(f"{dep}/") for dep in stage["deps"] if dep)
    }


# Dependencies -----------------------------------------------------------------------------------------


def test_deps_are_as_the_imports_say() -> None:
    assert write_deps(PIPELINE) == PIPELINE, "run `make deps`"


@pytest.mark.parametrize("name", STAGES)
def test_deps_are_the_own_package_and_the_shared_files_that_are_imported(name: str) -> None:
    stage = STAGES[name]
    file = stage_file(stage)
    listed = [dep for dep in stage["deps"] if dep.startswith("backdrop")]
    assert listed == library_deps(name, file)
    assert listed[0] == f"backdrop/{name}"
    assert (ROOT / listed[0]).is_dir()
    assert file.relative_to(ROOT).as_posix() in stage["deps"]
    for reached in library_files(file):
        assert name in stages_of(reached)


@pytest.mark.parametrize("name", STAGES)
def test_params_list_exactly_the_keys_the_stage_reads(name: str) -> None:
    file = stage_file(STAGES[name])
    loads = [
        node
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "load_params"
    ]
    assert len(loads) == 1
    kind = getattr(stage_module(file), ast.unparse(loads[0].args[0]))
    assert issubclass(kind, StageParams)
    assert set(STAGES[name]["params"]) == set(kind.keys()) - FREE


@pytest.mark.parametrize("name", STAGES)
def test_paths_on_the_command_line_are_deps_or_outs(name: str) -> None:
    stage = STAGES[name]
    outs = [next(iter(o)) if isinstance(o, dict) else o for k in ("outs", "metrics", "plots") for o in stage.get(k, [])]
    for word in stage["cmd"].split():
        if word.startswith(("data/", "models/", "metrics")):
            assert any(known == word or known.startswith(f"{word}/") for known in [*stage["deps"], *outs]), word


def test_compiled_files_make_no_stage_stale() -> None:
    """A package is a dependency as a folder: what Python writes into it must not count."""
    files = ["backdrop/student/__pycache__/rounds.cpython-311.pyc", "backdrop/train/__pycache__/joint.pyc"]
    found = subprocess.run(["dvc", "check-ignore", *files], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert found.stdout.split() == files, found.stderr


@pytest.mark.parametrize("name", STAGES)
def test_the_standard_library_finds_the_same_files(name: str) -> None:
    """By Python's own finder of modules, which reads the bytecode; ours reads the source."""
    finder = ModuleFinder(path=[str(ROOT)], excludes=[f"backdrop.{part}" for part in CANNOT_CHANGE_A_RESULT])
    file = stage_file(STAGES[name])
    finder.run_script(str(file))
    found = {Path(str(module.__file__)) for key, module in finder.modules.items() if key.startswith("backdrop.")}
    docstrings = {path for path in found if path.name == "__init__.py" and len(ast.parse(path.read_text()).body) == 1}
    code = {name for name in library_files(file) if name.endswith(".py")}  # weights lie beside it
    assert {path.relative_to(ROOT).as_posix() for path in found - docstrings} == code


# What an edit makes stale ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("backdrop/crf/dense.py", {"student", "refine"}),
        ("backdrop/frames/layouts/davis.py", {"frames"}),
        ("backdrop/frames/layouts/__init__.py", {"frames"}),
        ("backdrop/video/decode.py", {"frames", "segment", "refine", "score", "report"}),
        ("backdrop/video/encode.py", {"render"}),
        ("backdrop/train/losses.py", {"train"}),
        ("backdrop/student/cues/layers.py", {"student"}),
        ("backdrop/networks/motion_network.safetensors", {"student"}),
        ("backdrop/collage/scene.py", set()),
        ("backdrop/rivals/cells.py", set()),
        ("backdrop/refine/stage.py", {"refine"}),
        ("backdrop/score/table.py", {"score"}),
        ("backdrop/report/report.py", {"report"}),
        ("backdrop/networks/synthesis.py", {"train", "student", "segment"}),
        ("backdrop/learn/learner.py", {"inpaint", "train", "student"}),
        ("backdrop/learn/ranks.py", {"inpaint", "train", "student"}),
        ("backdrop/measures.py", {"student", "refine", "score"}),
        ("backdrop/thresholds.py", {"student", "segment", "refine", "score"}),
        ("backdrop/io/files.py", set(STAGES)),
        ("backdrop/config/sections.py", set(STAGES)),
        ("backdrop/motion/flow_field.py", {"flow", "inpaint", "train", "student", "score"}),
    ],
)
def test_an_edit_makes_stale_exactly_the_stages_whose_result_can_change(file: str, stages: set[str]) -> None:
    assert (ROOT / file).is_file()
    assert stages_of(file) == stages
    assert {name for name, stage in STAGES.items() if file in library_files(stage_file(stage))} == stages


def test_the_weights_of_the_package_are_those_that_the_recipe_made() -> None:
    made = ROOT / "recipes" / "motion" / "motion_network.safetensors"
    assert made.read_bytes() == (ROOT / "backdrop" / "networks" / "motion_network.safetensors").read_bytes()


def test_no_recipe_makes_what_the_pipeline_reads() -> None:
    """DVC joins pipelines by their files: a plain `dvc repro` would run the recipe."""
    read = {dep for stage in STAGES.values() for dep in stage.get("deps", [])}
    for recipe in [*(ROOT / "recipes").rglob("dvc.yaml"), RIVAL_PIPELINE]:
        for stage in yaml.safe_load(recipe.read_text())["stages"].values():
            outs = [
                next(iter(out)) if isinstance(out, dict) else out for out in stage["outs"] + stage.get("metrics", [])
            ]
            folder = recipe.parent / stage.get("wdir", ".")
            places = {(folder / out).resolve().relative_to(ROOT).as_posix() for out in outs}
            assert places
            assert not places & read, recipe


def test_the_pipeline_of_the_rivals_lists_what_its_command_can_import() -> None:
    text = RIVAL_PIPELINE.read_text()
    assert write_rival_deps(text) == text, "run `make deps`"
    deps = yaml.safe_load(text)["stages"]["cell"]["deps"]
    assert {"backdrop/rivals", "backdrop/measures.py", "backdrop/motion/homography.py"} <= set(deps)


def test_the_pipeline_of_the_rivals_has_a_cell_for_each_rival_and_footage() -> None:
    stages = yaml.safe_load(RIVAL_PIPELINE.read_text())["stages"]
    assert stages["cell"]["matrix"] == {"rival": list(RIVALS), "footage": list(FOOTAGE)}
    assert stages["footage"]["matrix"] == {"footage": list(FOOTAGE)}


def test_an_edit_of_the_application_or_of_who_runs_a_call_makes_nothing_stale() -> None:
    free = [file for file in LIBRARY if file.startswith(("backdrop/app/", *EXEMPT))]
    assert {"backdrop/app/cli.py", "backdrop/run/cluster.py", "backdrop/errors.py"} <= set(free)
    assert any(file.startswith("backdrop/app/page/") for file in free)
    assert any(file.startswith("backdrop/app/exports/") for file in free)
    for file in [*free, "backdrop/config/descriptions.yaml"]:
        assert stages_of(file) == set(), file


def test_an_unlisted_import_is_found(tmp_path: Path) -> None:
    stage = tmp_path / "s.py"
    stage.write_text("def f():\n    from backdrop.crf import dense\n")
    assert imported(stage) == {"backdrop/crf/dense.py"}
    assert "backdrop/io/masks.py" in library_files(stage)
    stage.write_text("from backdrop.student.cues import frame_cues\n")
    assert "backdrop/student/cues/__init__.py" in library_files(stage)


# Direction of imports ---------------------------------------------------------------------------------

LAYERS = [
    {"app", "rivals"},
    {*STAGES, "collage", "adjust"},
    {"crf", "learn", "draw", "thresholds"},
    {"networks", "measures", "doubts"},
    {"motion"},
    {"io", "video", "run"},
    {"config"},
    {"errors"},
]
"""Each may import what stands below it. Inside a layer, `SIDE` says who may import whom."""
SIDE = {("video", "io"), ("learn", "crf")}
OUTSIDE = {"backdrop/__init__.py", "backdrop/__main__.py", "backdrop/params.py", "backdrop/stage.py"}
"""Public names, the command, the whole of params.yaml, what the stages' files call."""


def part(file: str) -> str:
    return file.split("/")[1].removesuffix(".py")


def test_imports_go_one_way() -> None:
    level = {name: number for number, names in enumerate(LAYERS) for name in names}
    for file in sorted(set(LIBRARY) - OUTSIDE):
        for other in imported(ROOT / file) - OUTSIDE:
            here, there = part(file), part(other)
            fine = here == there or level[here] < level[there] or (here, there) in SIDE
            assert fine or here == "app", f"{file} imports {other}"


def test_no_module_imports_itself_through_others() -> None:
    waiting = {file: imported(ROOT / file) for file in LIBRARY}
    while waiting:
        leaves = [file for file, needs in waiting.items() if not needs & waiting.keys()]
        assert leaves, f"import circle among {sorted(waiting)}"
        for leaf in leaves:
            del waiting[leaf]


def test_the_networks_know_nothing_of_one_another() -> None:
    parts = {f"backdrop/networks/{name}.py" for name in ("detector", "synthesis", "inpainter", "student")}
    for file in parts:
        assert not imported(ROOT / file) & (parts - {file})


# The text of the code ---------------------------------------------------------------------------------


def test_each_equation_stands_in_exactly_one_docstring() -> None:
    found: dict[int, list[str]] = {number: [] for number in range(1, 14)}
    for file in LIBRARY:
        for node in ast.walk(ast.parse((ROOT / file).read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                for number in re.findall(r"Eq\. (\d+)", ast.get_docstring(node) or ""):
                    found[int(number)].append(f"{file}:{getattr(node, 'name', '')}")
    assert {number: places for number, places in found.items() if len(places) != 1} == {}


def test_no_tracked_file_names_a_path_of_a_machine() -> None:
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *map(ROOT.joinpath, LIBRARY), ROOT / "requirements.lock"]:
        text = path.read_text()
        for folder in (ROOT.parent, Path.home()):  # `.dvc/tmp/` is none of them, wherever the clone lies
            assert not re.search(rf"(?<![\w.]){re.escape(str(folder))}/", text), path
    line = re.compile(r"#.*|\s+#.*|[\w.-]+(\[[\w,-]+\])?==\S+( ; .+)? \\|\s+--hash=sha256:[0-9a-f]{64}( \\)?")
    lock = (ROOT / "requirements.lock").read_text()
    assert [found for found in lock.splitlines() if not line.fullmatch(found)] == []
    assert "://" not in lock, "packages are named by version and hash alone"
