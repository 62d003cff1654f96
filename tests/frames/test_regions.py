"""Regions of interest: what a user may give, what is said of what he may not, and what lies in the archives then."""

from __future__ import annotations

import re
from pathlib import Path
from zipfile import ZipFile

import cv2
import numpy as np
import pytest
from PIL import Image

from backdrop.errors import BackdropError, StrictError
from backdrop.frames.stage import extract_all
from backdrop.io.frame_archive import REGION, FrameArchive
from backdrop.io.images import encode_png
from backdrop.io.mask_images import decode_region
from backdrop.io.masks import VOID, resize_region, within_region
from backdrop.io.pose_boxes import pose_boxes
from backdrop.video.streamed import StreamedFrames, open_frames
from tests.frames.test_frames import section

WIDTH, HEIGHT = 64, 48


@pytest.fixture
def footage(tmp_path: Path) -> Path:
    """Two folders of images, one with truth that is foreground everywhere."""
    root = tmp_path / "footage"
    for name in ("one", "two"):
        for t in range(3):
            write_png(root / name / f"{t:03d}.png", np.full((HEIGHT, WIDTH, 3), 60 * t + 20, np.uint8))
    write_png(root / "masks" / "one" / "001.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
    return root


def write_png(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(pixels))
    return path


def write_bmp(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(path)


def left_half(width: int = WIDTH, height: int = HEIGHT, white: int = 255, black: int = 0) -> np.ndarray:
    pixels = np.full((height, width), black, np.uint8)
    pixels[:, : width // 2] = white
    return pixels


def extract(footage: Path, out: Path, roi: Path | None, **changed: object) -> Path:
    extract_all(section(footage, roi=None if roi is None else str(roi), roi_path=str(roi), **changed), out)
    return out


def test_one_image_for_all_is_stored_at_the_frames_size_and_voids_truth(tmp_path: Path, footage: Path) -> None:
    """Twice as large as the frames; 128 is white, 127 is black."""
    roi = write_png(tmp_path / "roi.png", left_half(2 * WIDTH, 2 * HEIGHT, 128, 127))
    out = extract(footage, tmp_path / "out", roi, size=[32, 24])
    for name in ("one", "two"):
        region = FrameArchive(out / f"{name}.zip").region
        assert region is not None
        np.testing.assert_array_equal(region, left_half(32, 24) > 0)
    truth = FrameArchive(out / "one.zip").mask(1)
    assert truth is not None
    np.testing.assert_array_equal(truth, left_half(white=255, black=VOID))


def test_without_a_region_or_with_a_white_one_nothing_changes(tmp_path: Path, footage: Path) -> None:
    plain = extract(footage, tmp_path / "plain", None)
    image = write_png(tmp_path / "roi.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
    white = extract(footage, tmp_path / "white", image)
    assert FrameArchive(plain / "one.zip").region is None
    for name in ("one.zip", "two.zip", "index.csv"):
        assert (plain / name).read_bytes() == (white / name).read_bytes()
    with ZipFile(plain / "one.zip") as archive:
        assert REGION not in archive.namelist()


def test_a_folder_has_one_by_name_or_the_default_one(
    tmp_path: Path, footage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may lie among the footage; a name that no video has is told."""
    write_png(footage / "roi" / "one.PNG", left_half())
    write_png(footage / "roi" / "default.png", 255 - left_half())
    write_png(footage / "roi" / "tow.png", left_half())
    out = extract(footage, tmp_path / "out", footage / "roi")
    regions = [FrameArchive(out / f"{name}.zip").region for name in ("one", "two")]
    assert [None if one is None else bool(one[0, 0]) for one in regions] == [True, False]
    assert sorted(path.stem for path in out.glob("*.zip")) == ["one", "two"], "the folder is no video"
    assert "tow.png: no video has this name" in capsys.readouterr().err


def test_a_video_without_one_is_left_out_and_named(tmp_path: Path, footage: Path) -> None:
    write_png(tmp_path / "roi" / "one.png", left_half())
    out = tmp_path / "out"
    index = extract_all(section(footage, roi=str(tmp_path / "roi"), roi_path=str(tmp_path / "roi")), out)
    assert list(index.status) == ["ok", "skipped"]
    assert f"{tmp_path / 'roi'} holds no two.png, and no default.png" in index.reason[1]
    with pytest.raises(StrictError, match=r"no two\.png"):
        extract(footage, out, tmp_path / "roi", strict=True)


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (None, "data.roi .*roi.png does not exist"),
        (b"no image", "data.roi .*roi.png is no readable image"),
        (np.full((HEIGHT, WIDTH), 127, np.uint8), "roi.png has no white pixel .*white is the region"),
        (np.dstack([left_half()] * 2 + [255 - left_half()]), "roi.png is colored"),
        (left_half(WIDTH, WIDTH), "roi.png is 64x64, frame .*000.png is 64x48: give it the proportions"),
    ],
)
def test_bad_images_are_one_clear_line(
    pixels: np.ndarray | bytes | None, words: str, tmp_path: Path, footage: Path
) -> None:
    roi = tmp_path / "roi.png"
    if pixels is not None:
        roi.write_bytes(pixels if isinstance(pixels, bytes) else encode_png(pixels))
    for place in (roi, tmp_path / "folder"):  # for all videos, and in a folder
        if place != roi and pixels is None:
            continue
        if place != roi:
            place.mkdir()
            roi = roi.rename(place / "default.png")
            words = words.replace("data.roi", "region of interest").replace("roi.png", "default.png")
        with pytest.raises(BackdropError, match=words) as raised:
            extract(footage, tmp_path / "out", place)
        assert "\n" not in str(raised.value)


def test_an_empty_folder_and_a_frame_as_region_are_named(tmp_path: Path, footage: Path) -> None:
    (tmp_path / "roi").mkdir()
    with pytest.raises(BackdropError, match="roi holds no PNG; put one for each video there"):
        extract(footage, tmp_path / "out", tmp_path / "roi")
    mask = write_png(footage / "two" / "roi.png", left_half())
    with pytest.raises(BackdropError, match=r"roi\.png lies among the frames of two; put it elsewhere"):
        extract(footage, tmp_path / "out", mask)


def cdnet(root: Path, *names: str) -> Path:
    """Sequences of CDnet's layout whose truth is foreground everywhere."""
    for name in names:
        for t in (1, 2, 3):
            write_png(root / "ptz" / name / "input" / f"in{t:06d}.png", np.full((HEIGHT, WIDTH, 3), 60 * t, np.uint8))
            truth = np.full((HEIGHT, WIDTH), 255, np.uint8)
            write_png(root / "ptz" / name / "groundtruth" / f"gt{t:06d}.png", truth)
    return root


def test_the_region_that_a_data_set_ships_is_taken_unless_one_is_given(tmp_path: Path) -> None:
    """CDnet's ROI.bmp. A sequence without one has the same bytes as before."""
    root = cdnet(tmp_path / "cdnet", "one", "two", "white")
    plain = extract(root, tmp_path / "plain", None, layout="cdnet")
    write_bmp(root / "ptz" / "one" / "ROI.bmp", left_half())
    write_bmp(root / "ptz" / "white" / "ROI.bmp", np.full((HEIGHT, WIDTH), 255, np.uint8))
    out = extract(root, tmp_path / "out", None, layout="cdnet")
    region, truth = FrameArchive(out / "one.zip").region, FrameArchive(out / "one.zip").mask(0)
    assert region is not None
    assert truth is not None
    np.testing.assert_array_equal(region, left_half() > 0)
    np.testing.assert_array_equal(truth, left_half(white=255, black=VOID))
    for name in ("two.zip", "white.zip", "index.csv"):
        assert (plain / name).read_bytes() == (out / name).read_bytes()
    given = write_png(tmp_path / "roi.png", 255 - left_half())
    region = FrameArchive(extract(root, tmp_path / "given", given, layout="cdnet") / "one.zip").region
    assert region is not None
    np.testing.assert_array_equal(region, left_half() == 0)


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (None, r"region of interest .*ROI\.bmp"),
        (b"no image", r"region of interest .*ROI\.bmp is no readable image"),
        (np.zeros((HEIGHT, WIDTH), np.uint8), r"ROI\.bmp has no white pixel"),
        (left_half(WIDTH, WIDTH), r"ROI\.bmp is 64x64, frame .*000.* is 64x48"),
    ],
)
def test_a_bad_region_of_a_data_set_costs_its_sequence_alone(
    pixels: np.ndarray | bytes | None, words: str, tmp_path: Path
) -> None:
    root = cdnet(tmp_path / "cdnet", "one", "two")
    path = root / "ptz" / "one" / "ROI.bmp"
    if pixels is None:
        path.symlink_to("nowhere")
    elif isinstance(pixels, bytes):
        path.write_bytes(pixels)
    else:
        write_bmp(path, pixels)
    index = extract_all(section(root, layout="cdnet"), tmp_path / "out")
    assert list(index.status) == ["skipped", "ok"]
    assert re.search(words, index.reason[0])


def test_joints_outside_are_not_seen(tmp_path: Path) -> None:
    root = tmp_path / "h36m"
    for t in range(2):
        write_png(root / "test" / "S9" / f"{t}.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    (root / "poses").mkdir()
    (root / "poses" / "S9.csv").write_text("frame,x0,y0,x1,y1,x2,y2\n0,0,0,16,24,60,40\n1,40,0,50,9,60,40\n")
    roi = write_png(tmp_path / "roi.png", left_half())
    out = extract(root, tmp_path / "out", roi, layout="h36m")
    boxes = pose_boxes(out / "S9.zip")
    assert boxes is not None
    np.testing.assert_allclose(boxes[0], [-0.75, -0.5, 0.5, 1])
    assert np.isnan(boxes[1]).all()


def test_frames_on_a_budget_keep_their_region(tmp_path: Path) -> None:
    """In the bursts that are trained on and in the video that is streamed; what moves outside draws no burst."""
    root = tmp_path / "footage"
    rng = np.random.default_rng(0)
    still = cv2.GaussianBlur(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8), (0, 0), 1)
    for t in range(240):
        image = still.copy()
        x = (3 if 96 <= t < 144 else 34) + 2 * abs(t % 20 - 10)  # inside in the third of five bursts alone
        image[10:30, x : x + 8] = 255
        write_png(root / "one" / f"{t:03d}.png", image)
    write_png(root / "masks" / "one" / "001.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
    roi = write_png(tmp_path / "roi.png", left_half())
    out = extract(root, tmp_path / "out", roi, budget=100)
    archives = [open_frames(path) for path in sorted(out.glob("*.zip"))]
    assert {isinstance(archive, StreamedFrames) for archive in archives} == {True, False}
    for archive in archives:
        assert archive.region is not None
        np.testing.assert_array_equal(archive.region, left_half() > 0)
        if isinstance(archive, StreamedFrames):
            truth = archive.mask(1)
            assert truth is not None
            np.testing.assert_array_equal(truth, left_half(white=255, black=VOID))
    (burst,) = (archive for archive in archives if not isinstance(archive, StreamedFrames))
    assert (burst.names[0], burst.names[-1]) == ("096", "143")


def test_a_region_takes_the_nearest_pixel_and_leaves_0_outside() -> None:
    region = left_half(6, 4) > 0
    for size in ((12, 8), (24, 4)):
        np.testing.assert_array_equal(resize_region(region, size), left_half(*size) > 0)
    soft = np.full((8, 12), 0.5, np.float32)
    np.testing.assert_array_equal(within_region(soft, region), np.where(left_half(12, 8) > 0, 0.5, 0))
    assert within_region(soft, None) is soft


def test_any_kind_of_image_is_a_region(tmp_path: Path) -> None:
    sixteen = left_half().astype(np.uint16) * 257
    for pixels in (left_half(), np.dstack([left_half()] * 3), sixteen):
        np.testing.assert_array_equal(decode_region(write_png(tmp_path / "a.png", pixels)), left_half() > 0)
