"""Scores that flatter: each test holds an honest rule, and beside it the cheating that breaks it, which must show.

Who learns from what is in `tests/train/test_model.py`, what counts in a score in `tests/score/test_evaluation.py`.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from torch import nn

from backdrop import thresholds
from backdrop.errors import BackdropError
from backdrop.frames.stage import extract_all
from backdrop.io.frame_archive import FrameArchive
from backdrop.io.index import read_index, read_videos
from backdrop.io.masks import MaskArchive, box_from_mask, write_threshold
from backdrop.learn import training_frames
from backdrop.params import validate
from backdrop.refine import stage as refine_stage
from backdrop.score import frame_scores, table
from backdrop.score.table import score_all
from backdrop.train.joint import JointTraining
from backdrop.train.losses import objective
from backdrop.train.model import Model
from backdrop.video.encode import encode_video
from tests.handmade_run import make_run, scene, score_folders, write_frames, write_index, write_masks, write_predictions
from tests.small_pipeline import run_stage, small_params, small_values, stage_names

pytestmark = pytest.mark.usefixtures("one_thread")

SPLITS = {"learned": "train", "tuned": "val", "first": "test", "second": "test"}


def confused(read: Callable[..., pd.DataFrame], which: str, becomes: str) -> Callable[..., pd.DataFrame]:
    """`read_index` with one split taken for another."""

    def cheating(*args: Any, **kwargs: Any) -> pd.DataFrame:
        index = read(*args, **kwargs)
        index["split"] = index["split"].replace(which, becomes)
        return index

    return cheating


# ------------------------------------------------------------------------- thresholds and test truth


@pytest.fixture
def tuning(tmp_path: Path) -> Path:
    """Predictions whose best threshold on validation is .7 or .75, and between .2 and .3 on test."""
    truth = make_run(tmp_path, SPLITS, frames=2)
    for name, split in SPLITS.items():
        level = 0.3 if split == "test" else 0.8
        soft = {t: np.where(mask, level, level - 0.1) for t, mask in enumerate(truth[name])}
        write_predictions(tmp_path / "predictions", name, soft, [np.array([0, 0, 1, 1.0])] * 2)
    write_threshold(tmp_path / "predictions", 0.75, "validation")
    return tmp_path


def invert_truth(root: Path, split: str) -> None:
    for seed, (name, its) in enumerate(SPLITS.items()):
        if its == split:
            frames, masks = scene(2, seed)
            write_frames(root / "frames", name, frames, {t: (~m).astype(np.uint8) * 255 for t, m in enumerate(masks)})


def before_crf(root: Path) -> Any:
    return thresholds.choose_threshold(root / "frames", root / "predictions")


def after_crf(root: Path) -> Any:
    params = small_params({"crf.enabled": True, "crf.iterations": 1}).crf
    folders = refine_stage.RefineFolders(root / "frames", root / "predictions", root / "masks")
    return refine_stage.choose_refined_threshold(folders, params, 1)


def check_blind(root: Path, choose: Callable[[Path], Any], split: str = "test") -> None:
    before = choose(root)
    invert_truth(root, split)
    assert choose(root) == before, f"the truth of {split} moved the threshold"


@pytest.mark.parametrize("choose", [before_crf, after_crf])
def test_test_truth_does_not_move_the_threshold(choose: Callable[[Path], Any], tuning: Path) -> None:
    assert choose(tuning)[1] == "validation"
    check_blind(tuning, choose)


def test_validation_truth_does(tuning: Path) -> None:
    with pytest.raises(AssertionError, match="moved"):
        check_blind(tuning, before_crf, "val")


@pytest.mark.parametrize(("choose", "module"), [(before_crf, thresholds), (after_crf, refine_stage)])
def test_a_threshold_chosen_on_test_is_noticed(
    choose: Callable[[Path], Any], module: Any, tuning: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "read_videos", confused(read_videos, "test", "val"))
    with pytest.raises(AssertionError, match="moved"):
        check_blind(tuning, choose)


def test_the_threshold_is_that_of_validation_and_choosing_it_on_test_shows(
    tuning: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert before_crf(tuning) == (0.75, "validation")
    monkeypatch.setattr(thresholds, "read_videos", confused(read_videos, "test", "val"))
    assert before_crf(tuning)[0] < 0.5


# ------------------------------------------------------------------------------- who reads the truth


class Readers:
    """Which sequences' truth a stage reads: every mask of an archive of frames is asked of `FrameArchive.mask`."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.read: set[str] = set()
        original = FrameArchive.mask

        def spy(archive: FrameArchive, t: int) -> Any:
            self.read.add(archive.path.stem)
            return original(archive, t)

        patch.setattr(FrameArchive, "mask", spy)

    def of(self, name: str, project: Path, patch: pytest.MonkeyPatch) -> set[str]:
        self.read.clear()
        run_stage(name, project, patch)
        return set(self.read)


@pytest.mark.slow
def test_training_reads_no_truth_and_choices_read_that_of_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No checkpoint, threshold or mask is chosen with test truth: nothing but the score reads it. One process, so that
    the spy sees all; the cheat is a training that peeks at a mask of what it is to be tested on."""
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(small_values({"compute.workers": 1})))
    readers, allowed = Readers(monkeypatch), {"segment": {"val"}, "refine": {"val"}, "score": {"val", "test"}}
    for name in stage_names():
        read = readers.of(name, tmp_path, monkeypatch)
        index = read_index(tmp_path / "data" / "frames") if (tmp_path / "data" / "frames").exists() else None
        splits = set() if index is None else set(index.set_index("sequence").loc[sorted(read), "split"])
        assert splits <= allowed.get(name, set()) or name == "report", f"{name} reads the truth of {splits}"
        if name in allowed:
            assert splits == allowed[name]
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").glob("*.pt"))

    test = index.sequence[index.split == "test"].item()
    original = JointTraining._iterate

    def peeking(self: JointTraining, *args: Any) -> Any:
        FrameArchive(tmp_path / "data" / "frames" / f"{test}.zip").mask(0)
        return original(self, *args)

    monkeypatch.setattr(JointTraining, "_iterate", peeking)
    shutil.rmtree(tmp_path / "models" / "joint")
    assert readers.of("train", tmp_path, monkeypatch) == {test}


# ----------------------------------------------------------------------------- test frames in training


def frames_in_both(frames_dir: Path) -> set[tuple[str, str]]:
    """(training sequence, other sequence) that hold an image with the same bytes."""
    held: dict[str, set[tuple[int, int]]] = {}
    index = read_index(frames_dir, usable=True)
    for name in index.sequence:
        with zipfile.ZipFile(frames_dir / f"{name}.zip") as archive:
            entries = [entry for entry in archive.infolist() if entry.filename.startswith("images/")]
        held[name] = {(entry.CRC, entry.file_size) for entry in entries}
    split = dict(zip(index.sequence, index.split, strict=True))
    return {
        (one, other)
        for one in held
        for other in held
        if split[one] == "train" and split[other] in ("val", "test") and held[one] & held[other]
    }


def test_no_frame_of_validation_or_test_is_among_the_training_frames(tmp_path: Path) -> None:
    root = tmp_path / "footage"
    for seed, (split, name) in enumerate([("train", "a"), ("train", "b"), ("val", "c"), ("test", "d")]):
        encode_video(root / split / f"{name}.avi", scene(3, seed)[0], codec="mjpeg")
    values = {"data.layout": "handheld190k", "data.root": str(root), "data.protocol": "held_out"}
    data = validate(small_values(values)).data
    assert dict(extract_all(data, tmp_path / "out")[["sequence", "split"]].values) == {
        "a": "train",
        "b": "train",
        "c": "val",
        "d": "test",
    }
    assert frames_in_both(tmp_path / "out") == set()
    shutil.copy(root / "test" / "d.avi", root / "train" / "e.avi")
    extract_all(data, tmp_path / "planted")
    assert frames_in_both(tmp_path / "planted") == {("e", "d")}


@pytest.mark.slow
def test_the_embedded_footage_shares_no_frame_among_its_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(small_values()))
    for name in ("render", "frames"):
        run_stage(name, tmp_path, monkeypatch)
    assert set(read_index(tmp_path / "data" / "frames").split) == {"train", "val", "test"}
    assert frames_in_both(tmp_path / "data" / "frames") == set()


def trained_on(root: Path) -> set[str]:
    frames = training_frames.TrainingFrames(root / "frames", root / "flow", (48, 32))
    return {frames.name(index).split(":")[0] for index in range(len(frames))}


def test_training_takes_training_sequences_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path, SPLITS, frames=2)
    assert trained_on(tmp_path) == {"learned"}
    monkeypatch.setattr(training_frames, "read_index", confused(read_index, "test", "train"))
    assert trained_on(tmp_path) == {"learned", "first", "second"}


def test_a_sequence_in_two_splits_is_refused(tmp_path: Path) -> None:
    """A row planted in index.csv: no stage reads such an index."""
    make_run(tmp_path, SPLITS, frames=2)
    rows = [{"sequence": name, "split": split, "frames": 2} for name, split in SPLITS.items()]
    write_index(tmp_path / "frames", [*rows, {"sequence": "first", "split": "train", "frames": 2}])
    with pytest.raises(BackdropError, match=r"index\.csv is not an index of frames"):
        trained_on(tmp_path)
    with pytest.raises(BackdropError, match=r"index\.csv is not an index of frames"):
        score_all(score_folders(tmp_path), "videos", 1)


# --------------------------------------------------------------------------------- frozen inpainters


def moved(model: Model, wake: Callable[[Model], Any]) -> set[str]:
    """Weights and buffers of the inpainters that two steps of joint training change."""
    wake(model)
    before = {key: value.clone() for key, value in model.state_dict().items() if key.startswith("inpainter")}
    assert any("running_mean" in key for key in before)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    image, flow = torch.randn(2, 3, 3, 48, 64, generator=torch.Generator().manual_seed(5))
    for _ in range(2):
        model.train()
        wake(model)
        optimizer.zero_grad()
        objective(model(image, flow).terms, model.loss).backward()
        optimizer.step()
    return {key for key, value in before.items() if not torch.equal(model.state_dict()[key], value)}


def wake_batch_norm(model: Model) -> None:
    nn.Module.train(model.inpainter, True)
    for part in model.inpainter.modules():
        part.training = True


def wake_weights(model: Model) -> None:
    """To ask for gradients is not enough, as the inpainter runs without; an optimizer's decay is."""
    model.inpainter.requires_grad_(True)
    for parameter in model.inpainter.parameters():
        parameter.data.mul_(0.999)


def test_frozen_inpainters_do_not_move_and_woken_ones_are_noticed(make_model: Callable[..., Model]) -> None:
    assert moved(make_model(), lambda model: None) == set()
    woken = moved(make_model(), wake_batch_norm)
    assert woken
    assert all("running_" in key or "num_batches" in key for key in woken)
    assert "inpainter.out.weight" in moved(make_model(), wake_weights)


# ------------------------------------------------------------------------------- missing predictions


def score_with_a_mask_missing(root: Path) -> float:
    """J of a sequence of four frames: three masks are perfect, one is not there."""
    truth = make_run(root, {"a": "all"}, frames=4)["a"]
    write_masks(root / "masks", "a", {t: truth[t] for t in (0, 1, 2)})
    return score_all(score_folders(root), "videos", 1).summary["method"]["J_mean"]


def test_leaving_out_missing_predictions_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule is that a missing prediction is wrong. The cheat: frames without a mask are not scored."""
    original = table._scored_frames

    def cheating(folders: frame_scores.ScoreFolders, *args: Any) -> Any:
        chunks, counts = original(folders, *args)
        left = []
        for chunk in chunks:
            path = folders.masks / f"{chunk.sequence}.zip"
            own = MaskArchive(path) if path.is_file() else None
            frames = [t for t in chunk.frames if own is not None and own.has(t)]
            if frames:
                left.append(chunk._replace(frames=frames))
        return left, counts

    assert score_with_a_mask_missing(tmp_path / "honest") == 0.75
    monkeypatch.setattr(table, "_scored_frames", cheating)
    assert score_with_a_mask_missing(tmp_path / "cheat") == 1


def test_the_oracle_never_stands_where_the_method_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best threshold on test is in a row of its own; taking it for the method's is noticed."""
    truth = make_run(tmp_path, {"a": "all"}, frames=3)["a"]
    soft = {t: np.where(mask, 0.4, 0.28) for t, mask in enumerate(truth)}
    write_predictions(tmp_path / "predictions", "a", soft, [box_from_mask(mask) for mask in truth])
    summary = score_all(score_folders(tmp_path), "videos", 1).summary
    assert summary["method_raw"]["J_mean"] == 0
    assert summary["method_best_threshold"]["J_mean"] == 1
    assert summary["method_best_threshold"]["threshold_chosen_on"].startswith("oracle")
    monkeypatch.setattr(table, "read_threshold", lambda folder: (0.3, "validation"))
    assert score_all(score_folders(tmp_path), "videos", 1).summary["method_raw"]["J_mean"] == 1
    assert json.loads((tmp_path / "predictions" / "threshold.json").read_text())["threshold"] == 0.5
