"""`make env CPU=1`: the environment without CUDA. Nothing is installed here: what would be is read."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(shutil.which("make") is None or shutil.which("awk") is None, reason="needs make, awk")


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)


def pinned(lock: str) -> dict[str, str]:
    """Package -> version and hashes."""
    blocks = re.findall(r"^([a-z0-9-]+)==(.*(?:\n    --hash.*)*)", lock, re.MULTILINE)
    return dict(blocks)


def test_the_lock_for_the_cpu_lacks_cuda_and_pytorch_alone(tmp_path: Path) -> None:
    done = make(f"VENV={tmp_path}/venv", f"{tmp_path}/venv/cpu.lock")
    assert done.returncode == 0, done.stderr
    whole = pinned((ROOT / "requirements.lock").read_text())
    kept = pinned((tmp_path / "venv" / "cpu.lock").read_text())
    left_out = set(whole) - set(kept)
    assert {"torch", "torchvision", "triton", "nvidia-cublas", "nvidia-nccl-cu13", "cuda-toolkit"} <= left_out
    assert all(re.match(r"nvidia-|cuda-|triton|torch", name) for name in left_out)
    assert "nvidia-ml-py" in kept, "it asks a driver, and is not CUDA"
    assert {"torchmetrics", "lightning-fabric" if "lightning-fabric" in whole else "numpy"} <= set(kept)
    assert all(whole[name] == kept[name] for name in kept), "hashes go along"


def test_pytorch_comes_from_the_place_that_is_named(tmp_path: Path) -> None:
    done = make("-n", "env", "CPU=1", "TORCH_WHEELS=/some where/wheels", f"VENV={tmp_path}/venv")
    assert done.returncode == 0, done.stderr
    installs = [line for line in done.stdout.splitlines() if "pip install" in line]
    assert [("--require-hashes" in line, "cpu.lock" in line) for line in installs[:2]] == [(True, True), (False, False)]
    assert '--no-index --find-links "/some where/wheels"' in installs[1]
    assert not any(line.endswith("-r requirements.lock") for line in installs)
    plain = make("-n", "env", f"VENV={tmp_path}/venv").stdout
    assert "-r requirements.lock" in plain
    assert "cpu.lock" not in plain


def test_without_a_place_it_is_one_line(tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nexit 9\n")
    python.chmod(0o755)
    done = make("env", "CPU=1", f"VENV={tmp_path}/venv", "PYTHON=sh")
    assert done.returncode != 0
    said = [line for line in (done.stdout + done.stderr).splitlines() if "error: " in line]
    assert len(said) == 1
    assert "TORCH_WHEELS=PLACE" in said[0]
