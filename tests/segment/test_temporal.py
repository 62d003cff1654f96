"""Masks pooled over neighboring frames: they follow the flow, and the bytes do not depend on chunks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backdrop.io.frame_archive import FrameArchive
from backdrop.io.masks import Predictions
from backdrop.networks.predictor import Predictor
from backdrop.segment import stage as segment_stage
from backdrop.segment.parameters import SegmentParams
from backdrop.segment.stage import SegmentFolders, segment_all
from backdrop.segment.temporal import pooled
from tests.handmade_run import scene
from tests.small_pipeline import contents, write_material, write_model

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_mask_that_is_lost_in_one_frame_comes_from_its_neighbors_where_the_subject_is_now() -> None:
    images, truth = scene(5)
    masks = [mask.astype(np.float32) for mask in truth]
    masks[2][:, : np.flatnonzero(truth[2].any(axis=0)).mean().astype(int)] = 0
    found = pooled(images, masks, 2) > 0.5
    assert (masks[2] > 0.5)[truth[2]].mean() < 0.6
    assert found[truth[2]].mean() > 0.85, "all but its trailing edge"
    assert found[~truth[2]].mean() < 0.005


def test_a_speck_of_one_frame_goes_and_frames_that_stand_alike_stay() -> None:
    images, truth = scene(3)
    masks = [mask.astype(np.float32) for mask in truth]
    masks[1][60:70, 100:110] = 1
    assert not (pooled(images, masks, 1) > 0.5)[60:70, 100:110].any()
    assert np.array_equal(pooled([images[0]] * 3, [masks[0]] * 3, 0), masks[0])
    assert np.array_equal(pooled(images[:1], masks[:1], 0), masks[0])


def segmented(root: Path, out: Path, temporal: int, batch: int = 2) -> dict[str, bytes]:
    folders = SegmentFolders(root / "student", root / "frames", out, out.with_name(f"{out.name}_paper"))
    params = SegmentParams(threshold=0.5, temporal=temporal, batch=batch, paper="scored")
    segment_all(folders, params, 1, "cpu", lambda *_: (0.5, "params"))
    return contents(out)


@pytest.mark.parametrize("chunk", [1, 3])
def test_the_bytes_do_not_depend_on_chunks_and_the_papers_method_is_left_alone(
    chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_material(tmp_path, {"one": "test"}, 11)
    write_model(tmp_path / "student")
    once = segmented(tmp_path, tmp_path / "once", 3)
    monkeypatch.setattr(segment_stage, "SEGMENT_CHUNK", chunk)
    assert segmented(tmp_path, tmp_path / "again", 3) == once
    plain = segmented(tmp_path, tmp_path / "plain", 0)
    assert plain != once
    assert contents(tmp_path / "plain_paper") == contents(tmp_path / "again_paper")
    predictor, archive = Predictor.load(tmp_path / "student", "cpu"), FrameArchive(tmp_path / "frames" / "one.zip")
    images = [archive.image(t) for t in range(4)]
    first = pooled(images, [found.mask for found in predictor.predict_batch(images)], 0)
    stored = Predictions(tmp_path / "once" / "one.zip").soft(0)
    assert np.abs(stored - first).max() <= 1.01 / 255, "the first frame has neighbors on one side alone"
