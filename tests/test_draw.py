"""Pictures show what they say: every mark is where its number is."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from backdrop.draw import BLUE, GREEN, RED, SHEET_WIDTH, draw_detection, draw_mask
from backdrop.io.frame_archive import FrameArchive
from backdrop.io.masks import MaskArchive, Predictions
from backdrop.score.sheets import contact_sheet, contact_sheet_all
from tests.handmade_run import make_run, scene, score_folders, write_frames

GRAY = np.full((160, 320, 3), 128, np.uint8)


def has(picture: np.ndarray, color: tuple[int, int, int], x: float, y: float, radius: int = 3) -> bool:
    """Whether the color is found near the point."""
    part = picture[max(0, int(y) - radius) : int(y) + radius + 1, max(0, int(x) - radius) : int(x) + radius + 1]
    return bool((np.abs(part.astype(int) - color).max(axis=2) < 60).any())


def detection(**changes: object) -> np.ndarray:
    p = np.zeros((8, 8))
    p[2, 5] = 1  # its center: x = 5.5 / 8, y = 2.5 / 8 of the image
    values = {"image": GRAY, "box": np.array([0.0, 0.25, 1.0, 1.0]), "cell": 2 * 8 + 5, "p": p, "width": 640}
    return draw_detection(**{**values, **changes})


def test_box_cell_and_line_are_in_their_places() -> None:
    picture = detection()
    assert picture.shape == (320, 640, 3)
    assert has(picture, BLUE, 5.5 * 80, 2.5 * 40)
    for x, y in ((160, 120), (480, 120), (160, 279), (480, 279), (320, 120), (160, 200)):  # corners, sides
        assert has(picture, RED, x, y, 14)
    center = (320, 200)
    assert has(picture, GREEN, *center)
    assert has(picture, GREEN, (center[0] + 440) / 2, (center[1] + 100) / 2)
    assert not has(picture, RED, 40, 40, 20)


def test_the_box_is_dashed() -> None:
    edge = (np.abs(detection()[119:122, 180:460].astype(int) - RED).max(axis=2) < 60).any(axis=0)
    assert 0.3 < edge.mean() < 0.85


def test_a_dots_area_is_its_probability() -> None:
    areas = []
    for share in (0.25, 1.0):
        p = np.zeros((8, 8))
        p[4, 4] = share
        picture = detection(p=p, box=np.full(4, np.nan))
        areas.append((np.abs(picture.astype(int) - BLUE).max(axis=2) < 60).sum())
    assert areas[0] / areas[1] == pytest.approx(0.25, abs=0.08)


def test_a_box_beyond_the_image_is_drawn_along_its_edge() -> None:
    picture = detection(box=np.array([0.0, 0.0, 4.0, 4.0]))
    assert has(picture, RED, 1, 160, 14)
    assert has(picture, RED, 320, 318, 14)


def test_float_images_and_bytes_draw_alike_and_are_left_alone() -> None:
    image = GRAY.copy()
    drawn = detection(image=image)
    np.testing.assert_array_equal(image, GRAY)
    np.testing.assert_array_equal(detection(image=GRAY / 255), drawn)


def test_only_the_foreground_is_tinted() -> None:
    mask = np.zeros((160, 320), bool)
    mask[40:120, 80:240] = True
    picture = draw_mask(GRAY, mask)
    near = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5))) > 0
    np.testing.assert_array_equal(picture[~near], GRAY[~near])
    assert (picture[mask] != 128).any(axis=1).all()
    assert not (detection(mask=mask.astype(np.float32)) == detection()).all()
    np.testing.assert_array_equal(draw_mask(GRAY, np.zeros_like(mask)), GRAY)


def test_sheets_have_a_row_for_the_truth_only_where_there_is_some(tmp_path: Path) -> None:
    make_run(tmp_path, {"a": "all"}, frames=9)
    archives = (Predictions(tmp_path / "predictions" / "a.zip"), MaskArchive(tmp_path / "masks" / "a.zip"))
    frames = FrameArchive(tmp_path / "frames" / "a.zip")
    sheet = contact_sheet("a", frames, *archives)
    write_frames(tmp_path / "blind", "a", scene(9)[0], {})
    blind = contact_sheet("a", FrameArchive(tmp_path / "blind" / "a.zip"), *archives)
    assert sheet.shape[1] == blind.shape[1] == SHEET_WIDTH
    assert sheet.shape[0] > blind.shape[0]
    np.testing.assert_array_equal(sheet[: blind.shape[0]], blind)


@pytest.mark.parametrize("count", [1, 3])
def test_short_sequences_and_missing_masks_still_make_a_sheet(tmp_path: Path, count: int) -> None:
    write_frames(tmp_path, "short", [GRAY] * count, {})
    assert contact_sheet("short", FrameArchive(tmp_path / "short.zip")).shape[1] == SHEET_WIDTH


def test_every_predicted_sequence_gets_a_sheet_with_its_scores(tmp_path: Path) -> None:
    make_run(tmp_path, {"a": "all", "b": "all"}, frames=7)
    (tmp_path / "predictions" / "b.zip").unlink()
    (tmp_path / "masks" / "a.zip").unlink()
    folders = score_folders(tmp_path)
    assert contact_sheet_all(folders, tmp_path / "plots", ["a", "b"]) == [tmp_path / "plots" / "a.png"]
    plain = (tmp_path / "plots" / "a.png").read_bytes()
    table = pd.DataFrame({"sequence": "a", "frame": range(7), "result": "method", "J": 0.5})
    contact_sheet_all(folders, tmp_path / "plots", ["a"], table)
    assert (tmp_path / "plots" / "a.png").read_bytes() != plain
