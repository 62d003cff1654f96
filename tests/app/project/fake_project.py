"""A DVC project of two trivial stages, in place of a pipeline that trains."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.small_pipeline import environment

STAGES = """\
stages:
  frames:
    cmd: python first.py
    deps: [first.py]
    outs: [a]
  train:
    cmd: python second.py
    deps: [a, second.py]
    outs: [b]
"""

FIRST = """\
import sys, time
from tqdm import tqdm
for _ in tqdm(range(4), desc="frames", unit="sequence"):
    time.sleep(0.1)
tqdm.write("warning: run2 (damaged): cut off", file=sys.stderr)
open("a", "w").write("1")
"""

SECOND = """\
open("b", "w").write("2")
print("said by the second")
"""


def fake_project(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`folder` under git and DVC, with `STAGES`; nothing outside of its parent is written."""
    outside = {"DVC_SITE_CACHE_DIR": folder.parent / "site", "XDG_CACHE_HOME": folder.parent / "cache"}
    env = environment(HOME=str(folder.parent), **{name: str(path) for name, path in outside.items()})
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    folder.mkdir()
    (folder / "dvc.yaml").write_text(STAGES)
    (folder / "first.py").write_text(FIRST)
    (folder / "second.py").write_text(SECOND)
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=folder, check=True)
    return folder
