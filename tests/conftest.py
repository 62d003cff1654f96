"""Shared fixtures: the composed parameters, small networks, real data where it is at hand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

import tests.type_checks  # noqa: F401 - jaxtyping looks it up by name

# Before the library is imported: its annotations, shapes included, are checked at each call.
install_import_hook("backdrop", "tests.type_checks.check_types")

from backdrop.networks.detector import Detector  # noqa: E402
from backdrop.networks.encoder import Features  # noqa: E402
from backdrop.networks.inpainter import Inpainter  # noqa: E402
from backdrop.networks.synthesis import SynthesisNetwork  # noqa: E402
from backdrop.params import Params, read  # noqa: E402
from backdrop.train.model import JointNetworks, Model  # noqa: E402

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Networks as small as those of the tests are slower on two threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def params() -> Params:
    """The committed params.yaml."""
    return read(ROOT / "params.yaml")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with data/ and reference/; tests that need it are skipped where BACKDROP_REAL_DATA is unset."""
    folder = os.environ.get("BACKDROP_REAL_DATA")
    if not folder:
        pytest.skip("BACKDROP_REAL_DATA is unset: set it to the folder that holds data/ and reference/")
    return Path(folder)


@pytest.fixture(scope="session")
def cases(real_data: Path) -> Path:
    """Folder with small inputs from public bug reports."""
    if not (real_data / "cases").is_dir():
        pytest.skip(f"{real_data} holds no folder cases/")
    return real_data / "cases"


@pytest.fixture
def locked_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders called "locked" cannot be listed. (Nothing is locked to root, who may run the tests.)"""
    listed = Path.iterdir

    def refuse(folder: Path) -> Iterator[Path]:
        if folder.name == "locked":
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", refuse)


@pytest.fixture
def make_model(params: Params):
    """Build a model with random weights; keyword arguments replace keys of loss, sampling, synthesis, detector."""

    def build(seed: int = 0, **changes: object) -> Model:
        torch.manual_seed(seed)
        loss = params.loss.model_copy(update={k: v for k, v in changes.items() if k in type(params.loss).model_fields})
        plain = {"kind": "importance", "cells": 1, "baseline": "none"}
        sampling = params.sampling.model_copy(
            update=plain | {k: v for k, v in changes.items() if k in type(params.sampling).model_fields}
        )
        small = {"crop": 32, "hidden": (20, 6), "decoder": [8, 16]}
        synthesis = params.synthesis.model_copy(
            update=small | {k: v for k, v in changes.items() if k in type(params.synthesis).model_fields}
        )
        detector = params.detector.model_copy(
            update={k: v for k, v in changes.items() if k in type(params.detector).model_fields}
        )
        networks = JointNetworks(
            Detector(detector, "none"),
            SynthesisNetwork(synthesis, "none"),
            Inpainter([4, 8]),
            Inpainter([4, 8]),
            Features("none"),
        )
        return Model(networks, loss, sampling, params.lambda_)

    return build
