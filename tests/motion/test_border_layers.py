"""Layers of the background along the image's border, and the evidence of motion against them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from backdrop.motion.border_layers import MOST_LAYERS, border_layers, residuals
from backdrop.motion.evidence import (
    EVIDENCE_GAPS,
    MOST_PIXELS,
    MULTIPLE,
    evidence_size,
    flow_evidence,
    scene_evidence,
    texture,
)

SIZE = (160, 96)


def grid() -> tuple[np.ndarray, np.ndarray]:
    x, y = np.meshgrid(np.arange(SIZE[0], dtype=np.float32), np.arange(SIZE[1], dtype=np.float32))
    return x, y


def two_planes() -> tuple[np.ndarray, np.ndarray]:
    """Flow of a far plane, a near one below, and a subject in the middle that moves against both; the subject."""
    x, y = grid()
    flow = np.stack([2 + 0.01 * x, 0.005 * y], axis=2)
    flow[60:] = [7, 0.5]
    subject = (np.abs(x - 80) < 12) & (np.abs(y - 50) < 20)
    flow[subject] = [-3, 0]
    return flow.astype(np.float32), subject


def test_each_plane_on_the_border_is_a_layer_and_only_the_subject_is_left() -> None:
    flow, subject = two_planes()
    models = border_layers(flow)
    assert 2 <= len(models) <= MOST_LAYERS
    least = np.min([np.linalg.norm(one, axis=2) for one in residuals(flow, models)], axis=0)
    assert least[subject].min() > 4
    assert np.percentile(least[~subject], 99) < 0.3


def test_one_layer_alone_takes_the_near_plane_for_a_subject() -> None:
    flow, subject = two_planes()
    first = np.linalg.norm(residuals(flow, border_layers(flow)[:1])[0], axis=2)
    assert (first[~subject] > 2).mean() > 0.2


def test_layers_do_not_depend_on_what_ran_before() -> None:
    flow, _ = two_planes()
    first = border_layers(flow)
    np.random.default_rng().random(7)
    assert all(np.array_equal(a, b) for a, b in zip(first, border_layers(flow), strict=True))


def test_flow_without_any_order_has_no_layer() -> None:
    wild = np.random.default_rng(0).uniform(-40, 40, (SIZE[1], SIZE[0], 2)).astype(np.float32)
    assert border_layers(wild) == []


@pytest.mark.parametrize("size", [(854, 480), (480, 854), (64, 48), (3840, 2160), (20, 700)])
def test_the_working_size_fits_the_network_and_the_budget(size: tuple[int, int]) -> None:
    width, height = evidence_size(size)
    assert width % MULTIPLE == 0
    assert height % MULTIPLE == 0
    assert width * height <= 1.25 * MOST_PIXELS
    if min(size) > 8 * MULTIPLE:
        assert abs(np.log(width / height / (size[0] / size[1]))) < 0.15


def moving_patch(t: int) -> np.ndarray:
    """A textured patch that moves three pixels a frame before a textured ground that moves one."""
    rng = np.random.default_rng(0)
    ground = cv2.GaussianBlur(rng.uniform(0, 255, (120, 240)).astype(np.float32), (0, 0), 1.5)
    patch = cv2.GaussianBlur(rng.uniform(0, 255, (30, 30)).astype(np.float32), (0, 0), 1.5)
    image = ground[10 : 10 + SIZE[1], 40 + t : 40 + t + SIZE[0]].copy()
    image[30:60, 60 + 3 * t : 90 + 3 * t] = patch
    return np.clip((image - 127) * 3 + 127, 0, 255).astype(np.uint8)


def test_flow_evidence_lies_on_what_moves_by_itself_and_skips_missing_neighbors() -> None:
    planes = flow_evidence(moving_patch, 2, 9)
    known = [gap for gap, one in zip(EVIDENCE_GAPS, planes, strict=True) if one[5].any()]
    assert known == [1, -1, 2, -2, 4]
    inside = np.zeros((SIZE[1] // 2, SIZE[0] // 2), bool)
    inside[17:28, 35:46] = True
    outside = ~cv2.dilate(inside.astype(np.uint8), np.ones((17, 17), np.uint8)).astype(bool)
    for one in planes[[0, 1, 2, 3]]:
        assert one[2][inside].mean() > 5 * one[2][outside].mean()
    assert not planes[5].any()


def test_texture_is_low_on_flat_ground() -> None:
    image = moving_patch(0)
    image[:, :60] = 200
    found = texture(image)
    assert found[:, :40].max() < 0.1
    assert found[:, 100:].mean() > 0.5


def test_scene_evidence_sees_what_no_view_shows() -> None:
    image = np.dstack([moving_patch(0)] * 3)
    views = [np.dstack([moving_patch(0)] * 3) for _ in range(3)]
    for k, view in enumerate(views):
        view[30:60, 60:90] = 90 + k  # the ground, where the subject has gone
    everywhere = np.ones((SIZE[1] // 2, SIZE[0] // 2), bool)
    exact = [(cv2.resize(view, (80, 48), interpolation=cv2.INTER_AREA), everywhere) for view in views]
    found = scene_evidence(image, exact)
    assert found[1, 16:29, 31:44].mean() > 0.5
    assert found[1, :, 50:].max() < 0.01
    assert found[2, :, 50:].max() == 0
    assert found[3].all()
    assert not scene_evidence(image, exact[:1])[1:].any()
