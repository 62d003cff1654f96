"""The CRF moves a mask to the image's edges, and refuses what would crash it."""

from __future__ import annotations

import shutil
from pathlib import Path
from zipfile import ZipFile

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from backdrop.crf import dense
from backdrop.crf.dense import reach, refine, unary_energy
from backdrop.crf.parameters import OLDER_CRF, CRFParams
from backdrop.errors import BackdropError
from backdrop.io.frame_archive import FrameArchive
from backdrop.io.masks import MaskArchive, Predictions, box_from_mask, read_threshold, write_threshold
from backdrop.measures import jaccard
from backdrop.refine.stage import RefineFolders, choose_refined_threshold, refine_all
from tests.handmade_run import make_run, write_predictions
from tests.small_pipeline import run_stage, small_params, small_values

PAPERS = {
    "enabled": True,
    "unary": "thresholded",
    "confidence": 0.7,
    "iterations": 5,
    "gaussian_sxy": 3,
    "gaussian_compat": 3,
    "bilateral_sxy": 80,
    "bilateral_srgb": 13,
    "bilateral_compat": 10,
    "reference_diagonal": None,
    **OLDER_CRF,
}
PLAIN = {"gaussian_compat": 0, "bilateral_compat": 0}  # no pairwise term


def params(**changes: object) -> CRFParams:
    return CRFParams.model_validate({**PAPERS, **changes})


@pytest.fixture
def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A red disk on green, its mask, and a soft mask that is shifted and blurred."""
    y, x = np.mgrid[:60, :80]
    truth = (x - 40) ** 2 + (y - 30) ** 2 < 18**2
    image = np.where(truth[..., None], [200, 40, 40], [40, 160, 60]).astype(np.uint8)
    shifted = np.roll(truth, (3, -4), (0, 1)).astype(np.float32)
    return image, truth, cv2.GaussianBlur(shifted, (0, 0), 2)


@pytest.mark.parametrize("unary", ["thresholded", "soft"])
def test_the_mask_moves_to_the_edges(scene: tuple[np.ndarray, ...], unary: str) -> None:
    image, truth, soft = scene
    refined = refine(image, soft, 0.5, params(unary=unary))
    assert refined.dtype == bool
    assert jaccard(refined, truth) > max(0.9, jaccard(soft > 0.5, truth) + 0.1)


@given(st.integers(0, 255), st.sampled_from(["thresholded", "soft"]), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_without_pairwise_terms_the_threshold_decides(threshold: int, unary: str, seed: int) -> None:
    soft = np.random.default_rng(seed).integers(0, 256, (6, 7)).astype(np.float32) / 255
    image = np.zeros((6, 7, 3), np.uint8)
    # a threshold between two of the 256 values: ties have no side
    level = min(1.0, (threshold + 0.25) / 255)
    np.testing.assert_array_equal(refine(image, soft, level, params(unary=unary, **PLAIN)), soft > level)


@given(st.sampled_from(["thresholded", "soft"]), st.floats(0, 1), st.integers(0, 99))
@settings(max_examples=40)
def test_the_unary_is_a_probability(unary: str, threshold: float, seed: int) -> None:
    soft = np.random.default_rng(seed).random((5, 4), np.float32)
    soft[0, :2] = 0, 1
    energy = unary_energy(soft, threshold, params(unary=unary))
    assert energy.shape == (2, 20)
    np.testing.assert_allclose(np.exp(-energy).sum(axis=0), 1, atol=1e-5)


def test_an_empty_or_full_mask_comes_back(scene: tuple[np.ndarray, ...]) -> None:
    image, _, soft = scene
    assert not refine(image, np.zeros_like(soft), 0.5, params()).any()
    assert refine(image, np.ones_like(soft), 0.5, params()).all()


def test_a_crf_that_is_off_does_nothing(scene: tuple[np.ndarray, ...]) -> None:
    image, _, soft = scene
    np.testing.assert_array_equal(refine(image, soft, 0.4, params(enabled=False)), soft > 0.4)


def test_the_reach_scales_with_the_image() -> None:
    assert reach(15.0, (192, 320), None) == 15
    assert reach(15.0, (192, 320), 373.0) == 15  # exactly, though the diagonal is 373.18
    assert reach(15.0, (384, 640), 373.0) == 30
    assert reach(15.0, (480, 854), 373.0) == pytest.approx(15 * np.hypot(480, 854) / np.hypot(192, 320), rel=0.003)
    assert reach(3.0, (20, 32), 373.0) == 1  # not below a pixel ...
    assert reach(0.5, (20, 32), 373.0) == 0.5  # ... unless it is asked for


def test_a_reference_is_a_reach_in_pixels_of_the_image(scene: tuple[np.ndarray, ...]) -> None:
    """The scene's diagonal is 100 pixels, so half of that doubles what the kernels reach."""
    image, truth, _ = scene
    noisy = (0.2 * truth + 0.8 * np.random.default_rng(0).random(truth.shape)).astype(np.float32)
    doubled = refine(image, noisy, 0.5, params(gaussian_sxy=2, bilateral_sxy=4))
    scaled = refine(image, noisy, 0.5, params(gaussian_sxy=1, bilateral_sxy=2, reference_diagonal=50))
    np.testing.assert_array_equal(scaled, doubled)
    assert not np.array_equal(refine(image, noisy, 0.5, params(gaussian_sxy=1, bilateral_sxy=2)), doubled)


LOCAL = {"unary": "soft", "bilateral_sxy": 8, "gaussian_sxy": 2}


def on_a_wall(scene: tuple[np.ndarray, ...], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The scene in the middle of a larger, speckled wall of its own green: image, truth, soft mask."""
    (height, width), (h, w) = size, scene[1].shape
    image = np.full((height, width, 3), (40, 160, 60), np.uint8)
    image ^= np.random.default_rng(0).integers(0, 8, image.shape, dtype=np.uint8)
    truth, soft = np.zeros(size, bool), np.zeros(size, np.float32)
    top, left = (height - h) // 2, (width - w) // 2
    place = slice(top, top + h), slice(left, left + w)
    image[place], truth[place], soft[place] = scene
    return image, truth, soft


def test_only_the_surroundings_of_the_mask_are_computed(
    scene: tuple[np.ndarray, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    image, truth, soft = on_a_wall(scene, (200, 300))
    sizes = []
    infer = dense._infer
    monkeypatch.setattr(dense, "_infer", lambda image, *rest: sizes.append(image.shape[:2]) or infer(image, *rest))
    part = refine(image, soft, 0.5, params(**LOCAL))
    monkeypatch.setattr(dense, "CRF_MARGIN", 1000)
    whole = refine(image, soft, 0.5, params(**LOCAL))
    assert sizes[1] == (200, 300)
    assert sizes[0][0] < 110
    assert sizes[0][1] < 120
    assert np.count_nonzero(part ^ whole) < 0.02 * np.count_nonzero(whole)
    assert jaccard(part, truth) > 0.95


def test_a_large_image_is_refined_smaller(scene: tuple[np.ndarray, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    large = tuple(cv2.resize(np.asarray(a).astype(np.uint8), (400, 300), interpolation=0) for a in scene[:2])
    soft = cv2.resize(scene[2], (400, 300))
    monkeypatch.setattr(dense, "PIXELS", 100 * 75)
    sizes = []
    infer = dense._infer
    monkeypatch.setattr(dense, "_infer", lambda image, *rest: sizes.append(image.shape[:2]) or infer(image, *rest))
    refined = refine(large[0], soft, 0.5, params(**LOCAL | {"bilateral_sxy": 40}))
    assert refined.shape == (300, 400)
    assert np.prod(sizes) <= 100 * 75
    assert jaccard(refined, large[1] > 0) > 0.95


def test_memory_layout_does_not_matter(scene: tuple[np.ndarray, ...]) -> None:
    image, _, soft = scene
    expected = refine(image, soft, 0.5, params())
    image, soft = np.asfortranarray(image), np.asfortranarray(soft.astype(np.float64))
    image.setflags(write=False)
    np.testing.assert_array_equal(refine(image, soft, 0.5, params()), expected)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("gaussian_sxy", 0),
        ("gaussian_sxy", 1e-50),  # 0 in the 32 bits of the CRF
        ("bilateral_sxy", -1),
        ("bilateral_srgb", 0),
        ("bilateral_srgb", None),
        ("bilateral_sxy", float("nan")),
        ("bilateral_sxy", float("inf")),
        ("bilateral_compat", float("inf")),
        ("gaussian_compat", float("nan")),
        ("reference_diagonal", 0),
        ("reference_diagonal", float("nan")),
        ("confidence", 1),
        ("confidence", 0.5),
        ("confidence", float("nan")),
        ("iterations", 0),
        ("unary", "hard"),
    ],
)
def test_parameters_that_would_crash_the_crf_are_named_before_it_is_called(key: str, value: object) -> None:
    with pytest.raises(BackdropError, match=f"crf.{key}"):
        small_params({f"crf.{key}": value})
    with pytest.raises(ValidationError, match=key):
        params(**{key: value})


def test_bad_arrays_are_named(scene: tuple[np.ndarray, ...]) -> None:
    image, _, soft = scene
    broken = soft.copy()
    broken[3, 3] = np.nan
    for arguments, word in (
        ((image, broken, 0.5), "not numbers"),
        ((image, soft * 255, 0.5), "not in"),
        ((image[:-1], soft, 0.5), "one size"),
        ((image.astype(np.float32), soft, 0.5), "uint8"),
        ((image[:0], soft[:0], 0.5), "uint8"),
        ((image, soft, float("nan")), "threshold"),
    ):
        with pytest.raises(BackdropError, match=word):
            refine(*arguments, params())


# Sequences --------------------------------------------------------------------------------------------


def test_all_frames_of_all_sequences_are_refined(tmp_path: Path) -> None:
    make_run(tmp_path, {"a": "test", "b": "all", "train": "train"}, frames=11)
    (tmp_path / "predictions" / "train.zip").unlink()  # a training sequence has no predictions
    written = {}
    for workers in (1, 2):
        out = tmp_path / f"out{workers}"
        folders = RefineFolders(tmp_path / "frames", tmp_path / "predictions", out / "masks", out / "davis")
        assert refine_all(folders, params(), 0.5, workers) == ["a", "b"]
        written[workers] = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert written[1] == written[2]
    names = [f"davis/Annotations/{s}/{t:05d}.png" for s in "ab" for t in range(11)] + ["masks/a.zip", "masks/b.zip"]
    assert sorted(written[1]) == sorted(names)
    frames, soft = FrameArchive(tmp_path / "frames" / "b.zip"), Predictions(tmp_path / "predictions" / "b.zip")
    masks = MaskArchive(tmp_path / "out1" / "masks" / "b.zip")
    for t in (0, 10):  # the first, and one of the last chunk
        expected = refine(frames.image(t), soft.soft(t), 0.5, params())
        np.testing.assert_array_equal(masks.gray(t), expected * 255)
        picture = cv2.imread(str(tmp_path / f"out1/davis/Annotations/b/{t:05d}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(picture, masks.gray(t))


def test_without_a_davis_folder_there_are_archives_alone(tmp_path: Path) -> None:
    make_run(tmp_path, {"a": "test"}, frames=2)
    refine_all(RefineFolders(tmp_path / "frames", tmp_path / "predictions", tmp_path / "out"), params(), 0.5, 1)
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["a.zip"]


def refine_stage(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Archives of data/masks and data/masks_paper after the stage."""
    (folder / "params.yaml").write_text(yaml.safe_dump(small_values()))
    run_stage("refine", folder, monkeypatch)
    assert (folder / "data" / "davis" / "Annotations" / "a").is_dir()
    names = ("masks", "masks_paper")
    return tuple({path.name: path.read_bytes() for path in (folder / "data" / name).iterdir()} for name in names)  # type: ignore[return-value]


def test_the_papers_masks_are_refined_beside_those_that_ship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = make_run(tmp_path / "data", {"a": "test"}, frames=2)["a"]
    shipped, paper = refine_stage(tmp_path, monkeypatch)
    assert sorted(shipped) == ["a.zip", "threshold.json"]
    assert paper == shipped, "without a student both are the same"
    soft = {t: np.roll(mask, 40, axis=1) * 0.4 for t, mask in enumerate(truth)}
    write_predictions(tmp_path / "data" / "predictions_paper", "a", soft, [np.array([0, 0, 1, 1.0])] * 2)
    again, paper = refine_stage(tmp_path, monkeypatch)
    assert again == shipped
    assert not MaskArchive(tmp_path / "data" / "masks_paper" / "a.zip").gray(0).any(), "all is below the threshold"
    write_threshold(tmp_path / "data" / "predictions_paper", 0.2, "params")
    refine_stage(tmp_path, monkeypatch)
    assert MaskArchive(tmp_path / "data" / "masks_paper" / "a.zip").gray(0).any()
    (tmp_path / "data" / "predictions_paper" / "a.zip").unlink()  # as where there is no truth
    shutil.rmtree(tmp_path / "data" / "masks_paper")
    again, paper = refine_stage(tmp_path, monkeypatch)
    assert again == shipped
    assert list(paper) == ["threshold.json"]
    assert read_threshold(tmp_path / "data" / "masks_paper") == (0.2, "params")
    assert read_threshold(tmp_path / "data" / "masks_paper") == (0.2, "params")


def test_the_threshold_is_chosen_again_after_the_crf_on_validation_sequences(tmp_path: Path) -> None:
    truth = make_run(tmp_path, {"v": "val", "a": "test"}, frames=4)["v"]
    wide = [cv2.dilate(mask.astype(np.uint8), np.ones((9, 9), np.uint8)) for mask in truth]
    soft = {t: np.where(mask, 0.9, wide[t] * 0.55) for t, mask in enumerate(truth)}  # too wide below .55
    write_predictions(tmp_path / "predictions", "v", soft, [box_from_mask(mask) for mask in truth])
    folders = RefineFolders(tmp_path / "frames", tmp_path / "predictions", tmp_path / "masks")
    for chosen_on in ("default", "params", "pseudo-masks"):
        write_threshold(folders.predictions, 0.5, chosen_on)
        assert choose_refined_threshold(folders, params(), 1) == (0.5, chosen_on)
    write_threshold(folders.predictions, 0.5, "validation")
    assert choose_refined_threshold(folders, params(enabled=False), 1) == (0.5, "validation")
    assert choose_refined_threshold(folders, params(unary="soft"), 1) == (0.6, "validation"), "ties: nearest to .5"
    assert choose_refined_threshold(folders, params(unary="soft"), 2) == (0.6, "validation"), "any number of processes"


@pytest.mark.parametrize(("offset", "value"), [(8, 1), (10, 99)])  # of the central directory: flags, method
def test_an_archive_that_is_encrypted_or_packed_by_unknown_means_is_named(
    tmp_path: Path, offset: int, value: int
) -> None:
    make_run(tmp_path, {"a": "test"}, frames=2)
    path = tmp_path / "masks" / "a.zip"
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + offset] = value
    path.write_bytes(bytes(data))
    with pytest.raises(BackdropError, match=r"a\.zip: 000000\.png is missing or damaged: run the stage refine again"):
        MaskArchive(path).gray(0)


def test_a_damaged_prediction_is_named_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    make_run(tmp_path, {"a": "test"}, frames=3)
    path = tmp_path / "predictions" / "a.zip"
    with ZipFile(path) as archive:
        others = {name: archive.read(name) for name in archive.namelist() if name != "000002.png"}
    with ZipFile(path, "w") as archive:
        for name, data in others.items():
            archive.writestr(name, data)
    folders = RefineFolders(tmp_path / "frames", tmp_path / "predictions", tmp_path / "out", tmp_path / "davis")
    with pytest.raises(BackdropError, match="000002.png is missing or damaged"):
        refine_all(folders, params(), 0.5, 1)
    assert not [path for folder in ("out", "davis") for path in (tmp_path / folder).rglob("*") if path.is_file()]


def test_no_predictions_at_all_is_an_error(tmp_path: Path) -> None:
    make_run(tmp_path, {"a": "test"}, frames=2)
    folders = RefineFolders(tmp_path / "frames", tmp_path / "none", tmp_path / "out")
    with pytest.raises(BackdropError, match="run segment first"):
        refine_all(folders, params(), 0.5, 1)
