"""A skeleton through a video: on the joints of the rendered puppet, with noise and outliers added."""

from __future__ import annotations

import numpy as np
import pytest

from backdrop.adjust.skeleton import SkeletonWeights, adjust_skeleton
from backdrop.errors import BackdropError
from backdrop.render.clip import Clip
from benchmarks.puppet import PARENTS, Detected, clip_joints, poor_detections, puppet_prior

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE, FRAMES = (160, 96), 24


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    return clip_joints(0, "ptz", SIZE, FRAMES, 800)


def error(points: np.ndarray, truth: np.ndarray) -> float:
    """Mean distance, as a share of the skeleton's height."""
    height = np.median(np.ptp(truth[..., 1], axis=1))
    return float(np.linalg.norm(points - truth, axis=2).mean() / height)


def surest(found: Detected) -> np.ndarray:
    return found.joints[np.arange(len(found.joints)), found.confidences.sum(axis=2).argmax(axis=1)]


def perfect(truth: np.ndarray) -> Detected:
    return Detected(truth[:, None].copy(), np.ones((len(truth), 1, len(PARENTS))))


def test_joints_lie_on_the_rendered_subject(truth: np.ndarray) -> None:
    clip = Clip(0, "ptz", SIZE, FRAMES, subject=800)
    for t in (0, FRAMES - 1):
        x, y = np.rint(truth[t]).astype(int).T
        inside = (x >= 0) & (x < SIZE[0]) & (y >= 0) & (y < SIZE[1])
        assert inside.sum() > 12
        assert clip.mask(t)[y[inside], x[inside]].mean() > 0.9


def test_noise_and_outliers_go(truth: np.ndarray) -> None:
    found = poor_detections(truth, np.random.default_rng(0), noise=0.02, outliers=0.1)
    adjusted = adjust_skeleton(*found, PARENTS, puppet_prior(range(600, 606), 6))
    assert error(adjusted.points, truth) < error(surest(found), truth) / 2
    only = adjust_skeleton(*found, PARENTS, weights=SkeletonWeights(joint=0, point=0, camera=0))
    assert error(adjusted.points, truth) < error(only.points, truth), "time helps"


def test_bones_keep_their_lengths(truth: np.ndarray) -> None:
    adjusted = adjust_skeleton(*poor_detections(truth, np.random.default_rng(1), 0.02, 0.1), PARENTS)
    bones = np.linalg.norm(adjusted.joints[:, 1:] - adjusted.joints[:, list(PARENTS[1:])], axis=2)
    assert np.allclose(bones, adjusted.lengths[1:])
    seen = adjusted.scale[:, None, None] * adjusted.joints[..., :2] + adjusted.shift[:, None]
    assert np.allclose(seen, adjusted.points)


def test_the_least_sure_skeleton_is_not_the_cheapest(truth: np.ndarray) -> None:
    """Somebody who stands where the subject comes by, and of whom the detector is not sure."""
    found = perfect(truth)
    other = np.broadcast_to(truth[FRAMES // 2], truth.shape)[:, None]
    both = Detected(
        np.concatenate([found.joints, other], axis=1),
        np.concatenate([0.9 * found.confidences, 0.1 * found.confidences], axis=1),
    )
    assert error(adjust_skeleton(*both, PARENTS).points, truth) < 0.01


def test_a_frame_in_which_nothing_was_found_is_bridged(truth: np.ndarray) -> None:
    found = perfect(truth)
    found.confidences[10:12] = 0
    found.joints[10:12] = np.nan
    adjusted = adjust_skeleton(*found, PARENTS)
    assert error(adjusted.points[10:12], truth[10:12]) < 0.03


def test_a_single_frame_is_taken(truth: np.ndarray) -> None:
    adjusted = adjust_skeleton(*perfect(truth[:1]), PARENTS)
    assert error(adjusted.points, truth[:1]) < 0.01


def test_what_is_no_skeleton_is_said(truth: np.ndarray) -> None:
    found = perfect(truth)
    with pytest.raises(BackdropError, match="no tree"):
        adjust_skeleton(*found, [0, *PARENTS[1:]])
    with pytest.raises(BackdropError, match="no tree"):
        adjust_skeleton(*found, [-1, 2, *PARENTS[2:]])
    found.confidences[:, :, 4] = 0
    with pytest.raises(BackdropError, match=r"joints \[4\] were found in no frame"):
        adjust_skeleton(*found, PARENTS)
