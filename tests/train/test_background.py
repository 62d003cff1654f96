"""Known backgrounds: what stands behind the subject, and how far it may be off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from backdrop.errors import BackdropError
from backdrop.io.frame_archive import FrameArchive
from backdrop.train.background import Backgrounds, nearest_color
from backdrop.train.parameters import BackgroundParams
from tests.handmade_run import HEIGHT, WIDTH
from tests.small_pipeline import write_masks, write_material


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("material")
    write_material(root, {"first": "train"}, frames=24)
    return root


def backgrounds(root: Path, size: tuple[int, int], **changes: Any) -> Backgrounds:
    values = {
        "kind": "median",
        "file": None,
        "masks": None,
        "neighbors": 12,
        "spacing": 1,
        "tolerance": 0,
        "hole_only": True,
    } | changes
    return Backgrounds(BackgroundParams(**values), root / "homographies", size)


def difference(root: Path, behind: Backgrounds, t: int) -> tuple[np.ndarray, np.ndarray]:
    """Of frame t from its background, (H, W), and the true mask, both at the training resolution."""
    frames = FrameArchive(root / "frames" / "first.zip")
    image = cv2.resize(frames.image(t), behind.size, interpolation=cv2.INTER_AREA).astype(float)
    background, seen = behind(frames, t)
    mask = cv2.resize(frames.mask(t), behind.size, interpolation=cv2.INTER_NEAREST) > 0
    return np.where(seen, np.abs(image - background).sum(axis=2), 0), mask


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("tolerance", [0, 1])
def test_the_subject_differs_from_the_median_and_the_scene_does_not(
    factor: int, tolerance: int, material: Path
) -> None:
    behind = backgrounds(material, (WIDTH // factor, HEIGHT // factor), tolerance=tolerance)
    far, mask = difference(material, behind, 12)
    assert far.shape == mask.shape
    assert np.median(far[mask]) > 5 * far[~mask].mean()


def test_a_tolerance_forgives_what_lies_beside_and_nothing_else() -> None:
    generator = np.random.default_rng(4)
    background = generator.integers(0, 120, (20, 30, 3), dtype=np.uint8)
    shifted = np.roll(background, 1, axis=1)
    shifted[8:12, 10:14] = 250  # a subject
    exact = nearest_color(shifted, background, 0)
    assert np.array_equal(exact, background)
    near = nearest_color(shifted, background, 1)
    inner = np.ones((20, 30), bool)
    inner[8:12, 10:14] = False
    inner[:, 0] = False  # rolled in from the other side
    assert np.array_equal(near[inner], shifted[inner])
    assert np.abs(shifted.astype(int) - near)[8:12, 10:14].sum(axis=2).min() > 300
    colors = {tuple(color) for color in background.reshape(-1, 3)}
    assert {tuple(color) for color in near.reshape(-1, 3)} <= colors, "a color that the background does not have"


def test_a_background_image_is_known_everywhere(material: Path, tmp_path: Path) -> None:
    empty = np.full((HEIGHT, WIDTH, 3), 77, np.uint8)
    cv2.imwrite(str(tmp_path / "empty.png"), empty)
    behind = backgrounds(material, (32, 20), kind="known", file=str(tmp_path / "empty.png"))
    picture, seen = behind(FrameArchive(material / "frames" / "first.zip"), 3)
    assert picture.shape == (20, 32, 3)
    assert (picture == 77).all()
    assert seen.all()


def test_masks_keep_a_slow_subject_out_of_the_median(material: Path, tmp_path: Path) -> None:
    slow = {"neighbors": 6, "spacing": 1}  # the subject stands on most of its pixels in all of these
    far, mask = difference(material, backgrounds(material, (WIDTH, HEIGHT), **slow), 12)
    write_masks(material, tmp_path, "first")
    masks = str(tmp_path)
    apart, _ = difference(material, backgrounds(material, (WIDTH, HEIGHT), masks=masks, **slow), 12)
    assert np.median(far[mask]) < 20
    assert np.median(apart[mask]) > 200
    assert apart[~mask].mean() < 1.1 * far[~mask].mean()


def test_what_only_the_subject_covers_is_left_to_the_inpainter_with_auto(material: Path, tmp_path: Path) -> None:
    write_masks(material, tmp_path, "first")
    masks = str(tmp_path)
    frames = FrameArchive(material / "frames" / "first.zip")
    mask = frames.mask(12) > 0
    seen = {}
    for kind in ("median", "auto"):
        behind = backgrounds(material, (WIDTH, HEIGHT), kind=kind, masks=masks, neighbors=4, spacing=1)
        seen[kind] = behind(frames, 12)[1]
    assert seen["median"][mask].all()
    assert seen["auto"][mask].mean() < 0.5
    assert not (seen["auto"] & ~seen["median"]).any()


def test_a_frame_without_a_mask_counts_whole(material: Path, tmp_path: Path) -> None:
    write_masks(material, tmp_path, "first", leave_out=range(24))
    frames = FrameArchive(material / "frames" / "first.zip")
    behind, seen = backgrounds(material, (WIDTH, HEIGHT), masks=str(tmp_path))(frames, 12)
    assert behind.shape == (HEIGHT, WIDTH, 3)
    assert seen.mean() > 0.9


def test_masks_that_are_not_there_are_named(material: Path, tmp_path: Path) -> None:
    with pytest.raises(BackdropError, match=r"background.masks=.*nowhere is no folder"):
        backgrounds(material, (32, 20), masks=str(tmp_path / "nowhere"))
    behind = backgrounds(material, (32, 20), masks=str(tmp_path))
    with pytest.raises(BackdropError, match=r"has no first.zip; give the masks of a run with that sequence"):
        behind(FrameArchive(material / "frames" / "first.zip"), 3)


@pytest.mark.parametrize("kind", ["inpaint", "known"])
def test_masks_belong_to_a_median(kind: str, material: Path) -> None:
    with pytest.raises(ValueError, match=r"background.masks belongs to background.kind=median or auto"):
        backgrounds(material, (32, 20), kind=kind, masks="masks", file="empty.png" if kind == "known" else None)
