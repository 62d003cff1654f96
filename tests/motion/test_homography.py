"""Laws of stabilization: known homographies come back, in the documented direction; bad input is recorded."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backdrop.errors import BackdropError
from backdrop.io.frame_archive import FrameArchive
from backdrop.motion.homography import (
    Keypoints,
    chain,
    estimate_homography,
    implausible,
    keypoints,
    load_homographies,
    match,
    neighbor_of,
    save_homographies,
    warp,
)
from backdrop.motion.parameters import StabilizeParams
from backdrop.run.chunks import spans
from backdrop.stabilize import stage as stabilize_stage
from backdrop.stabilize.stage import stabilize_all, stabilize_sequence
from tests.frame_archives import ImageList, damage_frame, write_sequences

SIZE = (480, 270)
PARAMS = StabilizeParams(features=2000, ratio=0.75, threshold=3.0, min_inliers=12, max_scale=1.5, gap=1)


class Frames(ImageList):
    """Images that count what is read of them."""

    def __init__(self, images: list[np.ndarray]) -> None:
        super().__init__(images)
        self.reads: list[int] = []

    def image(self, t: int) -> np.ndarray:
        self.reads.append(t)
        return super().image(t)


def scene(seed: int = 0, size: tuple[int, int] = (1100, 800)) -> np.ndarray:
    """A structured texture: overlapping polygons in random colors, with fine grain."""
    rng = np.random.default_rng(seed)
    image = np.full((size[1], size[0], 3), 128, np.uint8)
    for _ in range(1500):
        center = rng.uniform(0, size)
        corners = center + rng.uniform(-25, 25, (rng.integers(3, 6), 2))
        cv2.fillPoly(image, [corners.astype(np.int32)], rng.uniform(0, 255, 3).tolist(), cv2.LINE_AA)
    grain = cv2.GaussianBlur(rng.normal(0, 25, image.shape), (0, 0), 1.2)
    return np.clip(cv2.GaussianBlur(image, (0, 0), 0.8) + grain, 0, 255).astype(np.uint8)


def camera(
    x: float = 0, y: float = 0, zoom: float = 1, roll: float = 0, tilt: tuple[float, float] = (0, 0)
) -> np.ndarray:
    """Homography from the scene to a view centered (x, y) off the scene's center."""
    turn = zoom * np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
    view = np.eye(3)
    view[:2, :2] = turn
    view[:2, 2] = -turn @ (550 + x, 400 + y)
    perspective = np.eye(3)
    perspective[2, :2] = tilt
    center = np.array([[1, 0, SIZE[0] / 2], [0, 1, SIZE[1] / 2], [0, 0, 1]])
    return center @ perspective @ view


def shoot(pose: np.ndarray, seed: int = 0, noise: float = 3) -> np.ndarray:
    """What the camera sees, with sensor noise."""
    view = cv2.warpPerspective(scene(), pose, SIZE, flags=cv2.INTER_CUBIC)
    return np.clip(view + np.random.default_rng(seed).normal(0, noise, view.shape), 0, 255).astype(np.uint8)


def corner_error(H: np.ndarray, truth: np.ndarray, size: tuple[int, int] = SIZE) -> float:
    right, bottom = size[0] - 1, size[1] - 1
    corners = np.array([[[0, 0], [right, 0], [right, bottom], [0, bottom]]], np.float64)
    difference = cv2.perspectiveTransform(corners, H) - cv2.perspectiveTransform(corners, truth)
    return float(np.linalg.norm(difference, axis=2).max())


MOTIONS = {
    "pan": {"x": 40},
    "tilt": {"y": -30},
    "zoom in": {"zoom": 1.15},
    "zoom out": {"zoom": 0.87},
    "roll": {"roll": 0.08},
    "perspective": {"tilt": (1e-4, -1.5e-4)},
    "all": {"x": 25, "y": 12, "zoom": 1.06, "roll": -0.04, "tilt": (5e-5, 5e-5)},
}


@pytest.mark.parametrize("motion", MOTIONS.values(), ids=MOTIONS)
def test_known_homographies_are_recovered(motion: dict) -> None:
    frame, neighbor = camera(), camera(**motion)
    arrays = stabilize_sequence(Frames([shoot(frame, 1), shoot(neighbor, 2)]), PARAMS)
    assert arrays["valid"].all(), arrays["reason"]
    assert corner_error(arrays["H"][0], frame @ np.linalg.inv(neighbor)) < 0.5
    assert corner_error(arrays["H"][1], neighbor @ np.linalg.inv(frame)) < 0.5


def test_large_images_are_reduced_without_a_shift() -> None:
    big = cv2.resize(scene(), None, fx=1.6, fy=1.6, interpolation=cv2.INTER_CUBIC)
    frame, neighbor = big[200:940, 100:1400], big[213:953, 121:1421]
    arrays = stabilize_sequence(Frames([frame, neighbor]), PARAMS)
    truth = np.array([[1, 0, 21], [0, 1, 13], [0, 0, 1.0]])
    assert corner_error(arrays["H"][0], truth) < 0.3


def test_the_homography_lays_the_neighbor_over_the_frame() -> None:
    frame, neighbor = shoot(camera(), 1), shoot(camera(x=30, y=-12, zoom=1.05), 2)
    H = stabilize_sequence(Frames([frame, neighbor]), PARAMS)["H"][0]
    differences = []
    for matrix in (H, np.linalg.inv(H)):
        warped, inside = warp(neighbor, matrix, SIZE)
        differences.append(np.abs(warped.astype(float) - frame)[inside].mean())
    assert differences[0] < 8 < 0.3 * differences[1]


def test_a_slow_subject_does_not_pull_the_background_along() -> None:
    frame, neighbor = shoot(camera(), 1), shoot(camera(x=10), 2)
    subject = scene(7)[:130, :160]
    frame[70:200, 150:310] = subject
    neighbor[70:200, 152:312] = subject  # moves 2 pixels in the view, the background 10 the other way
    error = corner_error(
        stabilize_sequence(Frames([frame, neighbor]), PARAMS)["H"][0], camera() @ np.linalg.inv(camera(x=10))
    )
    assert error < 0.5
    neighbor = shoot(camera(), 2)
    neighbor[70:200, 152:312] = subject  # within the inlier threshold of the static background
    assert corner_error(stabilize_sequence(Frames([frame, neighbor]), PARAMS)["H"][0], np.eye(3)) < 0.5


def test_results_are_equal_to_the_bit_whatever_the_threads_and_seeds() -> None:
    frames = Frames([shoot(camera(), 1), shoot(camera(x=20, roll=0.02), 2)])
    before, results = cv2.getNumThreads(), []
    try:
        for threads, seed in ((1, 0), (2, 1), (4, 2)):
            cv2.setNumThreads(threads)
            cv2.setRNGSeed(seed)
            results.append(stabilize_sequence(frames, PARAMS)["H"].tobytes())
    finally:
        cv2.setNumThreads(before)
    assert len(set(results)) == 1


def test_matching_equals_opencv_brute_force() -> None:
    a, b = keypoints(shoot(camera(), 1)), keypoints(shoot(camera(x=20), 2))
    matcher = cv2.BFMatcher(cv2.NORM_L2)
    back = {m.queryIdx: m.trainIdx for m in matcher.match(b.descriptors, a.descriptors)}
    expected = [
        (first.queryIdx, first.trainIdx)
        for first, second in matcher.knnMatch(a.descriptors, b.descriptors, k=2)
        if first.distance < 0.75 * second.distance and back[first.trainIdx] == first.queryIdx
    ]
    i, j = match(a, b, 0.75)
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == expected
    assert len(expected) > 100


def test_the_keypoint_count_is_capped() -> None:
    assert len(keypoints(shoot(camera()), 50)) == 50


@pytest.mark.parametrize("shape", [(270, 480, 3), (1, 1, 3), (3, 2000, 3)])
def test_a_flat_frame_is_recorded(shape: tuple[int, ...]) -> None:
    flat = np.full(shape, 90, np.uint8)
    assert len(keypoints(flat)) == 0
    arrays = stabilize_sequence(Frames([flat, flat]), PARAMS)
    assert not arrays["valid"].any()
    assert (arrays["H"] == np.eye(3)).all()
    assert all("0 keypoints" in reason for reason in arrays["reason"])


def cloud(points: np.ndarray) -> Keypoints:
    """Keypoints whose descriptors match one to one."""
    descriptors = np.random.default_rng(0).integers(0, 255, (len(points), 128)).astype(np.float32)
    return Keypoints(points.astype(np.float64), descriptors)


def degenerate(kind: str) -> np.ndarray:
    x = np.linspace(0, 400, 60)
    return {
        "on a line": np.stack([x, 0.5 * x + 3], 1),
        "nearly on a line": np.stack([x, 0.5 * x + np.random.default_rng(0).normal(0, 0.5, 60)], 1),
        "one point": np.full((60, 2), 100.0),
        "NaN": np.full((60, 2), np.nan),
        "infinite": np.full((60, 2), np.inf),
        "few": np.random.default_rng(0).uniform(0, 400, (5, 2)),
        "none": np.empty((0, 2)),
    }[kind]


@pytest.mark.parametrize("kind", ["on a line", "nearly on a line", "one point", "NaN", "infinite", "few", "none"])
def test_degenerate_points_are_recorded(kind: str) -> None:
    points = cloud(degenerate(kind))
    pair = estimate_homography(points, points, SIZE, PARAMS)
    assert not pair.valid
    assert pair.reason
    assert (np.eye(3) == pair.H).all()


def test_points_that_agree_on_nothing_are_recorded() -> None:
    rng = np.random.default_rng(0)
    a, b = (cloud(rng.uniform(0, 400, (40, 2))) for _ in range(2))
    pair = estimate_homography(a, b, SIZE, PARAMS)
    assert not pair.valid
    assert pair.matches == 40


@pytest.mark.parametrize("fills", [True, False])
def test_the_border_tells_the_background_from_a_subject_with_more_keypoints(fills: bool) -> None:
    """Where the subject has most matches, and where it does not."""
    generator = np.random.default_rng(8)
    width, height = SIZE
    everywhere = generator.uniform((0, 0), SIZE, (400, 2))
    apart = np.minimum(everywhere, np.array(SIZE) - everywhere) / np.array(SIZE)
    behind, subject = everywhere[apart.min(axis=1) < 0.15], everywhere[apart.min(axis=1) > 0.25]
    assert len(behind) > 60
    assert len(subject) > 60
    behind, subject = (behind[:50], subject[:120]) if fills else (behind[:120], subject[:50])
    points = np.concatenate([behind, subject])
    moved = np.concatenate([behind + (-9, 4), subject + (14, -6)])
    pair = estimate_homography(cloud(points), cloud(moved), SIZE, PARAMS)
    assert pair.valid
    assert pair.inliers == len(behind)
    corner = cv2.perspectiveTransform(np.array([[[0.0, 0.0], [width, height]]]), pair.H)[0]
    np.testing.assert_allclose(corner, [[-9, 4], [width - 9, height + 4]], atol=0.5)


@pytest.mark.parametrize("factor", [(-1, 1), (0.5, 0.5), (2, 2), (1.7, 1)])
def test_a_mirrored_and_a_rescaled_view_are_recorded(factor: tuple[float, float]) -> None:
    points = np.random.default_rng(0).uniform(0, 260, (80, 2))
    pair = estimate_homography(cloud(points), cloud(points * factor), SIZE, PARAMS)
    assert not pair.valid
    assert pair.reason
    assert pair.matches == 80
    assert (np.eye(3) == pair.H).all()


@settings(max_examples=50, deadline=None)
@given(st.floats(0.2, 5), st.floats(-np.pi, np.pi), st.floats(-500, 500))
def test_scale_decides_and_rotation_and_shift_do_not(scale: float, angle: float, shift: float) -> None:
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    H = np.array([[c, -s, shift], [s, c, -shift], [0, 0, 1]])
    if abs(scale - 1.5) > 1e-6 and abs(scale - 1 / 1.5) > 1e-6:
        assert (implausible(H, SIZE, 1.5) == "") == (1 / 1.5 < scale < 1.5)
        assert bool(implausible(-3 * H, SIZE, 1.5)) == bool(implausible(H, SIZE, 1.5))


@pytest.mark.parametrize(
    ("entry", "value", "reason"),
    [
        ((0, 0), np.nan, "finite"),
        ((1, 2), np.inf, "finite"),
        ((2, 2), 0, "invertible"),
        ((0, 0), 0, "invertible"),
        ((2, 0), -0.01, "behind"),
        ((0, 0), -1, "mirrors"),
        ((1, 1), 1.7, "scale"),
    ],
)
def test_impossible_homographies_are_named(entry: tuple[int, int], value: float, reason: str) -> None:
    H = np.eye(3)
    H[entry] = value
    assert reason in implausible(H, SIZE, 1.5)


@given(st.integers(1, 30), st.integers(1, 8))
def test_a_neighbor_is_gap_frames_away_or_missing(count: int, gap: int) -> None:
    for t in range(count):
        neighbor = neighbor_of(t, count, gap)
        assert 0 <= neighbor < count
        assert neighbor == t + gap if t + gap < count else neighbor == t - gap or (neighbor == t and t < gap)


@pytest.mark.parametrize("gap", [1, 2])
def test_each_frame_is_read_once_and_pairs_match_the_camera(gap: int) -> None:
    poses = [camera(x=6 * t, zoom=1 + 0.01 * t) for t in range(5)]
    frames = Frames([shoot(pose, t) for t, pose in enumerate(poses)])
    arrays = stabilize_sequence(frames, PARAMS.model_copy(update={"gap": gap}))
    assert frames.reads == list(range(5))
    for t in range(5):
        neighbor = arrays["neighbor"][t]
        assert abs(neighbor - t) == gap
        assert corner_error(arrays["H"][t], poses[t] @ np.linalg.inv(poses[neighbor])) < 0.5


def test_a_sequence_without_neighbors_is_recorded() -> None:
    for count in (0, 1):
        arrays = stabilize_sequence(Frames([shoot(camera())] * count), PARAMS)
        assert arrays["H"].shape == (count, 3, 3)
        assert not arrays["valid"].any()
        assert all("no frame at distance" in reason for reason in arrays["reason"])


def test_chain_composes_neighbors_in_both_directions() -> None:
    poses = [camera(x=15 * t, y=-5 * t, roll=0.02 * t) for t in range(5)]
    arrays = stabilize_sequence(Frames([shoot(pose, t) for t, pose in enumerate(poses)]), PARAMS)
    for source in range(5):
        for target in range(5):
            H = chain(arrays, source, target)
            assert H is not None
            assert corner_error(H, poses[target] @ np.linalg.inv(poses[source])) < 1
    back_and_forth = chain(arrays, 0, 4) @ chain(arrays, 4, 0)
    np.testing.assert_allclose(back_and_forth / back_and_forth[2, 2], np.eye(3), atol=1e-8)
    arrays["valid"][2] = False
    assert chain(arrays, 0, 4) is None
    assert chain(arrays, 4, 0) is None
    assert chain(arrays, 2, 3) is None
    assert chain(arrays, 0, 2) is not None
    assert chain(arrays, 4, 3) is not None
    with pytest.raises(IndexError):
        chain(arrays, 0, 5)


def test_chain_links_only_multiples_of_the_gap() -> None:
    shifts = np.tile(np.eye(3), (6, 1, 1))
    shifts[:, 0, 2] = 10
    arrays = {"H": shifts, "neighbor": np.array([2, 3, 4, 5, 2, 3]), "valid": np.ones(6, bool)}
    assert chain(arrays, 0, 3) is None
    np.testing.assert_allclose(chain(arrays, 5, 1)[0, 2], 20)


def test_warp_moves_pixels_as_documented() -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    image[7, 11] = 200
    warped, inside = warp(image, np.array([[1, 0, 4], [0, 1, -2], [0, 0, 1.0]]), (30, 20))
    assert warped[5, 15].tolist() == [200, 200, 200]
    assert (warped > 0).sum() == 3
    expected = np.zeros((20, 30), bool)
    expected[:18, 4:] = True
    assert (inside == expected).all()
    same, everywhere = warp(image, np.eye(3), (30, 20))
    assert (same == image).all()
    assert everywhere.all()


@pytest.mark.parametrize("H", [np.full((3, 3), np.nan), np.zeros((3, 3))])
def test_warp_refuses_what_opencv_would_paint_black(H: np.ndarray) -> None:
    with pytest.raises(BackdropError, match="finite and invertible"):
        warp(np.zeros((20, 30, 3), np.uint8), H, (30, 20))


def test_files_round_trip_are_deterministic_and_atomic(tmp_path: Path) -> None:
    arrays = stabilize_sequence(
        Frames([shoot(camera(), 1), shoot(camera(x=9), 2), np.zeros((270, 480, 3), np.uint8)]), PARAMS
    )
    for name in ("a.npz", "b.npz"):
        save_homographies(tmp_path / name, arrays)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    loaded = load_homographies(tmp_path / "a.npz")
    assert loaded.keys() == arrays.keys()
    for key, value in arrays.items():
        assert loaded[key].dtype == value.dtype
        assert (loaded[key] == value).all()
    with pytest.raises(KeyError):
        save_homographies(tmp_path / "a.npz", {"H": arrays["H"]})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]
    assert load_homographies(tmp_path / "a.npz")["valid"].tolist() == [True, False, False]


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "walk.npz"
    with pytest.raises(BackdropError, match=r"walk\.npz does not exist"):
        load_homographies(path)
    np.savez(path, H=np.eye(3)[None])
    with pytest.raises(BackdropError, match=r"walk\.npz is no file"):
        load_homographies(path)
    path.write_bytes(pickle.dumps({"H": 1}))
    with pytest.raises(BackdropError, match=r"walk\.npz is no file"):
        load_homographies(path)


def test_all_sequences_with_any_number_of_workers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flat = np.full((270, 480, 3), 90, np.uint8)
    walk = [shoot(camera(x=9 * t), t) for t in range(4)]
    write_sequences(tmp_path / "frames", {"walk": walk, "gray": [flat] * 3})
    for workers in (1, 2):
        stabilize_all(tmp_path / "frames", tmp_path / f"out{workers}", PARAMS, workers)
    for name in ("walk.npz", "gray.npz", "index.csv"):
        assert (tmp_path / "out1" / name).read_bytes() == (tmp_path / "out2" / name).read_bytes()
    lines = (tmp_path / "out1" / "index.csv").read_text().splitlines()
    assert lines[0] == "sequence,frames,valid,median_inliers"
    assert lines[1].startswith("walk,4,4,")
    assert lines[2] == "gray,3,0,0.0"
    warning = capsys.readouterr().err
    assert "gray: 3 of 3" in warning
    assert "walk" not in warning


FEW = PARAMS.model_copy(update={"features": 300})


def small_walk(count: int) -> list[np.ndarray]:
    return [np.ascontiguousarray(shoot(camera(x=5 * t), t)[:160, :240]) for t in range(count)]


@pytest.mark.parametrize("gap", [1, 4, 9])
def test_chunks_of_a_sequence_are_the_whole(gap: int) -> None:
    frames, params = Frames(small_walk(7)), FEW.model_copy(update={"gap": gap})
    whole = stabilize_sequence(frames, params)
    assert whole["valid"].any() == (gap < 7)
    parts = [stabilize_sequence(frames, params, span) for span in spans(7, 3)]
    for key, values in whole.items():
        joined = np.concatenate([part[key] for part in parts])
        assert joined.dtype == values.dtype
        assert (joined == values).all(), key
    frames.reads.clear()
    stabilize_sequence(frames, params, range(2, 4))
    assert frames.reads == sorted({2, 3, neighbor_of(2, 7, gap), neighbor_of(3, 7, gap)})


def test_a_sequence_longer_than_a_chunk_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walk = small_walk(7)
    walk[3] = np.full_like(walk[3], 90)  # reasons of several lengths
    write_sequences(tmp_path / "frames", {"walk": walk, "short": walk[:2]})
    for name in ("walk", "short"):
        stored = FrameArchive(tmp_path / "frames" / f"{name}.zip")
        save_homographies(tmp_path / "whole" / f"{name}.npz", stabilize_sequence(stored, FEW))
    indices = set()
    for number, (length, workers) in enumerate([(100, 1), (3, 1), (3, 2), (2, 2)]):
        monkeypatch.setattr(stabilize_stage, "STABILIZE_CHUNK", length)
        out = tmp_path / f"out{number}"
        stabilize_all(tmp_path / "frames", out, FEW, workers)
        for name in ("walk.npz", "short.npz"):
            assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), (length, workers)
        indices.add((out / "index.csv").read_bytes())
        assert len(list(out.iterdir())) == 3
    assert len(indices) == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_a_damaged_frame_in_a_middle_chunk_is_named(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stabilize_stage, "STABILIZE_CHUNK", 2)
    write_sequences(tmp_path / "frames", {"walk": small_walk(7)})
    damage_frame(tmp_path / "frames" / "walk.zip", 3)
    with pytest.raises(BackdropError, match=r"walk\.zip: frame 3 is missing or damaged; run the stage frames again"):
        stabilize_all(tmp_path / "frames", tmp_path / "out", FEW, workers)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("seed", "plain"), [(0, True), (3, True), (7, True), (0, False)])
def test_the_exact_homographies_of_the_embedded_footage_are_recovered(seed: int, plain: bool) -> None:
    from backdrop.render.clip import Clip

    clip = Clip(seed, "ptz", size=(320, 192), frames=4, subject=seed, noise=not plain, blur=not plain)
    arrays = stabilize_sequence(Frames([clip.frame(t) for t in range(4)]), PARAMS)
    assert arrays["valid"].all(), arrays["reason"]
    for t, neighbor in enumerate(arrays["neighbor"]):
        truth = clip.homography(int(neighbor), t)
        assert corner_error(arrays["H"][t], truth, (320, 192)) < (0.5 if plain else 1)


@pytest.mark.parametrize("sequence", ["parkour", "car-roundabout"])
def test_real_footage_holds_still_after_stabilization(real_data: Path, sequence: str) -> None:
    folder = real_data / "data/DAVIS2016/JPEGImages/480p" / sequence
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    frames = [cv2.imread(str(path))[..., ::-1].copy() for path in sorted(folder.glob("*.jpg"))[10:13]]
    arrays = stabilize_sequence(Frames(frames), PARAMS)
    assert arrays["valid"].all(), arrays["reason"]
    warped, inside = warp(frames[1], arrays["H"][0], frames[0].shape[1::-1])
    before = np.abs(frames[1].astype(float) - frames[0])[inside].mean()
    after = np.abs(warped.astype(float) - frames[0])[inside].mean()
    assert after < 0.75 * before
