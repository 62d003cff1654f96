"""The CRF of higher order on frames: it finds edges, its superpixels and cliques, its weights are learned."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from backdrop.app.project.models import ModelNote
from backdrop.crf import dense, learning
from backdrop.crf.dense import refine
from backdrop.crf.findings import BoxFindings, best_finding, edges_of
from backdrop.crf.higher_order import clique, infer_higher_order, slic_superpixels, weights_of
from backdrop.crf.learning import example, learn_weights, stored_examples, with_weights_of
from backdrop.crf.mean_field import Weights
from backdrop.crf.parameters import OLDER_CRF, CRFParams
from backdrop.errors import BackdropError
from backdrop.io.archives import ArchiveWriter
from backdrop.io.frame_archive import FrameArchive
from backdrop.io.images import encode_png
from backdrop.io.masks import FOREGROUND, VOID, box_from_mask, entry
from backdrop.measures import jaccard
from backdrop.refine.stage import RefineFolders, refine_all
from tests.handmade_run import make_run
from tests.small_pipeline import small_params

HERE = {"kind": "higher_order", "superpixel_background": 1.0, "superpixel_foreground": 1.0, "detection": 0.5}


def higher(**changes: object) -> CRFParams:
    values = {**small_params().crf.model_dump(), **HERE, "enabled": True, "iterations": 5, **changes}
    return CRFParams.model_validate(values)


@pytest.fixture
def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A red disk on speckled green, its mask, and a soft mask that is shifted and blurred."""
    y, x = np.mgrid[:72, :96]
    truth = (x - 48) ** 2 + (y - 36) ** 2 < 20**2
    image = np.where(truth[..., None], [200, 40, 40], [40, 160, 60]).astype(np.uint8)
    image ^= np.random.default_rng(0).integers(0, 8, image.shape, dtype=np.uint8)
    shifted = np.roll(truth, (3, -4), (0, 1)).astype(np.float32)
    return image, truth, cv2.GaussianBlur(shifted, (0, 0), 2)


def box_of(mask: np.ndarray, score: float = 0.9) -> BoxFindings:
    box = box_from_mask(mask)
    assert box is not None
    return best_finding(box, np.array([[score, 0.0]]))


def test_the_mask_moves_to_the_edges(scene: tuple[np.ndarray, ...]) -> None:
    image, truth, soft = scene
    found = refine(image, soft, 0.5, higher(), box_of(truth))
    assert jaccard(found, truth) > 0.97 > 0.85 > jaccard(soft > 0.5, truth)
    np.testing.assert_array_equal(found, refine(image, soft, 0.5, higher(), box_of(truth)))


def test_pairwise_terms_alone_are_near_the_dense_crf(scene: tuple[np.ndarray, ...]) -> None:
    image, _, soft = scene
    pair = higher(detection=0, superpixel_background=0, superpixel_foreground=0)
    first, second = (refine(image, soft, 0.5, pair.model_copy(update={"kind": k})) for k in ("dense", "higher_order"))
    assert jaccard(first, second) > 0.95


def test_the_dense_crf_asks_no_box_and_no_new_weight(scene: tuple[np.ndarray, ...]) -> None:
    image, truth, soft = scene
    params = higher(kind="dense")
    plain = CRFParams.model_validate({**params.model_dump(), **OLDER_CRF})
    np.testing.assert_array_equal(refine(image, soft, 0.5, params, box_of(truth)), refine(image, soft, 0.5, plain))


def test_a_box_brings_back_what_the_mask_misses_and_a_false_box_brings_nothing(scene: tuple[np.ndarray, ...]) -> None:
    image, truth, _ = scene
    soft = np.where(truth, 0.62, 0.2).astype(np.float32)
    soft[:, 56:] = np.where(truth, 0.38, 0.2)[:, 56:]  # the right half is a little too weak
    only = {"gaussian_compat": 0, "bilateral_compat": 0, "superpixel_background": 0, "superpixel_foreground": 0}
    alone, helped = (refine(image, soft, 0.5, higher(**only, detection=d), box_of(truth)) for d in (0, 2))
    assert jaccard(alone, truth) < 0.75
    assert jaccard(helped, truth) > 0.95
    false = np.zeros_like(truth)
    false[2:20, 70:94] = True
    np.testing.assert_array_equal(refine(image, soft, 0.5, higher(**only, detection=2), box_of(false)), alone)


def test_a_large_image_and_its_box_are_reduced(scene: tuple[np.ndarray, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    large = [cv2.resize(np.asarray(a).astype(np.uint8), (288, 216), interpolation=0) for a in scene[:2]]
    soft, sizes = cv2.resize(scene[2], (288, 216)), []
    monkeypatch.setattr(dense, "PIXELS", 96 * 72)
    infer = dense._infer_boxes
    monkeypatch.setattr(dense, "_infer_boxes", lambda *a: sizes.append((a[0].shape, a[4][2][0])) or infer(*a))
    found = refine(large[0], soft, 0.5, higher(), box_of(large[1] > 0))
    shape, box = sizes[0]
    assert shape[0] * shape[1] <= 96 * 72
    assert jaccard(found, large[1] > 0) > jaccard(soft > 0.5, large[1] > 0) + 0.05
    center = (box.left + box.right) / 2 / shape[1]
    assert 0.4 < center < 0.6


def test_superpixels_cover_the_image_and_keep_to_edges(scene: tuple[np.ndarray, ...]) -> None:
    image, truth, _ = scene
    numbers = slic_superpixels(image, 8)
    assert numbers.shape == truth.shape
    assert 40 < len(np.unique(numbers)) < 200
    inside = np.bincount(numbers.ravel(), truth.ravel()) / np.bincount(numbers.ravel())
    assert np.minimum(inside, 1 - inside).mean() < 0.03
    assert not slic_superpixels(image[:9, :9], 8).any()


def test_a_clique_is_the_subject_in_the_box_not_the_box(scene: tuple[np.ndarray, ...]) -> None:
    image, truth, _ = scene
    (box,) = edges_of(box_of(truth), (96, 72))
    assert jaccard(clique(image, box), truth) > 0.9
    np.testing.assert_array_equal(clique(image, box), clique(image, box))
    (whole,) = edges_of(BoxFindings(np.array([[0.0, 0, 2, 2]]), np.array([0.9])), (96, 72))
    (nothing,) = edges_of(BoxFindings(np.array([[5.0, 5, 0.1, 0.1]]), np.array([0.9])), (96, 72))
    assert not clique(image, whole).any()
    assert not clique(image, nothing).any()
    assert edges_of(BoxFindings(np.full((1, 4), np.nan), np.array([0.9])), (96, 72)) == []


@pytest.mark.parametrize(
    ("boxes", "scores", "said"),
    [(np.zeros((1, 3)), np.ones(1), "boxes"), (np.zeros((2, 4)), np.ones(1), "boxes"),
     (np.zeros((1, 4)), np.full(1, 1.5), "scores"), (np.zeros((1, 4)), np.full(1, np.nan), "scores")],
)  # fmt: skip
def test_what_is_no_box_is_named(
    scene: tuple[np.ndarray, ...], boxes: np.ndarray, scores: np.ndarray, said: str
) -> None:
    with pytest.raises(BackdropError, match=said):
        refine(scene[0], scene[2], 0.5, higher(), BoxFindings(boxes, scores))
    with pytest.raises(BackdropError, match="one size"):
        refine(scene[0], scene[2][1:], 0.5, higher())


def test_the_stage_refines_with_the_boxes_of_the_predictions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = make_run(tmp_path, {"a": "all"}, frames=2)
    seen = []
    monkeypatch.setattr("backdrop.crf.higher_order.clique", lambda image, box: seen.append(box) or clique(image, box))
    folders = RefineFolders(tmp_path / "frames", tmp_path / "predictions", tmp_path / "new")
    assert refine_all(folders, higher(iterations=2), 0.5, 1) == ["a"]
    assert len(seen) == len(truth["a"])
    assert all(box.score == 1 for box in seen)


def test_learning_finds_which_terms_help(scene: tuple[np.ndarray, ...]) -> None:
    image, truth, soft = scene
    params = higher(gaussian_compat=1, bilateral_compat=1, unary_weight=1, detection=0)
    examples = [example(image, soft, truth, params)]
    start = weights_of(params)
    learned = learn_weights(examples, start, 3, steps=40)
    assert learned.bilateral > 1.2 * start.bilateral
    assert learned.detection == 0  # what is off stays off
    assert learned == learn_weights(examples, start, 3, steps=40)
    better = with_weights_of(params, learned)
    assert better.bilateral_compat == learned.bilateral
    logit = examples[0].logit[0].numpy()
    lost = [
        float(np.logaddexp(0, np.where(truth, -1, 1) * infer_higher_order(image, logit, p, (3.0, 15.0), [])).mean())
        for p in (params.model_copy(update={"iterations": 3}), better.model_copy(update={"iterations": 3}))
    ]
    assert lost[1] < lost[0]


def test_unknown_pixels_teach_nothing(scene: tuple[np.ndarray, ...]) -> None:
    image, truth, soft = scene
    known = np.zeros_like(truth)
    params = higher(detection=0)
    with pytest.raises(BackdropError, match="nothing to learn"):
        learn_weights([example(image, soft, truth, params, known=known)], weights_of(params), 2, steps=1)
    with pytest.raises(BackdropError, match="nothing to learn"):
        learn_weights([example(image, soft, truth, params)], Weights(0.0), 2, steps=1)
    with pytest.raises(BackdropError, match="differ"):
        example(image, soft[1:], truth, params)
    known[20:50] = True
    lied = np.where(known, truth, ~truth)
    first, second = (
        learn_weights([example(image, soft, t, params, known=known)], weights_of(params), 2, steps=4)
        for t in (truth, lied)
    )
    assert first == second


def test_the_command_prints_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path, {"a": "all", "b": "all"}, frames=3)
    folders = ["--frames", "frames", "--predictions", "predictions", "--targets", "masks"]
    places = [part if part.startswith("--") else str(tmp_path / part) for part in folders]
    monkeypatch.setattr("sys.argv", ["learning", *places, "--count", "2", "--steps", "2"])
    learning.print_learned_weights()
    said = capsys.readouterr().out.splitlines()
    assert [line.split("=")[0] for line in said] == [f"-S crf.{key}" for key in learning.WEIGHT_KEYS.values()]
    crf = small_params().crf
    assert len(stored_examples(tmp_path / "frames", tmp_path / "predictions", tmp_path / "masks", crf, 2)) == 4
    with ArchiveWriter(tmp_path / "unsure" / "a.zip") as archive:
        mask = np.zeros(FrameArchive(tmp_path / "frames" / "a.zip").image(0).shape[:2], np.uint8)
        mask[:10], mask[10:20] = FOREGROUND, VOID
        archive.add(entry(0), encode_png(mask))
    (one,) = stored_examples(tmp_path / "frames", tmp_path / "predictions", tmp_path / "unsure", crf, 2)
    assert torch.isnan(one.target).float().mean() == pytest.approx(10 / len(mask), abs=0.02)
    (tmp_path / "none").mkdir()
    with pytest.raises(BackdropError, match="no masks"):
        stored_examples(tmp_path / "frames", tmp_path / "predictions", tmp_path / "none", crf, 2)


def test_notes_of_before_mean_the_dense_crf() -> None:
    old = {key: value for key, value in small_params().crf.model_dump().items() if key not in OLDER_CRF}
    note = ModelNote(project="p", made="m", rendered=True, footage=[], frames=0, crf=old)  # type: ignore[arg-type]
    assert note.crf.kind == "dense"
    assert torch.is_tensor(torch.tensor(note.crf.detection))
    assert note.crf.detection == 0
