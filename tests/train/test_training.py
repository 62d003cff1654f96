"""The loops: what they draw, log, save and take up again. Everything here runs on a CPU."""

from __future__ import annotations

import importlib
import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
import torch
import yaml
from lightning_fabric import Fabric
from safetensors.torch import load_file
from torch import nn

from backdrop.errors import BackdropError
from backdrop.inpaint import training
from backdrop.inpaint.parameters import InpaintFolders, InpaintStage
from backdrop.inpaint.training import InpainterTraining
from backdrop.io.frame_archive import FrameArchive
from backdrop.io.masks import box_from_mask
from backdrop.learn import source_files, training_frames
from backdrop.learn.checkpoints import Checkpoints
from backdrop.learn.fabric import loader_workers, make_fabric
from backdrop.learn.learner import Learner
from backdrop.learn.source_files import run_key
from backdrop.learn.training_frames import TrainingFrames
from backdrop.motion.flow_field import FlowArchive, flow_image
from backdrop.networks import encoder, spatial
from backdrop.networks.encoder import normalize
from backdrop.networks.inpainter import load_inpainter
from backdrop.train import losses
from backdrop.train.box_start import moving_size
from backdrop.train.joint import JointTraining
from backdrop.train.parameters import TrainFolders
from tests.graph import library_files
from tests.handmade_run import HEIGHT, SIDE, WIDTH, write_motion
from tests.small_pipeline import (
    ROOT,
    environment,
    small_params,
    small_values,
    training_params,
    write_masks,
    write_material,
)

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (48, 32)
STEPS = {"train.iterations": 5, "train.detector_iterations": 2, "train.synthesis_iterations": 2}
STEPS |= {"train.checkpoint_every": 3, "train.box_fixed": 2, "train.offset_fixed": 1, "train.overlay_every": 3}


class Crash(Exception):
    """What a test throws out of a loop."""


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames and flow of two training sequences (of 6 and 6 frames), one test sequence, and trained inpainters."""
    root = tmp_path_factory.mktemp("material")
    write_material(root, {"first": "train", "second": "train", "held": "test"})
    for kind in ("rgb", "flow"):
        inpaint(root, kind, root / f"inpainter_{kind}", root / "log", root / "runs")
    return root


def inpaint(root: Path, kind: str, out: Path, log: Path, runs: Path, **changes: Any) -> None:
    inpainter = {f"inpainter.{key}": value for key, value in changes.items()}
    params = small_params(inpainter | {"encoder.weights": "none"})
    folders = InpaintFolders(root / "frames", root / "flow", log, runs)
    InpainterTraining(kind, params.of_stage(InpaintStage), folders).run(out)


def joint(root: Path, work: Path, changes: dict[str, Any] | None = None) -> JointTraining:
    return JointTraining(training_params(STEPS | (changes or {})), folders_of(root, work))


def folders_of(root: Path, work: Path) -> TrainFolders:
    names = ("frames", "homographies", "flow", "inpainter_rgb", "inpainter_flow")
    return TrainFolders(*(root / name for name in names), work / "log", work / "runs")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def curves(log: Path) -> dict[str, list[str]]:
    """Curve -> its (step, value) lines."""
    files = sorted((log / "plots" / "metrics").rglob("*.tsv"))
    assert files
    return {path.relative_to(log).as_posix(): path.read_text().splitlines() for path in files}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def crash_at(monkeypatch: pytest.MonkeyPatch, iteration: int) -> None:
    """The next run stops in the middle of an iteration."""
    original = JointTraining._iterate

    def step(self: JointTraining, now: int, *rest: Any) -> Any:
        if now == iteration:
            raise Crash
        return original(self, now, *rest)

    monkeypatch.setattr(JointTraining, "_iterate", step)


@pytest.fixture(scope="module")
def undisturbed(material: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model, the log and nothing else of a run that nothing happened to."""
    work = tmp_path_factory.mktemp("undisturbed")
    joint(material, work).run(work / "joint")
    return work


# ---------------------------------------------------------------------------------- before the first iteration


def test_image_and_background_are_augmented_alike_and_left_alone_without(material: Path, tmp_path: Path) -> None:
    for augment in (True, False):
        run = joint(material, tmp_path, {"train.augment": augment, "train.batch": 8, "background.kind": "median"})
        batch = next(run.data.batches(0, 0, 1, 8, 0))
        twin = batch._replace(background=batch.image.clone())  # a background that is the image, changed alike, stays it
        image, flow, behind, _ = run._pictures(twin, 0)
        plain, plain_flow = (training_frames.to_images(run.fabric, picture) for picture in (batch.image, batch.flow))
        assert torch.equal(image, behind)
        assert torch.allclose(image, plain) != augment
        assert torch.allclose(flow, plain_flow) != augment
        again = run._pictures(twin, 0)[0]
        assert torch.equal(image, again)
        assert torch.equal(image, run._pictures(twin, 1)[0]) != augment


def test_boxes_begin_at_the_size_of_what_moves(material: Path, tmp_path: Path) -> None:
    flows = [FlowArchive(material / "flow" / f"{name}.zip") for name in ("first", "second")]
    width, height = moving_size(flows)
    assert width == pytest.approx(SIDE / WIDTH, rel=0.35)
    assert height == pytest.approx(SIDE / HEIGHT, rel=0.35)
    wide = {"detector.scale": [0.1, 0.9]}
    for times in (1.0, 1.5):
        run = joint(material, tmp_path, wide | {"train.box_start": times})
        scale = run.network.detector(torch.zeros(2, 3, 32, 48)).scale[0, 0]
        assert scale.tolist() == pytest.approx([times * width, times * height], abs=1e-4)
    scale = joint(material, tmp_path, wide | {"train.box_start": 0.0}).network.detector(torch.zeros(2, 3, 32, 48)).scale
    assert scale[0, 0].tolist() == pytest.approx([0.5, 0.5])


def test_nothing_that_moves_has_no_size(tmp_path: Path) -> None:
    write_motion(tmp_path, "still", [np.zeros((20, 30), bool)] * 3)
    assert moving_size([FlowArchive(tmp_path / "flow" / "still.zip")]) is None


def test_with_masks_boxes_begin_a_cell_larger_and_flow_is_not_asked(material: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_masks(material, tmp_path, name, grown=6)
    masks = {"background.kind": "median", "background.masks": str(tmp_path), "train.box_start": 1.0}
    run = joint(material, tmp_path, {"detector.scale": [0.1, 0.9], "loss.alpha_flow": 0.0} | masks)
    scale = run.network.detector(torch.zeros(2, 3, 32, 48)).scale[0, 0]
    cell = 1 / 8
    assert scale.tolist() == pytest.approx([(SIDE + 12) / WIDTH + cell, (SIDE + 12) / HEIGHT + cell], abs=0.03)


def test_other_masks_do_not_take_the_old_checkpoint(material: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_masks(material, tmp_path, name, grown=0)
    masks = {"background.kind": "median", "background.masks": str(tmp_path)}
    joint(material, tmp_path, masks)._save(3, [])
    assert joint(material, tmp_path, masks)._resume()[0] == 3
    write_masks(material, tmp_path, "first", grown=6)
    assert joint(material, tmp_path, masks)._resume() == (0, [])


# ----------------------------------------------------------------------------------------- taken up again


@pytest.mark.parametrize("iteration", [3, 7])
def test_a_crash_changes_neither_weights_nor_curves(
    iteration: int, material: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        crash_at(patch, iteration)
        with pytest.raises(Crash):
            joint(material, tmp_path).run(tmp_path / "joint")
    assert not (tmp_path / "joint").exists()
    again = joint(material, tmp_path)
    done: list[int] = []
    original = JointTraining._iterate
    monkeypatch.setattr(JointTraining, "_iterate", lambda self, i, *rest: done.append(i) or original(self, i, *rest))
    again.run(tmp_path / "joint")
    assert done == list(range(iteration - iteration % 3, 9)), "the run did not go on from its last checkpoint"
    assert equal(weights(tmp_path / "joint"), weights(undisturbed / "joint"))
    assert curves(tmp_path / "log") == curves(undisturbed / "log")
    assert list((tmp_path / "runs").iterdir()) == [], "a finished run leaves its checkpoint behind"


def test_a_crash_while_a_checkpoint_is_written_leaves_the_one_before(
    material: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def half(state: dict, file: Any) -> None:
        written.append(state["iteration"])
        if len(written) == 2:
            file.write(b"half of it")
            raise Crash
        save(state, file)

    save = torch.save
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half)
        with pytest.raises(Crash):
            joint(material, tmp_path).run(tmp_path / "joint")
    state = joint(material, tmp_path).checkpoints.load()
    assert state is not None
    assert state["iteration"] == 3
    joint(material, tmp_path).run(tmp_path / "joint")
    assert equal(weights(tmp_path / "joint"), weights(undisturbed / "joint"))


def test_another_seed_gives_other_weights(material: Path, undisturbed: Path, tmp_path: Path) -> None:
    joint(material, tmp_path, {"seed": 1}).run(tmp_path / "joint")
    assert not equal(weights(tmp_path / "joint"), weights(undisturbed / "joint"))


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 2])
def test_a_killed_stage_gives_the_weights_of_one_that_was_not(after: int, material: Path, tmp_path: Path) -> None:
    """SIGKILL once the checkpoint has been written `after` times, then the same command."""
    steps = {"train.iterations": 20, "train.detector_iterations": 5, "train.synthesis_iterations": 5}
    (tmp_path / "params.yaml").write_text(
        yaml.safe_dump(small_values(steps | {"train.checkpoint_every": 8, "train.overlay_every": 0}))
    )

    def command(work: str) -> list[str]:
        words = [sys.executable, str(ROOT / "stages" / "s5_train.py")]
        for name in ("frames", "homographies", "flow", "inpainter_rgb", "inpainter_flow"):
            words += [f"--{name.replace('_', '-')}", str(material / name)]
        return [*words, "--out", f"{work}/joint", "--log", f"{work}/log", "--checkpoints", f"{work}/runs"]

    rest: dict[str, Any] = {"cwd": tmp_path, "env": environment(PYTHONPATH=str(ROOT))}
    subprocess.run(command("whole"), check=True, capture_output=True, **rest)
    with subprocess.Popen(command("killed"), stderr=subprocess.DEVNULL, **rest) as process:
        seen: set[int] = set()
        while len(seen) < after and process.poll() is None:
            seen |= {path.stat().st_mtime_ns for path in (tmp_path / "killed" / "runs").glob("*.pt")}
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "joint").exists()
    subprocess.run(command("killed"), check=True, capture_output=True, **rest)
    assert equal(weights(tmp_path / "killed" / "joint"), weights(tmp_path / "whole" / "joint"))
    assert curves(tmp_path / "killed" / "log") == curves(tmp_path / "whole" / "log")


CHANGES = {"lambda": 0.02, "seed": 5, "loss.beta": 0.5, "train.rate": 0.002, "sampling.cells": 3}


@pytest.mark.parametrize("key", CHANGES)
def test_a_changed_parameter_does_not_take_the_old_checkpoint(key: str, material: Path, tmp_path: Path) -> None:
    old = joint(material, tmp_path)
    old._save(3, [])
    assert joint(material, tmp_path)._resume()[0] == 3
    assert joint(material, tmp_path, {key: CHANGES[key]})._resume() == (0, [])


def test_other_homographies_do_not_take_the_old_checkpoint(material: Path, tmp_path: Path) -> None:
    """They make the median backgrounds."""
    kind = {"background.kind": "median"}
    copy = tmp_path / "copy"
    shutil.copytree(material, copy)
    joint(copy, tmp_path, kind)._save(3, [])
    assert joint(copy, tmp_path, kind)._resume()[0] == 3
    shutil.copy(copy / "homographies" / "held.npz", copy / "homographies" / "first.npz")
    stored = dict(np.load(copy / "homographies" / "first.npz"))
    stored["H"][:, 0, 2] += 1
    np.savez(copy / "homographies" / "first.npz", **stored)
    assert joint(copy, tmp_path, kind)._resume() == (0, [])


def test_what_cannot_change_a_result_takes_the_old_checkpoint(material: Path, tmp_path: Path) -> None:
    joint(material, tmp_path)._save(3, [])
    assert joint(material, tmp_path, {"compute.workers": 2, "crf.iterations": 2})._resume()[0] == 3


def test_changed_data_do_not_take_the_old_checkpoint(material: Path, tmp_path: Path) -> None:
    """Other pixels under the same index, as another JPEG quality or flow model makes them."""
    copy = tmp_path / "copy"
    shutil.copytree(material, copy)
    joint(copy, tmp_path)._save(3, [])
    assert joint(copy, tmp_path)._resume()[0] == 3
    write_motion(copy, "first", [np.zeros((80, 128), bool)] * 6)
    assert joint(copy, tmp_path)._resume() == (0, [])


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("train/losses.py", True),
        ("networks/spatial.py", True),
        ("io/files.py", True),
        ("student/rounds.py", False),
        ("app/cli.py", False),
        ("run/processes.py", False),
    ],
)
def test_code_that_the_stage_runs_changes_its_key_and_no_other_code_does(
    file: str, changes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "backdrop"
    shutil.copytree(source_files.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(source_files, "PACKAGE", copy)
    before = run_key("train", [])
    text = (copy / file).read_text()
    (copy / file).write_text(text + "x = 1\n")
    assert (run_key("train", []) != before) == changes
    (copy / file).write_text(text)
    assert run_key("train", []) == before


def test_what_else_is_imported_does_not_change_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "backdrop.app.reference", raising=False)
    before = run_key("train", [])
    importlib.import_module("backdrop.app.reference")
    assert run_key("train", []) == before


@pytest.mark.parametrize("package", ["inpaint", "train", "student"])
def test_the_key_covers_all_that_the_stage_imports(package: str) -> None:
    (stage,) = (ROOT / "stages").glob(f"s*_{package}.py")
    hashed = {path.relative_to(ROOT).as_posix() for path in source_files.source_files(package)}
    assert library_files(stage) <= hashed


def test_a_damaged_checkpoint_is_set_aside(
    material: Path, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = joint(material, tmp_path)
    run._save(3, [])
    path = run.checkpoints.path
    path.write_bytes(path.read_bytes()[:1000])
    run.run(tmp_path / "joint")
    said = "".join(capsys.readouterr())
    assert f"{path} cannot be read" in said
    assert path.with_suffix(".damaged").exists()
    assert equal(weights(tmp_path / "joint"), weights(undisturbed / "joint"))


def test_a_checkpoint_can_run_no_code(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "key")
    torch.save({"iteration": 1, "extra": Path("/")}, checkpoints.path)
    assert checkpoints.load() is None


# ------------------------------------------------------------------------------------------------ curves


def test_the_share_of_masks_below_lambda_is_logged(material: Path, tmp_path: Path) -> None:
    """2022, Fig. 10: it falls from one to zero there."""
    shares = {}
    for lambda_ in (0.0001, 0.9):
        log = tmp_path / str(lambda_)
        one = {"train.iterations": 1, "train.detector_iterations": 0, "train.synthesis_iterations": 0}
        joint(material, log, one | {"lambda": lambda_}).run(log / "joint")
        shares[lambda_] = [
            float(line.split("\t")[1]) for line in curves(log / "log")["plots/metrics/mask/below.tsv"][1:]
        ]
    assert shares == {0.0001: [0.0], 0.9: [1.0]}


def test_an_inpainter_starts_at_the_mean_color_or_at_none(material: Path, tmp_path: Path) -> None:
    def start(on: bool) -> torch.Tensor:
        params = small_params({"inpainter.start_color": on}).of_stage(InpaintStage)
        folders = InpaintFolders(material / "frames", material / "flow", tmp_path / "log", tmp_path / "runs")
        run = InpainterTraining("flow", params, folders)
        assert run.network.out.bias is not None
        return torch.dist(run.network.out.bias.detach(), training.mean_color(run.data, "flow"))

    assert start(True) == 0
    assert start(False) > 1


def test_the_features_of_the_losses_have_weights_of_their_own(material: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    state = encoder.resnet("resnet18", "none").state_dict()
    torch.save(state, tmp_path / "resnet18.pth")
    run = joint(material, tmp_path, {"encoder.perceptual": str(tmp_path)})
    assert torch.equal(run.network.features.stem[0].weight, state["conv1.weight"])
    assert not torch.equal(run.network.detector.trunk[0].weight, state["conv1.weight"])
    run = joint(material, tmp_path, {"encoder.weights": str(tmp_path)})
    assert not torch.equal(run.network.features.stem[0].weight, state["conv1.weight"])
    assert torch.equal(run.network.detector.trunk[0].weight, state["conv1.weight"])


def test_losses_boxes_masks_and_entropy_are_logged(undisturbed: Path) -> None:
    found = {name.removeprefix("plots/metrics/").removesuffix(".tsv") for name in curves(undisturbed / "log")}
    losses = {f"loss/{term}" for term in ("bg", "bg_flow", "fg", "phi", "mask", "autoencoder")}
    assert losses | {"p/entropy", "p/max", "box/width", "box/height", "mask/area", "mask/below"} <= found
    lines = curves(undisturbed / "log")
    steps = {name: [int(line.split("\t")[0]) for line in rows[1:]] for name, rows in lines.items()}
    assert steps["plots/metrics/loss/autoencoder.tsv"] == [2, 3]
    assert steps["plots/metrics/loss/bg.tsv"] == [0, 1, *range(4, 9)]
    assert steps["plots/metrics/mask/area.tsv"] == list(range(4, 9))
    for rows in lines.values():
        assert all(np.isfinite(float(row.split("\t")[1])) for row in rows[1:])


def test_overlays_are_pictures(undisturbed: Path) -> None:
    pictures = sorted((undisturbed / "log" / "plots" / "images").glob("iteration_*.png"))
    # Iteration 3 is of the phase in which S learns alone: there are no boxes to draw.
    assert [p.stem for p in pictures] == ["iteration_000006", "iteration_000009"]
    for path in pictures:
        image = cv2.imread(str(path))
        assert image is not None
        assert image.std() > 5


@pytest.mark.parametrize("log_every", [1, 7])
def test_training_that_diverges_stops_and_names_iteration_term_and_frames(
    log_every: int, material: Path, tmp_path: Path
) -> None:
    changes = {"train.rate": 1e20, "train.decoder_rate": 1e20, "train.checkpoint_every": 1}
    run = joint(material, tmp_path, changes | {"train.log_every": log_every})
    with pytest.raises(BackdropError, match=r"iteration \d+: .*(first|second):\d, .*train\.rate"):
        run.run(tmp_path / "joint")
    assert not (tmp_path / "joint").exists()
    state = run.checkpoints.load()
    if state is not None:
        assert all(torch.isfinite(value).all() for value in state["network"].values())


@pytest.mark.parametrize("term", ["bg", "fg", "mask"])
def test_a_loss_that_is_not_finite_stops_before_the_weights_take_it(
    term: str, material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = joint(material, tmp_path)
    forward = type(run.network).forward
    count = 0

    def broken(self: Any, *args: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        step = forward(self, *args, **options)
        if count == 5:  # iterations 0, 1, 4, 5, 6 run the model
            step.terms[term] = step.terms[term] * float("nan")
        return step

    monkeypatch.setattr(type(run.network), "forward", broken)
    with pytest.raises(BackdropError, match=rf"iteration 6: the loss term {term} is nan; .*:\d"):
        run.run(tmp_path / "joint")
    state = run.checkpoints.load()
    assert state is not None
    assert state["iteration"] == 6
    assert all(torch.isfinite(value).all() for value in state["network"].values())


def test_a_gradient_that_is_not_finite_stops_before_the_weights_take_it(material: Path, tmp_path: Path) -> None:
    """The loss is finite and its slope is not: only the gradient tells."""
    run = joint(material, tmp_path)
    weight, seen = run.network.detector.head.weight, []

    def broken(gradient: torch.Tensor) -> torch.Tensor:
        seen.append(1)
        return gradient * float("inf") if len(seen) == 3 else gradient

    weight.register_hook(broken)
    with pytest.raises(BackdropError, match=r"iteration \d: the gradient of detector\.head\.weight .*:\d.*goes on"):
        run.run(tmp_path / "joint")
    assert len(seen) == 3
    assert all(torch.isfinite(value).all() for value in run.network.state_dict().values())


# --------------------------------------------------------------------------------------------- inpainter


LONG = {"iterations": 60, "channels": [2, 4]}


@pytest.mark.parametrize(("processes", "expected"), [(1, 8), (4, 3)])
def test_processes_of_a_machine_share_its_cores(processes: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    compute = training_params().compute.model_copy(update={"devices": processes})
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    fabric = Mock(spec=Fabric, device=torch.device("cuda"), strategy=make_fabric(compute).strategy)
    assert loader_workers(fabric) == expected


def test_a_late_look_at_the_numbers_leaves_the_weights_alone() -> None:
    """As on a GPU: the host reads an iteration's numbers two iterations later, the optimizer does not wait for it."""
    fabric = make_fabric(training_params().compute)
    network = nn.Linear(2, 1)
    learner = Learner(fabric, network, torch.optim.Adam(network.parameters(), lr=0.1, fused=True))
    learner.lag = 2

    def learn(iteration: int, factor: float) -> torch.Tensor:
        loss = factor * learner.model(torch.ones(3, 2)).square().mean()
        learner.learn(iteration, {"own": loss}, loss, [0.1], lambda: f"frame {iteration}")
        return network.weight.detach().clone()

    before = learn(0, 1.0)
    assert torch.equal(learn(1, math.nan), before)
    assert not torch.equal(learn(2, 1.0), before)
    with pytest.raises(BackdropError, match=r"iteration 1: the loss term own is nan; frames of the batch: frame 1"):
        learn(3, 1.0)
    learn(4, math.nan)
    with pytest.raises(BackdropError, match=r"iteration 4"):  # before anything is saved
        learner.check_pending()


def test_an_inpainter_stops_at_a_gradient_that_is_not_finite(
    material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = training.square_distance
    steep = lambda a, b: apart(a, b) + (a - a.detach()).sqrt().sum()  # noqa: E731 - 0, with an endless slope
    monkeypatch.setattr(training, "square_distance", steep)
    with pytest.raises(
        BackdropError, match=r"iteration 0: the gradient of .* is not finite; frames of the batch: .*:\d"
    ):
        inpaint(material, "rgb", tmp_path / "rgb", tmp_path / "log", tmp_path / "runs", **LONG)
    assert not (tmp_path / "rgb").exists()


@pytest.mark.parametrize("kind", ["rgb", "flow"])
def test_the_inpainter_goes_on_where_it_was(
    kind: str, material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 25)
    inpaint(material, kind, a / "model", a / "log", a / "runs", **LONG)
    draws = training.random_holes
    seen = 0

    def crash(*args: Any) -> torch.Tensor:
        nonlocal seen
        seen += 1
        if seen == 58:
            raise Crash
        return draws(*args)

    monkeypatch.setattr(training, "random_holes", crash)
    with pytest.raises(Crash):
        inpaint(material, kind, b / "model", b / "log", b / "runs", **LONG)
    assert not (b / "model").exists()
    seen = 1000
    inpaint(material, kind, b / "model", b / "log", b / "runs", **LONG)
    assert seen == 1010, "the run did not go on from iteration 50"
    assert equal(weights(a / "model"), weights(b / "model"))
    assert curves(a / "log") == curves(b / "log")
    assert any("l2" in name for name in curves(a / "log"))
    lines = [float(line.split("\t")[1]) for line in curves(a / "log")["plots/metrics/l2.tsv"][1:]]
    assert lines[-1] < lines[0]


def test_what_moves_is_hard_to_inpaint_from_the_first_iterations_on(material: Path, tmp_path: Path) -> None:
    """Flow images are white but for what moves: one that starts from gray finds the white hardest."""
    inpaint(material, "flow", tmp_path / "model", tmp_path / "log", tmp_path / "runs", iterations=20)
    inpainter = load_inpainter(tmp_path / "model")
    data = TrainingFrames(material / "frames", material / "flow", SIZE)
    for index, (sequence, t) in enumerate(data.items):
        flow = normalize(torch.from_numpy(data[index][1])[None].float() / 255)
        moving = torch.from_numpy(box_from_mask(data.frames[sequence].mask(t) > 0)).float()
        boxes = torch.stack([moving, torch.cat([-moving[:1].sign() * 0.6, moving[1:]])])
        boxes[:, 2:] = 0.6
        hole = spatial.hole(boxes, SIZE[::-1])
        pair = flow.repeat(2, 1, 1, 1)
        distance = encoder.square_distance(inpainter.background(pair, hole), pair)
        over, beside = losses.background_loss(distance, losses.area(boxes))
        assert over < beside - 0.05, (index, over, beside)


def test_an_inpainter_that_diverges_stops_by_name(material: Path, tmp_path: Path) -> None:
    with pytest.raises(BackdropError, match=r"iteration \d+: the loss term l2 is .*(first|second):\d.*inpainter\.rate"):
        inpaint(material, "rgb", tmp_path / "m", tmp_path / "log", tmp_path / "runs", rate=1e25, iterations=20)
    assert not (tmp_path / "m").exists()


def test_an_inpainter_is_frozen_when_it_is_loaded(material: Path) -> None:
    network = load_inpainter(material / "inpainter_rgb").train()
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("damage", ["nothing", "detector", "list", "weights"])
def test_a_folder_that_holds_no_inpainter(damage: str, material: Path, undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    if damage == "detector":
        shutil.copytree(undisturbed / "joint", folder)
    elif damage != "nothing":
        shutil.copytree(material / "inpainter_rgb", folder)
        if damage == "list":
            (folder / "config.json").write_text("[]")
        else:
            data = (folder / "model.safetensors").read_bytes()
            (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(BackdropError, match=str(folder)):
        load_inpainter(folder)


# ------------------------------------------------------------------------------------------- the frames


@pytest.fixture
def frames(material: Path) -> TrainingFrames:
    return TrainingFrames(material / "frames", material / "flow", SIZE, half_background)


def half_background(frames: FrameArchive, t: int) -> tuple[np.ndarray, np.ndarray]:
    """A background of one color a frame, known in the left half."""
    known = np.zeros(SIZE[::-1], bool)
    known[:, : SIZE[0] // 2] = True
    return np.full((*SIZE[::-1], 3), (t, len(frames), 7), np.uint8), known


def test_batches_are_a_function_of_seed_and_iteration(frames: TrainingFrames) -> None:
    whole = [batch.index.tolist() for batch in frames.batches(3, 0, 8, 5, 0)]
    late = [batch.index.tolist() for batch in frames.batches(3, 5, 8, 5, 0)]
    other = [batch.index.tolist() for batch in frames.batches(4, 0, 8, 5, 0)]
    assert late == whole[5:]
    assert other != whole


@pytest.mark.parametrize("size", [1, 4, 5, 12, 30])
def test_every_frame_comes_once_an_epoch(size: int, frames: TrainingFrames) -> None:
    assert len(frames) == 12  # the test sequence is not among them
    drawn = np.concatenate([frames._order(0, iteration, size) for iteration in range(24)])
    epochs = drawn[: len(drawn) // 12 * 12].reshape(-1, 12)
    assert len(epochs) == 2 * size
    assert (np.sort(epochs, axis=1) == np.arange(12)).all()
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs), "each epoch has an order of its own"


def test_batches_hold_the_archives_frames(frames: TrainingFrames, material: Path) -> None:
    (batch,) = frames.batches(0, 0, 1, 12, 0)
    for image, flow, valid, index in zip(batch.image, batch.flow, batch.flow_valid, batch.index, strict=True):
        name, t = frames.name(int(index)).split(":")
        stored = FrameArchive(material / "frames" / f"{name}.zip").image(int(t))
        colored = flow_image(*FlowArchive(material / "flow" / f"{name}.zip").read(int(t)))
        colored = (colored.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        assert valid
        for tensor, source in ((image, stored), (flow, colored)):
            assert tensor.shape == (3, SIZE[1], SIZE[0])
            expected = cv2.resize(source, SIZE, interpolation=cv2.INTER_AREA)
            assert (tensor.permute(1, 2, 0).numpy() == expected).all()
    for background, known, index in zip(batch.background, batch.known, batch.index, strict=True):
        t = int(frames.name(int(index)).split(":")[1])
        assert background.flatten(1).unique(dim=1).flatten().tolist() == [t, 6, 7]
        assert known.shape == (1, SIZE[1], SIZE[0])
        assert known[..., : SIZE[0] // 2].all()
        assert not known[..., SIZE[0] // 2 :].any()


def test_the_scratch_file_gives_what_decoding_gives(
    frames: TrainingFrames, material: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_frames, "CACHE_LIMIT", 0)
    direct = TrainingFrames(material / "frames", material / "flow", SIZE, half_background)
    assert frames._scratch is not None
    assert direct._scratch is None
    for _ in range(2):  # first read decodes, second reads the scratch file
        for index in range(len(frames)):
            for a, b in zip(frames[index], direct[index], strict=True):
                assert np.array_equal(a, b)
    monkeypatch.setattr(TrainingFrames, "_decode", lambda self, index: pytest.fail("decoded again"))
    assert len([frames[index] for index in range(len(frames))]) == 12


def test_loader_processes_give_the_same_batches(frames: TrainingFrames, material: Path) -> None:
    fresh = TrainingFrames(material / "frames", material / "flow", SIZE, half_background)
    for a, b in zip(frames.batches(0, 0, 4, 5, 0), fresh.batches(0, 0, 4, 5, 2), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_failed_pairs_are_told_apart(material: Path, tmp_path: Path) -> None:
    from backdrop.io.archives import ArchiveWriter
    from backdrop.io.masks import entry
    from backdrop.motion.flow_field import encode_flow

    shutil.copytree(material / "flow", tmp_path / "flow")
    with ArchiveWriter(tmp_path / "flow" / "first.zip") as archive:
        for t in range(6):
            archive.add(entry(t), encode_flow(np.zeros((80, 128, 2), np.float32), np.full((80, 128), t != 2)))
    data = TrainingFrames(material / "frames", tmp_path / "flow", SIZE)

    def valid(data: TrainingFrames) -> dict[str, bool]:
        (batch,) = data.batches(0, 0, 1, len(data), 0)
        return {data.name(int(i)): bool(v) for i, v in zip(batch.index, batch.flow_valid, strict=True)}

    assert [name for name, known in valid(data).items() if not known] == ["first:2"]
    assert not any(valid(TrainingFrames(material / "frames", None, SIZE)).values())


def test_no_training_sequence_is_one_error(material: Path, tmp_path: Path) -> None:
    write_material(tmp_path, {"held": "test"}, frames=2)
    with pytest.raises(BackdropError, match=r"no usable training sequence"):
        TrainingFrames(tmp_path / "frames", None, SIZE)
