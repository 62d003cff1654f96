"""The public inference API, on a model that the joint training wrote."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from backdrop.errors import BackdropError
from backdrop.io.frame_archive import FrameArchive
from backdrop.io.masks import Predictions, read_threshold, same_predictions
from backdrop.networks.folders import load_network, save_network
from backdrop.networks.inpainter import Inpainter
from backdrop.networks.segmenter import Prediction, Segmenter, presence, tighten, to_rgb
from backdrop.networks.student import StudentNetwork
from backdrop.segment import stage as segment_stage
from backdrop.segment.parameters import SegmentParams
from backdrop.segment.stage import segment_all
from backdrop.train.joint import JointTraining
from backdrop.train.parameters import TrainFolders
from backdrop.video.decode import decode_video
from backdrop.video.encode import encode_video
from tests.runs import HEIGHT, WIDTH
from tests.tiny import contents, training_params, write_material

pytestmark = pytest.mark.usefixtures("one_thread")

SPLITS = {"train_1": "train", "val_1": "val", "test_1": "test", "test_2": "test"}
FRAMES = 6


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames and flow, and a model trained on them for a few iterations."""
    root = tmp_path_factory.mktemp("segmenter")
    write_material(root, SPLITS, FRAMES)
    for kind in ("rgb", "flow"):
        save_network(root / f"inpainter_{kind}", Inpainter([4, 8]), {"channels": [4, 8]})
    names = ("frames", "homographies", "flow", "inpainter_rgb", "inpainter_flow", "log", "runs")
    folders = TrainFolders(*(root / name for name in names))
    JointTraining(training_params({"train.overlay_every": 0}), folders).run(root / "joint")
    return root


@pytest.fixture(scope="module")
def segmenter(material: Path) -> Segmenter:
    return Segmenter.load(material / "joint", "cpu")


@pytest.fixture(scope="module")
def taught(material: Path) -> Path:
    """The same model with an untrained student, as stage student saves it."""
    _, config = load_network(material / "joint")
    own = Segmenter.load(material / "joint", "cpu")
    torch.manual_seed(3)
    networks = {"detector": own.detector, "synthesis": own.synthesis, "student": StudentNetwork([4, 8])}
    student_config = {"channels": [4, 8], "size": [WIDTH, HEIGHT], "guide": 0.0}
    save_network(material / "taught", networks, {**config, "student": student_config})
    return material / "taught"


@pytest.fixture(scope="module")
def images(material: Path) -> list[np.ndarray]:
    archive = FrameArchive(material / "frames" / "test_1.zip")
    return [archive.image(t) for t in range(len(archive))]


def same(a: Prediction, b: Prediction, tolerance: float = 1e-5) -> bool:
    close = all(np.allclose(x, y, atol=tolerance) for x, y in ((a.mask, b.mask), (a.box, b.box), (a.p, b.p)))
    return close and a.cell == b.cell


# ------------------------------------------------------------------------------------------- predictions


def test_a_prediction_is_what_it_says(segmenter: Segmenter, images: list[np.ndarray]) -> None:
    found = segmenter.predict(images[0])
    assert found.mask.shape == (HEIGHT, WIDTH)
    assert found.mask.dtype == np.float32
    assert 0 <= found.mask.min() < found.mask.max() <= 1
    assert found.p.shape == (8, 8)
    assert found.p.sum() == pytest.approx(1, abs=1e-4)
    assert found.cell == found.p.argmax()
    assert found.box.shape == (4,)
    assert (found.box[2:] > 0).all()


def test_the_mask_lies_in_the_box(segmenter: Segmenter, images: list[np.ndarray]) -> None:
    found = segmenter.predict(images[0])
    cx, cy, w, h = found.box
    x = (2 * np.arange(WIDTH) + 1) / WIDTH - 1
    y = (2 * np.arange(HEIGHT) + 1) / HEIGHT - 1
    pixel = np.array([4 / WIDTH, 4 / HEIGHT])  # the crop's border is interpolated over a pixel of it
    outside = (np.abs(x - cx) > w / 2 + pixel[0])[None, :] | (np.abs(y - cy) > h / 2 + pixel[1])[:, None]
    assert found.mask[outside].max(initial=0) < 1e-3


def test_frames_are_segmented_one_by_one(segmenter: Segmenter, images: list[np.ndarray]) -> None:
    """No video, no batch: order and company of a frame do not matter."""
    alone = [segmenter.predict(image) for image in images]
    together = segmenter.predict_batch(images)
    order = np.random.default_rng(0).permutation(len(images))
    shuffled = segmenter.predict_batch([images[i] for i in order])
    for i, place in enumerate(np.argsort(order)):
        assert same(alone[i], together[i])
        assert same(alone[i], shuffled[place])
    noise = np.random.default_rng(1).integers(0, 255, images[0].shape, dtype=np.uint8)
    assert same(segmenter.predict_batch([images[0], noise])[0], alone[0])


@pytest.mark.parametrize("size", [(320, 200), (33, 57), (16, 16)])
def test_the_mask_has_the_images_own_resolution(
    size: tuple[int, int], segmenter: Segmenter, images: list[np.ndarray]
) -> None:
    large = cv2.resize(images[0], size)
    found = segmenter.predict(large)
    assert found.mask.shape == (size[1], size[0])
    assert np.isfinite(found.mask).all()


def test_images_of_a_batch_may_differ_in_size(segmenter: Segmenter, images: list[np.ndarray]) -> None:
    mixed = [images[0], cv2.resize(images[1], (64, 40)), cv2.resize(images[2], (200, 300))]
    together = segmenter.predict_batch(mixed)
    for image, found in zip(mixed, together, strict=True):
        assert found.mask.shape == image.shape[:2]
        assert same(found, segmenter.predict(image))


def test_views_and_read_only_images_are_taken_and_not_changed(segmenter: Segmenter, images: list[np.ndarray]) -> None:
    mirrored = images[0][:, ::-1]
    mirrored.setflags(write=False)
    assert same(segmenter.predict(mirrored), segmenter.predict(np.ascontiguousarray(mirrored)))


def test_loading_twice_gives_the_same_network(material: Path, segmenter: Segmenter, images: list[np.ndarray]) -> None:
    assert same(Segmenter.load(str(material / "joint"), "cpu").predict(images[0]), segmenter.predict(images[0]), 0)
    assert not segmenter.detector.training
    assert not segmenter.synthesis.training


def test_a_model_with_a_student_also_gives_what_ships_without(
    material: Path, taught: Path, images: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter, calls = Segmenter.load(taught, "cpu"), []
    monkeypatch.setattr(segmenter.detector, "forward", counted(segmenter.detector.forward, calls))
    both = segmenter.predict_both(images)
    assert len(calls) == 1, "D runs once"
    papers = Segmenter.load(material / "joint", "cpu").predict_batch(images)
    for (shipped, alone), paper, again in zip(both, papers, segmenter.predict_batch(images), strict=True):
        assert same(alone, paper)
        assert same(shipped, again)
        assert not np.array_equal(shipped.mask, alone.mask)
        assert shipped.cell == alone.cell
        assert np.array_equal(shipped.box, tighten(alone.box, shipped.mask))


def counted(function: Callable, calls: list[int]) -> Callable:
    def wrapper(*arguments: object) -> object:
        calls.append(1)
        return function(*arguments)

    return wrapper


def test_without_a_student_both_are_the_same(segmenter: Segmenter, images: list[np.ndarray]) -> None:
    for shipped, alone in segmenter.predict_both(images[:2]):
        assert shipped is alone


# ------------------------------------------------------------------------------------------ wrong folders


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("missing", "no model folder"),
        ("empty", "no model folder"),
        ("config", "no model folder"),
        ("list", "do not fit"),
        ("inpainter", "do not fit"),
        ("other", "do not fit"),
        ("truncated", "cannot be read"),
    ],
)
def test_a_folder_that_is_no_model_is_one_clear_error(damage: str, said: str, material: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    if damage == "inpainter":
        shutil.copytree(material / "inpainter_rgb", folder)
    elif damage == "empty":
        folder.mkdir()
    elif damage != "missing":
        shutil.copytree(material / "joint", folder)
    if damage in ("config", "list"):
        (folder / "config.json").write_text({"config": "{", "list": "[]"}[damage])
    elif damage == "other":
        config = json.loads((folder / "config.json").read_text())
        config["synthesis"]["decoder"] = [8, 32]
        (folder / "config.json").write_text(json.dumps(config))
    elif damage == "truncated":
        data = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(BackdropError, match=f"{folder}.*{said}") as caught:
        Segmenter.load(folder, "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named(material: Path) -> None:
    with pytest.raises(BackdropError, match="GPU"):
        Segmenter.load(material / "joint", "cuda")


# ------------------------------------------------------------------------------------------------- stages


def segment(
    material: Path,
    out: Path,
    threshold: float | None = None,
    batch: int = 4,
    workers: int = 1,
    model: str = "joint",
    chosen_on: str = "validation",
) -> dict:
    """Into `out` and `out`_paper."""

    def choose(frames: Path, predictions: Path) -> tuple[float, str]:
        assert frames == material / "frames"
        assert (predictions / "val_1.zip").is_file(), "the threshold is asked for when the predictions are there"
        return (0.25 if predictions == out else 0.4), chosen_on

    paper = out.with_name(f"{out.name}_paper")
    params = SegmentParams(threshold=threshold, batch=batch)
    return segment_all(material / model, material / "frames", out, paper, params, workers, "cpu", choose)


@pytest.fixture(scope="module")
def predictions(material: Path) -> Path:
    segment(material, material / "predictions")
    return material / "predictions"


def test_what_is_not_for_training_alone_is_segmented(
    predictions: Path, material: Path, segmenter: Segmenter, images: list[np.ndarray]
) -> None:
    files = {path.name for path in predictions.iterdir()}
    assert files == {"val_1.zip", "test_1.zip", "test_2.zip", "threshold.json"}
    stored = Predictions(predictions / "test_1.zip")
    assert stored.box.shape == (FRAMES, 4)
    assert stored.p.shape == (FRAMES, 8, 8)
    for t, image in enumerate(images):
        found = segmenter.predict(image)
        assert np.abs(stored.soft(t) - found.mask).max() <= 0.5 / 255 + 1e-4
        assert stored.box[t] == pytest.approx(found.box, abs=1e-4)
        assert stored.cell[t] == found.cell


def test_without_a_student_the_papers_method_is_a_copy_of_what_ships(predictions: Path) -> None:
    paper = predictions.with_name("predictions_paper")
    assert read_threshold(paper) == (0.25, "validation")
    assert same_predictions(predictions, paper)


def test_with_a_student_the_papers_method_lies_beside_what_ships(
    predictions: Path, taught: Path, material: Path, tmp_path: Path
) -> None:
    assert segment(material, tmp_path / "out", model=taught.name)["threshold"] == 0.25
    paper = tmp_path / "out_paper"
    assert read_threshold(paper) == (0.4, "validation"), "a choice of its own"
    assert not same_predictions(tmp_path / "out", paper)
    for name in ("val_1.zip", "test_1.zip", "test_2.zip"):
        assert (paper / name).read_bytes() == (predictions / name).read_bytes(), "as D and S of the same weights"
        assert (tmp_path / "out" / name).read_bytes() != (predictions / name).read_bytes()
    segment(material, tmp_path / "given", threshold=0.7, model=taught.name)
    assert read_threshold(tmp_path / "given_paper") == (0.7, "params")


def test_images_may_come_in_many_forms(segmenter: Segmenter, images: list[np.ndarray], tmp_path: Path) -> None:
    image = images[0]
    Image.fromarray(image).save(tmp_path / "one.png")
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    opaque = np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])
    forms = [image, opaque, Image.fromarray(image), Image.fromarray(opaque), tensor, tensor.float() / 255]
    for form in [*forms, tmp_path / "one.png", str(tmp_path / "one.png")]:
        assert np.array_equal(to_rgb(form), image)
    assert same(segmenter.predict(tmp_path / "one.png"), segmenter.predict(image))
    gray = image[..., 0]
    assert np.array_equal(to_rgb(gray), np.dstack([gray] * 3))
    turned = Image.fromarray(image)
    turned.getexif()[0x0112] = 6  # a camera held upright
    assert np.array_equal(to_rgb(turned), np.rot90(image, -1))
    assert segmenter.predict_batch([]) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((4, 5, 3), np.float32), r"not \(4, 5, 3\) of float32"),
        (np.zeros((4, 5, 2), np.uint8), r"not \(4, 5, 2\)"),
        (np.zeros((0, 5, 3), np.uint8), r"not \(0, 5, 3\)"),
        (None, r"not \(\) of object"),
        (torch.zeros(4, 5, 3), r"not \(4, 5, 3\)"),
        (torch.zeros(3, 4, 5, dtype=torch.int64), "int64"),
        (torch.full((3, 4, 5), 200.0), "0 to 255"),
        (torch.full((3, 4, 5), float("nan")), "0 to 255"),
        ("no/such/file.png", "no/such/file.png"),
    ],
)
def test_what_is_no_image_is_named(segmenter: Segmenter, wrong: object, message: str) -> None:
    with pytest.raises(BackdropError, match=message):
        segmenter.predict(wrong)  # type: ignore[arg-type]


def test_a_video_is_streamed_frame_by_frame(segmenter: Segmenter, images: list[np.ndarray], tmp_path: Path) -> None:
    encode_video(tmp_path / "run.mp4", images, fps=10)
    decoded = [image for _, _, image in decode_video(tmp_path / "run.mp4")]
    found = list(segmenter.stream(tmp_path / "run.mp4", every=2, batch=2))
    assert [number for number, *_ in found] == [0, 2, 4]
    assert [time for _, time, *_ in found] == pytest.approx([0, 0.2, 0.4])
    for number, _, image, prediction in found:
        assert np.array_equal(image, decoded[number])
        assert same(prediction, segmenter.predict(decoded[number]))
    first = next(segmenter.stream(tmp_path / "run.mp4", batch=1))
    assert same(first[3], found[0][3])
    with pytest.raises(BackdropError, match=r"none\.mp4"):
        next(segmenter.stream(tmp_path / "none.mp4"))


def test_boxes_of_all_cells_are_told_and_s_segments_any(segmenter: Segmenter, images: list[np.ndarray]) -> None:
    found = segmenter.predict(images[0])
    assert found.boxes.shape == (8, 8, 4)
    assert np.allclose(found.boxes.reshape(-1, 4)[found.cell], found.box)
    boxes = np.stack([found.box, np.array([0.5, 0.5, 0.4, 0.4], np.float32)])
    masks = segmenter.masks_at(images[0], boxes)
    assert np.allclose(masks[0], found.mask, atol=1e-5)
    assert masks[1, : HEIGHT // 2, : WIDTH // 2].max() == 0
    assert masks[1].max() > 0


def test_several_subjects_may_be_asked_for(
    taught: Path, images: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Segmenter.load(taught, "cpu")
    assert model.student is not None
    soft = np.zeros((HEIGHT, WIDTH), np.float32)
    soft[20:50, 10:40], soft[20:50, 80:100] = 0.9, 0.8
    monkeypatch.setattr(model.student, "raw", lambda images: [soft] * len(images))
    one, two = model.predict(images[0]), model.predict(images[0], subjects=2)
    assert one.mask[35, 25] > 0.8
    assert one.mask[35, 90] == 0
    assert two.mask[35, 90] > 0.7
    model.student.subjects = 2
    assert np.array_equal(model.predict(images[0]).mask, two.mask)
    assert np.array_equal(model.predict(images[0], subjects=1).mask, one.mask)


def test_presence_is_what_the_surest_speck_reaches() -> None:
    mask = np.zeros((100, 200), np.float32)
    mask[50, 50:60] = 0.8  # ten pixels, a speck of this image
    mask[50, 50] = 1.0
    assert presence(mask) == pytest.approx(0.8)
    assert presence(np.zeros((30, 40), np.float32)) == 0


def test_without_validation_truth_the_students_own_threshold_counts(
    taught: Path, material: Path, tmp_path: Path
) -> None:
    segmenter, (_, config) = Segmenter.load(taught, "cpu"), load_network(taught)
    assert segmenter.student is not None
    assert segmenter.student.threshold is None, "an older model folder"
    own = {"detector": segmenter.detector, "synthesis": segmenter.synthesis, "student": segmenter.student.network}
    config["student"] |= {"subjects": 2, "threshold": 0.35}
    save_network(material / "sure", own, config)
    segment(material, tmp_path / "out", model="sure", chosen_on="default")
    assert read_threshold(tmp_path / "out") == (0.35, "pseudo-masks")
    assert read_threshold(tmp_path / "out_paper") == (0.4, "default"), "that of the student is none of D and S"
    assert segment(material, tmp_path / "given", 0.7, model="sure")["chosen_on"] == "params"
    assert segment(material, tmp_path / "validated", model="sure")["chosen_on"] == "validation"


def test_the_threshold_is_written(predictions: Path, material: Path, tmp_path: Path) -> None:
    assert read_threshold(predictions) == (0.25, "validation")
    assert segment(material, tmp_path / "own", threshold=0.7) == {"threshold": 0.7, "chosen_on": "params"}
    assert read_threshold(tmp_path / "own") == (0.7, "params")


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_same_bytes_every_time(workers: int, predictions: Path, material: Path, tmp_path: Path) -> None:
    segment(material, tmp_path / "again", workers=workers)
    for path in predictions.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("chunk", [1, 5])
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_sequence_longer_than_a_chunk_gives_the_same_bytes(
    workers: int, chunk: int, taught: Path, material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment(material, tmp_path / "whole", batch=2, model=taught.name)
    monkeypatch.setattr(segment_stage, "SEGMENT_CHUNK", chunk)
    segment(material, tmp_path / "out", batch=2, workers=workers, model=taught.name)
    for kind in ("", "_paper"):
        whole, out = contents(tmp_path / f"whole{kind}"), contents(tmp_path / f"out{kind}")
        assert out == whole, kind
        assert len(out) == 4


def test_a_damaged_frame_in_a_middle_chunk_is_named(
    taught: Path, material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.motion.test_homography import damage_frame

    monkeypatch.setattr(segment_stage, "SEGMENT_CHUNK", 2)
    shutil.copytree(material / "frames", tmp_path / "frames")
    damage_frame(tmp_path / "frames" / "test_1.zip", 3)
    folders = (taught, tmp_path / "frames", tmp_path / "out", tmp_path / "out_paper")
    with pytest.raises(BackdropError, match=r"test_1\.zip: frame 3 is missing or damaged; run the stage frames again"):
        segment_all(*folders, SegmentParams(threshold=0.5, batch=2), 1, "cpu", lambda *_: (0, ""))
    for folder in folders[2:]:
        assert {path.name for path in folder.iterdir()} <= {"val_1.zip"}, "what was whole before"


def test_the_batch_size_does_not_matter(predictions: Path, material: Path, tmp_path: Path) -> None:
    segment(material, tmp_path / "one", batch=1)
    a, b = Predictions(predictions / "test_1.zip"), Predictions(tmp_path / "one" / "test_1.zip")
    assert a.box == pytest.approx(b.box, abs=1e-4)
    assert all(np.abs(a.soft(t) - b.soft(t)).max() <= 1.01 / 255 for t in range(FRAMES))


def test_nothing_to_segment_is_one_error(material: Path, tmp_path: Path) -> None:
    write_material(tmp_path, {"only": "train"}, 2)
    params = SegmentParams(threshold=0.5, batch=4)
    folders = (material / "joint", tmp_path / "frames", tmp_path / "out", tmp_path / "out_paper")
    with pytest.raises(BackdropError, match="no sequence to segment"):
        segment_all(*folders, params, 1, "cpu", lambda *_: (0, ""))
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out_paper").exists()


SUBJECT = [120 / 200 - 1, 60 / 100 - 1, 40 / 200, 40 / 100]


@pytest.mark.parametrize(
    "box",
    [
        [-0.4, -0.4, 0.8, 1.0],  # too large
        [-0.4, -0.4, 0.1, 0.2],  # too small: does not cut the subject
        [0.5, 0.5, 0.2, 0.2],  # elsewhere
        [-1.0, -1.0, 1.2, 1.4],  # reaches beyond the image
    ],
)
def test_a_box_becomes_the_extent_of_the_subject(box: list[float]) -> None:
    mask = np.zeros((100, 200), np.float32)
    mask[20:40, 50:70] = 0.9
    mask[30:40, 50:70] = 0.4  # faint limbs belong to it
    mask[90:, 190:] = 1  # apart from the subject and smaller
    found = tighten(np.array(box, np.float32), mask)
    assert np.allclose(found, SUBJECT)
    assert found.dtype == np.float32


def test_a_box_stays_where_the_mask_shows_no_subject() -> None:
    mask = np.full((100, 200), 0.2, np.float32)
    mask[:3, :3] = 1  # a speck
    own = np.array([0.0, 0.5, 0.2, 0.2], np.float32)
    assert np.array_equal(tighten(own, mask), own)
