"""The baselines find a moving square, and know what they do not know."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backdrop.io.frame_archive import FrameArchive
from backdrop.measures import jaccard
from backdrop.motion.blobs import clean, otsu
from backdrop.motion.flow_field import FlowArchive
from backdrop.motion.homography import load_homographies, resampling
from backdrop.motion.mog2 import Mog2
from backdrop.motion.moving import flow_mask, flow_soft
from tests.handmade_run import HEIGHT, WIDTH, make_run, scene, write_frames


def square() -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[20:50, 40:80] = True
    return mask


@given(st.floats(0.05, 400), st.floats(0, 6.28))
def test_flow_of_any_speed_and_direction_gives_the_same_mask(speed: float, angle: float) -> None:
    flow = (square()[..., None] * np.array([np.cos(angle), np.sin(angle)]) * speed).astype(np.float32)
    soft = flow_soft(flow, np.ones((HEIGHT, WIDTH), bool))
    threshold = otsu(soft, np.ones((HEIGHT, WIDTH), bool))
    assert jaccard(flow_mask(soft, threshold), square()) > 0.95


def test_flow_that_is_not_valid_is_no_motion() -> None:
    valid = ~square()
    flow = (square()[..., None] * np.array([9, 0])).astype(np.float32)
    soft = flow_soft(flow, valid)
    assert not soft.any()
    assert otsu(soft, np.zeros_like(valid)) == 1
    assert not flow_mask(flow_soft(flow, np.zeros_like(valid)), 0.0).any()


def test_motion_at_the_border_of_the_warped_view_is_not_believed() -> None:
    valid = np.ones((HEIGHT, WIDTH), bool)
    valid[:, :10] = False
    flow = np.zeros((HEIGHT, WIDTH, 2), np.float32)
    flow[square()] = (3, 0)
    clear = flow_soft(flow, valid)
    flow[:, 10:11] = (50, 0)
    np.testing.assert_array_equal(flow_soft(flow, valid), clear)


def test_a_small_subject_alone_in_motion_is_found() -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[30:42, 60:72] = True  # 1.4 % of the pixels
    soft = flow_soft((mask[..., None] * np.array([2, 1])).astype(np.float32), np.ones_like(mask))
    assert jaccard(flow_mask(soft, otsu(soft, np.ones_like(mask))), mask) > 0.85


def test_otsu_parts_two_modes() -> None:
    rng = np.random.default_rng(0)
    soft = np.clip(np.where(square(), 0.8, 0.2) + rng.normal(0, 0.05, square().shape), 0, 1).astype(np.float32)
    assert 0.3 < otsu(soft, np.ones_like(square())) < 0.7


def test_cleaning_keeps_the_largest_blob_without_holes_and_specks() -> None:
    mask = square()
    mask[30:33, 50:52] = False
    mask[5:8, 5:8] = mask[70, 100] = True
    assert jaccard(clean(mask), square()) > 0.95
    assert not clean(np.zeros_like(mask)).any()
    assert clean(np.ones_like(mask)).all()


@pytest.mark.parametrize("size", [(96, 64), (854, 480), (60, 90)])
def test_resampling_is_what_resize_does(size: tuple[int, int]) -> None:
    small = (size[0] // 2, size[1] // 2)
    ramps = np.dstack(np.meshgrid(np.arange(size[0]), np.arange(size[1]))).astype(np.float32)
    seen = cv2.resize(ramps, small, interpolation=cv2.INTER_AREA)  # where each small pixel looked
    x, y = np.meshgrid(np.arange(small[0]), np.arange(small[1]))
    back = np.linalg.inv(resampling(size, small)) @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    np.testing.assert_allclose(back[:2].T.reshape(*seen.shape), seen, atol=1e-3)


# A sequence -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[np.ndarray]]:
    root = tmp_path_factory.mktemp("run")
    return root, make_run(root, {"a": "test"}, frames=24)["a"]


def test_both_baselines_find_the_square(run: tuple[Path, list[np.ndarray]]) -> None:
    root, truth = run
    flow = FlowArchive(root / "flow" / "a.zip")
    mog2 = Mog2(FrameArchive(root / "frames" / "a.zip"), load_homographies(root / "homographies" / "a.npz"))
    # the window is one-sided at both ends, where fewer views uncover what is behind the square
    for t, least in ((0, 0.5), (11, 0.7), (23, 0.5)):
        soft, valid = flow_soft(*flow.read(t)), flow.valid(t)
        assert jaccard(flow_mask(soft, otsu(soft, valid)), truth[t]) > 0.95
        assert jaccard(mog2.mask(t), truth[t]) > least, t


def test_mog2_does_not_depend_on_the_order_of_calls(run: tuple[Path, list[np.ndarray]]) -> None:
    frames = FrameArchive(run[0] / "frames" / "a.zip")
    homographies = load_homographies(run[0] / "homographies" / "a.npz")
    forward, backward = Mog2(frames, homographies), Mog2(frames, homographies)
    first = [forward.mask(t) for t in range(0, 24, 6)]
    second = [backward.mask(t) for t in reversed(range(0, 24, 6))]
    np.testing.assert_array_equal(first, second[::-1])


def test_mog2_without_a_single_stabilized_pair_finds_nothing(run: tuple[Path, list[np.ndarray]]) -> None:
    homographies = load_homographies(run[0] / "homographies" / "a.npz")
    homographies["valid"][:] = False
    assert not Mog2(FrameArchive(run[0] / "frames" / "a.zip"), homographies).mask(5).any()


def test_mog2_on_a_sequence_of_one_frame_finds_nothing(tmp_path: Path) -> None:
    write_frames(tmp_path, "one", scene(1)[0], {})
    alone = {"H": np.eye(3)[None], "neighbor": np.zeros(1, np.int64), "valid": np.zeros(1, bool)}
    assert not Mog2(FrameArchive(tmp_path / "one.zip"), alone).mask(0).any()
