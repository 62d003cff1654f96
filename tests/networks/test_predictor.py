"""Inference on single images: what a model folder predicts, and what it refuses."""

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
from backdrop.motion.blobs import SPECK
from backdrop.networks.inpainter import Inpainter
from backdrop.networks.model_folders import save_network
from backdrop.networks.parameters import OLDER
from backdrop.networks.predictor import Predictor, presence, tighten, to_rgb
from tests.handmade_run import HEIGHT, WIDTH, scene
from tests.small_pipeline import same_prediction, write_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder without a student (`joint`) and one with (`student`), of the same D and S."""
    root = tmp_path_factory.mktemp("models")
    write_model(root / "joint", student=False)
    write_model(root / "student")
    return root


@pytest.fixture(scope="module")
def predictor(models: Path) -> Predictor:
    return Predictor.load(models / "joint", "cpu")


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return scene(6)[0]


def test_a_prediction_is_what_it_says(predictor: Predictor, images: list[np.ndarray]) -> None:
    found = predictor.predict(images[0])
    assert found.mask.shape == (HEIGHT, WIDTH)
    assert found.mask.dtype == np.float32
    assert 0 <= found.mask.min() < found.mask.max() <= 1
    assert found.p.shape == (8, 8)
    assert found.p.sum() == pytest.approx(1, abs=1e-4)
    assert found.cell == found.p.argmax()
    assert found.box.shape == (4,)
    assert (found.box[2:] > 0).all()


def test_the_mask_lies_in_the_box(predictor: Predictor, images: list[np.ndarray]) -> None:
    found = predictor.predict(images[0])
    cx, cy, w, h = found.box
    x = (2 * np.arange(WIDTH) + 1) / WIDTH - 1
    y = (2 * np.arange(HEIGHT) + 1) / HEIGHT - 1
    pixel = np.array([4 / WIDTH, 4 / HEIGHT])  # the crop's border is interpolated over a pixel of it
    outside = (np.abs(x - cx) > w / 2 + pixel[0])[None, :] | (np.abs(y - cy) > h / 2 + pixel[1])[:, None]
    assert found.mask[outside].max(initial=0) < 1e-3


def test_frames_are_segmented_one_by_one(predictor: Predictor, images: list[np.ndarray]) -> None:
    """No video, no batch: order and company of a frame do not matter."""
    alone = [predictor.predict(image) for image in images]
    together = predictor.predict_batch(images)
    order = np.random.default_rng(0).permutation(len(images))
    shuffled = predictor.predict_batch([images[i] for i in order])
    for i, place in enumerate(np.argsort(order)):
        assert same_prediction(alone[i], together[i])
        assert same_prediction(alone[i], shuffled[place])
    noise = np.random.default_rng(1).integers(0, 255, images[0].shape, dtype=np.uint8)
    assert same_prediction(predictor.predict_batch([images[0], noise])[0], alone[0])


@pytest.mark.parametrize("size", [(320, 200), (33, 57), (16, 16)])
def test_the_mask_has_the_images_own_resolution(
    size: tuple[int, int], predictor: Predictor, images: list[np.ndarray]
) -> None:
    large = cv2.resize(images[0], size)
    found = predictor.predict(large)
    assert found.mask.shape == (size[1], size[0])
    assert np.isfinite(found.mask).all()


def test_images_of_a_batch_may_differ_in_size(predictor: Predictor, images: list[np.ndarray]) -> None:
    mixed = [images[0], cv2.resize(images[1], (64, 40)), cv2.resize(images[2], (200, 300))]
    together = predictor.predict_batch(mixed)
    for image, found in zip(mixed, together, strict=True):
        assert found.mask.shape == image.shape[:2]
        assert same_prediction(found, predictor.predict(image))


def test_views_and_read_only_images_are_taken_and_not_changed(predictor: Predictor, images: list[np.ndarray]) -> None:
    mirrored = images[0][:, ::-1]
    mirrored.setflags(write=False)
    assert same_prediction(predictor.predict(mirrored), predictor.predict(np.ascontiguousarray(mirrored)))


def test_loading_twice_gives_the_same_network(models: Path, predictor: Predictor, images: list[np.ndarray]) -> None:
    assert same_prediction(
        Predictor.load(str(models / "joint"), "cpu").predict(images[0]), predictor.predict(images[0]), 0
    )
    assert not predictor.detector.training
    assert not predictor.synthesis.training


def test_a_model_with_a_student_also_gives_what_ships_without(
    models: Path, images: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, calls = Predictor.load(models / "student", "cpu"), []
    monkeypatch.setattr(predictor.detector, "forward", counted(predictor.detector.forward, calls))
    both = predictor.predict_both(images)
    assert len(calls) == 1, "D runs once"
    papers = Predictor.load(models / "joint", "cpu").predict_batch(images)
    for (shipped, alone), paper, again in zip(both, papers, predictor.predict_batch(images), strict=True):
        assert same_prediction(alone, paper)
        assert same_prediction(shipped, again)
        assert not np.array_equal(shipped.mask, alone.mask)
        assert shipped.cell == alone.cell
        assert np.array_equal(shipped.box, tighten(alone.box, shipped.mask))


def counted(function: Callable, calls: list[int]) -> Callable:
    def wrapper(*arguments: object) -> object:
        calls.append(1)
        return function(*arguments)

    return wrapper


def test_without_a_student_both_are_the_same(predictor: Predictor, images: list[np.ndarray]) -> None:
    for shipped, alone in predictor.predict_both(images[:2]):
        assert shipped is alone


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("missing", "no model folder"),
        ("empty", "no model folder"),
        ("config", "no model folder"),
        ("list", "no model folder"),
        ("inpainter", "do not fit"),
        ("other", "do not fit"),
        ("truncated", "cannot be read"),
    ],
)
def test_a_folder_that_is_no_model_is_one_clear_error(damage: str, said: str, models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    if damage == "inpainter":
        save_network(folder, Inpainter([4, 8]), {"channels": [4, 8]})
    elif damage == "empty":
        folder.mkdir()
    elif damage != "missing":
        shutil.copytree(models / "joint", folder)
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
        Predictor.load(folder, "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named(models: Path) -> None:
    with pytest.raises(BackdropError, match="GPU"):
        Predictor.load(models / "joint", "cuda")


def test_images_may_come_in_many_forms(predictor: Predictor, images: list[np.ndarray], tmp_path: Path) -> None:
    image = images[0]
    Image.fromarray(image).save(tmp_path / "one.png")
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    opaque = np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])
    forms = [image, opaque, Image.fromarray(image), Image.fromarray(opaque), tensor, tensor.float() / 255]
    for form in [*forms, tmp_path / "one.png", str(tmp_path / "one.png")]:
        assert np.array_equal(to_rgb(form), image)
    assert same_prediction(predictor.predict(tmp_path / "one.png"), predictor.predict(image))
    gray = image[..., 0]
    assert np.array_equal(to_rgb(gray), np.dstack([gray] * 3))
    turned = Image.fromarray(image)
    turned.getexif()[0x0112] = 6  # a camera held upright
    assert np.array_equal(to_rgb(turned), np.rot90(image, -1))
    assert predictor.predict_batch([]) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((4, 5, 3), np.float32), r"not \(4, 5, 3\) of float32"),
        (np.zeros((4, 5, 2), np.uint8), r"not \(4, 5, 2\)"),
        (np.zeros((0, 5, 3), np.uint8), r"not \(0, 5, 3\)"),
        (np.array(None), r"not \(\) of object"),
        (torch.zeros(4, 5, 3), r"not \(4, 5, 3\)"),
        (torch.zeros(3, 4, 5, dtype=torch.int64), "int64"),
        (torch.full((3, 4, 5), 200.0), "0 to 255"),
        (torch.full((3, 4, 5), float("nan")), "0 to 255"),
        ("no/such/file.png", "no/such/file.png"),
    ],
)
def test_what_is_no_image_is_named(predictor: Predictor, wrong: object, message: str) -> None:
    with pytest.raises(BackdropError, match=message):
        predictor.predict(wrong)  # type: ignore[arg-type]


def test_boxes_of_all_cells_are_given_and_s_segments_any(predictor: Predictor, images: list[np.ndarray]) -> None:
    found = predictor.predict(images[0])
    assert found.boxes.shape == (8, 8, 4)
    assert np.allclose(found.boxes.reshape(-1, 4)[found.cell], found.box)
    boxes = np.stack([found.box, np.array([0.5, 0.5, 0.4, 0.4], np.float32)])
    masks = predictor.masks_at(images[0], boxes)
    assert np.allclose(masks[0], found.mask, atol=1e-5)
    assert masks[1, : HEIGHT // 2, : WIDTH // 2].max() == 0
    assert masks[1].max() > 0


def test_several_subjects_may_be_asked_for(
    models: Path, images: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Predictor.load(models / "student", "cpu")
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


@pytest.mark.parametrize("top", [0.2, 0.5, 0.50001, 0.9])
@pytest.mark.parametrize("share", [0.0001, 0.001, 0.3, 1.0])
def test_presence_is_a_rank_of_the_whole_mask(top: float, share: float) -> None:
    generator = np.random.default_rng(0)
    mask = (generator.random((80, 120)) * top * (generator.random((80, 120)) < share)).astype(np.float32)
    rank = max(1, round(SPECK * mask.size))
    assert presence(mask) == np.sort(mask, axis=None)[-rank]


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


def test_a_model_folder_from_before_some_keys_means_what_it_meant(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    image = np.random.default_rng(0).integers(0, 256, (80, 128, 3), np.uint8)
    for section, keys in OLDER.items():
        assert config[section].keys() >= keys.keys()
        config[section] |= keys
    (folder / "config.json").write_text(json.dumps(config))
    before = Predictor.load(folder, "cpu").predict(image)
    for section, keys in OLDER.items():
        for key in keys:
            del config[section][key]
    (folder / "config.json").write_text(json.dumps(config))
    assert same_prediction(Predictor.load(folder, "cpu").predict(image), before, 0)
