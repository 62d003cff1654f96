from __future__ import annotations

from typing import get_args

import cv2
import numpy as np
import pytest

from backdrop.motion.evidence import flow_evidence
from backdrop.motion.homography import resampling
from backdrop.motion.neighbors import NeighborView, StabilizedSequence, background_flow, median_background
from backdrop.motion.parameters import StabilizeParams
from backdrop.render.clip import Clip
from backdrop.stabilize.stage import stabilize_sequence
from backdrop.student.camera import background_keypoints, refit
from backdrop.student.cues import CUES, frame_cues
from backdrop.student.cues.cue import LONGER, Cue, CueFrame, scaled
from backdrop.student.fusion import consensus, fuse
from backdrop.student.parameters import StudentParams
from tests.frame_archives import ImageList
from tests.student.clips import PARAMS, SIZE, Rendered, exact, jaccard, still

STABILIZE = StabilizeParams(features=1000, ratio=0.75, threshold=3.0, min_inliers=12, max_scale=1.5, gap=1)


@pytest.fixture(scope="module")
def clip() -> Rendered:
    return Rendered(Clip(3, "ptz", SIZE, 20, subject=1))


def test_cues_are_silent_on_a_static_scene() -> None:
    homographies = exact(Clip(0, "static", SIZE, 14))
    sequence = StabilizedSequence(still(14), homographies, SIZE)
    cues = frame_cues(sequence, 6, PARAMS)
    assert set(cues) == {"motion", "layers", "median", "mog2"}
    for name, cue in cues.items():
        assert (cue.value[cue.valid] > 0.5).mean() < 0.005, name


def test_each_cue_sees_the_subject_and_their_mean_sees_it_better_than_most(clip: Rendered) -> None:
    sequence = StabilizedSequence(clip, exact(clip.clip), SIZE)
    rows = []
    for t in (4, 10, 15):
        cues = frame_cues(sequence, t, PARAMS)
        truth = clip.clip.mask(t)
        for name, cue in cues.items():
            inside, outside = cue.value[truth & cue.valid].mean(), cue.value[~truth & cue.valid].mean()
            assert inside > 2 * outside, name
        rows.append([*(jaccard(cue.value, truth) for cue in cues.values()), jaccard(fuse(cues, SIZE).value, truth)])
    *alone, fused = np.mean(rows, axis=0)
    assert fused > np.median(alone)


def test_no_neighbor_no_evidence(clip: Rendered) -> None:
    lost = exact(clip.clip)
    lost["valid"][:] = False
    chained = PARAMS.model_copy(update={"cues": ["median", "mog2"]})
    cues = frame_cues(StabilizedSequence(clip, lost, SIZE), 5, chained)
    fused = fuse(cues, SIZE)
    assert not cues
    assert not fused.valid.any()
    assert not fused.value.any()


def test_layers_and_the_motion_network_need_no_homography(clip: Rendered) -> None:
    lost = exact(clip.clip)
    lost["valid"][:] = False
    found = []
    for t in (5, 9, 13):
        cues = frame_cues(StabilizedSequence(clip, lost, SIZE), t, PARAMS)
        assert set(cues) == {"motion", "layers"}
        truth = clip.clip.mask(t)
        found.append([cue.value[truth].mean() / cue.value[~truth].mean() for cue in cues.values()])
    assert np.min(found) > 2


@pytest.mark.parametrize(("speed", "longer"), [(0.06, LONGER), (1.5, 1)])
def test_evidence_of_a_slow_subject_comes_from_further_away(speed: float, longer: int) -> None:
    rng = np.random.default_rng(0)
    scene, thing = (
        cv2.resize(rng.integers(0, 256, shape, dtype=np.uint8), None, fx=4, fy=4) for shape in ((24, 40, 3), (9, 9, 3))
    )
    images = []
    for t in range(34):
        shift = np.array([[1, 0, 60 + speed * (t - 17)], [0, 1, 30]])
        cover = cv2.warpAffine(np.full(thing.shape[:2], 255, np.uint8), shift, SIZE)
        images.append(np.where(cover[..., None] > 127, cv2.warpAffine(thing, shift, SIZE), scene))
    alone = {"H": np.stack([np.eye(3)] * 34), "neighbor": np.array([*range(1, 34), 32]), "valid": np.ones(34, bool)}
    frame = CueFrame(StabilizedSequence(ImageList(images), alone, SIZE), 17, PARAMS)
    gray = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]
    assert np.array_equal(frame.flow_evidence, flow_evidence(lambda t: gray[t], 17, 34, longer))


@pytest.mark.parametrize("size", [(48, 32), (112, 72), (72, 112)])
def test_the_motion_network_takes_frames_of_any_size(size: tuple[int, int]) -> None:
    clip = Clip(3, "static", SIZE, 6, subject=1)
    images = [cv2.resize(clip.frame(t), size, interpolation=cv2.INTER_AREA) for t in range(6)]
    cues = frame_cues(StabilizedSequence(ImageList(images), exact(clip), size), 3, PARAMS)
    for name in ("motion", "layers"):
        assert cues[name].value.shape == (size[1], size[0])


def test_a_sequence_of_one_frame_has_no_cue() -> None:
    alone = {"H": np.eye(3)[None], "neighbor": np.array([0]), "valid": np.zeros(1, bool)}
    assert not frame_cues(StabilizedSequence(still(1), alone, SIZE), 0, PARAMS)


def test_fusion_asks_only_the_cues_that_know() -> None:
    left = np.zeros((4, 6), bool)
    left[:, :3] = True
    cues = {"a": Cue(np.full((4, 6), 0.8, np.float32), left), "b": Cue(np.full((4, 6), 0.2, np.float32), ~left)}
    fused = fuse(cues, (6, 4))
    assert np.allclose(fused.value[left], 0.8)
    assert np.allclose(fused.value[~left], 0.2)


def test_weights_count_in_the_mean_where_both_cues_know() -> None:
    everywhere = np.ones((4, 6), bool)
    cues = {"a": Cue(np.ones((4, 6), np.float32), everywhere), "b": Cue(np.zeros((4, 6), np.float32), everywhere)}
    assert np.allclose(fuse(cues, (6, 4), {"a": 3.0, "b": 1.0}).value, 0.75)


def test_consensus_trusts_those_who_agree() -> None:
    rng = np.random.default_rng(0)
    everywhere, size = np.ones((48, 64), bool), (64, 48)
    frames = []
    for _ in range(6):
        x, y = rng.integers(5, 30, 2)
        right, wrong = np.zeros((48, 64), np.float32), np.zeros((48, 64), np.float32)
        right[y - 4 : y + 16, x : x + 20] = 1
        wrong[2:20, 40:60] = 1
        cues = {name: Cue(right, everywhere) for name in ("a", "b", "c")}
        frames.append(cues | {"d": Cue(wrong, everywhere)})
    weights = consensus(frames, size, 2.0)
    assert weights["a"] == weights["b"] == weights["c"] == 1
    assert weights["d"] < 0.1
    assert set(consensus(frames, size, 0.0).values()) == {1.0}


def test_the_parameters_name_the_cues_that_there_are() -> None:
    (kinds,) = get_args(StudentParams.model_fields["cues"].annotation)
    assert get_args(kinds) == tuple(CUES)


def test_scaling_does_not_depend_on_the_unit_above_the_floor() -> None:
    raw = np.random.default_rng(0).gamma(0.5, 40, (40, 60)).astype(np.float32) + 1
    valid = np.ones(raw.shape, bool)
    assert np.allclose(scaled(raw, valid, 0.1).value, scaled(7 * raw, valid, 0.1).value, atol=0.02)
    assert not (scaled(raw / 1e4, valid, 1.0).value > 0.1).any()


def test_refitting_without_the_subject_recovers_the_camera() -> None:
    """A textured rectangle covers most of the view and moves by less than the inlier threshold: it pulls the camera."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (2, 80, 120, 3), dtype=np.uint8)
    scene, subject = (np.kron(part, np.ones((3, 3, 1), np.uint8)) for part in small)
    images, masks = [], []
    for t in range(4):
        image = scene[20 : 20 + 192, 4 * t + 10 : 4 * t + 330].copy()
        image[24:168, 40:280] = subject[:144, 2 * t : 2 * t + 240]  # the background moves by -4, the subject by -2
        mask = np.zeros((192, 320), np.float32)
        mask[24:168, 40:280] = 1
        images.append(image)
        masks.append(mask)
    frames = ImageList(images)
    plain = stabilize_sequence(frames, STABILIZE)
    fresh = refit(frames, plain, masks.__getitem__, STABILIZE)
    target = np.array([[1, 0, 4.0], [0, 1, 0], [0, 0, 1]])
    corners = np.array([[0, 0, 1], [319, 0, 1], [0, 191, 1], [319, 191, 1.0]]).T

    def error(H: np.ndarray) -> float:
        ours, truth = H @ corners, target @ corners
        return float(np.linalg.norm(ours[:2] / ours[2] - truth[:2] / truth[2], axis=0).max())

    assert error(fresh["H"][1]) < 0.3
    assert error(plain["H"][1]) > 3 * error(fresh["H"][1])
    only = refit(frames, plain, masks.__getitem__, STABILIZE, range(2, 3))
    assert np.array_equal(only["H"][1], plain["H"][1])
    assert np.array_equal(only["H"][2], fresh["H"][2])


def test_no_keypoint_lies_on_the_subject(clip: Rendered) -> None:
    mask = clip.clip.mask(5).astype(np.float32)
    points = background_keypoints(clip.image(5), mask, 500).points
    assert len(points) > 50
    columns, rows = np.rint(points).astype(int).clip(0, [SIZE[0] - 1, SIZE[1] - 1]).T
    assert not mask[rows, columns].any()


def test_background_flow_is_filled_in_under_the_subject() -> None:
    flow = np.zeros((96, 160, 2), np.float32)
    flow[..., 0] = np.linspace(1, 3, 160)[None]
    subject = np.zeros((96, 160), np.float32)
    subject[30:70, 60:100] = 1
    moving = flow.copy()
    moving[subject > 0] += 9
    filled = background_flow(moving, np.ones((96, 160), bool), subject)
    assert np.abs(filled - flow)[:, 8:-8].max() < 0.5


def test_median_leaves_the_subject_out() -> None:
    gray, red = np.full((8, 8, 3), 90, np.uint8), np.full((8, 8, 3), 200, np.uint8)
    everywhere, nowhere = np.ones((8, 8), bool), np.zeros((8, 8), bool)
    found = [NeighborView(red, everywhere, nowhere)] * 3 + [NeighborView(gray, everywhere, everywhere)] * 2
    behind = median_background(found)
    assert behind is not None
    assert (behind.image == 90).all()
    assert behind.valid.all()
    everyone = median_background([NeighborView(red, everywhere, everywhere)] * 3 + found[3:])
    assert everyone is not None
    assert (everyone.image == 200).all()
    hidden = median_background(found[:4])  # one view shows background: all with a pixel count
    assert hidden is not None
    assert (hidden.image == 200).all()
    assert hidden.valid.all()
    assert median_background(found[:1]) is None


def test_resampling_keeps_the_edges() -> None:
    H = resampling((854, 480), (320, 192))
    for edge, small in (((-0.5, -0.5), (-0.5, -0.5)), ((853.5, 479.5), (319.5, 191.5))):
        assert np.allclose((H @ (*edge, 1))[:2], small)
