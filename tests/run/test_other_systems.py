"""What only Linux has is asked for in a few places, and done without where it is missing.

Stand-ins: modules and functions are taken away from the library, not from the packages that it uses.
"""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backdrop.app.project import train
from backdrop.errors import BackdropError
from backdrop.learn.training_frames import _scratch_map
from backdrop.run import locks, space
from backdrop.run.locks import locked
from backdrop.run.space import take_room
from backdrop.student.pseudo_masks import allocate
from tests.handmade_run import scene
from tests.small_pipeline import ROOT, environment, write_model

LINUX = r"\bfcntl\b|posix_fallocate|/dev\b|/proc\b|\bkillpg\b|\bSIGKILL\b|\bSIGHUP\b|sched_\w+|\bgetuid\b|os\.fork\b"
MODULES = r"import (resource|pwd|grp|termios|pty|tty|syslog)\b"

KNOWN = {
    "backdrop/run/locks.py",  # files are locked where the system can
    "backdrop/run/space.py",  # room is taken by the system, or by writing
    "backdrop/run/cluster.py",  # a GPU's device file is looked for; where there is none, no GPU is offered
    "backdrop/rivals/cells.py",  # rivals have a limit of processor time, and their memory is measured
    "backdrop/rivals/spent.py",
    "backdrop/app/live/inputs.py",  # a camera may have its device file for a name; its number is known everywhere
    "backdrop/app/project/train.py",  # a group of processes is ended together where there are groups
}

WITHOUT = """\
import builtins, os, signal, sys
plain = builtins.__import__
def without(name, globals=None, *rest):
    ours = (globals or {}).get("__name__", "").startswith("backdrop")
    if ours and name in ("fcntl", "resource", "pwd", "grp", "termios"):
        raise ImportError(f"no {name} here")
    return plain(name, globals, *rest)
builtins.__import__ = without
del os.posix_fallocate
"""


def test_what_only_linux_has_is_named_in_known_places() -> None:
    naming = set()
    for path in (ROOT / "backdrop").rglob("*.py"):
        code = re.sub(r'"""[\s\S]*?"""|#.*', "", path.read_text())
        if re.search(f"{LINUX}|{MODULES}", code):
            naming.add(path.relative_to(ROOT).as_posix())
    assert naming == KNOWN


def test_all_of_the_library_is_imported_without_it() -> None:
    modules = [
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        for path in sorted((ROOT / "backdrop").rglob("*.py"))
        if path.name not in ("__init__.py", "__main__.py")
    ]
    code = f"{WITHOUT}\nimport importlib\nfor name in {modules}:\n    importlib.import_module(name)\nprint('all')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.stdout.endswith("all\n"), done.stderr


def test_predict_runs_without_it(tmp_path: Path) -> None:
    model = write_model(tmp_path / "segmenter")
    Image.fromarray(scene(1)[0][0]).save(tmp_path / "x.png")
    code = f"{WITHOUT}\nfrom backdrop.app.cli import main\nmain()"
    words = ["predict", str(tmp_path / "x.png"), "-o", str(tmp_path / "out"), "--model", str(model), "--refine", "none"]
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "masks" / "x.png").is_file()


def test_without_locks_nobody_is_kept_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with locked(tmp_path / "x", "busy"), pytest.raises(BackdropError, match="busy"), locked(tmp_path / "x", "busy"):
        pytest.fail("two at once")
    monkeypatch.setattr(locks, "fcntl", None)
    with locked(tmp_path / "x", "busy"), locked(tmp_path / "x", "busy"):
        pass


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("before", [b"", b"held", b"x" * 3000])
def test_room_is_taken_and_content_stays(
    there: bool, before: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not there:
        monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.setattr(space, "BLOCK", 1000)
    path = tmp_path / "x"
    path.write_bytes(before)
    with path.open("r+b") as file:
        take_room(file, 3500)
    assert path.read_bytes() == before + bytes(3500 - len(before))
    assert path.stat().st_blocks * 512 >= 3500, "the disk holds it"


def test_no_room_is_an_error_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Full(io.FileIO):
        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.delattr(os, "posix_fallocate")
    (tmp_path / "x").touch()
    with Full(tmp_path / "x", "r+b") as file, pytest.raises(OSError, match="No space left"):
        take_room(file, 10)


def test_training_takes_its_room_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    scratch = _scratch_map((3, 50))
    assert scratch is not None
    assert scratch.shape == (3, 50)
    assert not scratch.any()
    allocate(tmp_path / "x.npy", (4, 5, 6), 7)
    assert np.array_equal(np.load(tmp_path / "x.npy"), np.full((4, 5, 6), 7, np.uint8))


def test_without_groups_of_processes_the_first_one_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "killpg")
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdout=subprocess.PIPE) as process:
        train._signal_group(process, signal.SIGINT)  # Ctrl-C reaches a whole console there, and it first of all
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        train._signal_group(process, signal.SIGTERM)
        assert process.wait(20) == -signal.SIGTERM
