"""What every stage says when the machine gives out, as one line with what to do, and status 1."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from joblib.externals.loky.process_executor import TerminatedWorkerError

from backdrop.stage import explain, run

FAULTS = [
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/x.part"), ("runs/x.part", "No space left", "free some")),
    (OSError(errno.EROFS, os.strerror(errno.EROFS)), ("Read-only", "writable")),
    (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "metrics"), ("metrics", "Permission denied", "right")),
    (OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), "x" * 300), ("x" * 300, "File name too long")),
    (IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), "a\nb"), (r"a\nb", "Is a directory")),
    (FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "gone"), ("gone", "No such file")),
    (OSError(errno.EIO, os.strerror(errno.EIO)), ("Input/output error", "run the same command again")),
    (OSError(errno.ESTALE, os.strerror(errno.ESTALE), "share/x"), ("share/x", "Stale file handle")),
    (MemoryError(), ("out of memory", "lower the batch")),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore"), ("2 GiB", "lower the batch")),
    (TerminatedWorkerError("A worker process ... SIGKILL(-9)"), ("worker process was killed", "compute.workers")),
    (RuntimeError("CUDA error: device-side fault\nCompile with"), ("device-side fault", "last checkpoint")),
]


def failing(fault: BaseException) -> NoReturn:
    raise fault


@pytest.mark.parametrize(("fault", "said"), FAULTS, ids=lambda v: type(v).__name__)
def test_a_machine_that_gives_out_is_one_line(
    fault: BaseException, said: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(lambda: failing(fault))
    assert stopped.value.code == 1
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert len(message.splitlines()) == 1
    assert all(words in message for words in said)


def test_what_may_not_be_read_is_not_called_unwritable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "params.yaml"
    path.touch()
    fault = PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read everything
    assert str(explain(fault)).startswith(f"cannot read: '{path}': Permission denied")
    monkeypatch.setattr(os, "access", lambda *_: True)
    assert str(explain(fault)).startswith(f"cannot write: '{path}': Permission denied")


@pytest.mark.parametrize("fault", [RuntimeError("shapes differ"), FileNotFoundError("x"), KeyError("x")])
def test_a_fault_of_the_program_keeps_its_traceback(fault: Exception) -> None:
    assert explain(fault) is None
    with pytest.raises(type(fault)):
        run(lambda: failing(fault))
