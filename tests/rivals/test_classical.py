"""Each classical rival segments the scene that its authors would choose for it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from backdrop.measures import box_iou, jaccard
from backdrop.motion.regions.fast_motion import INSIDE_VOTES, inside_votes, motion_boundaries, relative_priors
from backdrop.motion.regions.stretch import ResidualFlow
from backdrop.rivals.material import Material
from backdrop.rivals.registry import load_rival
from tests.frame_archives import ImageList
from tests.rivals.scenes import PlainGround, material, quiet, settings, works
from tests.student.clips import Rendered

pytestmark = pytest.mark.usefixtures("one_thread")

MOTION = ("video_pca", "fast_motion", "em_motion", "nlc", "arp")


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("video_pca", "static"),
        ("video_pca", "ptz"),
        ("fast_motion", "static"),
        ("fast_motion", "ptz"),
        ("em_motion", "static"),
        ("nlc", "static"),
        ("nlc", "ptz"),
        ("arp", "static"),
    ],
)
def test_a_rival_of_motion_works_where_nothing_else_moves(name: str, mode: str, tmp_path: Path) -> None:
    assert works(load_rival(name), quiet(mode), tmp_path) >= 0.5


@pytest.mark.parametrize("name", ["grabcut", "plain_inpaint"])
def test_a_rival_of_boxes_works_with_true_boxes_before_a_plain_ground(name: str, tmp_path: Path) -> None:
    clip = PlainGround(8)
    assert works(load_rival(name), clip, tmp_path, boxes=clip.box) >= 0.5


def test_the_box_is_that_of_what_moves_where_no_run_gives_one(tmp_path: Path) -> None:
    clip = quiet(frames=4)
    found, true = material(clip, tmp_path).box(1), clip.box(1)
    assert found is not None
    assert box_iou(found, true) > 0.5
    still = Material(Rendered(clip), settings(tmp_path, boxes=lambda t: true))
    assert still.box(3) is true


def test_a_sequence_without_motion_gives_empty_masks(tmp_path: Path) -> None:
    images = ImageList([quiet(frames=1).background(0)] * 5)
    for name in MOTION:
        found = list(load_rival(name)(Material(images, settings(tmp_path))))
        assert len(found) == 5, name
        assert max(mask.mean() for mask in found) < 0.05, name


def test_a_ray_that_enters_once_is_inside() -> None:
    boundary = np.zeros((40, 60), np.uint8)
    cv2.ellipse(boundary, (30, 20), (16, 12), 0, 0, 360, 1, 2)
    votes = inside_votes(boundary > 0)
    assert votes[20, 30] == 8
    assert votes[2, 2] == 0


@pytest.mark.parametrize("speed", [2.0, 8.0, 30.0])
def test_rough_flow_inside_a_fast_subject_is_no_boundary(speed: float) -> None:
    subject = np.zeros((96, 160), np.float32)
    cv2.ellipse(subject, (80, 48), (40, 28), 0, 0, 360, 1, -1)
    rough = np.random.default_rng(0).normal(size=(*subject.shape, 2)).astype(np.float32)
    rough = cv2.GaussianBlur(rough, (0, 0), 3) * 2  # about a fifth of the speed, over a few pixels
    flow = cv2.GaussianBlur(subject, (0, 0), 1.5)[..., None] * speed * (np.float32([1, 0.3]) + rough)
    votes = inside_votes(motion_boundaries(ResidualFlow(flow.astype(np.float32), np.ones(subject.shape, bool))))
    assert jaccard(votes >= INSIDE_VOTES, subject > 0) > 0.6


def test_priors_count_against_the_surest_of_the_sequence() -> None:
    priors = relative_priors([np.array([0.0, 0.35, 0.1]), np.array([0.4, 0.02])])
    assert [len(one) for one in priors] == [3, 2]
    assert priors[0][1] > 0.8
    assert priors[0][2] < 0.3
    assert max(one.max() for one in priors) == 1
