"""A small copy of the project under git and DVC, the commands a person gives in it, and what harm may come to it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from tests.small_pipeline import copy_project, environment

TIMED = ("metrics/provenance.json", "metrics/report.html")
"""Outputs that name the time and the revision of the run."""


class Project:
    """A copy of the project as a git repository of its own, and the commands a person gives in it."""

    def __init__(self, root: Path) -> None:
        self.root = root / "project"
        self.root.mkdir(exist_ok=True)
        self.env = environment(PYTHONPATH=str(self.root), DVC_SITE_CACHE_DIR=str(root / "site"), HOME=str(root))
        self.said = ""

    def __call__(self, *command: str) -> str:
        status, said = self.run(*command)
        assert status == 0, f"{command}:\n{said}"
        return said

    def run(self, *command: str, **options: Any) -> tuple[int, str]:
        """Exit status, and what it said on both streams."""
        both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "timeout": 600}
        done = subprocess.run(command, cwd=self.root, env=self.env, **both, **options)
        return done.returncode, done.stdout

    def start(self, *command: str) -> subprocess.Popen[str]:
        """The command as the leader of a process group of its own, which `kill` ends."""
        both: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=self.root, env=self.env, start_new_session=True, **both)

    def ran(self, said: str) -> set[str]:
        return {name.split("@")[0] for name in re.findall(r"Running stage '([^']+)'", said)}

    def scores(self) -> dict[str, Any]:
        return json.loads((self.root / "metrics" / "scores.json").read_text())

    def locked(self) -> dict[str, dict[str, str]]:
        """Stage -> its outputs -> their hashes, of dvc.lock; without those that name the time."""
        stages = yaml.safe_load((self.root / "dvc.lock").read_text())["stages"]
        return {
            name: {out["path"]: out["md5"] for out in stage["outs"] if out["path"] not in TIMED}
            for name, stage in stages.items()
        }

    def outputs(self, name: str) -> list[str]:
        """Paths of a stage's outputs."""
        return [out["path"] for out in yaml.safe_load((self.root / "dvc.lock").read_text())["stages"][name]["outs"]]

    def forget(self, name: str) -> None:
        """As if the stage had never run: its outputs, its entry in dvc.lock and what DVC's cache holds of both go.

        Without this DVC would take the outputs from its cache and run nothing.
        """
        path = self.root / "dvc.lock"
        lock = yaml.safe_load(path.read_text())
        gone = lock["stages"].pop(name)
        path.write_text(yaml.safe_dump(lock, sort_keys=False))
        cache = self.root / ".dvc" / "cache"
        shutil.rmtree(cache / "runs", ignore_errors=True)
        kept = {file for stage in lock["stages"].values() for file in self._cached(stage["outs"])}
        for file in self._cached(gone["outs"]) - kept:
            file.unlink(missing_ok=True)
        for out in gone["outs"]:
            remove(self.root / out["path"])

    def _cached(self, outs: Iterable[Mapping[str, Any]]) -> set[Path]:
        """The files of DVC's cache that hold these outputs."""
        hashes = [out["md5"] for out in outs]
        found = set()
        for value in hashes:
            path = self.root / ".dvc" / "cache" / "files" / "md5" / value[:2] / value[2:]
            found.add(path)
            if value.endswith(".dir") and path.is_file():
                hashes += [entry["md5"] for entry in json.loads(path.read_text())]
        return found

    def leftovers(self) -> list[str]:
        """Hidden and partial files and folders among the outputs."""
        found = [path for top in ("data", "models", "metrics") for path in (self.root / top).rglob("*")]
        hidden = {".gitignore"}  # of DVC's making
        return sorted(
            path.relative_to(self.root).as_posix()
            for path in found
            if (path.name.startswith(".") and path.name not in hidden) or path.name.endswith(".part")
        )


def new_project(root: Path, changes: Mapping[str, Any]) -> Project:
    """A copy after `git init` and a commit; nothing has run."""
    project = Project(root)
    copy_project(project.root, changes)
    project("python", "-m", "backdrop.params")
    project("git", "init", "-q")
    project("git", "add", "-A")
    project("git", "commit", "-qm", "Start")
    return project


def kill(process: subprocess.Popen[str]) -> str:
    """SIGKILL for the whole group, and the wait until none of it is left; what was said before."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    said = process.communicate(timeout=60)[0]
    deadline = time.monotonic() + 60
    while alive(process.pid):
        assert time.monotonic() < deadline, "the group outlives SIGKILL"
        time.sleep(0.02)
    return said


def alive(group: int) -> bool:
    """Whether a process of the group still runs; dead ones that nobody has waited for do not count."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, own = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(own) == group and state != "Z":
            return True
    return False


def remove(path: Path) -> None:
    """A file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
