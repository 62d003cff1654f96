"""`backdrop new`: what a project holds, where none can be made, and what an update of Backdrop does to it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from backdrop.app.project import new, pipeline
from backdrop.app.project.new import STATE, is_project, new_project, refresh
from backdrop.app.project.pipeline import library_hashes, pipeline_files, project_stages
from backdrop.app.project.train import run_steps
from backdrop.errors import BackdropError, WriteError
from backdrop.params import read
from backdrop.video.encode import encode_video
from tests.backdrop_command import call
from tests.handmade_run import scene
from tests.project_copy import Project
from tests.small_pipeline import ROOT, SMALL, contents, environment

CLIP = scene(6)[0]

NAMES = ["br [1] (2) é, e\u0301 видео", 'quo\'te "d" #2: {y}, =z $x%&;', "~tilde\\ new\nline"]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands write nothing outside of the test's folder, and know nobody's git settings."""
    outside = {"HOME": "home", "XDG_CACHE_HOME": "cache", "DVC_SITE_CACHE_DIR": "site"}
    for name, value in environment(**{name: str(tmp_path / part) for name, part in outside.items()}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "my videos"
    folder.mkdir()
    encode_video(folder / "run.mp4", CLIP, fps=10)
    return folder


@pytest.fixture
def files_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Projects without git, DVC and params.yaml, which take seconds."""
    monkeypatch.setattr(new, "_run", lambda folder, *_: (folder / ".dvc").mkdir(exist_ok=True))
    monkeypatch.setattr(new, "compose_project", lambda _: None)


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout


def test_a_project_is_committed_and_holds_what_it_needs(videos: Path, tmp_path: Path) -> None:
    status, said = call("new", tmp_path / "pro ject", "--videos", videos)
    assert status == 0, said
    assert "1 video of" in said
    assert said.endswith(f"Next:\n  cd '{tmp_path / 'pro ject'}'\n  backdrop train\n")
    project = tmp_path / "pro ject"
    assert is_project(project)
    assert not is_project(ROOT)
    assert git(project, "status", "--porcelain") == ""
    assert git(project, "log", "--format=%s") == "Start\n"
    committed = set(git(project, "ls-files").split())
    assert {"params.yaml", "conf/config.yaml", "dvc.yaml", "library.yaml", ".gitignore", "README.md"} <= committed
    stages = {f"stages/{path.name}" for path in (ROOT / "stages").glob("*.py")}
    assert {name for name in committed if name.startswith("stages/")} == stages - {"stages/s0_render.py"}
    assert (project / ".dvc" / "config").read_bytes() == (ROOT / ".dvc" / "config").read_bytes()
    assert len((project / "README.md").read_text().splitlines()) <= 25
    params = read(project / "params.yaml")
    assert (params.data.layout, params.data.root, params.data.path) == ("videos", str(videos), str(videos))
    ours = read(ROOT / "params.yaml")
    assert params.model_copy(update={"data": None}) == ours.model_copy(update={"data": None}), "all else is Backdrop's"


@pytest.mark.parametrize("name", NAMES)
def test_no_path_needs_quoting(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    encode_video(tmp_path / name / "run.mp4", CLIP[:2], fps=10)
    project = tmp_path / f"{name} project"
    new_project(project, tmp_path / name)
    data = yaml.safe_load((project / "params.yaml").read_text())["data"]
    assert data["root"] == data["path"] == str(tmp_path / name)
    asked = [sys.executable, "-m", "dvc", "status", "--json", "frames"]
    said = subprocess.run(asked, cwd=project, capture_output=True, text=True)
    (changed, _) = json.loads(said.stdout)["frames"]
    assert changed["changed deps"][str(tmp_path / name)] == "modified", "DVC finds the footage under this name"


@pytest.mark.usefixtures("files_alone")
def test_a_relative_path_and_a_tilde_are_those_of_the_caller(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "link").symlink_to(videos)
    (tmp_path / "~literal").mkdir()
    encode_video(tmp_path / "~literal" / "run.mp4", CLIP[:2], fps=10)
    expected = dict.fromkeys(["my videos", "~/my videos", "my videos/../my videos", "./my videos/"], videos)
    expected |= {"link": tmp_path / "link", "my videos/run.mp4": videos / "run.mp4", "~literal": tmp_path / "~literal"}
    for number, (given, root) in enumerate(expected.items()):
        new_project(Path(f"project{number}"), Path(given))
        settings = yaml.safe_load((tmp_path / f"project{number}" / "conf" / "config.yaml").read_text())
        assert settings["data"]["root"] == str(root)


def test_settings_stand_in_front_of_backdrops_own(videos: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    new_project(project, videos)
    settings = project / "conf" / "config.yaml"
    settings.write_text(settings.read_text().replace("scale: demo", "scale: gpu") + "\nstudent:\n  iterations: 7\n")
    new.compose_project(project)
    params = read(project / "params.yaml")
    assert params.student.iterations == 7
    assert params.student.channels == [32, 48, 64, 96, 128], "of scale=gpu"
    settings.write_text(settings.read_text() + "  iteratoins: 7\n")
    with pytest.raises(BackdropError, match=r"params\.yaml has 1 problem\(s\): student\.iteratoins: unknown key"):
        new.compose_project(project)
    settings.write_text(settings.read_text().replace("scale: gpu", "scale: nope"))
    with pytest.raises(BackdropError, match=r"^conf cannot be composed: .*'scale/nope'"):
        new.compose_project(project)


# ----------------------------------------------------------------------------------------- where none can be made


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("file", "is no folder"),
        ("dangling", "is no folder"),
        ("a loop", "is no folder"),
        ("below a file", "Not a directory"),
        ("too long", "File name too long"),
        ("a pipe", "is neither a folder nor a file"),
        ("not empty", "is not empty"),
        ("in the footage", "would lie inside the footage"),
        ("the footage", "is not empty"),
        ("in a project", "would lie inside the DVC project"),
        ("no footage", "does not exist"),
        ("empty footage", "holds no sequence"),
        ("empty folders", "no folder of images that can be read"),
        ("text", "holds no sequence"),
        ("a text", "notes.txt is by its suffix no video"),
        ("a name", "no settings file can hold"),
        ("bytes", "no settings file can hold"),
        ("unreadable", "may not be read"),
        ("no git", "git is not installed"),
        ("git fails", "`git init -q` failed"),
    ],
)
def test_what_keeps_a_project_from_being_made_is_one_line_and_leaves_nothing(
    kind: str, words: str, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, footage = tmp_path / "new", videos
    if kind == "file":
        folder.touch()
    elif kind in ("dangling", "a loop"):
        folder.symlink_to("nowhere" if kind == "dangling" else "new")
    elif kind in ("below a file", "too long"):
        (tmp_path / "file").touch()
        folder = tmp_path / "file" / "new" if kind == "below a file" else tmp_path / ("x" * 300)
    elif kind == "a pipe":
        footage = tmp_path / "pipe"
        os.mkfifo(footage)
    elif kind == "not empty":
        folder.mkdir()
        (folder / "mine").touch()
    elif kind in ("in the footage", "the footage"):
        folder = videos / "below" / "deep" if kind == "in the footage" else videos
    elif kind == "in a project":
        (tmp_path / "other" / ".dvc").mkdir(parents=True)
        folder = tmp_path / "other" / "new"
    elif kind in ("no footage", "empty footage", "empty folders", "text", "a text"):
        footage = tmp_path / "footage"
        if kind != "no footage":
            footage.mkdir()
        if kind == "empty folders":
            (footage / "x").mkdir()
        if kind in ("text", "a text"):
            (footage / "notes.txt").touch()
        footage = footage / "notes.txt" if kind == "a text" else footage
    elif kind in ("a name", "bytes"):
        footage = videos.rename(tmp_path / ("${x}" if kind == "a name" else os.fsdecode(b"\xff")))
    elif kind == "unreadable":
        plain = os.access  # root may read everything
        monkeypatch.setattr(os, "access", lambda path, mode: path != videos and plain(path, mode))
    elif kind == "no git":
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        (tmp_path / "git").write_text("#!/bin/sh\necho no luck >&2\nexit 1\n")
        (tmp_path / "git").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
    before = contents(tmp_path)
    status, said = call("new", folder, "--videos", footage)
    assert status == 1
    assert words in said
    assert len(said.strip().splitlines()) == 1, said
    assert contents(tmp_path) == before


def test_an_empty_folder_that_failed_is_empty_again(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Path) -> None:
        raise WriteError("full")

    monkeypatch.setattr(new, "compose_project", full)
    (tmp_path / "here").mkdir()
    with pytest.raises(WriteError):
        new_project(tmp_path / "here", videos)
    assert contents(tmp_path / "here") == {}


def test_ones_own_name_stands_in_the_commit_where_git_knows_it(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_project(tmp_path / "known", videos)
    assert git(tmp_path / "known", "log", "--format=%an") == "Tester\n"
    for role in ("AUTHOR", "COMMITTER"):
        for key in ("NAME", "EMAIL"):
            monkeypatch.delenv(f"GIT_{role}_{key}")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".gitconfig").write_text("[user]\n\tuseConfigOnly = true\n")
    status, said = call("new", tmp_path / "unknown", "--videos", videos)
    assert status == 0, said
    assert git(tmp_path / "unknown", "log", "--format=%an") == "Backdrop\n"
    assert "git does not know your name" in said


# --------------------------------------------------------------------------------------------------- updates


@pytest.mark.usefixtures("files_alone")
def test_an_update_replaces_what_nobody_edited_and_names_the_rest(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    new_project(project, videos)
    mine = (project / "conf" / "config.yaml").read_text() + "# mine\n"
    (project / "conf" / "config.yaml").write_text(mine)
    (project / "stages" / "s5_train.py").write_bytes(b"# mine \xff\n")
    plain = (project / "dvc.yaml").read_bytes()
    (project / "dvc.yaml").write_bytes(plain.replace(b"\n", b"\r\n"))  # as git writes it on Windows
    assert refresh(project) == ([], ["stages/s5_train.py"])
    newer = {name: f"{text}# newer\n" for name, text in pipeline_files().items() if name != "conf/scale/gpu.yaml"}
    newer["stages/s11_more.py"] = "# new\n"
    monkeypatch.setattr(new, "pipeline_files", lambda: newer)
    monkeypatch.setattr(new, "installed_version", lambda: "9.9")
    changed, kept = refresh(project)
    assert kept == ["stages/s5_train.py"]
    assert set(changed) == {*newer, "conf/scale/gpu.yaml"} - {"stages/s5_train.py"}
    assert not (project / "conf" / "scale" / "gpu.yaml").exists()
    assert (project / "dvc.yaml").read_text().endswith("# newer\n")
    assert (project / "conf" / "config.yaml").read_text() == mine
    assert yaml.safe_load((project / STATE).read_text())["version"] == "9.9"
    assert refresh(project) == ([], ["stages/s5_train.py"]), "it is not forgotten"
    (project / "stages" / "s5_train.py").unlink()
    assert refresh(project) == (["stages/s5_train.py"], [])


@pytest.mark.parametrize("text", ["{", "", "files: 3", "- 1"])
def test_a_damaged_state_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / STATE).write_text(text)
    with pytest.raises(BackdropError, match=r"\.backdrop\.yaml is damaged"):
        refresh(tmp_path)


def test_footage_that_has_moved_is_named_with_its_key(videos: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    new_project(project, videos)
    videos.rename(tmp_path / "elsewhere")
    with pytest.raises(BackdropError, match=r"my videos does not exist: set data\.root in .*config\.yaml"):
        run_steps(project)


# ------------------------------------------------------------------------------------- the library's files


def test_a_projects_stages_hang_on_the_library_by_its_hashes() -> None:
    clone = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    own = yaml.safe_load(project_stages((ROOT / "dvc.yaml").read_text()))
    library = own["stages"].pop("library")
    del clone["stages"]["render"]
    assert library["always_changed"]
    assert list(own["stages"]) == list(clone["stages"]) == [name for name in library_hashes() if name != "version"]
    for name, stage in own["stages"].items():
        params = clone["stages"][name]["params"]
        assert stage["params"] == [{"library.yaml": [f"library.{name}"]}, *params]
        assert stage["deps"] == [dep for dep in clone["stages"][name]["deps"] if not dep.startswith("backdrop/")]
        assert {k: v for k, v in stage.items() if k not in ("params", "deps")} == {
            k: v for k, v in clone["stages"][name].items() if k not in ("params", "deps")
        }
    assert own["plots"] == clone["plots"]


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("crf/dense.py", {"student", "refine"}),
        ("train/losses.py", {"train"}),
        ("networks/motion_network.safetensors", {"student"}),
        ("app/cli.py", set()),
        ("run/cluster.py", set()),
    ],
)
def test_an_update_makes_stale_the_stages_whose_code_it_changed(
    file: str, stages: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the clone, see tests/test_graph.py."""
    before, plain = library_hashes(), Path.read_bytes
    changed = ROOT / "backdrop" / file

    def read_changed(path: Path) -> bytes:
        return plain(path) + b"#" * (path == changed)

    monkeypatch.setattr(Path, "read_bytes", read_changed)
    assert {name for name, value in library_hashes().items() if value != before[name]} == stages


# ------------------------------------------------------------------------------------------------ the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the wheel holds, unpacked; built from a copy, as a build writes beside its sources."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("backdrop", "conf", "stages", ".dvc"):
        left_out = shutil.ignore_patterns("__pycache__", "cache", "tmp", "config.local")
        shutil.copytree(ROOT / name, source / name, ignore=left_out)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, source / name)
    build = "from setuptools import build_meta; build_meta.build_wheel('..')"
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    shutil.unpack_archive(built, folder / "unpacked", "zip")
    return folder / "unpacked"


def test_the_wheel_holds_the_pipeline_of_the_repository(wheel: Path) -> None:
    held = {name: data for name, data in contents(wheel / "backdrop/app/project/pipeline").items() if data is not None}
    files = [path for folder in ("conf", "stages") for path in (ROOT / folder).rglob("*") if path.is_file()]
    files += [ROOT / name for name in ("dvc.yaml", ".dvcignore", ".dvc/config")]
    names = [path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts]
    assert held == {name: (ROOT / name).read_bytes() for name in names}
    for file in (ROOT / "backdrop" / "app" / "project" / "template").iterdir():
        assert (wheel / "backdrop" / "app" / "project" / "template" / file.name).read_bytes() == file.read_bytes()


def test_the_repository_holds_no_second_copy() -> None:
    assert not pipeline.PACKAGED.exists()
    assert pipeline.pipeline_folder() == ROOT


def test_the_wheel_alone_makes_the_same_project(
    wheel: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_project(tmp_path / "clone" / "project", videos)
    monkeypatch.setenv("PYTHONPATH", str(wheel))
    (tmp_path / "wheel").mkdir()
    command = [sys.executable, "-m", "backdrop.app.cli", "new", "project", "--videos", str(videos)]
    done = subprocess.run(command, cwd=tmp_path / "wheel", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = [
        {name: data for name, data in contents(tmp_path / kind / "project").items() if not name.startswith(".git/")}
        for kind in ("clone", "wheel")
    ]
    for name in (".dvc/tmp", ".dvc/tmp/btime"):
        for one in made:
            one.pop(name, None)
    assert made[0] == made[1]


# ------------------------------------------------------------------------------------------- the real thing


@pytest.mark.slow
def test_a_project_trains_to_its_summary_and_an_experiment_follows(videos: Path, tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.root.rmdir()
    new_project(project.root, videos)
    settings = project.root / "conf" / "config.yaml"
    small = {name: values for name, values in SMALL.items() if name != "footage"}
    settings.write_text(f"{settings.read_text()}\n{yaml.safe_dump(small)}")
    project.env["PYTHONPATH"] = str(ROOT)
    status, said = project.run("backdrop", "train")
    assert status == 0, said
    assert "params.yaml is composed from conf/ anew: " in said
    assert "step 11 of 11: writing the report" in said
    assert "Masks of 1 video." in said
    assert said.splitlines()[-3:] == [
        "masks   data/davis/Annotations",
        "report  metrics/report.html",
        "model   models/segmenter",
    ]
    assert len(list((project.root / "data" / "davis" / "Annotations" / "run").glob("*.png"))) == len(CLIP)
    assert project.leftovers() == []
    said = project("backdrop", "train")
    assert said.startswith("steps 1 to 11 of 11: nothing changed")
    project("git", "add", "-A")
    project("git", "commit", "-qm", "Run")
    assert project("git", "status", "--porcelain") == ""
    said = project("dvc", "exp", "run", "-S", "crf.iterations=2")
    assert project.ran(said) == {"library", "refine", "score", "report"}
