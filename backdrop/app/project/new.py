"""`backdrop new`: a small DVC project for the footage of one's own, outside of the tool's clone."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml

from backdrop.app.project.pipeline import LIBRARY, installed_version, pipeline_files, pipeline_folder, write_library
from backdrop.app.project.steps import last_error
from backdrop.errors import BackdropError
from backdrop.frames.layouts import list_sequences
from backdrop.frames.layouts.listing import Sequence
from backdrop.io.files import VIDEO_SUFFIXES, atomic_path, show, writing

TEMPLATE = Path(__file__).parent / "template"

SETTINGS = "conf/config.yaml"
"""In a project: what the user sets."""

STATE = ".backdrop.yaml"
"""In a project: the version that wrote its files, and a hash of each as it was written."""

WHO = ("-c", "user.name=Backdrop", "-c", "user.email=backdrop@localhost")
"""Who makes the first commit where git knows nobody."""


def new_project(folder: Path, videos: Path) -> list[Sequence]:
    """Make a project in `folder`, which is made if missing, and return the videos and folders of images it will read.

    When something fails, nothing of it stays.

    Args:
        folder: does not exist, or is empty.
        videos: a folder of videos and of folders of images, or one video.

    A leading ~ is the home folder, also where quotes kept the shell from saying so.

    Raises:
        BackdropError: the folder is taken or lies where no project can, there is no footage, or git is missing.
        WriteError: the folder cannot be written.
    """
    folder, videos = _settled(folder), _settled(videos)
    if shutil.which("git") is None:
        raise BackdropError("git is not installed, or not on PATH: a project is a git repository; install git first")
    _check_place(folder, videos)
    sequences = _footage(videos)
    with _filled(folder):
        for name, text in _own_files(folder, videos).items():
            _write(folder / name, text)
        refresh(folder)
        write_library(folder / LIBRARY)
        _run(folder, "git", "init", "-q")
        _run(folder, sys.executable, "-m", "dvc", "init", "-q")
        shutil.copyfile(pipeline_folder() / ".dvc" / "config", folder / ".dvc" / "config")
        compose_project(folder)
        _run(folder, "git", "add", "-A")
        who = () if git_knows_somebody(folder) else WHO
        _run(folder, "git", "-c", "commit.gpgsign=false", *who, "commit", "-qm", "Start", "--no-verify")
    return sequences


def is_project(folder: Path) -> bool:
    """Whether `backdrop new` made a folder. The tool's clone is none."""
    return (folder / STATE).is_file()


def refresh(project: Path) -> tuple[list[str], list[str]]:
    """Bring the files that a project has from Backdrop up to the installed version.

    Returns:
        The files that were written or removed, and those that stay since somebody has edited them.

    Raises:
        BackdropError: a file cannot be read, or the project's state is no such state.
    """
    known, wanted = _known_hashes(project), pipeline_files()
    changed, kept = [], []
    for name in sorted({*known, *wanted}):
        path, text = project / name, wanted.get(name)
        present = _hash(path.read_bytes()) if path.is_file() else None
        if text is not None and present == _hash(text.encode()):
            continue
        if present not in (None, known.get(name)):
            kept.append(name)
        elif text is None:
            path.unlink(missing_ok=True)
            changed.append(name)
        else:
            _write(path, text)
            changed.append(name)
    state = {"version": installed_version(), "files": {name: _hash(text.encode()) for name, text in wanted.items()}}
    text = f"# What Backdrop wrote into this project. `backdrop train` keeps it.\n{yaml.safe_dump(state)}"
    if not (project / STATE).is_file() or (project / STATE).read_text(encoding="utf-8") != text:
        _write(project / STATE, text)
    return changed, kept


def compose_project(project: Path) -> None:
    """Write params.yaml from conf/. In a process of its own: Hydra loads the plugins of one folder in a process.

    Raises:
        BackdropError: what conf/ holds is wrong.
    """
    done = _finished(project, sys.executable, "-m", "backdrop.params")
    if done.returncode:
        raise BackdropError(last_error(done.stderr.splitlines()))


def _settled(path: Path) -> Path:
    """A path as no shell and no working folder can change it. Links stay links, unless ".." follows one."""
    if not os.path.exists(path):
        with suppress(RuntimeError):  # there is no such user
            path = path.expanduser()
    path = path.absolute()
    return Path(os.path.realpath(path)) if ".." in path.parts else path


def _check_place(folder: Path, videos: Path) -> None:
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise BackdropError(f"{show(folder)} is no folder; name one that does not exist yet")
    if folder.is_dir() and any(folder.iterdir()):
        raise BackdropError(f"{show(folder)} is not empty; name a folder that does not exist yet")
    place = Path(os.path.realpath(folder))
    for above in place.parents:
        if (above / ".dvc").is_dir():
            raise BackdropError(
                f"{show(folder)} would lie inside the DVC project {show(above)}; name a folder outside of it"
            )
    footage = Path(os.path.realpath(videos))
    if place == footage or footage in place.parents:
        raise BackdropError(
            f"{show(folder)} would lie inside the footage ({show(videos)}) and be taken for some of it; "
            "name a folder beside it"
        )


def _footage(videos: Path) -> list[Sequence]:
    """What the stage frames will find there."""
    if not os.path.exists(videos):
        raise BackdropError(f"--videos {show(videos)} does not exist; name the folder of your videos, or one video")
    if not os.access(videos, os.R_OK | (os.X_OK if videos.is_dir() else 0)):
        raise BackdropError(f"--videos {show(videos)} may not be read; give yourself the right to read it")
    if "${" in str(videos) or any("\ud800" <= letter <= "\udfff" for letter in str(videos)):
        raise BackdropError(
            f"--videos {show(videos)}: no settings file can hold this name (${{ and bytes that are no text mean "
            "something else there); rename it"
        )
    if not videos.is_dir() and not videos.is_file():
        raise BackdropError(f"--videos {show(videos)} is neither a folder nor a file; name the folder of your videos")
    if videos.is_file() and videos.suffix.lower() not in VIDEO_SUFFIXES:
        raise BackdropError(f"--videos {show(videos)} is by its suffix no video ({' '.join(VIDEO_SUFFIXES)})")
    sequences = list_sequences("videos", videos)
    if all(one.fault for one in sequences):
        raise BackdropError(
            f"--videos {show(videos)} holds no video and no folder of images that can be read "
            f"({sequences[0].source}: {sequences[0].fault})"
        )
    return sequences


@contextmanager
def _filled(folder: Path) -> Iterator[None]:
    """An empty folder that is filled in the block. When that fails, it is as before."""
    there = os.path.isdir(folder)
    try:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            yield
    except BaseException:
        for path in folder.iterdir() if os.path.isdir(folder) else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not there and os.path.isdir(folder):
            folder.rmdir()
        raise


def _own_files(folder: Path, videos: Path) -> dict[str, str]:
    """The files of a project that are the user's from the start: path in the project -> text."""
    root = yaml.safe_dump({"root": str(videos)}, allow_unicode=True, width=10**6).strip()  # quotes what must be
    readme = (TEMPLATE / "README.md").read_text(encoding="utf-8")
    return {
        "README.md": readme.format(name=show(folder.name), footage=f"`{show(videos)}`", version=installed_version()),
        SETTINGS: (TEMPLATE / "config.yaml").read_text(encoding="utf-8").replace("{root}", root),
        ".gitignore": (TEMPLATE / "gitignore").read_text(encoding="utf-8"),
    }


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def _hash(content: bytes) -> str:
    """Of a file, however its lines end: git writes them otherwise on Windows."""
    return hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()[:16]


def _known_hashes(project: Path) -> dict[str, str]:
    if not (project / STATE).is_file():
        return {}
    try:
        return dict(yaml.safe_load((project / STATE).read_text(encoding="utf-8"))["files"])
    except (yaml.YAMLError, ValueError, TypeError, KeyError):
        raise BackdropError(
            f"{show(project / STATE)} is damaged: `git checkout {STATE}` in the project brings it back"
        ) from None


def git_knows_somebody(folder: Path) -> bool:
    """Whether git knows in whose name a commit in this folder is made."""
    asked = subprocess.run(["git", "var", "GIT_COMMITTER_IDENT"], cwd=folder, capture_output=True)
    return asked.returncode == 0


def _run(folder: Path, *command: str) -> None:
    """Run a command in the project.

    Raises:
        BackdropError: it fails; with its last line.
    """
    done = _finished(folder, *command)
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        short = " ".join(Path(word).name if word == sys.executable else word for word in command[:4])
        raise BackdropError(f"`{short}` failed in {show(folder)}: {said[-1] if said else done.returncode}")


def _finished(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, errors="replace")
