"""Laws of the measures, and the official DAVIS values."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from backdrop.io.masks import box_from_mask, box_pixels, resize_mask, split_truth
from backdrop.measures import average_precision, boundary_f, box_iou, jaccard, precision_recall, statistics
from backdrop.thresholds import GRID, best_threshold, choose_threshold, jaccard_grid
from tests.handmade_run import make_run, write_frames, write_predictions

masks = arrays(bool, st.tuples(st.integers(1, 24), st.integers(1, 30)))


@st.composite
def pairs(draw: st.DrawFn, count: int = 2) -> list[np.ndarray]:
    shape = draw(st.tuples(st.integers(1, 24), st.integers(1, 30)))
    return [draw(arrays(bool, shape)) for _ in range(count)]


# Official values --------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def davis_truth(folder: Path) -> np.ndarray:
    files = sorted(folder.glob("*.png"))
    return np.stack([cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) > 0 for file in files])


def derive(truth: np.ndarray, recipe: str) -> np.ndarray:
    """A prediction by the recipe of the reference file."""
    if recipe == "erode_ellipse7":
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))
        return np.stack([cv2.erode(mask.astype(np.uint8), kernel) > 0 for mask in truth])
    dx, dy = {"shift_dx5_dy3": (5, 3), "shift_dx40_dy20": (40, 20)}[recipe]
    shifted = np.zeros_like(truth)
    shifted[:, dy:, dx:] = truth[:, :-dy, :-dx]
    return shifted


@pytest.mark.parametrize("sequence", ["parkour", "dance-twirl"])
@pytest.mark.parametrize("recipe", ["shift_dx5_dy3", "erode_ellipse7", "shift_dx40_dy20"])
def test_equals_the_official_davis_code(real_data: Path, sequence: str, recipe: str) -> None:
    reference = json.loads((real_data / "reference" / "davis_reference.json").read_text())
    case = reference["cases"][f"{sequence}/{recipe}"]
    truth = davis_truth(real_data / "data" / "DAVIS2016" / "Annotations" / "480p" / sequence)
    found = derive(truth, recipe)
    assert hashlib.sha256(np.packbits(truth).tobytes()).hexdigest() == case["gt_sha256_packbits"]
    assert hashlib.sha256(np.packbits(found).tobytes()).hexdigest() == case["pred_sha256_packbits"]
    for name, measure in (("J", jaccard), ("F", boundary_f)):
        values = np.array([measure(a, b) for a, b in zip(found, truth, strict=True)])
        np.testing.assert_allclose(values, case[f"{name}_per_frame"], atol=1e-9, rtol=0)
        for frames, counted in (("drop_first_last", values[1:-1]), ("all_frames", values)):
            expected = case[frames][name]
            np.testing.assert_allclose(
                statistics(counted), [expected["mean"], expected["recall"], expected["decay"]], atol=1e-9, rtol=0
            )


# J and F ----------------------------------------------------------------------------------------------


def test_edge_cases_of_the_official_code() -> None:
    empty, full, blob = np.zeros((40, 60), bool), np.ones((40, 60), bool), np.zeros((40, 60), bool)
    blob[10:20, 20:40] = True
    assert (jaccard(empty, empty), boundary_f(empty, empty)) == (1, 1)
    assert (jaccard(empty, blob), boundary_f(empty, blob)) == (0, 0)
    assert (jaccard(blob, empty), boundary_f(blob, empty)) == (0, 0)
    assert (jaccard(empty, full), boundary_f(empty, full)) == (0, 1)  # a full frame has no boundary
    assert boundary_f(blob, full) == 0
    assert (jaccard(blob, blob), boundary_f(blob, blob)) == (1, 1)


def official_f(found: np.ndarray, truth: np.ndarray) -> float:
    """F spelled out: shifted copies for the boundary, all pairwise distances for the dilation."""

    def boundary(mask: np.ndarray) -> np.ndarray:
        e, s, se = (np.zeros_like(mask) for _ in range(3))
        e[:, :-1], s[:-1], se[:-1, :-1] = mask[:, 1:], mask[1:], mask[1:, 1:]
        b = mask ^ e | mask ^ s | mask ^ se
        b[-1], b[:, -1] = mask[-1] ^ e[-1], mask[:, -1] ^ s[:, -1]
        b[-1, -1] = False
        return np.argwhere(b)

    radius = np.ceil(0.008 * np.hypot(*truth.shape))
    a, b = boundary(found), boundary(truth)
    if len(a) == 0 or len(b) == 0:
        return float(len(a) == len(b))
    near = ((a[:, None] - b[None]) ** 2).sum(axis=2) <= radius**2
    precision, recall = near.any(axis=1).mean(), near.any(axis=0).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@given(pairs())
def test_f_is_the_definition(pair: list[np.ndarray]) -> None:
    assert boundary_f(*pair) == pytest.approx(official_f(*pair), abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_f_is_the_definition_with_a_wide_disk(seed: int) -> None:
    rng = np.random.default_rng(seed)
    noise = [cv2.GaussianBlur(rng.normal(size=(480, 600)), (0, 0), 25) for _ in range(2)]
    found, truth = noise[0] > 0.01, noise[0] + 0.3 * noise[1] > 0.01
    assert 0 < boundary_f(found, truth) < 1
    assert boundary_f(found, truth) == pytest.approx(official_f(found, truth), abs=1e-12)


@given(pairs(4))
def test_void_pixels_do_not_count(four: list[np.ndarray]) -> None:
    found, truth, void, noise = four
    other = np.where(void, noise, found)
    for measure in (jaccard, boundary_f, precision_recall):
        assert measure(found, truth, void) == measure(other, truth, void) == measure(other, truth | void, void)
    np.testing.assert_array_equal(
        jaccard_grid(found.astype(np.float32), truth, void), jaccard_grid(other.astype(np.float32), truth, void)
    )


@given(pairs())
def test_precision_and_recall(pair: list[np.ndarray]) -> None:
    precision, recall = precision_recall(*pair)
    assert (recall, precision) == precision_recall(*pair[::-1])
    if pair[0].any() and pair[1].any() and precision + recall > 0:
        dice = 2 * precision * recall / (precision + recall)
        assert jaccard(*pair) == pytest.approx(dice / (2 - dice))


# Statistics -------------------------------------------------------------------------------------------


def test_recall_counts_values_strictly_above_one_half() -> None:
    assert statistics([0.5, 0.5, 0.51, 0.2]).recall == 0.25


@given(st.lists(st.floats(0, 1), min_size=1, max_size=256))
def test_decay_is_the_official_one_below_257_frames(values: list[float]) -> None:
    series = np.array(values)
    ids = (np.round(np.linspace(1, len(series), 5) + 1e-10) - 1).astype(np.uint8)
    bins = [series[ids[i] : ids[i + 1] + 1] for i in range(4)]
    assert statistics(series).decay == pytest.approx(np.mean(bins[0]) - np.mean(bins[3]), abs=1e-12)


@pytest.mark.parametrize("frames", [256, 257, 258, 400, 1000, 70_000])
def test_decay_does_not_overflow(frames: int) -> None:
    ramp = np.linspace(0, 1, frames)
    assert statistics(ramp).decay == pytest.approx(-0.75, abs=2 / frames)


def test_statistics_of_nothing_are_not_numbers() -> None:
    assert np.isnan(statistics([])).all()


# Boxes ------------------------------------------------------------------------------------------------


@given(masks)
def test_box_from_mask_is_tight(mask: np.ndarray) -> None:
    box = box_from_mask(mask)
    if box is None:
        assert not mask.any()
        return
    height, width = mask.shape
    left, top, right, bottom = (round(edge) for edge in box_pixels(box, (width, height)))
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    assert (left, top, right, bottom) == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)


def test_a_full_mask_has_the_box_of_the_image() -> None:
    np.testing.assert_array_equal(box_from_mask(np.ones((7, 9), bool)), [0, 0, 2, 2])


@given(st.lists(st.integers(0, 10), min_size=8, max_size=8))
def test_box_iou_is_the_overlap_of_rectangles(v: list[int]) -> None:
    rectangles = []
    for x0, y0, x1, y1 in (v[:4], v[4:]):
        mask = np.zeros((12, 12), bool)
        mask[min(y0, y1) : max(y0, y1) + 1, min(x0, x1) : max(x0, x1) + 1] = True
        rectangles.append(mask)
    first, second = (box_from_mask(mask) for mask in rectangles)
    assert first is not None
    assert second is not None
    assert box_iou(first, second) == pytest.approx(jaccard(*rectangles))


def test_average_precision() -> None:
    right, wrong, none = [0.0, 0, 1, 1], [0.9, 0.9, 0.1, 0.1], [np.nan] * 4
    truth = np.array([right, right])
    ap = average_precision
    assert ap(truth, np.array([0.1, 0.9]), truth) == pytest.approx(1)
    assert ap(np.array([wrong, wrong]), np.array([0.1, 0.9]), truth) == 0
    assert ap(np.array([none, none]), np.full(2, np.nan), truth) == 0
    # half of the subjects are found: precision 1 on the 51 recall points of 101 up to 0.5 ...
    assert ap(np.array([right, wrong]), np.array([0.9, 0.1]), truth) == pytest.approx(51 / 101)
    # ... and only 1/2 there if the wrong box is the more confident one
    assert ap(np.array([right, wrong]), np.array([0.1, 0.9]), truth) == pytest.approx(51 / 101 / 2)
    assert ap(np.array([right, wrong]), np.array([0.9, 0.1]), np.array([right, none])) == pytest.approx(1)
    assert np.isnan(ap(truth, np.ones(2), np.array([none, none])))


def test_average_precision_counts_an_overlap_of_exactly_one_half() -> None:
    truth, half = np.array([[0.0, 0, 1, 1]]), np.array([[0.0, 0, 1, 0.5]])
    assert average_precision(half, np.ones(1), truth) == pytest.approx(1)
    assert average_precision(half * 0.99, np.ones(1), truth) == 0


# Thresholds -------------------------------------------------------------------------------------------


@given(pairs(), st.booleans(), st.integers(0, 2**32 - 1))
@settings(max_examples=50)
def test_the_grid_is_every_threshold_at_once(pair: list[np.ndarray], eight_bit: bool, seed: int) -> None:
    truth, void = pair
    soft = np.random.default_rng(seed).random(truth.shape, np.float32)
    if eight_bit:
        soft = np.rint(soft * 255).astype(np.float32) / np.float32(255)
    expected = [jaccard(soft > threshold, truth, void) for threshold in GRID]
    np.testing.assert_allclose(jaccard_grid(soft, truth, void), expected, atol=1e-12)


def test_best_threshold_weighs_sequences_alike_and_breaks_ties_toward_one_half() -> None:
    long, short = np.zeros((100, 19)), np.zeros((1, 19))
    long[:, 3], short[:, 12] = 0.5, 0.6
    assert best_threshold([long, short]) == pytest.approx(0.65)
    assert best_threshold([np.ones((5, 19))]) == 0.5
    assert len(GRID) == 19


def test_the_threshold_is_chosen_on_validation_sequences_only(tmp_path: Path) -> None:
    truth = make_run(tmp_path, {"a": "val", "b": "test"}, frames=3)
    for name, level in (("a", 0.8), ("b", 0.3)):  # b would have a low threshold
        soft = {t: np.where(m, level, level - 0.1) for t, m in enumerate(truth[name])}
        write_predictions(tmp_path / "predictions", name, soft, [np.array([0, 0, 1, 1.0])] * 3)
    assert choose_threshold(tmp_path / "frames", tmp_path / "predictions") == (0.75, "validation")


def test_without_validation_truth_the_threshold_is_one_half(tmp_path: Path) -> None:
    make_run(tmp_path, {"a": "val", "b": "test"}, frames=3)
    write_frames(tmp_path / "frames", "a", [np.zeros((80, 128, 3), np.uint8)] * 3, {})
    assert choose_threshold(tmp_path / "frames", tmp_path / "predictions") == (0.5, "default")


# Sizes ------------------------------------------------------------------------------------------------


@given(masks, st.integers(1, 4))
def test_a_mask_survives_enlargement(mask: np.ndarray, factor: int) -> None:
    height, width = mask.shape
    large = resize_mask(mask, (width * factor, height * factor))
    block = large.reshape(height, factor, width, factor)[:, factor // 2, :, factor // 2]
    if factor % 2:  # the middle of an odd block is where the pixel was
        np.testing.assert_array_equal(block, mask)
    assert large.any() <= mask.any()


def test_truth_has_three_values() -> None:
    foreground, void = split_truth(np.array([[0, 128, 255]], np.uint8))
    np.testing.assert_array_equal(foreground, [[False, False, True]])
    np.testing.assert_array_equal(void, [[False, True, False]])
    assert split_truth(np.array([[0, 255]], np.uint8))[1] is None
