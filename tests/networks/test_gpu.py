"""The script that measures a GPU, in small; no step waits for a GPU; processor and GPU agree where there is one."""

from __future__ import annotations

import json
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from backdrop.inpaint.training import random_holes
from backdrop.learn.training_frames import Batch
from backdrop.networks import spatial
from backdrop.networks.encoder import Features, feature_distance
from backdrop.networks.inpainter import Inpainter
from backdrop.networks.student import StudentNetwork
from backdrop.student.targets import augment, student_loss, targets, to_normal
from backdrop.train.joint import JointTraining
from backdrop.train.losses import objective
from backdrop.train.model import Schedule
from benchmarks.bench import joint_model
from benchmarks.gpu import chosen, disagreement
from tests.small_pipeline import ROOT, environment


@pytest.mark.slow
def test_the_script_fills_its_table(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "benchmarks.gpu", "--small", "--out", str(tmp_path / "gpu.json")]
    done = subprocess.run(words, cwd=ROOT, env=environment(), check=True, capture_output=True, text=True, timeout=900)
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert len(result["rows"]) >= 10
    assert all(row["ms"] > 0 for row in result["rows"])
    assert all(row["of_peak"] > 0 for row in result["rows"] if "compiled" not in row["arrangement"])
    assert set(result["operations"]) == {"joint", "inpainter"}
    assert done.stdout.count("\n| ") == len(result["rows"]) + 1, "the head, and a line a row"
    assert "schedule_hours" not in result, "nothing is said of the papers' scale by small steps"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_processor_and_gpu_agree() -> None:
    assert disagreement(chosen(True), torch.device("cuda")) < 1e-3


class Waits(TorchDispatchMode):
    """Notes the operations for which the host waits for the device: numbers that are read, copies that block."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if "_local_scalar_dense" in str(func):
            self.found.append("a number is read")
        out = func(*args, **kwargs)
        devices = {value.device.type for value in (*args, out) if isinstance(value, torch.Tensor)}
        name = str(func)
        blocks = not (kwargs.get("non_blocking") or any(value is True for value in args[2:]))
        if "copy" in name and devices == {"cpu", "cuda"} and blocks:
            own = [f for f in traceback.extract_stack() if "backdrop/" in f.filename and "site-" not in f.filename]
            self.found.append(f"{name} in {own[-1].name if own else None}")
        return out


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[Waits]:
    """Tensors that have a GPU's device and no numbers: what a step asks of a GPU can be seen where there is none.

    Backwards they cannot go: the gradient that is taken within the forward pass is left out.
    """
    monkeypatch.setattr("backdrop.train.model.without_gradient_to", lambda loss, tensor: loss)
    with FakeTensorMode(), Waits() as found:
        yield found


def test_a_wait_is_found(waits: Waits) -> None:
    there = torch.ones(2, device="cuda")
    with suppress(Exception):
        there.sum().item()
    torch.ones(2).to("cuda")
    there.new_tensor([1.0, 2.0])
    assert len(waits.found) == 3
    torch.ones(2).to("cuda", non_blocking=True)
    assert len(waits.found) == 3


def test_a_joint_step_does_not_wait_for_the_device(waits: Waits) -> None:
    params = chosen(True)
    with torch.device("cuda"):
        network = joint_model(params).train()
    waits.found.clear()
    width, height = params.train.size
    images = torch.zeros(4, 3, height, width, dtype=torch.uint8)
    batch = Batch(images, images, images, images[:, :1], torch.ones(4, dtype=torch.bool), torch.arange(4))
    augmented = SimpleNamespace(seed=0, train=params.train.model_copy(update={"augment": True}))
    run: Any = SimpleNamespace(fabric=SimpleNamespace(device=torch.device("cuda")), params=augmented)
    image, flow, behind, seen = JointTraining._pictures(run, batch, 0)
    valid = batch.flow_valid.to("cuda", non_blocking=True)
    for known in (None, (behind, seen > 0)):
        objective(network(image, flow, valid, Schedule(), known=known).terms, params.loss)
    network.autoencode(image, torch.full((4, 4), 0.5, device="cuda"))
    assert not waits.found


def test_the_steps_of_inpainter_and_student_do_not_wait_for_the_device(waits: Waits) -> None:
    params = chosen(True)
    with torch.device("cuda"):
        network, features = Inpainter([4, 8]), Features("none")
        student = StudentNetwork([4, 8])
    waits.found.clear()
    image = torch.zeros(4, 3, 32, 48, device="cuda")
    boxes = random_holes(4, params.inpainter.hole, 2, torch.Generator().manual_seed(0)).to(image, non_blocking=True)
    hole = torch.stack([spatial.hole(box, (32, 48)) for box in boxes]).amax(dim=0)
    output = network(image, hole)
    feature_distance(features(output), features(image))
    stored = torch.zeros(4, 32, 48, dtype=torch.uint8).to("cuda", non_blocking=True)
    for band in (None, params.student.ignore):
        picture, label = augment(image, targets(stored, band), torch.Generator().manual_seed(0))
        student_loss(student(to_normal(picture)), label)
    assert not waits.found
