"""Where a result comes from: code, versions, machine, data, seed."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("av", "dvc", "numpy", "opencv-contrib-python", "ptlflow", "pydensecrf2", "torch", "torchvision")


def _git(*arguments: str) -> str | None:
    """What git prints, or None outside a repository or without git."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def provenance(index: Path, seed: int, device: str) -> dict[str, Any]:
    """Facts about this run, for metrics/provenance.json; kept out of scores.json, which they must not change.

    Args:
        index: data/frames/index.csv, whose hash stands for the data. device: `compute.device`.
    """
    status = _git("status", "--porcelain", "--untracked-files=no", "--", "backdrop", "stages", "conf", "params.yaml")
    cuda = torch.cuda.is_available() and device != "cpu"
    return {
        "git_revision": _git("rev-parse", "HEAD"),
        "git_dirty": None if status is None else bool(status),
        "seed": seed,
        "data_index_sha256": hashlib.sha256(index.read_bytes()).hexdigest(),
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "packages": {name: _installed(name) for name in PACKAGES},
    }
