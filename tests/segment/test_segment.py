"""Stage segment: what it writes, the same bytes whatever the chunks, and the choice of a threshold."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest

from backdrop.errors import BackdropError
from backdrop.io.frame_archive import FrameArchive
from backdrop.io.masks import Predictions, read_threshold, same_predictions
from backdrop.networks.model_folders import load_network, save_network
from backdrop.networks.predictor import Predictor
from backdrop.segment import stage as segment_stage
from backdrop.segment.parameters import SegmentParams
from backdrop.segment.stage import SegmentFolders, segment_all
from tests.frame_archives import damage_frame
from tests.small_pipeline import contents, write_material, write_model

pytestmark = pytest.mark.usefixtures("one_thread")

SPLITS = {"train_1": "train", "val_1": "val", "test_1": "test", "test_2": "test"}
FRAMES = 6


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames, and a model folder without a student (`joint`) and one with (`student`), of the same D and S."""
    root = tmp_path_factory.mktemp("segment")
    write_material(root, SPLITS, FRAMES)
    write_model(root / "joint", student=False)
    write_model(root / "student")
    return root


def segment(
    material: Path,
    out: Path,
    threshold: float | None = None,
    batch: int = 4,
    workers: int = 1,
    model: str = "joint",
    chosen_on: str = "validation",
    paper: Literal["scored", "all"] = "scored",
) -> dict:
    """Into `out` and `out`_paper."""

    def choose(frames: Path, predictions: Path) -> tuple[float, str]:
        assert frames == material / "frames"
        assert (predictions / "val_1.zip").is_file(), "the threshold is asked for when the predictions are there"
        return (0.25 if predictions == out else 0.4), chosen_on

    params = SegmentParams(threshold=threshold, temporal=0, batch=batch, paper=paper)
    folders = SegmentFolders(material / model, material / "frames", out, out.with_name(f"{out.name}_paper"))
    return segment_all(folders, params, workers, "cpu", choose)


@pytest.fixture(scope="module")
def predictions(material: Path) -> Path:
    segment(material, material / "predictions")
    return material / "predictions"


def test_what_is_not_for_training_alone_is_segmented(predictions: Path, material: Path) -> None:
    files = {path.name for path in predictions.iterdir()}
    assert files == {"val_1.zip", "test_1.zip", "test_2.zip", "threshold.json"}
    stored = Predictions(predictions / "test_1.zip")
    assert stored.box.shape == (FRAMES, 4)
    assert stored.p.shape == (FRAMES, 8, 8)
    predictor, archive = Predictor.load(material / "joint", "cpu"), FrameArchive(material / "frames" / "test_1.zip")
    for t in range(FRAMES):
        found = predictor.predict(archive.image(t))
        assert np.abs(stored.soft(t) - found.mask).max() <= 0.5 / 255 + 1e-4
        assert stored.box[t] == pytest.approx(found.box, abs=1e-4)
        assert stored.cell[t] == found.cell


def test_without_a_student_the_papers_method_is_a_copy_of_what_ships(predictions: Path) -> None:
    paper = predictions.with_name("predictions_paper")
    assert read_threshold(paper) == (0.25, "validation")
    assert same_predictions(predictions, paper)


def test_with_a_student_the_papers_method_lies_beside_what_ships(
    predictions: Path, material: Path, tmp_path: Path
) -> None:
    assert segment(material, tmp_path / "out", model="student")["threshold"] == 0.25
    paper = tmp_path / "out_paper"
    assert read_threshold(paper) == (0.4, "validation"), "a choice of its own"
    assert not same_predictions(tmp_path / "out", paper)
    for name in ("val_1.zip", "test_1.zip", "test_2.zip"):
        assert (paper / name).read_bytes() == (predictions / name).read_bytes(), "as D and S of the same weights"
        assert (tmp_path / "out" / name).read_bytes() != (predictions / name).read_bytes()
    segment(material, tmp_path / "given", threshold=0.7, model="student")
    assert read_threshold(tmp_path / "given_paper") == (0.7, "params")


def test_the_papers_method_is_asked_where_there_is_truth_to_score_it_by(material: Path, tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    shutil.copytree(material / "frames", frames)
    shutil.copytree(material / "student", tmp_path / "student")
    table = pd.read_csv(frames / "index.csv")
    table.loc[table["sequence"] == "test_2", "masks"] = 0
    table.to_csv(frames / "index.csv", index=False)
    segment(tmp_path, tmp_path / "out", model="student")
    assert sorted(path.name for path in (tmp_path / "out_paper").glob("*.zip")) == ["test_1.zip", "val_1.zip"]
    segment(tmp_path, tmp_path / "asked", model="student", paper="all")
    for name in ("val_1.zip", "test_1.zip", "test_2.zip"):
        assert (tmp_path / "asked" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert (tmp_path / "asked_paper" / "test_2.zip").is_file()


def test_without_validation_truth_the_students_own_threshold_counts(material: Path, tmp_path: Path) -> None:
    predictor, (_, config) = Predictor.load(material / "student", "cpu"), load_network(material / "student")
    assert predictor.student is not None
    assert predictor.student.threshold is None, "an older model folder"
    own = {"detector": predictor.detector, "synthesis": predictor.synthesis, "student": predictor.student.network}
    config["student"] |= {"subjects": 2, "threshold": 0.35}
    save_network(material / "sure", own, config)
    segment(material, tmp_path / "out", model="sure", chosen_on="default")
    assert read_threshold(tmp_path / "out") == (0.35, "pseudo-masks")
    assert read_threshold(tmp_path / "out_paper") == (0.4, "default"), "that of the student is none of D and S"
    assert segment(material, tmp_path / "given", 0.7, model="sure")["chosen_on"] == "params"
    assert segment(material, tmp_path / "validated", model="sure")["chosen_on"] == "validation"


def test_the_threshold_is_written(predictions: Path, material: Path, tmp_path: Path) -> None:
    assert read_threshold(predictions) == (0.25, "validation")
    assert segment(material, tmp_path / "own", threshold=0.7) == {"threshold": 0.7, "chosen_on": "params"}
    assert read_threshold(tmp_path / "own") == (0.7, "params")


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_same_bytes_every_time(workers: int, predictions: Path, material: Path, tmp_path: Path) -> None:
    segment(material, tmp_path / "again", workers=workers)
    for path in predictions.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("chunk", [1, 5])
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_sequence_longer_than_a_chunk_gives_the_same_bytes(
    workers: int, chunk: int, material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment(material, tmp_path / "once", batch=2, model="student")
    monkeypatch.setattr(segment_stage, "SEGMENT_CHUNK", chunk)
    segment(material, tmp_path / "out", batch=2, workers=workers, model="student")
    for kind in ("", "_paper"):
        once, out = contents(tmp_path / f"once{kind}"), contents(tmp_path / f"out{kind}")
        assert out == once, kind
        assert len(out) == 4


def test_a_damaged_frame_in_a_middle_chunk_is_named(
    material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_stage, "SEGMENT_CHUNK", 2)
    shutil.copytree(material / "frames", tmp_path / "frames")
    damage_frame(tmp_path / "frames" / "test_1.zip", 3)
    folders = SegmentFolders(material / "student", tmp_path / "frames", tmp_path / "out", tmp_path / "out_paper")
    with pytest.raises(BackdropError, match=r"test_1\.zip: frame 3 is missing or damaged; run the stage frames again"):
        segment_all(
            folders, SegmentParams(threshold=0.5, temporal=0, batch=2, paper="scored"), 1, "cpu", lambda *_: (0.0, "")
        )
    for folder in (folders.predictions, folders.predictions_paper):
        assert {path.name for path in folder.iterdir()} <= {"val_1.zip"}, "what was complete before"


def test_the_batch_size_does_not_matter(predictions: Path, material: Path, tmp_path: Path) -> None:
    segment(material, tmp_path / "one", batch=1)
    a, b = Predictions(predictions / "test_1.zip"), Predictions(tmp_path / "one" / "test_1.zip")
    assert a.box == pytest.approx(b.box, abs=1e-4)
    assert all(np.abs(a.soft(t) - b.soft(t)).max() <= 1.01 / 255 for t in range(FRAMES))


def test_nothing_to_segment_is_one_error(material: Path, tmp_path: Path) -> None:
    write_material(tmp_path, {"only": "train"}, 2)
    params = SegmentParams(threshold=0.5, temporal=0, batch=4, paper="scored")
    folders = SegmentFolders(material / "joint", tmp_path / "frames", tmp_path / "out", tmp_path / "out_paper")
    with pytest.raises(BackdropError, match="no sequence to segment"):
        segment_all(folders, params, 1, "cpu", lambda *_: (0.0, ""))
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out_paper").exists()
