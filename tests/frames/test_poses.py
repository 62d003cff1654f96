"""Boxes from 2D poses: tables beside the frames of Ski-PTZ and H36M, through extraction to the scores of boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backdrop.errors import BackdropError
from backdrop.frames.extract import extract_sequence
from backdrop.frames.layouts import list_sequences
from backdrop.frames.poses import pose_box, read_poses
from backdrop.io.images import encode_jpeg
from backdrop.io.masks import box_from_mask
from backdrop.io.pose_boxes import POSE_BOXES, encode_pose_boxes, pose_boxes
from backdrop.score.table import score_all
from backdrop.video.encode import encode_video
from tests.frame_archives import add_entry
from tests.handmade_run import make_run, scene, score_folders, write_frames

WIDTH, HEIGHT = 96, 64


def pictures(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True)
    for k, name in enumerate(names):
        (folder / f"{name}.jpg").write_bytes(encode_jpeg(np.full((HEIGHT, WIDTH, 3), 40 * k, np.uint8)))


def table(path: Path, *lines: str, head: str = "frame,x0,y0,x1,y1,x2,y2") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")
    return path


def boxes_of(layout: str, root: Path, out: Path, name: str) -> np.ndarray | None:
    (sequence,) = (one for one in list_sequences(layout, root) if one.name == name)
    extract_sequence(sequence, out)
    return pose_boxes(out / f"{name}.zip")


def test_ski_ptz_has_poses_by_the_frames_number(tmp_path: Path) -> None:
    root = tmp_path / "ski"
    for trial in (103, 405):
        pictures(root / "Videos_Small" / f"trial_{trial}_cam1", [f"frame_{n:06d}" for n in (19, 20, 21)])
    table(root / "poses" / "trial_405_cam1.csv", "19,24,16,72,48,,", "21,0,0,96,64,48,32", "400,1,1,2,2,3,3")
    found = boxes_of("ski_ptz", root, tmp_path / "out", "trial_405_cam1")
    assert found is not None
    np.testing.assert_allclose(found[0], [0, 0, 1, 1])
    assert np.isnan(found[1]).all()
    np.testing.assert_allclose(found[2], [0, 0, 2, 2])
    assert boxes_of("ski_ptz", root, tmp_path / "out", "trial_103_cam1") is None


@pytest.mark.parametrize("place", ["poses", "poses/test"])
def test_h36m_has_poses_by_a_videos_frame_or_an_images_name(
    place: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "h36m"
    encode_video(root / "test" / "S9.mp4", [np.full((HEIGHT, WIDTH, 3), 80, np.uint8)] * 3)
    pictures(root / "test" / "S11", ["a-7", "b-8"])
    table(root / place / "S9.csv", "0,24,16,72,48,,", "2,0,0,48,32,,")
    table(root / place / "S11.csv", "b-8,24,16,72,48,50,30")
    video = boxes_of("h36m", root, tmp_path / "out", "S9")
    assert video is not None
    assert np.isnan(video[1]).all()
    np.testing.assert_allclose(video[2], [-0.5, -0.5, 1, 1])
    folder = boxes_of("h36m", root, tmp_path / "out", "S11")
    assert folder is not None
    assert np.isnan(folder[0]).all()
    np.testing.assert_allclose(folder[1], [0, 0, 1, 1])
    assert "poses" not in capfd.readouterr().err


def test_a_box_ends_at_the_image_and_needs_joints_that_span_it() -> None:
    np.testing.assert_allclose(pose_box(np.array([[-50.0, 32], [48, 90]]), (96, 64)), [-0.5, 0.5, 1, 1])
    for joints in ([[np.nan, 1.0]], [[5.0, 5.0]], [[5.0, 5.0], [5.0, 9.0]], [[200.0, 5.0], [220.0, 9.0]]):
        assert pose_box(np.array(joints), (96, 64)) is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "no head"),
        ("x,y\n1,2", "no head"),
        ("frame,x0,y0\n1,2,3", "no head"),
        ("frame,x0,y0,x1,y1\n1,2,3,4", "line 2"),
        ("frame,x0,y0,x1,y1\n1,2,3,4,left", "line 2"),
        ("frame,x0,y0,x1,y1\n1,2,3,4,inf", "line 2"),
        ("frame,x0,y0,x1,y1\n\n1,2,3,4,5\n1,2,3,4,5", "line 4: frame 1 is there twice"),
    ],
)
def test_a_damaged_table_is_named_with_its_line(text: str, named: str, tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(BackdropError, match=rf"s\.csv.*{named}"):
        read_poses(tmp_path / "s.csv")
    (tmp_path / "s.csv").write_bytes(b"\xff\xfe\x00frame")
    with pytest.raises(BackdropError, match=r"s\.csv cannot be read"):
        read_poses(tmp_path / "s.csv")


def test_poses_of_other_frames_are_named(tmp_path: Path) -> None:
    pictures(tmp_path / "in" / "test" / "a", ["one", "two"])
    table(tmp_path / "in" / "poses" / "a.csv", "17,1,2,3,4,5,6")
    with pytest.raises(BackdropError, match=r"poses .*a\.csv: no line names a frame of test/a"):
        boxes_of("h36m", tmp_path / "in", tmp_path / "out", "a")


def test_boxes_are_scored_by_poses_also_where_no_mask_is(tmp_path: Path) -> None:
    """Of six frames two have masks; in one of the others the pose is elsewhere."""
    truth = make_run(tmp_path, {"a": "all"}, frames=6)["a"]
    boxes = np.stack([box_from_mask(mask) for mask in truth])
    boxes[5] = (-0.9, -0.9, 0.1, 0.1)
    boxes[4] = np.nan
    stored = {t: truth[t].astype(np.uint8) * 255 for t in (0, 1)}
    for masks in (stored, {}):
        write_frames(tmp_path / "frames", "a", scene(6)[0], masks)
        add_entry(tmp_path / "frames" / "a.zip", POSE_BOXES, encode_pose_boxes(boxes))
        summary = score_all(score_folders(tmp_path), "videos", 1).summary
        assert (summary["frames_scored"], summary["boxes_of_poses"]) == (len(masks), 5 - len(masks))
        for result in ("method", "d_and_s"):
            assert summary[result]["box_hit50"] == summary[result]["centre_hit"] == 4 / 5
            assert 0.6 < summary[result]["mAP50"] < 1
            assert ("J_mean" in summary[result]) == bool(masks)
        assert ("baselines" in summary) == bool(masks)


def test_a_pose_counts_before_the_extent_of_the_mask(tmp_path: Path) -> None:
    truth = make_run(tmp_path, {"a": "all"}, frames=2)["a"]
    far = np.array([[-0.9, -0.9, 0.1, 0.1]] * len(truth))
    add_entry(tmp_path / "frames" / "a.zip", POSE_BOXES, encode_pose_boxes(far))
    assert score_all(score_folders(tmp_path), "videos", 1).summary["method"]["box_hit50"] == 0
